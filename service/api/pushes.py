"""Accept pushes: `POST /orchestration/pipeline/`, `…/sync/`, and `/alerts/webhook/` for the bodies of vendors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Path, Query, Request, Response

from orchestration.alert import OWN_SOURCE
from orchestration.contracts import PipelineOutcome, PipelineResult
from orchestration.errors import BadInput, PipelineError, Unavailable, Unreadable
from orchestration.redaction import one_line
from orchestration.requests import RunOptions, RunRequest
from orchestration.signals import PushRefused, logger
from orchestration.store import unread
from orchestration.store.keys import Scope
from orchestration.store.pushes import WrittenPush
from orchestration.store.refused import READ_BYTES
from orchestration.store.story import read_story
from service.api.body import beginning_of, declared_size
from service.api.cloud_events import key_of
from service.api.decoding import BodyHeaders, readable
from service.api.names import check_names
from service.api.pagerduty_events import OwnEvent, apply_own_event
from service.api.prefix import prefix_of
from service.api.problems import HttpProblem, problems, status_of
from service.api.route import ApiRequest, GuardedRoute, requires, takes_plain, when_too_large, when_unreadable
from service.api.shapes import Queued, Trigger
from service.api.sns import confirm_subscription
from tasks.ingest.ceilings import too_large_push
from tasks.ingest.inbox import PushMetadata, accept
from tasks.ingest.sources import ENTRY_POINTS, SOURCES, source_named
from tasks.ingest.unread import shape_of, unread_push

WRITE_TIMEOUT_SECONDS = 15.0
"""How long the database may take to store a push, before the sender gets a 503."""

_PRINTABLE = re.compile(r"[!-~]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")

router = APIRouter(route_class=GuardedRoute)

HEADERS: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}
        for name, description in {
            "Idempotency-Key": "The same key and body again are the same push. 1 to 128 printable characters.",
            "X-Trace-Id": "The trace, if the body names none: up to 128 printable characters, otherwise ignored.",
            "traceparent": "The trace in W3C Trace Context, if X-Trace-Id names none. A wrong one is ignored.",
        }.items()
    ]
}
"""The headers of a push, for the OpenAPI document."""

ACCEPTS: dict[str, Any] = {
    "status_code": 202,
    "response_model": Queued,
    "responses": problems(404, 409),
    "openapi_extra": HEADERS,
}
"""The options of a route that stores a push and does not wait."""

ACCEPTS_EVENTS: dict[str, Any] = {
    **ACCEPTS,
    "responses": {
        **ACCEPTS["responses"],
        200: {
            "model": OwnEvent,
            "description": "PagerDuty spoke of an incident that was opened from here, or a topic of SNS is confirmed.",
        },
    },
}
"""The same for a webhook, which PagerDuty may use to say what a person has done there with an incident of ours."""

FINISHED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The pipeline has ended: COMPLETED or SKIPPED."},
    502: {"model": PipelineResult, "description": "The pipeline has FAILED."},
    **problems(404, 409, 504),
}

FINISHED_OTHERWISE: dict[int | str, dict[str, Any]] = problems(409, 502, 504)
"""How a request may end that waits for a run and answers with a part of its result."""

SourceName = Annotated[
    str,
    Path(max_length=64, description="The source, one that ships or that of a stored mapping.", examples=[*SOURCES]),
]
Environment = Annotated[str, Query(max_length=256, description="Where it happened.")]
DefinitionName = Annotated[
    str | None, Query(max_length=64, description="The stored definition to run instead of the linear pipeline.")
]
VendorBody = Annotated[
    dict[str, Any] | list[Any],
    Body(
        description="The monitoring system's own body, or a batch of CloudEvents.",
        examples=[
            SOURCES["alertmanager"].sample("example"),
            {"name": "HighCPU", "severity": "critical", "host": "web-1", "status": "firing"},
        ],
    ),
]


async def accept_too_large(request: ApiRequest, reason: str) -> Response:
    """Accept a push that is too large to be read: somebody is notified that it came, and how it begins.

    A refusal would be the end of it: most senders do not send again what is answered with 413.
    """
    raw = await beginning_of(request, READ_BYTES)
    beginning = readable(raw, BodyHeaders.of(request), READ_BYTES)
    asked = str(request.path_params.get("source", "webhook")).lower()
    source = asked if asked in request.api.sources else "generic"
    wanted = RunRequest(
        payload=too_large_push(
            source, request.caller.name, declared_size(request), reason.partition(": ")[0], beginning
        ),
        source=source,
        environment=plain(request.query_params.get("environment", ""), "production"),
    )
    logger.warning("A push from %s was cut: %s", one_line(request.caller.name or source, 64), reason)
    return queued(request, await store(request, wanted), f"Cut, and somebody is notified of this alone: {reason}")


async def accept_no_object(request: ApiRequest, raw: bytes, reason: str) -> Response:
    """Keep a body that is no JSON object, and notify somebody that its sender is not understood.

    Raises:
        BadInput: the address names a source that does not exist.
    """
    asked = str(request.path_params.get("source", "webhook"))
    if asked.strip().casefold() not in ENTRY_POINTS:
        source_named(asked, request.api.sources)
    text = readable(raw, BodyHeaders.of(request), unread.KEPT_CHARACTERS)
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return queued(request, *await keep(request, text, reason, text=text))
    return queued(request, *await keep(request, value, reason))


async def keep(request: ApiRequest, body: object, reason: str, *, text: str | None = None) -> tuple[WrittenPush, str]:
    """Keep a push that no source can read, and notify somebody, once for each sender and shape.

    A refusal would be the end of it: a sender of alerts cannot do anything about it, and nobody looks at its log.
    `text` is that of a body that is no JSON. Also returns what is to be said.

    Raises:
        BadInput: this sender has had too many kept today.
        Unavailable: the database does not answer, or not in time.
    """
    # To remove the secrets of a large body takes longer than other requests should wait.
    push = await asyncio.to_thread(_unread, request, body, reason, text)
    async with _writing(request), request.api.database.transaction() as tx:
        number = await unread.keep_unread(tx, push)
    if number is None:
        raise BadInput(f"{reason}. More than {unread.MAX_KEPT_A_DAY:,} such pushes of this sender were kept today")
    push = push.model_copy(update={"id": number})
    # Whoever watches what is refused as unreadable sees what is kept for the same reason.
    request.api.signals.note(PushRefused(source=push.source, status=HTTPStatus.BAD_REQUEST))
    wanted = RunRequest(payload=unread_push(push, body), source=OWN_SOURCE, environment=push.environment)
    logger.warning("A push from %s is not understood, and kept as %s", push.sender or push.path, push.name)
    # What is kept has another name each time, so that the request's Idempotency-Key is not for this alert.
    written = await _store_under(None, request, wanted)
    return written, f"Not understood, and kept as {push.name}: {push.reason}"


def _unread(request: ApiRequest, body: object, reason: str, text: str | None) -> unread.UnreadPush:
    kept, is_json = unread.body_to_keep(body, text=text)
    return unread.UnreadPush(
        sender=request.caller.name,
        address=request.client.host if request.client else "",
        path=request.scope["path"].removeprefix(prefix_of(request)),
        size_bytes=request.size_bytes or None,
        reason=one_line(reason.partition("; expected ")[0], 300),
        body=kept,
        source=str(request.path_params.get("source", "webhook")).strip().lower(),
        environment=plain(request.query_params.get("environment", ""), "production"),
        shape=shape_of(body),
        is_json=is_json,
        definition=request.query_params.get("definition"),
    )


def plain(text: str, otherwise: str) -> str:
    """The text, if it is a word of printable characters."""
    return text if _PRINTABLE.fullmatch(text) else otherwise


@router.post("/orchestration/pipeline/", **ACCEPTS, tags=["pipelines"])
@requires(Scope.TRIGGER)
@when_too_large(accept_too_large)
async def start_pipeline(request: ApiRequest, asked: Trigger) -> Response:
    """Start a pipeline.

    When this answers, the alert is stored and is going to be handled, even if this process dies. With an
    `Idempotency-Key` header the same push may be sent again, and is answered with the same runs.
    """
    return queued(request, await store(request, asked.run_request(), channel_field=asked.channel_field))


@router.post("/orchestration/pipeline/sync/", responses=FINISHED, openapi_extra=HEADERS, tags=["pipelines"])
@requires(Scope.TRIGGER)
async def run_pipeline_and_wait(request: ApiRequest, response: Response, asked: Trigger) -> PipelineResult:
    """Run a pipeline and wait for its end.

    All incidents of the push are run. The answer is the first run that failed, or else the first run; the header
    `X-Run-Ids` names all.
    """
    push = await store(request, asked.run_request(), channel_field=asked.channel_field)
    return await finished(request, response, push)


@router.post("/alerts/webhook/", **ACCEPTS_EVENTS, tags=["webhooks"])
@requires(Scope.TRIGGER)
@when_too_large(accept_too_large)
@when_unreadable(accept_no_object)
@takes_plain
async def accept_webhook(
    request: ApiRequest,
    payload: VendorBody,
    environment: Environment = "production",
    definition: DefinitionName = None,
) -> Response:
    """Accept a push of any source. The source is recognised by the body."""
    return await accept_webhook_of_source(request, payload, "webhook", environment, definition)


@router.post("/alerts/webhook/{source}/", **ACCEPTS_EVENTS, tags=["webhooks"])
@requires(Scope.TRIGGER)
@when_too_large(accept_too_large)
@when_unreadable(accept_no_object)
@takes_plain
async def accept_webhook_of_source(
    request: ApiRequest,
    payload: VendorBody,
    source: SourceName,
    environment: Environment = "production",
    definition: DefinitionName = None,
) -> Response:
    """Accept a push of one source, such as alertmanager or grafana."""
    wanted = RunRequest(source=source, environment=environment, options=RunOptions(definition=definition))
    if isinstance(payload, list):
        return await _accept_batch(request, payload, wanted)
    if source.lower() in ("webhook", "pagerduty"):
        key = request.caller.key
        own = await apply_own_event(request.api, payload, may_respond=key is None or key.allows(Scope.RESPOND))
        if own is not None:
            return _answer(own)
    confirmed = await confirm_subscription(payload, request.api.settings.sns_confirm_topics)
    if confirmed is not None:
        return _answer(OwnEvent(status="done", message=confirmed))
    return queued(request, *await _store_or_keep(request, payload, wanted))


def _answer(own: OwnEvent) -> Response:
    return Response(own.model_dump_json(), media_type="application/json")


async def _accept_batch(request: ApiRequest, events: list[Any], wanted: RunRequest) -> Response:
    """Accept a batch of CloudEvents. Each is a push of its own: after an error the batch can be sent again."""
    if not events:
        return _answer(OwnEvent(status="done", message="The batch has no event"))
    written: list[WrittenPush] = []
    unclear: list[str] = []
    for part, event in enumerate(events):
        push, said = await _store_or_keep(request, event, wanted, part=part)
        written.append(push)
        unclear += [said] if said else []
    together = WrittenPush(
        trace_id=written[0].trace_id,
        run_ids=[run_id for push in written for run_id in push.run_ids],
        duplicates={run_id: first for push in written for run_id, first in push.duplicates.items()},
        ignored=", ".join(dict.fromkeys(push.ignored for push in written)) if all(p.ignored for p in written) else "",
        repeated=all(push.repeated for push in written),
    )
    return queued(request, together, one_line("; ".join(unclear), 1_000) or None)


async def _store_or_keep(
    request: ApiRequest, payload: object, wanted: RunRequest, *, part: int | None = None
) -> tuple[WrittenPush, str | None]:
    """Store a push, or keep it if no source can read it. Also returns what is to be said of the latter."""
    place = (wanted.source, wanted.environment, wanted.options.definition)
    key = key_of(payload, *place)
    try:
        return await store(request, wanted.model_copy(update={"payload": payload}), part=part, own_key=key), None
    except Unreadable as error:
        return await keep(request, payload, str(error))


async def store(
    request: ApiRequest,
    wanted: RunRequest,
    *,
    part: int | None = None,
    own_key: str | None = None,
    channel_field: str = "notify_channel",
) -> WrittenPush:
    """Store a push, or the run of a definition that needs none. It is committed when this returns.

    `part` is the number of the request within a batch, whose idempotency key is for all of it. `own_key` is the key of
    a push whose request has none. `channel_field` is the field of the body that names the channel.

    Raises:
        BadInput: the payload has no alert, the definition cannot be run with it, or a name does not exist.
        KeyReused: the Idempotency-Key came with another push before.
        Unavailable: the database does not answer, or not in time.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        key = own_key
    elif part is not None:
        key = f"{key}/{part}"
    return await _store_under(key, request, wanted, channel_field)


