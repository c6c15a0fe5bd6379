"""The errors of the domain. Each error says whether a retry can help."""

from __future__ import annotations


class PipelineError(Exception):
    """An error for people. `str(error)` is one sentence: what is wrong, and what to do next."""

    retryable: bool = False


class BadInput(PipelineError):
    """The input is wrong: a retry cannot help."""


class Unreadable(BadInput):
    """No source can read the body of a push."""


class KeyReused(BadInput):
    """An idempotency key was used before, for a different push."""


class BadSetting(PipelineError):
    """A setting has a value that the program cannot use."""


class Unavailable(PipelineError):
    """An outside system (a database, a channel, a checked host) did not answer: a retry may succeed."""

    retryable = True


class ModelUnavailable(Unavailable):
    """A model gave no answer that can be read. `retry_after_seconds` is the wait that it asks for, if it asks."""

    def __init__(self, message: str, *, retryable: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds


class DeliveryFailed(PipelineError):
    """A channel did not accept the message. The channel says whether a retry can help, and how long to wait before.

    `retry_after_seconds` is the shortest time after which the channel wants to be asked again; None means that it has
    not said one. `str(error)` never contains the URL or a token of the channel.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool,
        retry_after_seconds: float | None = None,
        perhaps_accepted: bool = False,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        """How long the channel asks to be left alone. None means that it does not say."""
        self.perhaps_accepted = perhaps_accepted
        """Whether the channel may have the message all the same: the connection broke off before it answered."""


class NotSent(DeliveryFailed):
    """The message was not sent: its channel may not be asked yet. That is no answer of the channel's."""


class IllegalTransition(PipelineError):
    """The state machine does not allow this change of status."""


class RunNotFound(PipelineError):
    """No pipeline run has this id."""


class IncidentNotFound(BadInput):
    """No incident has this id or title, or several have this title."""


class HeartbeatNotFound(BadInput):
    """No heartbeat has this name in this environment."""


class DefinitionNotFound(BadInput):
    """No pipeline definition has this name, or the definition does not have this version."""


class ScheduleNotFound(BadInput):
    """The policy has no schedule of this name."""


class OverrideNotFound(BadInput):
    """No override of a schedule has this number."""


class DefinitionDisabled(BadInput):
    """An operator disabled this pipeline definition: no run can start with it."""


class RunBusy(PipelineError):
    """Another process has the run's lease: only one process may execute a run."""


_DETERMINISTIC = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError)


def is_retryable(error: BaseException) -> bool:
    """Whether a retry can succeed after this error.

    An error with its own `retryable` decides itself. Otherwise errors of the input or the code (`ValueError`,
    `TypeError`, …, also pydantic's `ValidationError`) fail again each time; all others (sockets, timeouts,
    databases) are retried.
    """
    own_answer = getattr(error, "retryable", None)
    if isinstance(own_answer, bool):
        return own_answer
    if isinstance(error, OSError | TimeoutError):
        return True
    return not isinstance(error, _DETERMINISTIC)


def json_kind(value: object) -> str:
    """What JSON calls this value, with an article, for an error message: "a list", "null"."""
    return "null" if value is None else _JSON_KINDS.get(type(value), f"a Python {type(value).__name__}")


_JSON_KINDS: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def error_in_words(error_type: str | None, message: str | None) -> str:
    """An error as people read it: its sentence, without the name of its class, which records keep beside it.

    Where there is no sentence, such as of a KeyError, the name is all that says something.
    """
    said = (message or "").strip()
    if error_type and error_type != said and (" " not in said or said[0] in "'\""):
        return f"an unexpected error ({error_type}{f': {said}' if said else ''})"
    return f"an unexpected error ({error_type})" if error_type and error_type == said else said
