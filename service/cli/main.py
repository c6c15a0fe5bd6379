"""The command `alert-pipeline`: the stack and its parts, and the work on single runs, keys and definitions."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from orchestration.contracts import PipelineOutcome
from orchestration.settings import Settings, load_settings
from service.cli import channels, definitions, heartbeats, incidents, keys, oncall, policy, silences
from service.cli.api import api
from service.cli.canary import canary
from service.cli.doctor import doctor
from service.cli.env import env
from service.cli.run_views import show_results
from service.cli.terminal import Json, as_json, output, progress, resumable, run_app
from service.cli.trace import trace
from service.cli.up import up
from service.cli.why import why
from service.stack import StackAddresses, attach
from service.stack.process import collect_garbage_rarely

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def about() -> None:
    """From a webhook to the person on call. See also: run_pipeline, monitor_pipeline."""


@app.command()
def resume(
    run_id: Annotated[str, typer.Argument(help="The run's id, or the start of it.")],
    json: Json = False,
) -> int:
    """Resume a failed or abandoned run at the first stage that has not succeeded.

    No message that was delivered is sent again. Exit code: 0 if the run succeeded, 1 if it failed.
    """
    # Prefect takes seconds to import, and `--help` does not need it.
    from service.orchestrator import PipelineOrchestrator

    with (
        progress() as show,
        PipelineOrchestrator(load_settings(), progress=show, console=True) as orchestrator,
        resumable([run_id]),
    ):
        result = orchestrator.resume_pipeline(run_id)
    as_json(result.model_dump(mode="json")) if json else show_results([result])
    return 1 if result.status is PipelineOutcome.FAILED else 0


@app.command()
def worker(
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Runs at the same time, instead of WORKER_CONCURRENCY.")
    ] = None,
) -> int:
    """Execute runs from the queue and from Prefect's work pool until Ctrl-C or SIGTERM.

    Then it claims no new runs. Runs in progress have WORKER_GRACE_SECONDS to end; another worker executes the rest.
    A second Ctrl-C ends at once. The same as `prefect worker start --pool alerts --type warm`.
    """
    settings = load_settings()
    with ExitStack() as opening:
        with progress() as show:
            addresses = opening.enter_context(attach(settings, progress=show))
            show("Starting the worker …")
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, addresses, concurrency))
    return 0


async def _serve(settings: Settings, addresses: StackAddresses, concurrency: int | None) -> None:
    # Prefect takes seconds to import, and `--help` does not need it.
    from service.mirror.deployments import POOL_NAME
    from service.worker.warm import WarmWorker

    collect_garbage_rarely()
    name = f"warm {socket.gethostname()} {os.getpid()}"  # as Prefect's UI shows the worker
    warm = WarmWorker(POOL_NAME, name=name, limit=concurrency, settings=settings, addresses=addresses)
    serving = asyncio.create_task(warm.start(printer=output.print))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop, which costs a fifth less for each run. None means Python's own, where uvloop is missing."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    # Names are looked up in uvloop's threads, by default four: a name server that hangs would delay every channel.
    os.environ.setdefault("UV_THREADPOOL_SIZE", "64")
    return new_event_loop


app.command()(up)
app.command()(api)
app.command()(trace)
app.command()(why)
app.command()(doctor)
app.command()(canary)
app.command()(env)
app.add_typer(incidents.app, name="incidents")
app.add_typer(silences.app, name="silences")
app.add_typer(oncall.app, name="oncall")
app.add_typer(heartbeats.app, name="heartbeats")
app.add_typer(channels.app, name="channels")
app.add_typer(keys.app, name="keys")
app.add_typer(definitions.app, name="definitions")
app.add_typer(policy.app, name="policy")


def main() -> None:
    """Run the command `alert-pipeline`."""
    run_app(app)


if __name__ == "__main__":
    main()