async def _store_under(
    key: str | None, request: ApiRequest, wanted: RunRequest, channel_field: str = "notify_channel"
) -> WrittenPush:
    api = request.api
    metadata = PushMetadata(
        sender=request.caller.name, idempotency_key=key, skip_duplicates=True, size_bytes=request.size_bytes
    )
    if wanted.trace_id is None and (trace_id := trace_id_of(request.headers)) is not None:
        wanted = wanted.model_copy(update={"trace_id": trace_id})
    async with _writing(request):
        await check_names(api, wanted.options, channel_field)
        return await accept(api, wanted, metadata, write=api.writer.write)


@asynccontextmanager
async def _writing(request: ApiRequest) -> AsyncGenerator[None]:
    """Bound the time in which the database stores a push. After an error of ours the request may be sent again.

    Raises:
        Unavailable: the time is over.
    """
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
            yield
    except TimeoutError:
        await _allow_retry(request)
        raise Unavailable(f"The database did not store the push within {WRITE_TIMEOUT_SECONDS:g} s") from None
    except PipelineError as error:
        if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            await _allow_retry(request)
        raise


def queued(request: Request, push: WrittenPush, message: str | None = None) -> Response:
    """The answer to a push that is stored, as `Queued` says. It is made here for the sake of its speed."""
    first = push.run_ids[0]
    said, note = _said_of(push)
    answer = {
        "status": "queued",
        "task_id": first,
        "run_id": first,
        "run_ids": push.run_ids,
        "trace_id": push.trace_id,
        "message": message or said,
        "note": note,
        "status_url": status_url(request, first),
    }
    headers = {"X-Trace-Id": push.trace_id}
    return Response(orjson.dumps(answer), 202, media_type="application/json", headers=headers)


