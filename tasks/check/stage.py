"""The check stage: every checker that can look at the target at once, each with its own time limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, cast

from pydantic import Field, JsonValue

from orchestration.alert import Alert
from orchestration.changes.blame import DependencySource
from orchestration.changes.csv_input import read_dependencies
from orchestration.contracts import ALL_CLEAR, Change, Check, CheckResult, CheckStatus, Stage, StageContext
from orchestration.engine.run import ActiveRun, NodeKind, Step
from orchestration.errors import BadInput, BadSetting, Unavailable, error_in_words
from orchestration.graph import DefinitionProblem, Name, NodeConfig, NodeDefinition
from orchestration.policy.checking import rule_for
from orchestration.policy.model import CheckRule
from orchestration.prometheus import PrometheusFinder
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.target import OwnHost, target_of
from orchestration.threads import in_daemon_thread
from tasks.check.changes import find_changes
from tasks.check.checkers.base import CheckerConfig, LeftOut, Subject
from tasks.check.checkers.registry import CHECKERS, AnyChecker

_PROMETHEUS = "prometheus"
"""The checker without which Prometheus is not asked what has changed either."""

CHECKS_OFF = "checkers_skip_all"
"""The reason to skip checks that an operator has switched off."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What one run checks. A wrong one cannot be made: whoever takes a request learns of it at once.

    Raises:
        BadInput: a name that no checker has, or options that a checker does not take.
    """

    names: tuple[str, ...]
    timeout_seconds: float
    subject: Subject = field(default_factory=Subject.of_this_host)
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why checkers that were asked for are not among `names`."""
    configs: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    checkers: Mapping[str, AnyChecker] = field(default_factory=lambda: CHECKERS, repr=False)

    def __post_init__(self) -> None:
        for name in (*self.names, *self.configs):
            if name not in self.checkers:
                raise BadInput(f"unknown checker {name!r}; there are: {', '.join(sorted(self.checkers))}")
        for name in self.configs:
            self.options(name)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        names: Iterable[str] | None = None,
        configs: Mapping[str, Mapping[str, object]] | None = None,
        subject: Subject | None = None,
    ) -> Self:
        """The operator's settings, with a run's own `checker_names` and `checker_configs` where it has any.

        What the operator skips stays skipped, also when a run names it. `configs` may hold options of checkers
        that do not run; they are validated all the same. Without a `subject` the checks are about this host.

        Raises:
            BadInput: the run's names or options are wrong.
        """
        wanted = settings.checkers_enabled if names is None else _names(names)
        by_name = _options_by_name({} if configs is None else configs)
        # Made once with every name wanted, so that a skipped one is still looked at for a mistake.
        wanted_config = cls(names=wanted, timeout_seconds=settings.checkers_timeout_seconds, configs=by_name)
        skipped = set(wanted) if settings.checkers_skip_all else set(settings.checkers_skip)
        return replace(
            wanted_config,
            names=tuple(name for name in dict.fromkeys(wanted) if name not in skipped),
            left_out={name: _SKIPPED for name in wanted if name in skipped},
            subject=subject or Subject.of_this_host(),
        )

    def options(self, name: str) -> CheckerConfig:
        """The configuration of one checker; its defaults where the run gives none.

        Raises:
            BadInput: naming the checker and each wrong option.
        """
        return self.checkers[name].parse(self.configs.get(name, {}))


_SKIPPED = "the operator has switched it off with CHECKERS_SKIP"


def _names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise BadInput("checker_names: expected a list of names, such as ['cpu', 'disk']")
    return tuple(str(name) for name in cast("Iterable[object]", names))


def _options_by_name(configs: object) -> Mapping[str, Mapping[str, object]]:
    by_name = cast("Mapping[str, object]", configs) if isinstance(configs, Mapping) else None
    if by_name is None or not all(isinstance(options, Mapping) for options in by_name.values()):
        raise BadInput('checker_configs: expected options by checker, such as {"disk": {"paths": ["/data"]}}')
    return cast("Mapping[str, Mapping[str, object]]", by_name)


