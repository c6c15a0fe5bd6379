"""What an analysis is asked, who answers, and what a model may cost and see."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import Field, SecretStr

from orchestration.alert import Alert, Incident
from orchestration.contracts import AnalyzeResult, ChangeEvent, Check, CheckResult, Contract, Episode, Target

FOLLOW_THE_RUNBOOK = "Follow the runbook."
"""The first thing to do, if there is a runbook. Messages show its link there."""

LOCAL = "local"
"""The provider that needs no model."""

MODEL = "model"
"""The provider that is the installation's model; `model/NAME` is the model of the block NAME."""

_MODEL_NAME = re.compile(rf"{MODEL}(?:/([a-z0-9][a-z0-9_-]{{0,62}}))?")


def is_provider(name: str) -> bool:
    """Whether a name can be that of a provider: local, model, or model/NAME."""
    return name == LOCAL or _MODEL_NAME.fullmatch(name) is not None


def block_of(provider: str) -> str | None:
    """The block that a provider's name names; None if it names none."""
    found = _MODEL_NAME.fullmatch(provider)
    return found[1] if found else None


@dataclass(frozen=True, kw_only=True)
class AnalysisInput:
    """The evidence for an analysis. Without an incident and alerts it is about this host's own health."""

    incident: Incident | None = None
    alerts: Sequence[Alert] = ()
    check: CheckResult | None = None
    """The findings, with the target of the alert and what has changed there."""
    events: Sequence[ChangeEvent] = ()
    """What people changed shortly before, the newest first."""
    episodes: Sequence[Episode] = ()
    """The earlier episodes of the same incident, the newest first."""
    runbook: str = ""
    """The runbook's text; "" if there is none, or it may not be read."""

    @property
    def target(self) -> Target | None:
        """What it is about, as the checks have found it. None means that this is not known."""
        return self.check.target if self.check else None

    @property
    def is_about_this_host(self) -> bool:
        """Whether it is about the host that runs this pipeline: only then that host's processes and files count."""
        if self.target is None:
            return not self.alerts and self.incident is None
        return self.target.is_own


class AnalysisProvider(Protocol):
    """Analyzes incidents. Safe to call from several tasks at once."""

    @property
    def name(self) -> str:
        """The provider's name, in `model_info` and on record."""
        ...

    async def analyze(self, evidence: AnalysisInput, /) -> AnalyzeResult:
        """The probable cause, and what to do.

        Raises:
            Exception: whatever kept the provider from an answer: an outage is an error, never an empty success.
        """
        ...


class ModelOptions(Contract):
    """A model that analyzes: where it is, and what it may cost and see."""

    name: str = Field(default="default", description="The name of its block, or `settings`.")
    api: Literal["openai", "anthropic", "ollama"] = "openai"
    model: str = Field(min_length=1, max_length=200)
    base_url: str = ""
    api_key: SecretStr | None = None
    seconds: float = Field(default=60.0, gt=0, le=600)
    max_requests: int = Field(default=6, ge=1, le=50)
    max_output_tokens: int = Field(default=2000, ge=100, le=100_000)
    max_tool_calls: int = Field(default=8, ge=0, le=100)
    tokens_per_hour: int | None = Field(default=500_000, ge=0)
    cost_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    price_input: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    price_output: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    reads_runbook: bool = False
    uses_tools: bool = False

    def __str__(self) -> str:
        return f"The model {self.model!r} ({self.name})"

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """The cost of so many tokens, in the currency of the prices."""
        return round((input_tokens * self.price_input + output_tokens * self.price_output) / 1e6, 6)


class PendingAnswers:
    """The questions that models of this process are being asked. They go on when the page has stopped waiting."""

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Task[AnalyzeResult]] = {}
        self._after: set[asyncio.Task[None]] = set()

    def ask(self, key: str, ask: Callable[[], Coroutine[Any, Any, AnalyzeResult]]) -> asyncio.Task[AnalyzeResult]:
        """The question with this key; it is begun if it is not being asked."""
        if (asked := self._asked.get(key)) is not None:
            return asked
        asked = asyncio.create_task(ask())
        self._asked[key] = asked
        asked.add_done_callback(lambda task: self._end(key, task))
        return asked

    def _end(self, key: str, task: asyncio.Task[AnalyzeResult]) -> None:
        self._asked.pop(key, None)
        if not task.cancelled():
            task.exception()  # asyncio must not report an error as lost: the question's row has it

    def then(self, asked: asyncio.Task[AnalyzeResult], do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this when the question has ended, however it did, unless this process ends first."""

        async def wait() -> None:
            await asyncio.wait({asked})
            await do()

        following = asyncio.create_task(wait())
        self._after.add(following)
        following.add_done_callback(self._after.discard)

    async def close(self) -> None:
        """Cancel what is being asked. The runs that wait for answers are in the queue, and ask again."""
        tasks: set[asyncio.Task[Any]] = {*self._after, *self._asked.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class ModelSource(Protocol):
    """Finds the models of an installation."""

    async def find(self, block: str | None) -> ModelOptions | None:
        """The model of the block with this name. `block` None means the installation's model; None if it has none.

        Raises:
            BadInput: there is no such block, or it is broken or switched off.
            BadSetting: the settings name half a model.
            Unavailable: the store of the blocks does not answer.
        """
        ...


class ReadOnlyTools(Protocol):
    """What a model may look at beside the evidence that it was given. Nothing is changed by it."""

    @property
    def checkers(self) -> Sequence[str]:
        """The names of the checkers that it may run."""
        ...

    async def check(self, name: str, target: str) -> Check:
        """Run a checker on a target.

        Raises:
            BadInput: there is no such checker, or it may not look at this target.
        """
        ...

    async def query(self, expression: str) -> str:
        """The answer of Prometheus to an instant query, as text.

        Raises:
            BadInput: no Prometheus is set up, or it refuses the query.
            Unavailable: it does not answer.
        """
        ...

    async def read_run(self, run_id: str, environment: str) -> str:
        """What a stored run of this environment has found, as text.

        Raises:
            BadInput: there is no such run in this environment.
        """
        ...