def status_url(request: Request, run_id: str) -> str:
    """The path of a run."""
    return f"{prefix_of(request)}/orchestration/pipeline/{run_id}/"


async def finished(request: ApiRequest, response: Response, push: WrittenPush) -> PipelineResult:
    """Wait for the runs of a push, and answer with the first that failed, or else the first.

    Raises:
        HttpProblem: 504, a run has not ended in time.
    """
    api = request.api
    headers = {"X-Trace-Id": push.trace_id, "X-Run-Ids": ",".join(push.run_ids)}
    seconds = api.settings.api_sync_timeout_seconds
    try:
        await api.waiter.wait_for(push.run_ids, seconds)
    except TimeoutError:
        raise HttpProblem(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"The pipeline was not over within {seconds:g} s. It is stored, and goes on: ask for its status",
            headers,
            {"run_id": push.run_ids[0], "run_ids": push.run_ids, "trace_id": push.trace_id},
        ) from None
    async with api.database.transaction() as tx:
        results = [(await read_story(tx, run_id)).result() for run_id in push.run_ids]
    failed = [result for result in results if result.status is PipelineOutcome.FAILED]
    response.headers.update(headers)
    response.status_code = HTTPStatus.BAD_GATEWAY if failed else HTTPStatus.OK
    return (failed or results)[0]


