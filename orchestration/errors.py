"""The errors of the domain. Each says whether another try can help."""

from __future__ import annotations


class PipelineError(Exception):
    """Something that a person has to read. `str(error)` is one sentence: what is wrong, and what to do."""

    retryable: bool = False


class BadInput(PipelineError):
    """What came in cannot be used as it is: another try changes nothing."""


class KeyReused(BadInput):
    """An idempotency key came again with another push."""


class BadSetting(PipelineError):
    """A setting has a value that the program cannot work with."""


class Unavailable(PipelineError):
    """Something outside did not answer (a database, a channel, a checked host): another try may succeed."""

    retryable = True


class DeliveryFailed(PipelineError):
    """A channel did not take the message. The channel itself says whether a retry can help.

    `str(error)` never contains the URL or a token of the channel.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class IllegalTransition(PipelineError):
    """The state machine has no such move."""


class RunNotFound(PipelineError):
    """No pipeline run has this id."""


class DefinitionNotFound(BadInput):
    """No pipeline definition has this name, or it has no such version."""


class DefinitionDisabled(BadInput):
    """An operator disabled the pipeline definition: it runs nothing."""


class RunBusy(PipelineError):
    """Another process holds the run's lease: two must not work on one run."""


_DETERMINISTIC = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError)


def is_retryable(error: BaseException) -> bool:
    """Whether another try at the same thing can succeed.

    An error that says so itself (`error.retryable`) is believed. Otherwise errors of the input or of the
    code (`ValueError`, `TypeError`, …; pydantic's `ValidationError` is one) come again at each try, and
    everything else (sockets, time-outs, databases) is worth one.
    """
    own_word = getattr(error, "retryable", None)
    if isinstance(own_word, bool):
        return own_word
    if isinstance(error, OSError | TimeoutError):
        return True
    return not isinstance(error, _DETERMINISTIC)
