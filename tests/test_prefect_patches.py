"""The changes to Prefect's internals: what each one does, and that it fails loudly when the name is gone."""

from __future__ import annotations

import asyncio
import pkgutil
import time
from collections.abc import Callable

import prefect
import pytest
from prefect.logging.handlers import APILogWorker
from prefect.server.events import triggers
from prefect.settings import PREFECT_API_URL, temporary_settings

from service import prefect_patches
from tests.worker_helpers import DeafHost


async def test_end_of_the_server_does_not_sleep_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluating = asyncio.Event()

    async def evaluate() -> None:
        evaluating.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(triggers, "periodic_evaluation", evaluate)
    prefect_patches.patch_slow_end_of_triggers()

    async def as_prefect_does() -> None:
        try:
            await triggers.periodic_evaluation()
        finally:
            await asyncio.sleep(60)

    task = asyncio.create_task(as_prefect_does())
    await evaluating.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)


def test_a_prefect_that_takes_connections_and_answers_none_does_not_keep_a_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefect_patches, "SERVICES_END_SECONDS", 0.2)
    prefect_patches.limit_end_of_services()
    prefect_patches.limit_end_of_services()
    deaf = DeafHost()
    try:
        with temporary_settings({PREFECT_API_URL: f"http://{deaf.name}/api"}):
            log = APILogWorker.instance()
            log.send({"message": "the last line", "level": 20})
        began = time.monotonic()
        log.drain(at_exit=True)  # as the exit of the interpreter does
        assert time.monotonic() - began < 20
    finally:
        deaf.close()


@pytest.mark.parametrize(
    ("patch", "module", "attribute"),
    [
        (prefect_patches.patch_slow_end_of_triggers, "prefect.server.events.triggers", "periodic_evaluation"),
        (
            prefect_patches.limit_end_of_services,
            "prefect._internal.concurrency.services._QueueServiceBase",
            "_drain",
        ),
    ],
)
def test_a_name_that_prefect_no_longer_has_is_an_error(
    monkeypatch: pytest.MonkeyPatch, patch: Callable[[], None], module: str, attribute: str
) -> None:
    owner = pkgutil.resolve_name(module)
    monkeypatch.delattr(owner, attribute)
    with pytest.raises(AttributeError) as caught:
        patch()
    assert str(caught.value).startswith(f"Prefect {prefect.__version__} has no {module}.{attribute}, which ")
    assert not hasattr(owner, attribute)
