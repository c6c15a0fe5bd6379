"""The pages that are more than a table: the first page, a run, its resume, and an incident."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    CheckStatus,
    ConditionResult,
    IngestResult,
    NotifyResult,
    Stage,
    TransformResult,
)
from orchestration.errors import BadInput, IllegalTransition, IncidentNotFound, PipelineError, RunBusy, RunNotFound
from orchestration.moments import parse_moment
from orchestration.pages import flow_run_page
from orchestration.reasons import in_words
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.states import RunStatus
from orchestration.store import actions, runs
from orchestration.store.actions import Actor, Done, Via
from orchestration.store.database import AsyncConnection, read_clock
from orchestration.store.incidents import MOST, read_incident
from orchestration.store.overview import Overview, read_overview
from orchestration.store.records import AttemptRecord, RunRecord
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.standings import wait_for_messages
from orchestration.store.story import Resume, Story, read_resumes, read_story
from orchestration.store.why import read_why
from service.admin import PUBLIC_PATH, charts, formatting
from service.admin.formatting import BAD, GOOD, QUIET, WARN, Renderer
from service.admin.sign_in import read_own_form
from service.api.problems import status_of
from service.api.state import ApiState
from tasks.kinds import KINDS

REFRESH_SECONDS = (2, 15)
"""How often the page of an unfinished run is loaded again: while it changes, and after a minute without a change."""

REFRESH_HOME_SECONDS = 30
SIBLINGS = 50
"""How many other runs of the same push a run's page lists."""

SHOWN_ALERTS, SHOWN_LINES = 20, 40
"""How many alerts and lines of history an incident's page shows unfolded: what people did must not be far below."""

SLOW_MS = 5000.0
"""The first page warns if the p99 from alert to message is greater."""

SNOOZES = {"30": "30 minutes", "60": "1 hour", "240": "4 hours", "720": "12 hours", "1440": "1 day", "10080": "7 days",
           "0": "no longer"}  # fmt: skip
"""For how long an incident can be snoozed, in minutes. 0 ends a snooze."""

INCIDENT_ACTIONS = ("acknowledge", "unacknowledge", "resolve", "close", "snooze", "notes")
"""The last parts of the addresses at which a form acts on an incident."""

_LONG_WAIT_SECONDS = 60
_MAX_LINKS = 10

Finding = tuple[str, str]
"""A tone and a sentence."""


