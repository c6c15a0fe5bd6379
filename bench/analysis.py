"""How well analyses name the cause: a provider's answers to all cases, scored by code."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.analysis_cases import HEALTHY, UNKNOWN, Case, Group, cases
from bench.analysis_recorded import RecordedModel
from orchestration.analysis import AnalysisProvider
from orchestration.contracts import AnalyzeResult, ClaimKind
from orchestration.support import unsupported
from tasks.analyze.local import LocalAnalysis

PROVIDERS: Mapping[str, Callable[[], AnalysisProvider]] = {"local": LocalAnalysis, "recorded": RecordedModel}
"""Who is scored, by name."""

CONFIDENT = 0.6
"""An answer that is surer than this and wrong does harm."""

_LOCAL_COMMAND = re.compile(
    r"(?<![\w./-])(df|du|free|top|htop|ps|ss|netstat|lsof|vmstat|iostat|sar|dmesg|systemctl|journalctl|service|uptime"
    r"|kill|ip|ls|rm|cat|tail) +(-\w|/|aux|status|restart|start|stop|addr|link|route|[\w@]+\.service)"
    r"|`(df|du|free|top|htop|ps|ss|netstat|lsof|vmstat|iostat|dmesg|uptime)\b"
)
"""Commands about the machine on which they run."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How one answer is judged. None means that the question does not apply to the case."""

    case: str
    group: Group
    expected: str
    said: str
    confidence: float
    kind_right: bool
    confident_and_wrong: bool
    healthy_named: bool | None
    claims_supported: bool
    must_cite: bool | None
    not_forbidden: bool
    target_named: bool | None
    right_host: bool | None
    first_action: bool
    ms: float
    error: str = ""


COLUMNS: Mapping[str, tuple[str, str]] = {
    "kind_right": ("kind right", "≥ 85 %"),
    "confident_and_wrong": ("sure and wrong", "≤ 2 %"),
    "healthy_named": ("healthy named", "≥ 90 %"),
    "claims_supported": ("claims supported", "100 %"),
    "must_cite": ("must cite", ""),
    "not_forbidden": ("not forbidden", ""),
    "target_named": ("target named", ""),
    "right_host": ("right host", ""),
    "first_action": ("first action", ""),
}
"""The rows of the table: of each field of a score its title and its target."""


def kind_of(result: AnalyzeResult) -> str:
    """What an answer names: the topic of its first claim of a cause, else that all is well, else that it is unknown."""
    kinds = [claim.kind for claim in result.claims]
    if ClaimKind.CAUSE in kinds:
        return result.claims[kinds.index(ClaimKind.CAUSE)].topic or UNKNOWN
    return HEALTHY if ClaimKind.HEALTHY in kinds else UNKNOWN


def score(case: Case, result: AnalyzeResult, ms: float, error: str = "") -> Score:
    """Judge an answer by what the case expects."""
    expected, said = case.expected, kind_of(result)
    abstains = said == UNKNOWN and (expected.may_abstain or expected.kind == UNKNOWN)
    right = not error and (said == expected.kind or abstains)
    is_other = case.target is None or not case.target.is_own
    named = {claim.topic for claim in result.claims if claim.kind is ClaimKind.CAUSE}
    return Score(
        case=case.name,
        group=case.setting.group,
        expected=expected.kind,
        said=said,
        confidence=result.confidence,
        kind_right=right,
        confident_and_wrong=result.confidence > CONFIDENT and not right,
        healthy_named=said == HEALTHY if expected.kind == HEALTHY else None,
        claims_supported=all(unsupported(claim, case.evidence) is None for claim in result.claims),
        must_cite=None if abstains or not expected.must_cite else _cites_all(case, result),
        not_forbidden=named.isdisjoint(expected.forbidden),
        target_named=_names(expected.target, _texts(result)) if expected.target and not abstains else None,
        right_host=_is_for_its_host(case, result) if is_other else None,
        first_action=not error and _first_action_fits(case, result),
        ms=ms,
        error=error,
    )


def _cites_all(case: Case, result: AnalyzeResult) -> bool:
    cited = case.cited(result.claims)
    return all(any(needed.is_met_by(piece) for piece in cited) for needed in case.expected.must_cite)


def _first_action_fits(case: Case, result: AnalyzeResult) -> bool:
    """Whether the first action is a right one. If all is well, none is right as well."""
    if not result.actions:
        return case.expected.kind == HEALTHY
    return bool(case.expected.first_action.matches.search(result.actions[0]))


def _is_for_its_host(case: Case, result: AnalyzeResult) -> bool:
    """Whether an answer about another host leaves the pipeline's own out, and says where its commands are to run."""
    if _names(case.setting.own_host, _texts(result)):
        return False
    host = case.target.host.partition(".")[0] if case.target else ""
    places = [place for place in (host, case.expected.target) if place]
    return all(any(_names(place, [step]) for place in places) for step in _steps(result) if _LOCAL_COMMAND.search(step))


def _steps(result: AnalyzeResult) -> Iterator[str]:
    """The actions; those of a recommendation with its title, which may say where they are to be done."""
    yield from result.actions
    for one in result.recommendations:
        yield from (f"{one.title}: {action}" for action in one.actions)


