"""`alert-pipeline automations`: automations in a Prefect server, as code."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from orchestration.alert import Severity
from orchestration.embedded_stack import find_running_stack
from orchestration.errors import BadInput, Unavailable
from orchestration.local_key import local_key_for
from orchestration.moments import parse_length
from orchestration.settings import Settings, load_settings
from service.cli.terminal import USAGE, Json, as_json, errors, fail, output

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from service.mirror.automations import AppliedAutomation

T = TypeVar("T")

HELP = """Automations of Prefect: failed, late and long flow runs and lost workers become pages.

Prefect 3 itself watches and reports, also a server that has nothing else to do with alert-pipeline. It sends to the
webhook of alert-pipeline, whose address --url has to be one that Prefect's server reaches:

\b
    alert-pipeline keys create prefect --scope trigger
    alert-pipeline automations apply --url https://alerts.example.com --key apk_…
    alert-pipeline automations apply --url … --name etl --flow 'etl-*' --tag nightly --running-longer-than 2h

And, the other way round, Prefect notifies somebody if pages of alert-pipeline fail, through a block of its own:

    alert-pipeline automations apply --notify slack-webhook/ops

Each --name is a set of its own. A second `apply` changes the set to what is asked for then. What somebody has changed
in Prefect since, or switched off there, stays. More in docs/prefect-monitoring.md.