class Pages:
    """The handlers of these pages."""

    def __init__(self, api: ApiState, renderer: Renderer) -> None:
        self._api = api
        self._renderer = renderer

    async def home(self, request: Request) -> Response:
        """The first page: whether the service is healthy."""
        async with self._api.database.transaction() as tx:
            seen = await read_overview(tx)
        bars, most = charts.throughput(seen.hours)
        curves, top_ms = charts.latency(seen.hours)
        context = {
            "seen": seen,
            "worries": worries(seen, self._api.settings.inbox_warning),
            "engine": engine(seen),
            "bars": bars,
            "most": most,
            "curves": curves,
            "top_ms": top_ms,
            "slow": is_slow(seen),
            "stages": set(Stage),
            "refresh": REFRESH_HOME_SECONDS,
        }
        return self._renderer.render(request, "home.html", context)

    async def run(self, request: Request, problem: PipelineError | None = None) -> Response:
        """The page of a run, with the problem that a resume met."""
        run_id = _run_id(request)
        async with self._api.database.transaction() as tx:
            story = await read_story(tx, run_id)
            payload = await runs.get_payload(tx, run_id)
            family = (await list_page(tx, RunFilter(trace_id=story.run.trace_id), limit=SIBLINGS + 1)).runs
            resumes = (await read_resumes(tx, [story.run]))[run_id]
            now = await read_clock(tx)
        run = story.run
        is_over = run.status.final
        # Loading folds what the reader unfolded, so an idle run is loaded less often.
        is_idle = now - run.updated_at > timedelta(minutes=1)
        context = {
            "story": story,
            "run": run,
            "payload": payload,
            "siblings": [one for one in family if one.run_id != run_id][:SIBLINGS],
            "timeline": charts.timeline(story.attempts, now, [resume.at for resume in resumes]),
            "steps": steps_of(story.attempts, resumes),
            "owners": owners_of(run, resumes),
            "findings": {one.idempotency_key: findings_of(one) for one in story.attempts},
            "prefect": flow_run_page(self._api.settings, run.prefect_flow_run_id),
            "resumable": run.status in (RunStatus.FAILED, RunStatus.RETRYING),
            "is_over": is_over,
            "resumed": "resumed" in request.query_params,
            "opened": _attempt_to_unfold(story),
            "refresh": None if is_over else REFRESH_SECONDS[is_idle],
            "links": links_of(payload),
            "problem": str(problem) if problem else None,
        }
        status = status_of(problem) if problem else HTTPStatus.OK
        return self._renderer.render(request, "run.html", context, status=status)

    async def why(self, request: Request) -> Response:
        """The page that says why somebody was notified of something, or nobody was."""
        what, at = (request.query_params.get(name, "").strip() for name in ("what", "at"))
        found, problem = None, None
        if what:
            try:
                async with self._api.database.transaction() as tx:
                    now = await read_clock(tx)
                    moment = parse_moment(at, now, clock_time="last", name="at") if at else None
                    found = await read_why(tx, what, moment)
            except (BadInput, RunNotFound) as error:
                problem = error
        context = {"what": what, "at": at, "found": found, "problem": str(problem) if problem else None}
        return self._renderer.render(
            request, "why.html", context, status=status_of(problem) if problem else HTTPStatus.OK
        )

    async def confirm_resume(self, request: Request) -> Response:
        """The page that asks whether to resume a run."""
        async with self._api.database.transaction() as tx:
            story = await read_story(tx, _run_id(request))
        return self._renderer.render(request, "resume.html", {"run": story.run, "done": story.stages_completed})

    async def resume(self, request: Request) -> Response:
        """Resume a run, as POST /orchestration/pipeline/{run_id}/resume/ does."""
        await read_own_form(request)
        run_id = _run_id(request)
        key_name: str = request.state.session.key_name
        try:
            async with self._api.database.transaction() as tx:
                await runs.request_resume(tx, run_id, by=key_name)
        except (IllegalTransition, RunBusy) as error:
            return await self.run(request, error)
        logger.info("%s resumed run %s in the admin", one_line(key_name, 64), run_id)
        return RedirectResponse(f"{PUBLIC_PATH}/runs/{run_id}/?resumed=1", HTTPStatus.SEE_OTHER)

    async def incident(self, request: Request, problem: PipelineError | None = None) -> Response:
        """The page of an incident, with the problem that an action met."""
        number = request.path_params["number"]
        is_number = number.isascii() and number.isdecimal() and len(number) < 19
        async with self._api.database.transaction() as tx:
            story = await read_incident(tx, int(number)) if is_number else None
            now = await read_clock(tx)
        if story is None:
            message = f"There is no incident {number[:40]!r}"
            return self._renderer.render_problem(request, HTTPStatus.NOT_FOUND, message)
        incident = story.incident
        context = {
            "story": story,
            "most": MOST,
            "shown_alerts": SHOWN_ALERTS,
            "shown_lines": SHOWN_LINES,
            "is_open": not incident.status.ended,
            "snoozed": incident.snoozed_until is not None and incident.snoozed_until > now,
            "snoozes": SNOOZES,
            "problem": str(problem) if problem else None,
        }
        status = status_of(problem) if problem else HTTPStatus.OK
        return self._renderer.render(request, "incident.html", context, status=status)

    async def act_on_incident(self, action: str, request: Request) -> Response:
        """Act on an incident, as POST /incidents/{incident_id}/{action}/ does."""
        form = await read_own_form(request)
        number: str = request.path_params["number"]
        key_name: str = request.state.session.key_name
        try:
            async with self._api.database.transaction() as tx:
                done = await self._act(tx, number, action, form, Actor(by=key_name, via=Via.ADMIN, key=key_name))
            await wait_for_messages(self._api.database, done.incident.id)
        except IncidentNotFound:
            return await self.incident(request)
        except (IllegalTransition, BadInput) as error:
            return await self.incident(request, error)
        logger.info("%s in the admin: %s", one_line(key_name, 64), one_line(done.message, 200))
        return RedirectResponse(f"{PUBLIC_PATH}/incidents/{done.incident.id}/", HTTPStatus.SEE_OTHER)

    async def _act(self, tx: AsyncConnection, number: str, action: str, form: Mapping[str, str], actor: Actor) -> Done:
        settings = self._api.settings
        match action:
            case "acknowledge":
                return await actions.acknowledge(tx, number, actor, settings)
            case "unacknowledge":
                return await actions.unacknowledge(tx, number, actor, settings)
            case "resolve":
                return await actions.resolve(tx, number, actor)
            case "close":
                return await actions.close(tx, number, actor)
            case "snooze":
                minutes = form.get("minutes", "")
                if minutes not in SNOOZES:
                    raise BadInput("Choose for how long to snooze the incident")
                return await actions.snooze(tx, number, actor, settings, until=timedelta(minutes=int(minutes)))
            case _:
                return await actions.note(tx, number, actor, form.get("text", ""))


