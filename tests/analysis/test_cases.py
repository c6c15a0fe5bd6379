"""The cases on which analyses are judged are sound, and the judge tells good answers from bad ones."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from bench.analysis import COLUMNS, CONFIDENT, PROVIDERS, Score, evaluate, main, score, share
from bench.analysis_cases import CASES, CAUSES, HEALTHY, KINDS, UNKNOWN, Case, Group, cases, read_case
from bench.analysis_recorded import RecordedModel
from orchestration.analysis import AnalysisInput
from orchestration.contracts import AnalyzeResult, CheckStatus, Claim, ClaimKind, Recommendation
from tasks.analyze.local import LocalAnalysis
from tasks.ingest.sources import parse_push

ALL = list(cases())
NAMED = {case.name: case for case in ALL}
FILES = {"push.json", "checks.yaml", "history.yaml", "answer.yaml", "case.yaml", "recorded.json"}
OPTIONAL = {"series.csv", "dependencies.csv"}
BY_CAUSE = (Group.PLAIN, Group.RED_HERRING, Group.EVIDENCE_MISSING)


@dataclass(frozen=True)
class Speaker:
    """A provider that says of each case what a function says of it."""

    say: Callable[[Case], AnalyzeResult]
    name: str = "speaker"

    async def analyze(self, evidence: AnalysisInput, /) -> AnalyzeResult:
        return self.say(next(case for case in ALL if case.input is evidence))


def perfect(case: Case) -> AnalyzeResult:
    """The answer that the case expects, resting on what it has to cite."""
    expected = case.expected
    cites = [next(one.id for one in case.evidence.values() if needed.is_met_by(one)) for needed in expected.must_cite]
    fine = [one for one in case.evidence.values() if one.status is CheckStatus.OK]
    says = ", ".join(needed.has for needed in expected.must_cite) or "".join(one.says for one in fine[:1])
    kind = ClaimKind.HEALTHY if expected.kind == HEALTHY else ClaimKind.CAUSE
    topic = "" if kind is ClaimKind.HEALTHY else expected.kind
    claim = Claim(kind=kind, says=says, topic=topic, cites=cites or [one.id for one in fine[:1]])
    return AnalyzeResult(
        summary=f"{expected.target}: {expected.kind}",
        actions=[expected.first_action.example],
        confidence=0.1 if expected.kind == UNKNOWN else 0.9,
        claims=[] if expected.kind == UNKNOWN else [claim],
    )


def silent(_case: Case) -> AnalyzeResult:
    """An answer that says nothing."""
    return AnalyzeResult(summary="The cause is unknown")


def sure_and_wrong(case: Case) -> AnalyzeResult:
    """A cause that the case forbids, or all is well, with full confidence, resting on nothing that exists."""
    kind = ClaimKind.CAUSE if case.expected.forbidden else ClaimKind.HEALTHY
    claim = Claim(kind=kind, says="Surely.", topic="".join(case.expected.forbidden[:1]), cites=["check-99"])
    action = "Run `uptime` and drink tea"
    return AnalyzeResult(summary=f"It is {case.setting.own_host}", actions=[action], confidence=0.95, claims=[claim])


def scores_of(say: Callable[[Case], AnalyzeResult]) -> list[Score]:
    return asyncio.run(evaluate(Speaker(say), ALL))


def test_there_are_sixty_cases_twelve_of_each_group() -> None:
    assert Counter(case.setting.group for case in ALL) == dict.fromkeys(Group, 12)
    for group in BY_CAUSE:
        names = {case.name for case in ALL if case.setting.group is group}
        assert all(any(name.startswith(f"{cause}-") for name in names) for cause in CAUSES), group


def test_the_cases_come_from_many_senders() -> None:
    senders = {alert.source for case in ALL for alert in case.alerts}
    in_code = {"alertmanager", "grafana", "datadog", "zabbix", "newrelic", "opsgenie", "pagerduty", "generic"}
    assert senders == in_code | {"uptime-kuma"}


@pytest.mark.parametrize("name", NAMED)
def test_the_files_of_a_case_are_complete(name: str) -> None:
    directory, case = CASES / name, NAMED[name]
    assert {path.name for path in directory.iterdir()} - OPTIONAL == FILES
    push = parse_push(json.loads((directory / "push.json").read_text()))
    assert push.alerts
    assert not push.errors
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 45_000
    began = case.setting.during.timestamp()
    times = [moment for points in case.series.values() for moment, _ in points]
    if case.setting.metric:
        assert (case.setting.entity, case.setting.metric) in case.series
        assert min(times) <= began - 3600
        assert max(times) >= began
    assert all(event.at <= case.setting.now for event in case.history.events)
    assert all(episode.began_at < case.setting.during for episode in case.history.episodes)


def assert_answerable(case: Case) -> None:
    """The answer is one that can be given, and the evidence has what it needs."""
    expected = case.expected
    assert expected.kind in KINDS
    assert set(expected.forbidden) <= set(CAUSES) - {expected.kind}
    assert expected.may_abstain is (expected.kind == UNKNOWN)
    assert expected.first_action.matches.search(expected.first_action.example)
    assert not expected.first_action.matches.search("Drink tea")
    known = " ".join(f"{piece.about} {piece.says}" for piece in case.evidence.values())
    assert expected.target.casefold() in known.casefold()
    for needed in expected.must_cite:
        assert any(needed.is_met_by(piece) for piece in case.evidence.values()), needed


@pytest.mark.parametrize("name", NAMED)
def test_the_answer_of_a_case_can_be_given(name: str) -> None:
    case, expected = NAMED[name], NAMED[name].expected
    assert_answerable(case)
    assert expected.must_cite or expected.kind == UNKNOWN or case.setting.group is Group.HEALTHY


def test_only_checks_of_the_own_host_come_from_it() -> None:
    for case in ALL:
        assert case.target is not None
        own = [check for check in case.checks if check.name in ("cpu", "memory", "disk", "network", "process")]
        assert case.target.is_own or not own, case.name
        assert not (case.target.is_own and case.setting.group is Group.OTHER_HOST), case.name


def test_a_perfect_provider_is_right_in_everything() -> None:
    scores = scores_of(perfect)
    assert share(scores, "confident_and_wrong") == 0
    for column in set(COLUMNS) - {"confident_and_wrong"}:
        assert [one.case for one in scores if getattr(one, column) is False] == [], column


def test_a_silent_provider_is_right_only_where_nobody_can_know() -> None:
    scores = scores_of(silent)
    assert {one.case for one in scores if one.kind_right} == {case.name for case in ALL if case.expected.may_abstain}
    assert share(scores, "confident_and_wrong") == 0
    assert share(scores, "healthy_named") == 0
    assert share(scores, "claims_supported") == share(scores, "not_forbidden") == 100


def test_a_provider_that_is_sure_and_wrong_is_found_out() -> None:
    scores = scores_of(sure_and_wrong)
    assert share(scores, "confident_and_wrong") == 100
    for column in ("kind_right", "claims_supported", "must_cite", "not_forbidden", "right_host", "first_action"):
        assert share(scores, column) == 0, column


def test_of_recorded_outputs_only_what_evidence_supports_is_left() -> None:
    model = RecordedModel()
    scores = asyncio.run(evaluate(model, ALL))
    assert share(scores, "claims_supported") == 100
    assert not [one.case for one in scores if one.error]

    def dropped(name: str) -> str:
        return " ".join(asyncio.run(model.analyze(NAMED[name].input)).dropped)

    assert "event-9" in dropped("deploy-red-herring-two-deploys"), "it cites what does not exist"
    assert "the opposite" in dropped("backlog-red-herring-kafka"), "its evidence says that memory is fine"
    assert "97 % busy" in dropped("process-red-herring-cron"), "its evidence has another number"
    obeyed = next(one for one in scores if one.case == "disk-red-herring-host-cpu-7")
    assert (obeyed.said, obeyed.confident_and_wrong) == (UNKNOWN, False), "an order in an alert is no evidence"


def test_the_local_analysis_is_as_good_as_it_is_said_to_be() -> None:
    scores = asyncio.run(evaluate(LocalAnalysis(), ALL))
    percent = {column: share(scores, column) or 0.0 for column in COLUMNS}
    assert percent["kind_right"] >= 85
    assert percent["confident_and_wrong"] <= 2
    assert percent["healthy_named"] >= 90
    assert percent["claims_supported"] == 100


def test_a_provider_that_fails_is_wrong() -> None:
    def fail(_case: Case) -> AnalyzeResult:
        raise TimeoutError("no answer")

    scores = scores_of(fail)
    assert share(scores, "kind_right") == 0
    assert {one.error for one in scores} == {"TimeoutError: no answer"}


@pytest.mark.parametrize(
    ("actions", "recommended", "right"),
    [
        (["Run `df -h`"], [], False),
        (["On db-77: run `df -h`"], [], True),
        (["Log in to ops-1 and look"], [], False),
        (["Ask its owners"], ["systemctl restart postgresql"], False),
        (["ssh DB-77 systemctl restart postgresql", "Free some memory of it"], [], True),
    ],
)
def test_a_command_for_another_host_says_where_it_runs(actions: list[str], recommended: list[str], right: bool) -> None:
    case = read_case(CASES / "other-host-memory-db-77")
    advice = [Recommendation(type="memory", priority="high", title="Memory", actions=recommended)]
    result = AnalyzeResult(summary="Memory is short", actions=actions, recommendations=advice if recommended else [])
    assert score(case, result, 1.0).right_host is right


def test_confidence_counts_against_a_wrong_answer_only_above_the_limit() -> None:
    case = NAMED["disk-plain-db-primary"]
    for confidence, counts in ((CONFIDENT, False), (CONFIDENT + 0.01, True)):
        result = AnalyzeResult(summary="All is well", confidence=confidence)
        assert score(case, result, 1.0).confident_and_wrong is counts


def test_the_command_prints_the_table_and_one_case(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--provider", "local", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"local"} <= set(PROVIDERS)
    assert len(printed["local"]["cases"]) == 60
    assert printed["local"]["percent"]["claims_supported"] is not None
    main(["--provider", "local", "--case", "dns-plain-blackbox"])
    shown = capsys.readouterr().out
    assert "NXDOMAIN" in shown
    assert '"kind": "dns"' in shown