Which Prefect: PREFECT_API_URL in the environment or in Prefect's active profile (`prefect config view`), else the
embedded one. A credential comes from PREFECT_API_AUTH_STRING.
"""

DEFAULT_SET = "flows"
OWN_SET = "itself"
"""The name of the set of `--notify`."""

_SET_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MOST_SET_NAME = 40
_LEAST_LONG_SECONDS = 10

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=HELP)

SetName = Annotated[str, typer.Option("--name", help="The set of automations: several can watch different flows.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")]


@app.command()
def apply(
    url: Annotated[
        str | None,
        typer.Option(envvar="AUTOMATIONS_URL", help="The API of alert-pipeline, as Prefect's server reaches it."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="AUTOMATIONS_API_KEY",
            help="An API key with the scope trigger, which is saved in Prefect. By default the local key, on its "
            "machine.",
        ),
    ] = None,
    flow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only flows of this name, in which * is anything. Repeatable."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="Only flow runs, deployments or flows with this tag. Repeatable: any."),
    ] = None,
    late: Annotated[bool, typer.Option("--late/--no-late", help="Flow runs that no worker starts in time.")] = True,
    running_longer_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Flow runs that take longer than this, such as 30m or 2h.")
    ] = None,
    workers: Annotated[
        bool, typer.Option("--workers/--no-workers", help="Work pools and served deployments without a living worker.")
    ] = True,
    severity: Annotated[Severity, typer.Option("--severity", "-s")] = Severity.CRITICAL,
    environment: Annotated[str | None, typer.Option(help="Where it happens. By default production.")] = None,
    name: SetName = DEFAULT_SET,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE/NAME",
            help="A notification block of Prefect, told when alert-pipeline itself fails. Alone or with --url.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Undo what was changed in Prefect, but for what is switched off.")
    ] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Try address and key from here first.")] = True,
    dry_run: DryRun = False,
    json: Json = False,
) -> int:
    """Create or update automations in Prefect.

    \b
        alert-pipeline automations apply --url http://127.0.0.1:8000
        alert-pipeline automations apply --url http://127.0.0.1:8000 --flow orders --running-longer-than 30m --dry-run
        alert-pipeline automations apply --notify slack-webhook/ops

    Without --flow and --tag, all flows are watched but alert-pipeline's own.
    """
    if not url and not notify:
        fail(
            "Say where Prefect sends to: --url http://HOST:8000, an address that Prefect's server reaches; or "
            "--notify TYPE/NAME, whom it notifies about alert-pipeline itself",
            code=USAGE,
        )
    _ensure_set_name(name)
    if name == OWN_SET:
        fail(f"--name {OWN_SET} is the set of --notify: give this one another name", code=USAGE)
    from service.mirror.own_automations import apply_own
    from service.mirror.sender import Watched
    from service.mirror.setting_up import SenderOrder, set_up_sender

    settings = load_settings()
    api_url = _prefect_api(settings)
    watched = Watched(
        flows=[one for one in flow or [] if one],
        tags=[one for one in tag or [] if one],
        late=late,
        workers=workers,
        running_longer_than=_longest(running_longer_than),
        severity=severity,
        ui_url=_ui_url(settings, api_url),
    )
    order = url and SenderOrder(
        set_name=name,
        watched=watched,
        url=url,
        key=key or local_key_for(settings, url),
        environment=environment,
        overwrite=overwrite,
        check=check,
        dry_run=dry_run,
    )

    async def work(client: PrefectClient) -> list[AppliedAutomation]:
        own = await apply_own(client, notify, overwrite=overwrite, dry_run=dry_run) if notify else []
        return own + (await set_up_sender(client, order) if order else [])

    _show_done(_at_prefect(settings, api_url, work), api_url, dry_run=dry_run, json=json)
    return 0


def _longest(typed: str | None) -> timedelta | None:
    if typed is None:
        return None
    longest = parse_length(typed, name="--running-longer-than")
    if longest.total_seconds() < _LEAST_LONG_SECONDS:
        fail(f"--running-longer-than {typed}: Prefect needs at least 10s", code=USAGE)
    return longest


@app.command("list")
def show_list(json: Json = False) -> int:
    """List the automations of all sets, and whether they are as they were applied."""
    from service.mirror.automations import read_sets

    settings = load_settings()
    api_url = _prefect_api(settings)
    found = _at_prefect(settings, api_url, read_sets)
    if json:
        as_json(
            [
                {"id": one.id, "name": one.name, "set": one.set_name, "enabled": one.enabled, "changed": one.changed}
                for one in found
            ]
        )
        return 0
    if not found:
        output.print(f"No automations of alert-pipeline in {_shown(api_url)}: alert-pipeline automations apply --help")
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        state = "on" if one.enabled else "off"
        output.print(f"{one.name:<{width}}  {state:<3}  {'changed in Prefect' if one.changed else 'as applied'}")
    return 0


@app.command()
def delete(name: SetName = DEFAULT_SET, json: Json = False) -> int:
    """Delete a set of automations, and its webhook block with the key. Exit code: 1 if there is no such set."""
    from service.mirror.automations import delete_set, delete_webhook

    _ensure_set_name(name)
    settings = load_settings()
    api_url = _prefect_api(settings)

    async def work(client: PrefectClient) -> list[str]:
        deleted = await delete_set(client, name)
        await delete_webhook(client, f"alert-pipeline-{name}")
        return deleted

    deleted = _at_prefect(settings, api_url, work)
    if json:
        as_json({"deleted": deleted})
        return 0 if deleted else 1
    if not deleted:
        fail(f"There is no automation of the set {name} in {_shown(api_url)}")
    for one in deleted:
        output.print(f"✓ {one}: deleted")
    return 0


def _ensure_set_name(name: str) -> None:
    if not _SET_NAME.fullmatch(name) or len(name) > _MOST_SET_NAME:
        fail(f"--name {name[:60]!r}: expected lower-case letters, digits and dashes, as etl-nightly", code=USAGE)


def _prefect_api(settings: Settings) -> str:
    """The address of Prefect's API.

    Raises:
        BadInput: no Prefect is set, and none is embedded.
    """
    from prefect.settings import PREFECT_API_URL

    stack = find_running_stack(settings)
    api_url = settings.prefect_api_url or PREFECT_API_URL.value() or (stack and stack.prefect_api_url)
    if not api_url:
        raise BadInput(
            "No Prefect server is known: set PREFECT_API_URL=http://HOST:4200/api, or start `alert-pipeline up`"
        )
    return str(api_url)


def _ui_url(settings: Settings, api_url: str) -> str | None:
    if settings.prefect_ui_url is not None:
        return settings.prefect_ui
    return settings.model_copy(update={"prefect_api_url": api_url}).prefect_ui


def _at_prefect(settings: Settings, api_url: str, work: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """What `work` returns, which gets a client of Prefect.

    Raises:
        Unavailable: Prefect does not answer, or wants another credential.
    """
    import httpx
    from prefect import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from blocks.prefect_api import PrefectUnavailable, address_settings, prefect_errors

    async def ask() -> T:
        with prefect_errors():
            async with get_client() as client:
                return await work(client)

    with temporary_settings({**address_settings(settings, api_url), PREFECT_CLIENT_MAX_RETRIES: 0}):
        try:
            return asyncio.run(ask())
        except PrefectUnavailable as error:
            cause = error.__cause__
            status = cause.response.status_code if isinstance(cause, httpx.HTTPStatusError) else 0
            if status in (401, 403):
                raise Unavailable(
                    f"{_shown(api_url)} wants a credential ({status}): set PREFECT_API_AUTH_STRING to that of the "
                    "server, as user:password"
                ) from None
            raise Unavailable(f"{_shown(api_url)}: {error}") from None


def _show_done(done: list[AppliedAutomation], api_url: str, *, dry_run: bool, json: bool) -> None:
    if json:
        as_json([{"name": one.name, "done": one.done, "enabled": one.enabled} for one in done])
        return
    errors.print(f"Prefect: {_shown(api_url)}{', nothing is changed (--dry-run)' if dry_run else ''}", style="dim")
    for one in done:
        output.print(f"✓ {one.name}: {one.done}{'' if one.enabled else ' (switched off)'}")


def _shown(api_url: str) -> str:
    """The address without user name and password."""
    scheme, _, rest = api_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
