"""When a worker looks for flow runs; without a server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect_warm_worker.next_look import NextLook


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_warm_worker.next_look.LOOK_AGAIN_SECONDS", (0.001, 0.001, 0.001))


async def rests(look: NextLook) -> bool:
    """Whether nothing is left to look for."""
    waiting = asyncio.ensure_future(look.wait())
    _, pending = await asyncio.wait({waiting}, timeout=0.1)
    waiting.cancel()
    return bool(pending)


async def test_a_flow_run_of_which_an_event_spoke_is_looked_for_a_few_times() -> None:
    look, flow_run_id = NextLook(), uuid4()
    look.announce(flow_run_id)
    for _ in range(3):
        assert await look.wait() == (flow_run_id,)
        look.note_looked([flow_run_id], started=())
    assert await rests(look)


@pytest.mark.parametrize("started", [True, False])
async def test_a_flow_run_that_was_found_or_started_is_not_looked_for_again(started: bool) -> None:
    look, flow_run_id = NextLook(), uuid4()
    look.announce(flow_run_id)
    announced = await look.wait()
    if not started:
        look.note_found([flow_run_id])
    look.note_looked(announced, started=[flow_run_id] if started else [])
    assert await rests(look)


async def test_the_latest_moment_counts_and_a_free_slot_is_a_reason_to_look() -> None:
    look = NextLook()
    look.at(datetime.now(UTC))
    look.at(None)
    assert await rests(look)
    look.at(datetime.now(UTC))
    assert await look.wait() == ()
    look.soon()
    assert await look.wait() == ()
