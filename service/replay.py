"""Reads pushes again that were kept because no source could read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import orjson
from pydantic import Field

from orchestration.alert import NOT_UNDERSTOOD, OWN_SOURCE
from orchestration.contracts import Contract
from orchestration.engine.run import NodeKinds
from orchestration.errors import BadInput
from orchestration.policy.active import ActivePolicy
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings
from orchestration.signals import Signals
from orchestration.store.database import Database
from orchestration.store.definitions import StoredDefinitions
from orchestration.store.mappings import StoredMappings
from orchestration.store.policies import StoredPolicies
from orchestration.store.unread import UnreadPush, count_unread_like, list_unread, mark_read
from tasks.ingest.inbox import PushMetadata, accept
from tasks.ingest.sources import Push, Sources, parse_push
from tasks.ingest.sources.stored import sources_with
from tasks.ingest.unread import unread_push
from tasks.kinds import KINDS


class Replayed(Contract):
    """The result of reading a push again that was kept."""

    push: str
    """Its name, such as `refused-12`."""
    source: str | None = None
    """The source that reads it now; None means that none does."""
    alerts: int = 0
    ignored: str = ""
    run_ids: list[str] = Field(default_factory=list[str])
    reason: str = ""
    """Why it is still not read."""
    was_read: bool = False
    """Whether it was read before, so that it is not read again."""


@dataclass(frozen=True, kw_only=True)
class ReplayIntake:
    """What the inbox needs of a process that stores pushes and executes nothing."""

    database: Database
    signals: Signals
    settings: Settings
    definitions: StoredDefinitions
    policies: StoredPolicies
    mappings: StoredMappings
    kinds: NodeKinds = KINDS

    async def stored_mappings(self) -> StoredMappings:
        """The mappings as they were when the replay began."""
        return self.mappings

    async def active_policy(self) -> ActivePolicy | None:
        """The policy that counts now."""
        return await self.policies.active()


def body_of(push: UnreadPush) -> object:
    """The body that was kept; a text if it is no JSON."""
    return cast("object", orjson.loads(push.body)) if push.is_json else push.body


async def replay(intake: ReplayIntake, push: UnreadPush, *, dry_run: bool = False) -> Replayed:
    """Read a push again, and store its runs if a source can read it now.

    A push that was read once is never read again. When no push of a sender and shape is left, its alert ends.

    Raises:
        Unavailable: the database does not answer; the push stays kept.
    """
    if push.run_ids:
        return Replayed(push=push.name, run_ids=push.run_ids, was_read=True)
    try:
        read = _read(push, sources_with(intake.mappings))
        run_ids = [] if dry_run else await _accept(intake, push)
    except BadInput as error:
        return Replayed(push=push.name, reason=str(error).partition("; expected ")[0])
    return Replayed(push=push.name, source=read.source, alerts=len(read.alerts), ignored=read.ignored, run_ids=run_ids)


async def replay_all(intake: ReplayIntake, *, dry_run: bool = False) -> list[Replayed]:
    """Read again all pushes that no source could read yet, the oldest first.

    Raises:
        Unavailable: the database does not answer; those that are not read yet stay kept.
    """
    done: list[Replayed] = []
    after = 0
    while True:
        async with intake.database.transaction() as tx:
            pushes = await list_unread(tx, after=after)
        if not pushes:
            return done
        done += [await replay(intake, push, dry_run=dry_run) for push in pushes]
        after = pushes[-1].id


def _read(push: UnreadPush, sources: Sources) -> Push:
    """What the sources make of a push that was kept, read as it was sent.

    Raises:
        BadInput: no source can read it, or not all of it was kept.
    """
    if not push.is_json:
        raise BadInput("it is no JSON, or a part of it was cut when it was kept")
    return parse_push(body_of(push), source=push.source, sources=sources)


async def _accept(intake: ReplayIntake, push: UnreadPush) -> list[str]:
    request = RunRequest(
        payload=cast("dict[str, object]", body_of(push)),
        source=push.source,
        environment=push.environment,
        options=RunOptions(definition=push.definition),
    )
    # The key makes a replay that was cut off between its two transactions the same push.
    metadata = PushMetadata(sender=push.sender, idempotency_key=f"replay-{push.name}", skip_duplicates=True)
    written = await accept(intake, request, metadata)
    async with intake.database.transaction() as tx:
        await mark_read(tx, push.id, written.run_ids)
        left = await count_unread_like(tx, push)
    if left == 0:
        await _end_alert(intake, push)
    return written.run_ids


async def _end_alert(intake: ReplayIntake, push: UnreadPush) -> None:
    body = unread_push(push, body_of(push), resolved=True)
    said = RunRequest(payload=body, source=OWN_SOURCE, environment=push.environment)
    metadata = PushMetadata(sender=push.sender, idempotency_key=f"{NOT_UNDERSTOOD}-{push.name}")
    await accept(intake, said, metadata)
