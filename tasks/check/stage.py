"""The check stage: every checker at once, each with its own patience. It knows no Prefect."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self, cast

from orchestration.contracts import Check, CheckResult, CheckStatus, Stage, StageContext
from orchestration.errors import BadInput, BadSetting
from orchestration.settings import Settings
from tasks.check.checkers.base import CheckerConfig
from tasks.check.checkers.registry import CHECKERS, AnyChecker
from tasks.stage import StageSpec

if TYPE_CHECKING:
    from tasks.run import ActiveRun

logger = logging.getLogger(__name__)

_NO_CONFIGS: Mapping[str, Mapping[str, object]] = {}


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What one run checks. A wrong one cannot be made: whoever takes a request learns of it at once.

    Raises:
        BadInput: a name that no checker has, or options that a checker does not take.
    """

    names: tuple[str, ...]
    timeout_seconds: float
    configs: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: _NO_CONFIGS)
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
    ) -> Self:
        """The operator's settings, with a run's own `checker_names` and `checker_configs` where it has any.

        What the operator skips stays skipped, also when a run names it. `configs` may hold options of checkers
        that do not run; they are validated all the same.

        Raises:
            BadInput: the run's names or options are wrong.
            BadSetting: a name in CHECKERS_ENABLED or CHECKERS_SKIP is wrong.
        """
        _check_setting("CHECKERS_ENABLED", settings.checkers_enabled)
        _check_setting("CHECKERS_SKIP", settings.checkers_skip)
        wanted = settings.checkers_enabled if names is None else _names(names)
        by_name = _NO_CONFIGS if configs is None else _options_by_name(configs)
        # Made once with every name wanted, so that a skipped one is still looked at for a mistake.
        whole = cls(names=wanted, timeout_seconds=settings.checkers_timeout_seconds, configs=by_name)
        skipped = set(wanted) if settings.checkers_skip_all else set(settings.checkers_skip)
        return replace(whole, names=tuple(name for name in dict.fromkeys(wanted) if name not in skipped))

    def options(self, name: str) -> CheckerConfig:
        """The configuration of one checker; its defaults where the run gives none.

        Raises:
            BadInput: naming the checker and each wrong option.
        """
        return self.checkers[name].parse(self.configs.get(name, {}))


def _check_setting(variable: str, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in CHECKERS:
            raise BadSetting(f"{variable}: unknown checker {name!r}; there are: {', '.join(sorted(CHECKERS))}")


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
    """Run every checker of `config` at once, and report them in the order of `config.names`.

    An unhealthy check is data; a broken one (an exception, or no answer in `timeout_seconds`) is an error: its
    status is unknown, and `errors` says why. Neither fails the stage. `checks_passed` counts status ok,
    `checks_failed` every other. Durations are in milliseconds.

    Raises:
        BadInput: a checker's options are wrong.
    """
    started = time.perf_counter()
    checks = await asyncio.gather(*(_run(config, name, context) for name in config.names))
    passed = sum(found.status is CheckStatus.OK for found in checks)
    return CheckResult(
        checks=list(checks),
        checks_run=len(checks),
        checks_passed=passed,
        checks_failed=len(checks) - passed,
        timings={found.name: found.duration_ms for found in checks},
        errors=[f"{found.name}: {found.error}" for found in checks if found.error],
        duration_ms=_milliseconds_since(started),
    )


async def _run(config: CheckConfig, name: str, context: StageContext) -> Check:
    """One checker's finding; only a cancelled stage raises."""
    checker, options = config.checkers[name], config.options(name)
    patience = asyncio.timeout(config.timeout_seconds)
    started = time.perf_counter()
    try:
        async with patience:
            found = await checker.run(options)
    except Exception as error:
        late = patience.expired()
        reason = f"timed out after {config.timeout_seconds:g} s" if late else _in_words(error)
        logger.warning("check %s of run %s: %s", name, context.run_id, reason, exc_info=not late)
        found = Check(name=name, status=CheckStatus.UNKNOWN, message=f"could not check: {reason}", error=reason)
    return found.model_copy(update={"name": name, "duration_ms": _milliseconds_since(started)})


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _milliseconds_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


async def configure(run: ActiveRun) -> CheckConfig:
    """The operator's settings, with what the run asks for."""
    options = run.record.options
    return CheckConfig.from_settings(
        run.services.settings, names=options.checker_names, configs=options.checker_configs
    )


CHECK = StageSpec(stage=Stage.CHECK, function=check, configure=configure)