async def check(context: StageContext, config: CheckConfig) -> CheckResult:
    """Run every checker of `config` that can look at its subject at once; the findings in the order of `config.names`.

    An unhealthy check is data; a broken one (an exception, or no answer in `timeout_seconds`) is an error: its
    status is unknown, and `errors` says why. Neither fails the stage. `checks_passed` counts status ok,
    `checks_failed` every other. Durations are in milliseconds. `left_out` says why a checker did not look.

    Raises:
        BadInput: a checker's options are wrong.
    """
    unfit = {name: config.checkers[name].unfit(config.options(name), config.subject) for name in config.names}
    looking = asyncio.gather(*(_run(config, name, context) for name, reason in unfit.items() if not reason))
    found, changes = await asyncio.gather(looking, _changes(config, context))
    checks = _without_own_ignorance([one for one in found if isinstance(one, Check)])
    refused = {name: reason for name, reason in (one for one in found if not isinstance(one, Check))}
    passed = sum(found.status is CheckStatus.OK for found in checks)
    return CheckResult(
        checks=checks,
        checks_run=len(checks),
        checks_passed=passed,
        checks_failed=len(checks) - passed,
        timings={found.name: found.duration_ms for found in checks},
        errors=[f"{found.name}: {found.error}" for found in checks if found.error],
        target=config.subject.target,
        changes=changes,
        left_out={**config.left_out, **{name: reason for name, reason in unfit.items() if reason}, **refused},
    )


def _without_own_ignorance(checks: Sequence[Check]) -> list[Check]:
    """A host that Prometheus reaches is there, also if the name servers of this machine do not know its name."""
    if not any(one.metrics.get("up") is True for one in checks):
        return [*checks]
    return [
        one.model_copy(update={"status": CheckStatus.UNKNOWN, "message": f"{one.message} here; Prometheus reaches it"})
        if one.status is CheckStatus.CRITICAL and one.metrics.get("exists") is False
        else one
        for one in checks
    ]


async def _changes(config: CheckConfig, context: StageContext) -> list[Change]:
    """What has changed at the target and its neighbours, by their series; nothing if that cannot be known in time."""
    finder = config.subject.prometheus
    if finder is None or not config.subject.alerts or _PROMETHEUS not in config.names:
        return []
    try:
        async with asyncio.timeout(config.timeout_seconds):
            prometheus = await finder.find()
            return await find_changes(prometheus, config.subject) if prometheus is not None else []
    except (BadInput, BadSetting, Unavailable, TimeoutError) as error:
        reason = str(error) or f"no answer in {config.timeout_seconds:g} s"
        logger.warning("What changed at the target of run %s is not known: %s", context.run_id, reason)
        return []


async def _run(config: CheckConfig, name: str, context: StageContext) -> Check | tuple[str, str]:
    """One checker's finding, or its name and why it may not look; only a cancelled stage raises."""
    checker, options, target = config.checkers[name], config.options(name), config.subject.target
    limit = asyncio.timeout(config.timeout_seconds)
    started = time.perf_counter()
    try:
        async with limit:
            found = await checker.run(options, config.subject)
    except LeftOut as reason:
        return name, str(reason)
    except Unavailable as error:
        logger.warning("The check %s of run %s found out nothing: %s", name, context.run_id, error)
        found = Check(name=name, status=CheckStatus.UNKNOWN, message=str(error), error=str(error))
    except Exception as error:  # noqa: BLE001 - a broken checker is a finding beside the others
        late = limit.expired()
        reason = f"timed out after {config.timeout_seconds:g} s" if late else _in_words(error)
        logger.warning("The check %s of run %s broke: %s", name, context.run_id, reason, exc_info=not late)
        found = Check(name=name, status=CheckStatus.UNKNOWN, message=f"could not check: {reason}", error=reason)
    duration_ms = round((time.perf_counter() - started) * 1000, 3)
    looked_at = found.target or (target.name if target else "")
    return found.model_copy(update={"name": name, "target": looked_at, "duration_ms": duration_ms})


def _in_words(error: Exception) -> str:
    return error_in_words(type(error).__name__, str(error))


class ContextNode(NodeConfig):
    """Which checkers run, and how. Names that are not given come from the run, or else from the settings."""

    checker_names: list[Name] | None = None
    checker_configs: dict[str, dict[str, JsonValue]] = Field(default_factory=dict[str, dict[str, JsonValue]])


