"""The held-out cases are sound. How well an analysis does on them is no test: nobody is to write rules for them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.analysis_cases import CAUSES, KINDS, UNKNOWN, Group, cases
from tasks.ingest.sources import parse_push

HELD_OUT = Path(__file__).parent / "held_out"
NAMED = {case.name: case for case in cases(HELD_OUT)}


def test_there_is_one_case_of_each_cause_and_some_that_are_well_or_unclear() -> None:
    by_cause = [case for case in NAMED.values() if case.setting.group in (Group.PLAIN, Group.RED_HERRING)]
    assert Counter(case.expected.kind for case in by_cause) == dict.fromkeys(CAUSES, 1)
    groups = Counter(case.setting.group for case in NAMED.values())
    assert groups[Group.EVIDENCE_MISSING] == groups[Group.HEALTHY] == 6


@pytest.mark.parametrize("name", NAMED)
def test_the_answer_of_a_case_can_be_given(name: str) -> None:
    case, expected = NAMED[name], NAMED[name].expected
    push = parse_push(json.loads((HELD_OUT / name / "push.json").read_text()))
    assert push.alerts
    assert not push.errors
    assert case.target is not None
    if case.setting.metric:
        assert (case.setting.entity, case.setting.metric) in case.series
    assert expected.kind in KINDS
    assert set(expected.forbidden) <= set(CAUSES) - {expected.kind}
    assert expected.may_abstain is (expected.kind == UNKNOWN)
    assert expected.first_action.matches.search(expected.first_action.example)
    assert not expected.first_action.matches.search("Drink tea")
    known = " ".join(f"{piece.about} {piece.says}" for piece in case.evidence.values())
    assert expected.target.casefold() in known.casefold()
    for needed in expected.must_cite:
        assert any(needed.is_met_by(piece) for piece in case.evidence.values()), needed
