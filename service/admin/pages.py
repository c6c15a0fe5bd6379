"""The pages that are more than a table: the first one, a run's, an incident's, and the resume of a run."""

from __future__ import annotations

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from orchestration.contracts import Stage
from orchestration.errors import IllegalTransition, PipelineError, RunBusy, RunNotFound
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.states import RunStatus
from orchestration.store import runs
from orchestration.store.database import read_clock
from orchestration.store.incidents import MOST, read_incident
from orchestration.store.overview import Overview, read_overview
from orchestration.store.records import AttemptRecord, RunRecord
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.story import Story, read_story
from service.admin import charts, words
from service.admin.findings import findings_of, links_of
from service.admin.gate import read_own_form
from service.admin.mount import PATH
from service.api.problems import status_of

if TYPE_CHECKING:
    from service.admin.site import Site

REFRESH_SECONDS = (2, 15)
"""How often the page of a run that is not over comes anew: at first, and of one to which nothing happens."""

REFRESH_HOME_SECONDS = 30
SIBLINGS = 50
SLOW_MS = 5000.0
"""A p99 from alert to message beyond which the first page says so."""


class Pages:
    """The handlers of these pages."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def home(self, request: Request) -> Response:
        """Is it healthy?"""
        async with self._site.api.database.transaction() as tx:
            seen = await read_overview(tx)
        bars, most = charts.throughput(seen.hours)
        curves, top_ms = charts.latency(seen.hours)
        context = {
            "seen": seen,
            "worries": worries(seen, self._site.api.settings.inbox_warning),
            "engine": engine(seen),
            "bars": bars,
            "most": most,
            "curves": curves,
            "top_ms": top_ms,
            "slow": is_slow(seen),
            "stages": set(Stage),
            "refresh": REFRESH_HOME_SECONDS,
        }
        return await self._site.render(request, "home.html", context)

    async def run(self, request: Request) -> Response:
        """A run with all that belongs to it."""
        return await self._show_run(request)

    async def confirm_resume(self, request: Request) -> Response:
        """Asks once more."""
        async with self._site.api.database.transaction() as tx:
            story = await read_story(tx, _run_id(request))
        return await self._site.render(request, "resume.html", {"run": story.run, "done": story.stages_completed})

    async def resume(self, request: Request) -> Response:
        """Resume a run, as POST /orchestration/pipeline/{run_id}/resume/ does."""
        await read_own_form(request)
        run_id = _run_id(request)
        try:
            async with self._site.api.database.transaction() as tx:
                await runs.request_resume(tx, run_id)
        except (IllegalTransition, RunBusy) as error:
            return await self._show_run(request, error)
        logger.info("%s resumed run %s in the admin", one_line(request.state.session.key_name, 64), run_id)
        return RedirectResponse(f"{PATH}/runs/{run_id}/?resumed=1", HTTPStatus.SEE_OTHER)

    async def incident(self, request: Request) -> Response:
        """An incident with its alerts, history and runs."""
        number = request.path_params["number"]
        story = None
        if number.isascii() and number.isdecimal() and len(number) < 19:
            async with self._site.api.database.transaction() as tx:
                story = await read_incident(tx, int(number))
        if story is None:
            return await self._site.say(request, HTTPStatus.NOT_FOUND, f"There is no incident {number[:40]!r}")
        return await self._site.render(request, "incident.html", {"story": story, "most": MOST})

    async def _show_run(self, request: Request, problem: PipelineError | None = None) -> Response:
        run_id = _run_id(request)
        async with self._site.api.database.transaction() as tx:
            story = await read_story(tx, run_id)
            payload = await runs.get_payload(tx, run_id)
            family = (await list_page(tx, RunFilter(trace_id=story.run.trace_id), limit=SIBLINGS + 1)).runs
            now = await read_clock(tx)
        run = story.run
        going = not run.status.final
        context = {
            "story": story,
            "run": run,
            "payload": payload,
            "siblings": [one for one in family if one.run_id != run_id][:SIBLINGS],
            "timeline": charts.timeline(story.attempts, now),
            "findings": {one.idempotency_key: findings_of(one) for one in story.attempts},
            "prefect": self._prefect_link(run.prefect_flow_run_id),
            "resumable": run.status in (RunStatus.FAILED, RunStatus.RETRYING),
            "going": going,
            "resumed": "resumed" in request.query_params,
            "opened": _to_open(story),
            "refresh": refresh_seconds(run, now) if going else None,
            "links": links_of(payload),
            "problem": str(problem) if problem else None,
        }
        status = status_of(problem) if problem else HTTPStatus.OK
        return await self._site.render(request, "run.html", context, status=status)

    def _prefect_link(self, flow_run_id: str | None) -> str | None:
        ui = self._site.api.settings.prefect_ui
        return f"{ui}/runs/flow-run/{flow_run_id}" if ui and flow_run_id else None


def _run_id(request: Request) -> str:
    """The run's id in the address, if PostgreSQL can look for it.

    Raises:
        RunNotFound: it cannot.
    """
    run_id: str = request.path_params["run_id"]
    if not run_id.isprintable() or len(run_id) > 64:
        raise RunNotFound(f"There is no pipeline run {run_id[:64]!r}")
    return run_id


def refresh_seconds(run: RunRecord, now: datetime) -> int:
    """When a run's page comes anew. What one has unfolded is folded again then, so a run that waits long is left be."""
    return REFRESH_SECONDS[now - run.updated_at > timedelta(minutes=1)]


def engine(seen: Overview) -> tuple[str, str]:
    """Which engine new runs go through, and its tone."""
    if not seen.workers:
        return "none", words.BAD
    if any(worker.prefect_ok for worker in seen.workers):
        return "Prefect", words.GOOD
    return "direct", words.WARN


def worries(seen: Overview, inbox_warning: int) -> list[tuple[str, str]]:
    """What is not as it should be, worst first: tone and sentence. Nothing: all is well."""
    found: list[tuple[str, str]] = []
    if not seen.workers:
        found.append((words.BAD, "No worker is alive: alerts are stored, and wait. Start one: alert-pipeline worker"))
    elif not any(worker.prefect_ok for worker in seen.workers):
        found.append((words.WARN, "Prefect does not answer: runs go through the direct engine meanwhile"))
    oldest = seen.oldest_waiting_seconds or 0.0
    if seen.waiting >= inbox_warning or oldest > 60:
        found.append((words.WARN, f"{seen.waiting} runs wait for a worker, the oldest for {words.seconds(oldest)}"))
    failed = seen.by_status.get(RunStatus.FAILED.value, 0)
    if failed:
        found.append((words.BAD, f"{failed} of {seen.runs} runs of the last 24 hours failed: see why, and resume them"))
    if is_slow(seen):
        slow = words.milliseconds(seen.p99_ms)
        found.append((words.WARN, f"One message in a hundred took longer than {slow} from the alert to the channel"))
    return found


def is_slow(seen: Overview) -> bool:
    """Whether some messages take too long."""
    return (seen.p99_ms or 0.0) > SLOW_MS


def _to_open(story: Story) -> AttemptRecord | None:
    """The attempt that one wants to see at once: the last one that failed, of a run that did."""
    if story.run.status is not RunStatus.FAILED:
        return None
    return next((attempt for attempt in reversed(story.attempts) if attempt.error_type), None)
