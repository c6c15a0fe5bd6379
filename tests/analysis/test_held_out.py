"""The cases that were held out are sound. How well an analysis does on them is no test."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.analysis import COLUMNS, score
from bench.analysis_cases import CAUSES, HEALTHY, UNKNOWN, Group, cases
from tasks.ingest.sources import parse_push
from tests.analysis.test_cases import assert_answerable, perfect

HERE = Path(__file__).parent
FIRST = HERE / "held_out"
LATER = [HERE / "held_out_2", HERE / "held_out_3"]
NAMED = {f"{folder.name}/{case.name}": case for folder in (FIRST, *LATER) for case in cases(folder)}


def test_the_first_set_has_one_case_of_each_cause_and_some_that_are_well_or_unclear() -> None:
    known = list(cases(FIRST))
    by_cause = [case for case in known if case.setting.group in (Group.PLAIN, Group.RED_HERRING)]
    assert Counter(case.expected.kind for case in by_cause) == dict.fromkeys(CAUSES, 1)
    groups = Counter(case.setting.group for case in known)
    assert groups[Group.EVIDENCE_MISSING] == groups[Group.HEALTHY] == 6


@pytest.mark.parametrize("folder", LATER, ids=lambda folder: folder.name)
def test_a_later_set_has_two_or_three_cases_of_each_cause(folder: Path) -> None:
    known = list(cases(folder))
    kinds = Counter(case.expected.kind for case in known)
    assert all(2 <= kinds[cause] <= 3 for cause in CAUSES)
    assert (len(known), kinds[HEALTHY], kinds[UNKNOWN]) == (36, 8, 2)
    assert {case.setting.group for case in known} == set(Group)


@pytest.mark.parametrize("name", NAMED)
def test_the_answer_of_a_case_can_be_given(name: str) -> None:
    case = NAMED[name]
    push = parse_push(json.loads((HERE / name / "push.json").read_text()))
    assert push.alerts
    assert not push.errors
    assert case.target is not None
    if case.setting.metric:
        assert (case.setting.entity, case.setting.metric) in case.series
    assert_answerable(case)


@pytest.mark.parametrize("name", NAMED)
def test_the_expected_answer_is_right_in_everything(name: str) -> None:
    scored = score(NAMED[name], perfect(NAMED[name]), 1.0)
    wrong = [column for column in COLUMNS if getattr(scored, column) is (column == "confident_and_wrong")]
    assert wrong == []
