"""A path prefix in front of all addresses: https://example.com/pipeline/ behind a proxy.

The prefix comes from the path of `API_PUBLIC_URL`, or else from the header `X-Forwarded-Prefix`. It becomes the
`root_path` of the request, which all links, redirects and cookies start with. The proxy may remove the prefix from the
address or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestration.settings import Settings

_SANE = re.compile(r"(?:/[A-Za-z0-9_~\-][A-Za-z0-9._~\-]{0,63}){1,8}")
"""Such a prefix cannot lead to another host, and needs no quoting in a link."""

_HEADER = b"x-forwarded-prefix"


def prefix_of(request: Request) -> str:
    """The prefix of the addresses that the caller of the API knows, without a slash at its end; "" if there is none."""
    return request.scope.get("root_path", "").rstrip("/")


def public_prefix(settings: Settings) -> str:
    """The path of `API_PUBLIC_URL` without a slash at its end; "" if there is none."""
    return urlsplit(settings.api_public_url or "").path.rstrip("/")


class PublicPrefix:
    """ASGI middleware that gives each request the prefix of its public address as `root_path`.

    Args:
        app: the application below.
        settings: with `api_public_url`.
        own: the first parts of all addresses of the application. By them it is known whether a proxy has removed
            the prefix.
    """

    def __init__(self, app: ASGIApp, settings: Settings, own: Iterable[str]) -> None:
        self._app = app
        self._public = public_prefix(settings)
        self._own = frozenset(own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (prefix := self._public or _forwarded(scope)):
            path: str = scope["path"]
            if not self._includes(path, prefix):
                path = prefix + path
            scope = {**scope, "root_path": prefix, "path": path}
        await self._app(scope, receive, send)

    def _includes(self, path: str, prefix: str) -> bool:
        """Whether a path begins with the prefix, which may be like the beginning of one of our own addresses."""
        rest = path.removeprefix(prefix)
        return path.startswith(f"{prefix}/") and rest.split("/", 2)[1] in self._own


def first_parts(app: FastAPI) -> set[str]:
    """The first parts of all addresses of an application, such as "alerts"."""
    paths = [str(getattr(route, "path", "/")) for route in app.routes]
    return {path.split("/", 2)[1] for path in paths if path.startswith("/")}


def _forwarded(scope: Scope) -> str:
    """The prefix of the header; "" if there is none, or one that no proxy of this API would send."""
    for name, value in scope["headers"]:
        if name == _HEADER:
            prefix = value.decode("latin-1").strip().rstrip("/")
            return prefix if _SANE.fullmatch(prefix) else ""
    return ""
