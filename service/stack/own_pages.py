"""Refuses what other web pages send to the embedded Prefect, before Prefect looks at it.

Prefect's API checks neither Host nor Origin, and reads a body without a content type as JSON. Without this, a page that
somebody opens on this machine could send requests to the API, and open its WebSockets, which are asked for a credential
only after they are open. A page of a name that leads to 127.0.0.1 (DNS rebinding) could also read the answers.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OWN_HOST = re.compile(rb"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_OWN_SITES = (b"same-origin", b"none")
_POLICY_VIOLATION = 1008

logger = logging.getLogger("alert_pipeline.stack")


class OwnPagesOnly:
    """Passes on the requests and WebSockets of programs, and those of pages that this server has sent itself."""

    def __init__(self, app: App, port: int) -> None:
        self._app = app
        self._origins = {f"http://{host}:{port}".encode() for host in ("127.0.0.1", "localhost", "[::1]")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or answer 403. A WebSocket is refused before it is open."""
        problem = self._problem(scope) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            await self._app(scope, receive, send)
            return
        logger.warning("Refused a request to Prefect with 403: %s", problem)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": problem})
            return
        body = json.dumps({"exception_message": problem}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _problem(self, scope: Mapping[str, Any]) -> str | None:
        """Why a request is refused. None means that it is not."""
        values: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            values.setdefault(name.lower(), []).append(value)
        hosts, origins = values.get(b"host", []), values.get(b"origin", [])
        if len(hosts) != 1 or not _OWN_HOST.fullmatch(hosts[0]):
            return "its Host is not 127.0.0.1 or localhost"
        if origins:
            return None if self._origins.issuperset(origins) else "its Origin is another web page"
        if set(values.get(b"sec-fetch-site", [])) - set(_OWN_SITES) and not _follows_link(scope, values):
            return "its Sec-Fetch-Site says that another web page sent it"
        return None


def _follows_link(scope: Mapping[str, Any], headers: Mapping[bytes, list[bytes]]) -> bool:
    """Whether a browser opens a page of the UI in a tab: from the link in a message, or in our admin."""
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get(b"sec-fetch-mode") == [b"navigate"]
        and headers.get(b"sec-fetch-dest") == [b"document"]
        and not f"{scope['path']}/".startswith("/api/")
    )