def _texts(result: AnalyzeResult) -> list[str]:
    described = [one.description for one in result.recommendations]
    return [result.summary, result.probable_cause, *described, *_steps(result), *(one.says for one in result.claims)]


def _names(name: str, texts: Iterable[str]) -> bool:
    word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)
    return any(word.search(text) for text in texts)


async def answer(provider: AnalysisProvider, case: Case) -> tuple[AnalyzeResult, Score]:
    """A provider's answer to a case, and its score. An answer that fails is a wrong one."""
    given = case.input
    started = time.perf_counter()
    try:
        result, error = await provider.analyze(given), ""
    except Exception as failed:  # noqa: BLE001 - whatever a provider raises is its answer
        result, error = AnalyzeResult(summary=""), f"{type(failed).__name__}: {failed}"
    ms = (time.perf_counter() - started) * 1000
    return result, score(case, result, ms, error)


async def evaluate(provider: AnalysisProvider, chosen: Iterable[Case]) -> list[Score]:
    """The scores of a provider, one case after the other."""
    return [(await answer(provider, case))[1] for case in chosen]


def share(scores: Iterable[Score], column: str) -> float | None:
    """In how many of the cases to which it applies a column holds, in percent; None if it applies to none."""
    values = [value for one in scores if (value := getattr(one, column)) is not None]
    return 100 * sum(values) / len(values) if values else None


def _table(name: str, scores: Sequence[Score]) -> Table:
    groups = {group.replace("-", "\n"): [one for one in scores if one.group is group] for group in Group}
    parts = {title: members for title, members in groups.items() if members}
    table = Table(f"{len(scores)} cases", *parts, "all", "", "target", title=name, title_justify="left", box=None)
    table.collapse_padding, table.pad_edge = True, False
    table.columns[0].no_wrap = True
    for column, (title, target) in COLUMNS.items():
        percent = share(scores, column)
        shown = "" if percent is None else f"{percent:.0f} %"
        table.add_row(title, *(_count(members, column) for members in (*parts.values(), scores)), shown, target)
    for title, of in (("ms, median", statistics.median), ("ms, largest", max)):
        times = (f"{of([one.ms for one in members]):.1f}" for members in (*parts.values(), scores))
        table.add_row(title, *times, "", "≤ 300" if of is max else "")
    return table


def _count(scores: Sequence[Score], column: str) -> str:
    values = [value for one in scores if (value := getattr(one, column)) is not None]
    return f"{sum(values)}/{len(values)}" if values else "–"


def _show_case(console: Console, name: str, case: Case, result: AnalyzeResult, judged: Score) -> None:
    """One case in full: what was known, what the provider answered, what is expected."""
    console.print(f"[bold]{case.name}[/bold]: {escape(case.setting.about)}")
    for piece in case.evidence.values():
        console.print(f"  {piece.id}  {escape(f'{piece.about} | {piece.says}')}", soft_wrap=True)
    console.print(f"[bold]answer of {name}[/bold]")
    console.print_json(result.model_dump_json(exclude={"evidence"}, exclude_defaults=True))
    console.print("[bold]expected[/bold]")
    console.print_json(case.expected.model_dump_json())
    console.print("[bold]score[/bold]")
    console.print_json(json.dumps(asdict(judged)))


def _wrong(scores: Iterable[Score]) -> Iterator[str]:
    for one in scores:
        missed = [
            title for column, (title, _) in COLUMNS.items() if getattr(one, column) is (column == "confident_and_wrong")
        ]
        if missed:
            said = one.error or f"{one.said} ({one.confidence:.2f}), expected {one.expected}"
            yield f"{one.case}: {said}; wrong in: {', '.join(missed)}"


def _as_json(scores: Mapping[str, Sequence[Score]]) -> str:
    return json.dumps(
        {
            name: {
                "percent": {column: share(judged, column) for column in COLUMNS},
                "ms": {
                    "median": statistics.median(one.ms for one in judged),
                    "max": max(one.ms for one in judged),
                },
                "cases": [asdict(one) for one in judged],
            }
            for name, judged in scores.items()
        },
        indent=2,
    )


def main(arguments: Sequence[str]) -> None:
    """Score analyses on the cases of tests/analysis/cases."""
    parser = argparse.ArgumentParser(prog="bench analysis", description=main.__doc__)
    parser.add_argument("--provider", action="append", choices=list(PROVIDERS), help="who is scored; by default all")
    parser.add_argument("--case", metavar="NAME", help="show one case: evidence, answer, expected")
    parser.add_argument("--wrong", action="store_true", help="list below the table what is wrong in which case")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    chosen = parser.parse_args(arguments)
    known = [case for case in cases() if chosen.case in (None, case.name)]
    if not known:
        parser.error(f"there is no case {chosen.case!r}")
    console = Console()
    scores: dict[str, list[Score]] = {}
    for name in chosen.provider or PROVIDERS:
        provider = PROVIDERS[name]()
        if chosen.case and not chosen.json:
            _show_case(console, name, known[0], *asyncio.run(answer(provider, known[0])))
            continue
        scores[name] = asyncio.run(evaluate(provider, known))
        if not chosen.json:
            console.print(_table(name, scores[name]))
        if chosen.wrong and not chosen.json:
            console.print("\n".join(map(escape, _wrong(scores[name]))), soft_wrap=True)
    if chosen.json:
        print(_as_json(scores))
