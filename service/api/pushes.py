"""From a request to runs: what all ways in over HTTP share."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request, Response

from orchestration.contracts import PipelineOutcome
from orchestration.errors import PipelineError, Unavailable
from orchestration.requests import RunOptions, RunRequest
from orchestration.store.pushes import WrittenPush
from orchestration.store.story import read_story
from service.api.problems import json_response
from service.api.state import Admitted
from service.api.traces import trace_id_of
from tasks.ingest.inbox import PushMetadata, accept

WRITE_SECONDS = 15.0
"""How long the database may take to store a push before its sender is told to try again."""


async def store(
    request: Request,
    admitted: Admitted,
    payload: dict[str, Any] | None,
    *,
    size: int,
    source: str,
    environment: str,
    trace_id: str | None = None,
    options: RunOptions | None = None,
) -> WrittenPush:
    """Store a push, or the run of a definition that needs none: when this returns, it is safe.

    Raises:
        BadInput: no alert can be read from it, or its definition cannot be run with it.
        KeyReused: its Idempotency-Key came with another push.
        Unavailable: the database does not answer, or not in time.
    """
    api = admitted.api
    metadata = PushMetadata(
        sender=admitted.caller.name,
        idempotency_key=request.headers.get("idempotency-key"),
        skip_duplicates=True,
        size_bytes=size,
    )
    wanted = RunRequest(
        payload=payload,
        source=source,
        environment=environment,
        trace_id=trace_id or trace_id_of(request.headers),
        options=options or RunOptions(),
    )
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            return await accept(api, wanted, metadata, write=api.writer.write)
    except TimeoutError:
        await _may_come_again(admitted)
        raise Unavailable(f"The database did not store the push within {WRITE_SECONDS:g} s") from None
    except PipelineError:
        await _may_come_again(admitted)
        raise


def queued(push: WrittenPush) -> Response:
    """The answer to a push that is stored."""
    first = push.run_ids[0]
    content = {
        "status": "queued",
        "task_id": first,
        "run_id": first,
        "run_ids": push.run_ids,
        "trace_id": push.trace_id,
        "message": _message(push),
    }
    return json_response(content, 202, {"X-Trace-Id": push.trace_id})


async def finished(admitted: Admitted, push: WrittenPush) -> Response:
    """The answer to a push whose runs are waited for: the first that failed, else the first, and the ids of all."""
    api = admitted.api
    headers = {"X-Trace-Id": push.trace_id, "X-Run-Ids": ",".join(push.run_ids)}
    seconds = api.settings.api_sync_timeout_seconds
    try:
        await api.bell.wait_for(push.run_ids, seconds)
    except TimeoutError:
        content = {
            "error": f"The pipeline was not over within {seconds:g} s. It is stored, and goes on: ask for its status",
            "run_id": push.run_ids[0],
            "run_ids": push.run_ids,
            "trace_id": push.trace_id,
        }
        return json_response(content, 504, headers)
    async with api.database.transaction() as tx:
        results = [(await read_story(tx, run_id)).result() for run_id in push.run_ids]
    failed = [result for result in results if result.status is PipelineOutcome.FAILED]
    shown = (failed or results)[0]
    return json_response(shown.model_dump(mode="json"), 502 if failed else 200, headers)


async def _may_come_again(admitted: Admitted) -> None:
    """The push was not taken: a signature that came with it is good for another try."""
    try:
        await admitted.api.guard.forget(admitted.caller)
    except Unavailable:
        return


def _message(push: WrittenPush) -> str:
    if push.repeated:
        return "Pipeline was queued before under this idempotency key"
    if len(push.duplicates) == len(push.run_ids):
        return "Recorded as a duplicate: an identical alert is being handled or was just handled"
    if len(push.run_ids) == 1:
        return "Pipeline queued for execution"
    same = f", {len(push.duplicates)} of them duplicates" if push.duplicates else ""
    return f"Pipeline queued for execution: {len(push.run_ids)} incidents{same}"
