"""One question to a model: an agent with bounds and read-only tools, and its answer or what kept it from one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestration.analysis import ModelOptions, ReadOnlyTools
from orchestration.contracts import CheckStatus, Evidence, EvidenceKind
from orchestration.disguise import Disguise
from orchestration.errors import ModelUnavailable, PipelineError
from orchestration.redaction import one_line
from orchestration.store.model_questions import Used
from tasks.analyze.model.question import INSTRUCTIONS, ModelAnswer, line_of
from tasks.analyze.model.vendors import open_model

if TYPE_CHECKING:
    from pydantic_ai import Tool

_FINAL_STATUSES = frozenset({400, 401, 402, 403, 404, 405, 413, 422})
"""HTTP statuses after which the same question fails again."""

_TOOL_CHARACTERS = 2000


@dataclass
class Question:
    """What is asked, and what the model has looked at by itself meanwhile."""

    options: ModelOptions
    prompt: str
    evidence: list[Evidence]
    disguise: Disguise
    tools: ReadOnlyTools | None = None
    environment: str = "production"
    used: Used = field(default_factory=Used)
    """What it has cost so far, also when it fails."""

    async def ask(self) -> ModelAnswer:
        """The model's answer, with its placeholders.

        Raises:
            ModelUnavailable: it gave none that can be read; the error says whether another try can help.
            BadSetting: the packages that ask models are not installed.
        """
        async with open_model(self.options) as model:
            from pydantic_ai import Agent, TextOutput, ToolOutput
            from pydantic_ai.usage import RunUsage, UsageLimits

            options = self.options
            agent = Agent(
                model,
                output_type=[ToolOutput(ModelAnswer, name="answer"), TextOutput(_read_text)],
                instructions=INSTRUCTIONS,
                tools=self._tools(),
                retries={"tools": 2, "output": 1},
            )
            limits = UsageLimits(
                request_limit=options.max_requests, tool_calls_limit=options.max_tool_calls if self._looks else None
            )
            usage = RunUsage()
            try:
                async with asyncio.timeout(options.seconds):
                    ran = await agent.run(
                        self.prompt,
                        usage=usage,
                        usage_limits=limits,
                        model_settings={"max_tokens": options.max_output_tokens, "max_retries": 0},
                    )
            except Exception as error:
                raise _no_answer(options, error) from error
            finally:
                self.used = Used(
                    requests=usage.requests,
                    input_tokens=usage.input_tokens,
                    output_tokens=usage.output_tokens,
                    cost=options.cost(usage.input_tokens, usage.output_tokens),
                )
            return ran.output

    @property
    def _looks(self) -> bool:
        return self.tools is not None and self.options.uses_tools and self.options.max_tool_calls > 0

    def _tools(self) -> list[Tool[Any]]:
        from pydantic_ai import Tool

        tools = self.tools
        if tools is None or not self._looks:
            return []

        async def check(checker: str, target: str = "") -> str:
            """Look at a target now: run a checker on a host, host:port or URL."""
            found = await tools.check(self.disguise.restore(checker), self.disguise.restore(target))
            says = f"{found.name} is {found.status}: {found.error or found.message}"
            return self._note(EvidenceKind.CHECK, found.target or target, says, found.status, found.name)

        async def query_prometheus(expression: str) -> str:
            """The value of a PromQL expression now."""
            asked = self.disguise.restore(expression)
            answer = await tools.query(asked)
            return self._note(EvidenceKind.CHECK, asked, answer, CheckStatus.UNKNOWN, "prometheus")

        async def read_run(run_id: str) -> str:
            """What an earlier run of the pipeline has found: its checks, its analysis, who was notified."""
            known = self.disguise.restore(run_id)
            return self._note(EvidenceKind.EPISODE, known, await tools.read_run(known, self.environment))

        names = ", ".join(tools.checkers)
        described = f"Look at a target now. The checkers are: {names}. The target is a host, host:port or URL."
        return [
            Tool(self._answered(check), name="check", description=described),
            Tool(self._answered(query_prometheus), name="query_prometheus"),
            Tool(self._answered(read_run), name="read_run"),
        ]

    def _note(
        self, kind: EvidenceKind, about: str, says: str, status: CheckStatus | None = None, topic: str = ""
    ) -> str:
        """Keep what a tool has found as evidence that can be cited; the line that the model reads."""
        number = sum(one.kind is kind for one in self.evidence) + 1
        piece = Evidence(
            id=f"{kind}-{number}",
            kind=kind,
            about=one_line(about, 200),
            says=one_line(says, _TOOL_CHARACTERS),
            status=None if status is CheckStatus.UNKNOWN else status,
            topic=topic,
        )
        self.evidence.append(piece)
        about, says = self.disguise.hide_all([piece.about, piece.says])
        return line_of(piece, about, says)

    def _answered(self, tool: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
        """The tool; why it refuses to look is its answer."""

        @wraps(tool)
        async def answered(*arguments: Any, **named: Any) -> str:
            try:
                return await tool(*arguments, **named)
            except PipelineError as error:
                return self.disguise.hide(f"Not possible: {one_line(str(error), 300)}")

        return answered


def _read_text(text: str) -> ModelAnswer:
    """The answer of a model that writes its JSON instead of calling the tool for the answer."""
    from pydantic_ai import ModelRetry

    begins, ends = text.find("{"), text.rfind("}")
    try:
        return ModelAnswer.model_validate_json(text[begins : ends + 1])
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the text"
        raise ModelRetry(f"Answer with the JSON object of the answer alone: {where}: {problem['msg']}") from None


def _no_answer(options: ModelOptions, error: Exception) -> ModelUnavailable:
    """Why there is no answer, in one sentence without the question."""
    from pydantic_ai import exceptions

    who = str(options)
    if isinstance(error, TimeoutError):
        return ModelUnavailable(f"{who} did not answer within {options.seconds:g} s", retryable=True)
    if isinstance(error, exceptions.UsageLimitExceeded):
        said = one_line(str(error), 200)
        return ModelUnavailable(f"{who} came to no answer within its bounds: {said}", retryable=False)
    if isinstance(error, exceptions.ModelHTTPError):
        said = one_line(str(error.body or error.message), 200)
        final = error.status_code in _FINAL_STATUSES
        answered = f"{who} answered {error.status_code}: {said}"
        return ModelUnavailable(answered, retryable=not final, retry_after_seconds=error.retry_after)
    if isinstance(error, exceptions.ModelAPIError):
        return ModelUnavailable(f"{who} does not answer: {one_line(str(error), 200)}", retryable=True)
    said = one_line(f"{type(error).__name__}: {error}", 200)
    return ModelUnavailable(f"{who} gave an answer that cannot be read: {said}", retryable=True)
