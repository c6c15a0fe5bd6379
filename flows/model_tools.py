"""What a model may look at by itself: a checker on a target, Prometheus, a stored run. It changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestration.alert import Alert, Severity
from orchestration.contracts import Check, CheckStatus, StageContext
from orchestration.errors import BadInput, RunNotFound
from orchestration.prometheus import PrometheusFinder
from orchestration.redaction import one_line
from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.story import Story, read_story
from tasks.check.checkers.registry import CHECKERS
from tasks.check.stage import CheckConfig, check, subject_of

_MAX_EXPRESSION = 2000
_MAX_SAMPLES = 20
_MAX_TARGET = 300


@dataclass(frozen=True, kw_only=True)
class PipelineTools:
    """Looks as the check stage does: with the operator's limits, and only at addresses that checks may connect to."""

    settings: Settings
    database: Database
    prometheus: PrometheusFinder | None = None

    @property
    def checkers(self) -> Sequence[str]:
        """The checkers that the operator does not skip."""
        return [name for name in CHECKERS if name not in self.settings.checkers_skip]

    async def check(self, name: str, target: str) -> Check:
        """Run a checker on a host, host:port or URL; without a target on the host of the pipeline.

        Raises:
            BadInput: there is no such checker, or it may not, or cannot, look at this target.
        """
        target = target.strip()
        if not target or len(target) > _MAX_TARGET or not target.isprintable():
            raise BadInput(f"the target is a host, host:port or URL of at most {_MAX_TARGET} characters")
        label = "url" if "://" in target else "instance"
        about = Alert(
            fingerprint="model",
            source="model",
            name="model",
            severity=Severity.INFO,
            labels={label: target},
            incident_key="model",
        )
        subject = await subject_of([about], self.settings, self.prometheus)
        config = CheckConfig.from_settings(self.settings, names=[name], subject=subject)
        context = StageContext(trace_id="model", run_id="model")
        found = await check(context, config)
        if not found.checks:
            raise BadInput(next(iter(found.left_out.values()), f"the checker {name} cannot look at it"))
        return found.checks[0]

    async def query(self, expression: str) -> str:
        """The values of an expression now, one a line.

        Raises:
            BadInput: no Prometheus is set up, or it cannot evaluate the expression.
            Unavailable: it does not answer.
        """
        if len(expression) > _MAX_EXPRESSION:
            raise BadInput(f"the expression has more than {_MAX_EXPRESSION} characters")
        source = await self.prometheus.find() if self.prometheus is not None else None
        if source is None:
            raise BadInput("no Prometheus is set up")
        samples = await source.query(expression)
        lines = [f"{_labels(sample.labels)} {sample.value:.6g}".strip() for sample in samples[:_MAX_SAMPLES]]
        more = [f"and {len(samples) - _MAX_SAMPLES} more"] if len(samples) > _MAX_SAMPLES else []
        return "; ".join([*lines, *more]) or "no series"

    async def read_run(self, run_id: str, environment: str) -> str:
        """What a stored run of this environment has found, in a few sentences.

        Raises:
            BadInput: there is no such run in this environment.
            Unavailable: the database does not answer.
        """
        try:
            async with self.database.transaction() as tx:
                story = await read_story(tx, run_id)
        except RunNotFound:
            raise BadInput(f"there is no run {one_line(run_id, 80)!r}") from None
        if story.run.environment != environment:
            raise BadInput(f"there is no run {one_line(run_id, 80)!r}")
        return _told(story)


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())


def _told(story: Story) -> str:
    run, result = story.run, story.result()
    checks = [one for one in (result.check.checks if result.check else []) if one.status is not CheckStatus.OK]
    parts = [
        f"{run.title} at {run.created_at:%Y-%m-%d %H:%M:%S} UTC: {run.status.value}",
        *(f"{one.name} of {one.target or 'its target'} was {one.status}: {one.message}" for one in checks[:5]),
        *([f"analysis: {result.analyze.summary}"] if result.analyze else []),
    ]
    return "; ".join(one_line(part, 400) for part in parts)
