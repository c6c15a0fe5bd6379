"""Signed requests: `X-Signature` proves that the owner of a key sent just this request, and does not contain the key.

Version 2 covers the time, the method, the address with its query, and the body:
`v2=HMAC-SHA256(secret, time.METHOD.path?query.body)`. Version 1, `sha256=…`, covers only the time and the body, so that
whoever sits on the wire can send the body somewhere else; it is accepted only with `API_SIGNATURE_V1`.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import Request

from orchestration.settings import Settings
from service.api.prefix import prefix_of
from service.api.problems import HttpProblem

_V1, _V2 = "sha256=", "v2="
_STAMP_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What the headers of a signed request say. Its time is good."""

    key_name: str
    stamp: str
    signature: str

    def fits(self, secret: str, request: Request, raw: bytes) -> bool:
        """Whether this secret made the signature, of this request with this body."""
        right = [f"{_V2}{_digest(secret, f'{self.stamp}.{target}.'.encode() + raw)}" for target in _targets(request)]
        if self.signature.startswith(_V1):
            right = [f"{_V1}{_digest(secret, f'{self.stamp}.'.encode() + raw)}"]
        given = self.signature.encode(errors="replace")
        return any([hmac.compare_digest(one.encode(), given) for one in right])

    @property
    def remembered_as(self) -> str:
        """By what it is known again."""
        return hashlib.sha256(f"{self.key_name}\n{self.signature}".encode()).hexdigest()


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether a request is signed."""
    return "x-signature" in headers


def read_signature(headers: Mapping[str, str], settings: Settings) -> Signature:
    """The signature in the headers of a request.

    Raises:
        HttpProblem: 401, a header is missing or wrong, or the time is over.
    """
    name, stamp, signature = (headers.get(f"x-{part}", "").strip() for part in ("key-id", "timestamp", "signature"))
    if not name:
        raise unauthorized("X-Signature needs X-Key-Id, the name of the key whose signing secret it was made with")
    window = settings.api_signature_window_seconds
    if not stamp.isascii() or not stamp.isdecimal() or len(stamp) > _STAMP_DIGITS:
        raise unauthorized("X-Signature needs X-Timestamp, the time in seconds since 1970")
    age = time.time() - int(stamp)
    if abs(age) > window:
        raise unauthorized(f"X-Timestamp is {age:.0f} s old; a signature is good for {window:g} s. Are the clocks set?")
    given = signature.lower()
    if given.startswith(_V1) and not settings.api_signature_v1:
        raise unauthorized(
            "X-Signature of version 1 (sha256=) does not cover the address: sign "
            "X-Timestamp.METHOD.path?query.body and send v2=, or set API_SIGNATURE_V1=1 at the API"
        )
    return Signature(key_name=name, stamp=stamp, signature=given)


def unfit() -> HttpProblem:
    """The refusal of a signature that is not the owner's."""
    return unauthorized(
        "X-Signature does not fit: expected v2= and the hexadecimal HMAC-SHA256 of X-Timestamp, the method, the path "
        "with its query, and the body, with a dot between them, made with the signing secret of the key that "
        "X-Key-Id names"
    )


def unauthorized(message: str) -> HttpProblem:
    """The refusal of a caller who is not known."""
    return HttpProblem(
        HTTPStatus.UNAUTHORIZED,
        message,
        {"WWW-Authenticate": 'Bearer realm="alert-pipeline", Basic realm="alert-pipeline"'},
    )


def _targets(request: Request) -> list[str]:
    """`METHOD.path?query` as the caller wrote it. A proxy may have taken the prefix from the path."""
    path = request.scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    prefix = prefix_of(request)
    paths = [path] if not prefix or path.startswith(f"{prefix}/") else [path, f"{prefix}{path}"]
    return [f"{request.method}.{one}{f'?{query}' if query else ''}" for one in paths]


def _digest(secret: str, signed: bytes) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
