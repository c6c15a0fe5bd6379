"""Notes the pushes that the API refuses. The answer waits for nothing but the beginning of the body."""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request

from orchestration.errors import PipelineError
from orchestration.signals import PushRefused
from orchestration.store import keys
from orchestration.store.refused import LOCAL_KEY, READ_BYTES, Refusal
from service.api.auth import CALLER, HOW, HOW_HERE, token_of
from service.api.body import RAW_BODY, beginning_of, declared_size
from service.api.decoding import BodyHeaders, readable
from service.api.prefix import prefix_of
from service.api.state import state_of

_PUSHES = ("/alerts/", "/orchestration/")
_OTHERS = ("/resume/", "/validate/")
_WEBHOOK = "/alerts/webhook/"
_STORED = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)
"""What a caller who waits for the end of the run may be answered: the push is stored all the same."""


async def note_refusal(request: Request, status: int, reason: str) -> None:
    """Note an answer, if it refuses a push: a POST to an address for pushes, or to one that looks like it."""
    path = request.scope["path"].removeprefix(prefix_of(request))
    if request.method != "POST" or not path.startswith(_PUSHES) or path.endswith(_OTHERS):
        return
    if status not in _STORED:
        state_of(request).signals.note(PushRefused(source=_source_in(path), status=status))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return
    raw = await _beginning(request)
    headers, caller = request.headers, request.scope.get(CALLER)
    details = {
        "user_agent": headers.get("user-agent", ""),
        "forwarded_for": headers.get("x-forwarded-for", ""),
        "key": "" if caller is not None else _key_in(request),
        LOCAL_KEY: "yes" if caller is not None and caller.is_local else "",
    }
    refusal = Refusal(
        status=status,
        reason=reason.removesuffix(f". {HOW_HERE}").removesuffix(f". {HOW}"),
        sender=caller.name if caller is not None else "",
        address=request.client.host if request.client else "",
        path=path,
        size_bytes=declared_size(request),
        body=readable(raw, BodyHeaders.of(request), READ_BYTES),
        details=details,
    )
    state_of(request).refusals.note(refusal)


def _source_in(path: str) -> str:
    """The source that an address names; "" if it names none."""
    return path.removeprefix(_WEBHOOK).strip("/").lower() if path.startswith(_WEBHOOK) else ""


async def _beginning(request: Request) -> bytes:
    # Who asks whether to send the body is to hear that it is not wanted.
    unasked = "expect" in request.headers and RAW_BODY not in request.scope
    return b"" if unasked else await beginning_of(request, READ_BYTES)


def _key_in(request: Request) -> str:
    """How a key that is not known begins, as `keys list` shows it, or the name under which a request is signed."""
    token = token_of(request.headers) or ""
    try:
        return f"{keys.prefix_of(token)}…" if token.startswith(keys.TOKEN_START) else request.headers["x-key-id"]
    except (KeyError, PipelineError):
        return ""
