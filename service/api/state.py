"""What the routes of one API process share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import Request

from orchestration.engine.run import NodeKinds
from orchestration.errors import Unavailable
from orchestration.settings import Settings
from orchestration.signals import Signals
from orchestration.store.database import Database
from orchestration.store.definitions import StoredDefinitions
from orchestration.store.keys import Scope
from orchestration.store.pushes import PushWriter
from service.api.auth import Caller, Guard
from service.api.bodies import read_object, read_raw
from service.api.waiting import Bell
from tasks.kinds import KINDS


@dataclass(kw_only=True)
class ApiState:
    """The door's own services. It has what `tasks.ingest.inbox.IntakeServices` asks for."""

    settings: Settings
    database: Database
    signals: Signals
    writer: PushWriter
    definitions: StoredDefinitions
    guard: Guard
    kinds: NodeKinds = KINDS
    bell: Bell
    schema_problem: str | None = field(default="The database was not asked yet")
    """Why the schema cannot be used; None: it is current."""


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """A request whose caller may do what it asks, with its body, if it has one."""

    api: ApiState
    caller: Caller
    raw: bytes
    encoding: str

    async def json_object(self) -> tuple[dict[str, Any], int]:
        """The body as a JSON object, and its size; raises as `bodies.read_object()`."""
        return await read_object(self.raw, self.encoding, self.api.settings.max_payload_bytes)


def state_of(request: Request) -> ApiState:
    """The state of the app that has the request."""
    return cast("ApiState", request.app.state.api)


async def admit(request: Request, scope: Scope) -> Admitted:
    """Let a request in: the caller first, then the body; a signed one the other way round.

    Raises:
        HttpProblem: the caller or the body is refused.
        Unavailable: the database cannot be used.
    """
    api = state_of(request)
    limit = api.settings.max_payload_bytes
    signed = "x-signature" in request.headers
    raw = await read_raw(request, limit) if signed else None
    caller = await api.guard.admit(request, scope, raw)
    if api.schema_problem is not None:
        raise Unavailable(f"The database cannot be used: {api.schema_problem}")
    if raw is None:
        raw = await read_raw(request, limit)
    return Admitted(api=api, caller=caller, raw=raw, encoding=request.headers.get("content-encoding", ""))
