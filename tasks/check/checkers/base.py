"""The parts of a checker: a frozen configuration, an async function, what it looks at, and thresholds."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from orchestration.addresses import AddressRules
from orchestration.alert import Alert
from orchestration.contracts import Check, CheckStatus, Target
from orchestration.errors import BadInput
from orchestration.prometheus import PrometheusFinder

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
"""0 to 100."""

Seconds = Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]
"""A time in seconds."""

Port = Annotated[int, Field(ge=1, le=65535)]

Names = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=255)], ...], Field(strict=False, max_length=256)]
"""Names, as a tuple or, because JSON has no tuples, as a list."""


class CheckerConfig(BaseModel):
    """The options of one checker, from `checker_configs`. Unknown options are refused."""

    # Strict: neither "70" nor true is a number, and "yes" is no boolean.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Ceilings(CheckerConfig):
    """Limits of a value that must stay low: a warning from `warn` percent, critical from `crit` percent."""

    warn: Percent
    crit: Percent

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn > self.crit:
            raise ValueError(f"warn ({self.warn:g}) is above crit ({self.crit:g})")
        return self

    def status_of(self, percent: float) -> CheckStatus:
        """The status at `percent` in use."""
        if percent >= self.crit:
            return CheckStatus.CRITICAL
        return CheckStatus.WARNING if percent >= self.warn else CheckStatus.OK


class Floors(CheckerConfig):
    """Limits of a value that must stay high: ok from `ok` percent, a warning from `warn` percent, else critical."""

    ok: Percent
    warn: Percent

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn > self.ok:
            raise ValueError(f"warn ({self.warn:g}) is above ok ({self.ok:g})")
        return self

    def status_of(self, percent: float) -> CheckStatus:
        """The status at `percent` left."""
        if percent >= self.ok:
            return CheckStatus.OK
        return CheckStatus.WARNING if percent >= self.warn else CheckStatus.CRITICAL


class LeftOut(Exception):
    """A checker may not, or cannot, look at its subject. The text says why; it is no finding."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the checks of a run are about."""

    target: Target | None
    """None means that the alerts name nothing."""
    own_name: str
    """The name of the host that runs this pipeline."""
    alerts: Sequence[Alert] = ()
    rules: AddressRules = field(default_factory=AddressRules)
    """Which addresses may be connected to."""
    prometheus: PrometheusFinder | None = None
    calls: Sequence[tuple[str, str]] = ()
    """Who depends on whom: the job of a caller, and of its callee."""

    @classmethod
    def of_this_host(cls) -> Self:
        """A health check of the host that runs this pipeline."""
        name = socket.gethostname()
        return cls(target=Target(host=name.lower(), is_own=True), own_name=name)


ConfigT = TypeVar("ConfigT", bound=CheckerConfig)
Fit = Callable[[Any, Subject], str]
"""Why a checker with these options cannot look at a subject, in words; "" if it can."""


@dataclass(frozen=True)
class Checker(Generic[ConfigT]):
    """One checker of the registry: its name, the type of its options, its function, and what it can look at."""

    name: str
    config: type[ConfigT]
    run: Callable[[ConfigT, Subject], Awaitable[Check]]
    unfit: Fit

    def parse(self, options: Mapping[str, object]) -> ConfigT:
        """Validate the options of this checker.

        Raises:
            BadInput: names the checker, each wrong field, and the expected value.
        """
        try:
            return self.config.model_validate(dict(options))
        except ValidationError as error:
            problems = "; ".join(self._explain(problem) for problem in error.errors(include_url=False))
            raise BadInput(f"checker {self.name}: {problems}") from None

    def _explain(self, problem: Mapping[str, Any]) -> str:
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = ", ".join(sorted(self.config.model_fields)) or "none"
            return f"unknown option {where!r} (known: {known})"
        what = str(problem["msg"]).removeprefix("Value error, ")
        what = f"{what[0].lower()}{what[1:]}"
        # The rule "warn above crit" belongs to no field, and its message contains the values.
        return f"option {where!r}: {what}, got {_shown(problem['input'])}" if where else what


def _shown(value: object) -> str:
    """A number as it is, any other value as its type: an option may contain a token."""
    return repr(value) if isinstance(value, int | float) or value is None else f"a value of type {type(value).__name__}"


def local_checker(name: str, config: type[ConfigT], run: Callable[[ConfigT], Awaitable[Check]]) -> Checker[ConfigT]:
    """A checker that looks at the host that runs this pipeline, and therefore only if the alert is about this host."""

    async def look(options: ConfigT, subject: Subject) -> Check:
        found = await run(options)
        return found if found.target else found.model_copy(update={"target": subject.own_name})

    return Checker(name, config, look, not_of_this_host)


def not_of_this_host(_options: object, subject: Subject) -> str:
    """Why a checker of this host cannot look at a subject; "" if it can."""
    if subject.target is not None and subject.target.is_own:
        return ""
    return "it looks only at the host that runs this pipeline, which is not the target"
