"""The cases that were held out are sound. How well an analysis does on them is no test."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.analysis_cases import CAUSES, Group, cases
from tasks.ingest.sources import parse_push
from tests.analysis.test_cases import assert_answerable

HELD_OUT = Path(__file__).parent / "held_out"
NAMED = {case.name: case for case in cases(HELD_OUT)}


def test_there_is_one_case_of_each_cause_and_some_that_are_well_or_unclear() -> None:
    by_cause = [case for case in NAMED.values() if case.setting.group in (Group.PLAIN, Group.RED_HERRING)]
    assert Counter(case.expected.kind for case in by_cause) == dict.fromkeys(CAUSES, 1)
    groups = Counter(case.setting.group for case in NAMED.values())
    assert groups[Group.EVIDENCE_MISSING] == groups[Group.HEALTHY] == 6


@pytest.mark.parametrize("name", NAMED)
def test_the_answer_of_a_case_can_be_given(name: str) -> None:
    case = NAMED[name]
    push = parse_push(json.loads((HELD_OUT / name / "push.json").read_text()))
    assert push.alerts
    assert not push.errors
    assert case.target is not None
    if case.setting.metric:
        assert (case.setting.entity, case.setting.metric) in case.series
    assert_answerable(case)