def _run_id(request: Request) -> str:
    """The run id of the address.

    Raises:
        RunNotFound: PostgreSQL cannot look for such an id.
    """
    run_id: str = request.path_params["run_id"]
    if not run_id.isprintable() or len(run_id) > 64:
        raise RunNotFound(f"There is no pipeline run {run_id[:64]!r}")
    return run_id


def engine(seen: Overview) -> Finding:
    """The engine that executes new runs, and its tone."""
    if not seen.workers:
        return BAD, "none"
    if any(worker.prefect_ok for worker in seen.workers):
        return GOOD, "Prefect"
    return WARN, "direct"


def worries(seen: Overview, inbox_warning: int) -> list[Finding]:
    """The problems of the service. An empty list means that all is well.

    Args:
        seen: the state of the service.
        inbox_warning: from how many waiting runs on the inbox is a problem.
    """
    found: list[Finding] = []
    if not seen.workers:
        found.append((BAD, "No worker is alive: alerts are stored, and wait. Start one: alert-pipeline worker"))
    elif not any(worker.prefect_ok for worker in seen.workers):
        found.append((WARN, "Prefect does not answer: runs go through the direct engine meanwhile"))
    oldest = seen.oldest_waiting_seconds or 0.0
    if seen.waiting >= inbox_warning or oldest > _LONG_WAIT_SECONDS:
        found.append((WARN, f"{seen.waiting} runs wait for a worker, the oldest for {formatting.seconds(oldest)}"))
    failed = seen.by_status.get(RunStatus.FAILED.value, 0)
    if failed:
        found.append((BAD, f"{failed} of {seen.runs} runs of the last 24 hours failed: see why, and resume them"))
    if is_slow(seen):
        slow = formatting.milliseconds(seen.p99_ms)
        found.append((WARN, f"One message in a hundred took longer than {slow} from the alert to the channel"))
    return found


def is_slow(seen: Overview) -> bool:
    """Whether some messages take longer than `SLOW_MS`."""
    return (seen.p99_ms or 0.0) > SLOW_MS


