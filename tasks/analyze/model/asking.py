"""One question to a model: an agent with bounds and read-only tools, and its answer or what kept it from one."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from orchestration.analysis import ModelOptions, ReadOnlyTools
from orchestration.contracts import CheckStatus, Evidence, EvidenceKind
from orchestration.disguise import Disguise
from orchestration.errors import BadInput, ModelUnavailable, PipelineError, is_retryable
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.store.model_questions import Used
from tasks.analyze.model.question import INSTRUCTIONS, ModelAnswer, line_of
from tasks.analyze.model.vendors import open_model

if TYPE_CHECKING:
    from pydantic_ai import Tool

_FINAL_STATUSES = frozenset({400, 401, 402, 403, 404, 405, 413, 422})
"""HTTP statuses after which the same question fails again."""

_TOOL_CHARACTERS = 2000
_ARGUMENT_CHARACTERS = 2000
"""How long an argument of a tool may be."""

ANSWER_TOOL = "final_result"
"""The tool that a model calls with its answer."""


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
                output_type=[ToolOutput(ModelAnswer, name=ANSWER_TOOL), TextOutput(_read_text)],
                instructions=INSTRUCTIONS,
                tools=self._tools(),
                retries={"tools": options.max_requests, "output": 1},
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
            except Exception as error:  # noqa: BLE001 - whatever is raised, there is no answer
                # Without its cause: a logged traceback would have the vendor's words, and the key that they repeat.
                raise _no_answer(options, error) from None
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

        async def check(checker: str, target: str) -> str:
            """Look at a target now: run a checker on a host, host:port or URL."""
            wanted = self.disguise.restore(target).strip()
            self._ensure_named(wanted)
            found = await tools.check(self.disguise.restore(checker), wanted)
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

    def _ensure_named(self, target: str) -> None:
        """Refuse a target that the evidence does not name: nobody makes a model scan a network."""
        host = re.sub(r"^[a-z]+://|[/?#].*$|:\d+$", "", re.sub(r"^([a-z]+://[^/?#]*).*$", r"\1", target.casefold()))
        known = " ".join(f"{one.about} {one.says}" for one in self.evidence).casefold()
        if not re.search(rf"(?<![\w.\-]){re.escape(host)}(?![\w\-])", known):
            raise BadInput("the evidence does not name this target")

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
                for each in (*arguments, *named.values()):
                    _ensure_readable(each)
                return await tool(*arguments, **named)
            except PipelineError as error:
                return self.disguise.hide(f"Not possible: {one_line(str(error), 300)}")
            except Exception as error:  # noqa: BLE001 - what a model asks for must not end its analysis
                logger.warning("A look that the model %s asked for broke: %s", self.options.name, type(error).__name__)
                return "Not possible: it cannot be looked at with these arguments"

        return answered


def _ensure_readable(argument: object) -> None:
    """Refuse what no host, expression or id is.

    Raises:
        BadInput: it is no text, too long, or has characters that no database, DNS name or URL has.
    """
    if not isinstance(argument, str):
        raise BadInput("an argument is a text")
    if len(argument) > _ARGUMENT_CHARACTERS:
        raise BadInput(f"an argument has at most {_ARGUMENT_CHARACTERS} characters")
    if any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\t\n\r" for sign in argument):
        raise BadInput("an argument has characters that are no text")


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


_MEANINGS: Mapping[int, str] = {
    400: "it does not take the question",
    401: "it refuses the key",
    402: "it wants to be paid",
    403: "it refuses the key",
    404: "it does not know the model or the address",
    408: "it took too long",
    413: "the question is too long for it",
    422: "it does not take the question",
    429: "its limit of requests or tokens is reached",
}
"""What a status says. The vendor's own words stay outside: they may repeat the key, in whatever form."""

_CODE = re.compile(r"[a-z]{2,20}(?:_[a-z]{2,20}){1,3}")
"""The form of a vendor's code for an error, such as insufficient_quota."""


def _no_answer(options: ModelOptions, error: Exception) -> ModelUnavailable:
    """Why there is no answer, on one line, in words of our own: others' may have the question, the key, or markup."""
    from pydantic_ai import exceptions

    who = str(options)
    if isinstance(error, TimeoutError):
        return ModelUnavailable(f"{who} did not answer within {options.seconds:g} s", retryable=True)
    if isinstance(error, exceptions.UsageLimitExceeded):
        bounds = f"{options.max_requests} requests and {options.max_tool_calls} looks by itself"
        return ModelUnavailable(f"{who} came to no answer within its bounds: {bounds}", retryable=False)
    if isinstance(error, exceptions.ModelHTTPError):
        status = error.status_code
        means = _MEANINGS.get(status, "it is out of order" if status >= 500 else "it gives no analysis")
        code = _code_in(error.body, options)
        answered = f"{who} answered {status}: {means}{f' ({code})' if code else ''}"
        return ModelUnavailable(
            answered, retryable=status not in _FINAL_STATUSES, retry_after_seconds=error.retry_after
        )
    if isinstance(error, exceptions.ModelAPIError):
        return ModelUnavailable(f"{who} does not answer: {_broken_by(error)}", retryable=True)
    # The model was already told once what is wrong with the form of its answer: it will not do better.
    is_form = isinstance(error, exceptions.UnexpectedModelBehavior)
    said = "it has not the form that was asked for" if is_form else type(error).__name__
    return ModelUnavailable(
        f"{who} gave an answer that cannot be read: {said}", retryable=not is_form and is_retryable(error)
    )


def _code_in(body: object, options: ModelOptions) -> str:
    """The vendor's code for the error, if the answer has one; "" if it has none that is surely no part of the key."""
    outer = cast("dict[str, object]", body) if isinstance(body, dict) else {}
    inner = outer.get("error")
    fields = cast("dict[str, object]", inner) if isinstance(inner, dict) else outer
    key = options.api_key.get_secret_value().casefold() if options.api_key else ""
    codes = (value for name in ("code", "type") if isinstance(value := fields.get(name), str))
    # What has six letters in a row of the key may come from it.
    return next((code for code in codes if _CODE.fullmatch(code) and not _share_letters(code, key)), "")


def _share_letters(code: str, key: str) -> bool:
    size = min(6, len(key))
    return any(key[start : start + size] in code for start in range(len(key) - size + 1)) if key else False


def _broken_by(error: BaseException) -> str:
    """What broke the connection, by the first error under it."""
    from tasks.analyze.model.bounded_client import AnswerTooLong

    seen: BaseException | None = error
    while (under := seen.__cause__ or seen.__context__) is not None:
        if isinstance(under, AnswerTooLong):
            return str(under)
        seen = under
    if isinstance(seen, OSError) and seen.strerror:
        return one_line(seen.strerror, 80)
    return "the connection failed"