async def _set_up(run: ActiveRun, step: Step) -> CheckConfig:
    """The checkers of the node, else those that the run was asked for, else those of the policy's first rule."""
    own, options, settings = cast("ContextNode", step.config), run.record.options, run.services.settings
    names = options.checker_names if own.checker_names is None else own.checker_names
    rule = await _rule(run) if names is None else None
    allowed = settings.checkers_enabled if rule is None else _of_rule(rule, settings)
    config = CheckConfig.from_settings(
        settings,
        names=allowed if names is None else names,
        configs={**(_usable(rule) if rule else {}), **options.checker_configs, **own.checker_configs},
        subject=await subject_of(
            run.alerts,
            settings,
            run.services.prometheus,
            run.services.dependencies,
            environment=run.record.environment,
        ),
    )
    not_allowed = {name: _why_not(name) for name in (rule.checkers if rule else ()) if name not in allowed}
    return replace(config, left_out={**config.left_out, **not_allowed})


async def _rule(run: ActiveRun) -> CheckRule | None:
    active = await run.services.active_policy()
    return None if active is None else rule_for(active.policy, run.alerts, environment=run.record.environment)


def _of_rule(rule: CheckRule, settings: Settings) -> tuple[str, ...]:
    """The checkers of a rule that exist and that the operator allows. The policy may be of another version."""
    return tuple(name for name in rule.checkers if name in CHECKERS and name in settings.checkers_enabled)


def _why_not(name: str) -> str:
    return "CHECKERS_ENABLED does not name it" if name in CHECKERS else "there is no such checker"


def _usable(rule: CheckRule) -> dict[str, Mapping[str, object]]:
    """The options of a rule that are right: a page does not fail because of the others, which the log names."""
    found: dict[str, Mapping[str, object]] = {}
    for name, options in rule.configs.items():
        try:
            CheckConfig(names=(), timeout_seconds=1.0, configs={name: options})
        except BadInput as error:
            logger.error("The policy's options of a checker are not used: %s", error)
        else:
            found[name] = options
    return found


OWN_HOST_SECONDS = 10.0
"""For how long what was read of this host counts: its addresses may change, and each run needs them."""

_last_read: tuple[float, OwnHost] | None = None


async def _own_host() -> OwnHost:
    global _last_read
    if _last_read is None or time.monotonic() - _last_read[0] > OWN_HOST_SECONDS:
        _last_read = time.monotonic(), await in_daemon_thread(OwnHost.read)
    return _last_read[1]


async def subject_of(
    alerts: Sequence[Alert],
    settings: Settings,
    prometheus: PrometheusFinder | None = None,
    dependencies: DependencySource | None = None,
    *,
    environment: str = "",
) -> Subject:
    """What the checks of a run with these alerts are about, and what they may connect to."""
    own = replace(await _own_host(), environment=environment)
    file, calls = settings.changes_dependencies_file, ()
    if prometheus and file is not None:
        calls = await in_daemon_thread(read_calls, file)
    elif prometheus and dependencies:
        calls = await dependencies()
    return Subject(
        target=target_of(alerts, own),
        own_name=own.name,
        alerts=alerts,
        rules=settings.address_rules,
        prometheus=prometheus,
        calls=calls,
    )


def read_calls(file: str) -> Sequence[tuple[str, str]]:
    """Who depends on whom, from CHANGES_DEPENDENCIES_FILE. What is wrong with it is logged: no check fails for it."""
    try:
        return read_dependencies(Path(file).read_bytes(), file)
    except (OSError, BadInput) as error:
        logger.warning("CHANGES_DEPENDENCIES_FILE cannot be used: %s", error)
        return ()


async def _reason_to_skip(run: ActiveRun, _step: Step) -> str | None:
    """An all-clear needs no checks, and the operator may want none."""
    if await run.is_all_clear():
        return ALL_CLEAR
    return CHECKS_OFF if run.services.settings.checkers_skip_all else None


def _problems(node: NodeDefinition) -> Iterator[DefinitionProblem]:
    config = ContextNode.model_validate(node.config)
    for field_name, names, configs in (
        *(("checker_names", (name,), dict[str, dict[str, JsonValue]]()) for name in config.checker_names or ()),
        *((f"checker_configs.{name}", (), {name: options}) for name, options in config.checker_configs.items()),
    ):
        try:
            CheckConfig(names=names, timeout_seconds=1.0, configs=configs)
        except BadInput as error:
            yield DefinitionProblem(node=node.id, field=f"config.{field_name}", message=str(error))


CHECK = NodeKind(
    name="context",
    stage=Stage.CHECK,
    config=ContextNode,
    result=CheckResult,
    function=check,
    set_up=_set_up,
    result_ref="checker_output_ref",
    run_ref="checker_output_ref",
    reason_to_skip=_reason_to_skip,
    problems=_problems,
)