def steps_of(
    attempts: Sequence[AttemptRecord], resumes: Sequence[Resume]
) -> list[tuple[AttemptRecord | None, Resume | None]]:
    """The attempts of a run in their order, with each resume before the first attempt that began after it."""
    steps: list[tuple[AttemptRecord | None, Resume | None]] = []
    waiting = list(resumes)
    for attempt in attempts:
        while waiting and attempt.started_at is not None and waiting[0].at <= attempt.started_at:
            steps.append((None, waiting.pop(0)))
        steps.append((attempt, None))
    return [*steps, *((None, resume) for resume in waiting)]


def owners_of(run: RunRecord, resumes: Sequence[Resume]) -> list[str]:
    """The processes that executed a run, in their order, such as `host/pid`."""
    names = [*(resume.owner for resume in resumes), run.carried_by]
    return list(dict.fromkeys(formatting.owner(name) for name in names if name))


def _attempt_to_unfold(story: Story) -> AttemptRecord | None:
    """The last failed attempt of a failed run."""
    if story.run.status is not RunStatus.FAILED:
        return None
    return next((attempt for attempt in reversed(story.attempts) if attempt.error_type), None)


_RESULTS = {kind.stage: kind.result for kind in KINDS.by_type.values()}
_CHECK_TONES = {CheckStatus.OK: GOOD, CheckStatus.WARNING: WARN, CheckStatus.CRITICAL: BAD}


def findings_of(attempt: AttemptRecord) -> list[Finding]:
    """What an attempt found. An attempt that did not succeed has no findings."""
    match attempt.result(_RESULTS[attempt.stage]):
        case IngestResult() as result:
            decision = "somebody is notified" if result.tell else "nobody is notified"
            return [(QUIET, f"{result.severity.value}; {decision}: {in_words(result.reason)}")]
        case CheckResult() as result:
            return [*_checks(result)]
        case AnalyzeResult() as result:
            tone = WARN if result.fallback_used else QUIET
            said = [(tone, text) for text in (result.summary, result.probable_cause) if text]
            return [*said, *_claims(result), *((tone, action) for action in result.actions)]
        case NotifyResult(deliveries=deliveries):
            return [
                (BAD if one.status == "failed" else GOOD, f"{one.channel} via {one.driver}: {one.status}")
                for one in deliveries
            ]
        case TransformResult(count=count):
            return [(QUIET, f"{count} items")]
        case ConditionResult() as result:
            return [(QUIET, f"{result.expression}: {'holds' if result.holds else 'does not hold'}")]
        case _:
            return []


def _claims(result: AnalyzeResult) -> Iterator[Finding]:
    """Each claim with the evidence that it cites, and those that evidence does not support."""
    evidence = {one.id: one for one in result.evidence}
    for claim in result.claims:
        yield QUIET, f"{claim.kind.value}: {claim.says}"
        for one in (evidence[cited] for cited in claim.cites if cited in evidence):
            yield QUIET, f"{one.id}: {f'{one.about}: ' if one.about else ''}{one.says}"
    for why in result.dropped:
        yield WARN, f"dropped {why}"
    if note := result.model_info.get("note"):
        yield WARN, str(note)


def _checks(result: CheckResult) -> Iterator[Finding]:
    for one in result.checks:
        target = f" of {one.target}" if one.target else ""
        yield _CHECK_TONES.get(one.status, QUIET), f"{one.name}{target}: {one.message}"
    for reason, names in result.reasons_to_leave_out.items():
        yield QUIET, f"not {', '.join(names)}: {reason}"


def links_of(payload: Mapping[str, Any]) -> dict[str, str]:
    """The web addresses that the alerts of a run link to, by name. Addresses with secrets are left out."""
    found: dict[str, str] = {}
    for alert in payload.get("alerts") or ():
        links = cast("Mapping[str, object]", alert).get("links") if isinstance(alert, Mapping) else None
        for name, url in cast("Mapping[str, object]", links).items() if isinstance(links, Mapping) else ():
            if address := formatting.safe_address(url):
                found.setdefault(str(name)[:40], address)
    return dict(list(found.items())[:_MAX_LINKS])