async def _allow_retry(request: ApiRequest) -> None:
    """The push was not stored, so its signature may be used again."""
    try:
        await request.api.guard.forget_signature(request.caller)
    except Unavailable:
        return


def _said_of(push: WrittenPush) -> tuple[str, str]:
    """The message and the note of an answer."""
    pending = "Whether it is notified is decided when it is processed: see status_url"
    if push.repeated:
        return "Pipeline was queued before under this idempotency key", "Nothing new was stored, and no second run"
    if push.ignored:
        message = f"Recorded, and nobody is notified. Its source ignores it: {push.ignored}"
        return message, "Nobody is notified"
    if len(push.duplicates) == len(push.run_ids):
        message = "Recorded as a duplicate: an identical alert is being handled or was just handled"
        return message, "Nobody is notified again"
    if len(push.run_ids) == 1:
        return "Pipeline queued for execution", pending
    same = f", {len(push.duplicates)} of them duplicates" if push.duplicates else ""
    return f"Pipeline queued for execution: {len(push.run_ids)} incidents{same}", pending


def trace_id_of(headers: Mapping[str, str]) -> str | None:
    """The trace id of `X-Trace-Id`, or else of a W3C `traceparent`. None means that neither is valid.

    Proxies add these headers, and the sender of an alert does not know of them, so a wrong one is ignored.
    Source: W3C Recommendation "Trace Context", section 3.2.
    """
    own = headers.get("x-trace-id", "").strip()
    if _PRINTABLE.fullmatch(own):
        return own
    parent = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    return parent[1] if parent else None
