"""The state machines allow exactly the changes in their tables."""

from __future__ import annotations

from itertools import product

import pytest

from orchestration.contracts import PipelineOutcome
from orchestration.errors import BadInput, IllegalTransition
from orchestration.states import RunStatus, StageStatus, advance, allowed, parse_run_status

FORWARD = "ingested checked analyzed notified"
LEGAL_RUN = {
    "pending": f"{FORWARD} failed skipped retrying",
    "ingested": "checked analyzed notified failed skipped retrying",
    "checked": "analyzed notified failed skipped retrying",
    "analyzed": "notified failed skipped retrying",
    "retrying": "pending ingested checked analyzed failed skipped retrying",
    "failed": "retrying",
    "notified": "",
    "skipped": "",
}
LEGAL_STAGE = {
    "pending": "running skipped",
    "running": "succeeded failed retrying skipped",
    "retrying": "failed",
    "succeeded": "",
    "failed": "",
    "skipped": "",
}


@pytest.mark.parametrize(("current", "new"), list(product(RunStatus, RunStatus)))
def test_a_run_makes_the_moves_of_its_table_and_no_other(current: RunStatus, new: RunStatus) -> None:
    if new.value in LEGAL_RUN[current].split():
        assert advance(current, new) is new
    else:
        with pytest.raises(IllegalTransition, match=f"RunStatus cannot go from {current.value} to {new.value}"):
            advance(current, new)


@pytest.mark.parametrize(("current", "new"), list(product(StageStatus, StageStatus)))
def test_an_attempt_makes_the_moves_of_its_table_and_no_other(current: StageStatus, new: StageStatus) -> None:
    if new.value in LEGAL_STAGE[current].split():
        assert advance(current, new) is new
    else:
        with pytest.raises(IllegalTransition, match=f"StageStatus cannot go from {current.value} to {new.value}"):
            advance(current, new)


def test_a_failed_run_can_only_be_taken_up_again() -> None:
    assert allowed(RunStatus.FAILED) == {RunStatus.RETRYING}


@pytest.mark.parametrize("status", [RunStatus.NOTIFIED, RunStatus.SKIPPED])
def test_nothing_follows_a_run_that_is_over(status: RunStatus) -> None:
    assert allowed(status) == frozenset()


def test_the_final_statuses_have_the_outcomes_of_the_contract() -> None:
    assert {status: status.outcome for status in RunStatus if status.final} == {
        RunStatus.NOTIFIED: PipelineOutcome.COMPLETED,
        RunStatus.FAILED: PipelineOutcome.FAILED,
        RunStatus.SKIPPED: PipelineOutcome.SKIPPED,
    }


@pytest.mark.parametrize("text", ["completed", "Completed", "COMPLETED", " completed "])
def test_completed_is_another_name_of_notified(text: str) -> None:
    assert parse_run_status(text) is RunStatus.NOTIFIED


@pytest.mark.parametrize("status", RunStatus)
def test_a_status_is_read_in_any_case(status: RunStatus) -> None:
    assert {parse_run_status(text) for text in (status.value, status.value.upper(), status.label)} == {status}


def test_an_unknown_status_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput, match="no status 'done'") as refused:
        parse_run_status("done")
    assert all(status.value in str(refused.value) for status in RunStatus)
