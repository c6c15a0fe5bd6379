"""The inbox: a request becomes runs, committed before anything else happens.

Every door (command line, HTTP, Prefect) comes through `accept()`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol, cast

from orchestration.alert import Alert, Severity, title_of
from orchestration.contracts import Stage
from orchestration.engine.plan import begins_with_ingest, plan_for
from orchestration.engine.run import NodeKinds, Plan
from orchestration.errors import BadInput, IncidentNotFound
from orchestration.graph import DefinitionSource
from orchestration.json_text import to_json
from orchestration.policy.active import ActivePolicy
from orchestration.reasons import Reason
from orchestration.redaction import one_line, redact_text
from orchestration.requests import RunOptions, RunRequest, StoredPush
from orchestration.settings import Settings
from orchestration.signals import PushAccepted, Signals, Tags
from orchestration.store import incidents
from orchestration.store.mappings import StoredMappings
from orchestration.store.pushes import NewPush, NewRun, WrittenPush, write_alone
from orchestration.store.records import new_id
from tasks.ingest.alert_secrets import identity_without_secrets, texts_without_secrets, without_secrets
from tasks.ingest.ceilings import HugePush
from tasks.ingest.incidents import split_by_incident
from tasks.ingest.sources import Push, Sources, parse_push
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.sources.stored import sources_with
from tasks.ingest.storms import BATCH, StormServices, title_of_storm

_NAME_CHARACTERS = 128
_TITLE_CHARACTERS = 200
_LARGE_BYTES = 32 * 1024
"""From this size on a push is parsed in a thread: 10,000 alerts take a second, in which other alerts would wait."""


class IntakeServices(StormServices, Protocol):
    """What the inbox needs of a process's services."""

    @property
    def kinds(self) -> NodeKinds: ...

    @property
    def definitions(self) -> DefinitionSource | None: ...
    async def stored_mappings(self) -> StoredMappings: ...


@dataclass(frozen=True, kw_only=True)
class PushMetadata:
    """How a request arrived, apart from what it says."""

    sender: str = ""
    """Within whose pushes `idempotency_key` is unique."""
    idempotency_key: str | None = None
    """A push with the same key and the same content is the same push: it is answered with the first one's runs."""
    reserved_by: str | None = None
    """The lease owner of this process, if it executes the runs itself: no worker claims them."""
    reserved_runs: int | None = None
    """How many of the runs are reserved, counted from the first. None means all."""
    skip_duplicates: bool = False
    """Whether runs that repeat what their incident's latest run says are skipped at once."""
    linear: bool = False
    """Whether the runs are executed by the flow of the linear pipeline, whatever definition a route names."""
    size_bytes: int | None = None
    """The payload's size as JSON, if the door has measured it already."""


Write = Callable[[NewPush], Awaitable[WrittenPush]]

_FROM_INSIDE = PushMetadata()
_NO_OPTIONS = RunOptions()
_NO_OPTIONS_JSON = _NO_OPTIONS.model_dump_json().encode()


async def accept(
    services: IntakeServices,
    request: RunRequest,
    metadata: PushMetadata = _FROM_INSIDE,
    *,
    write: Write | None = None,
) -> WrittenPush:
    """Write the runs of a request, PENDING, or SKIPPED if they are duplicates; all of them or none.

    A push with alerts becomes one run for each of its incidents, in the order of the push. Its sender decides which
    alerts are one incident, or the grouping of the policy. If they are more than
    `ORCHESTRATION_MAX_INCIDENTS_PER_PUSH`, those that are not open yet become a storm, hundreds a run. A request
    without alerts (a check of this host's health, a definition without an ingest node) becomes a single run. The runs
    share the trace id. Workers are notified at commit, unless the runs are reserved. `write` writes them, by default in
    a transaction of their own.

    Raises:
        BadInput: no alert can be read from the payload, it is too large, a name is wrong, or the definition is
            missing or broken; nothing is written.
        KeyReused: the idempotency key came with another push before; nothing is written.
        Unavailable: the database, or the place where definitions are kept, does not answer.
    """
    intake = _intake_of(
        request,
        metadata,
        services.settings,
        await services.active_policy(),
        sources_with(await services.stored_mappings()),
    )
    size = _checked_size(request, metadata, services.settings)
    plan = await plan_for(request.options, services.definitions, services.kinds) if request.options.defined else None
    title = await _title_without_alerts(services, request, plan)
    if plan is not None:
        intake = replace(intake, awaits_ingest=begins_with_ingest(plan))
    if title is not None:
        push = _single(request.payload, title, intake)
    elif size > _LARGE_BYTES:
        push = await asyncio.to_thread(_by_incident, request.payload, intake)
    else:
        push = _by_incident(request.payload, intake)
    if isinstance(push, HugePush):
        alone, folded = await push.split(services.database, services.settings.max_incidents_per_push)
        push = await asyncio.to_thread(_runs_of_storms, request.payload, push.push, alone, folded, intake)
    written = await (write_alone(services.database, push) if write is None else write(push))
    _signal_skipped(services.signals, written, push.runs)
    services.signals.note(PushAccepted(source=push.runs[0].source, outcome=_outcome_of(written)))
    return written


@dataclass(frozen=True, kw_only=True)
class _Intake:
    """A request's fields, checked, with how it arrived."""

    trace_id: str
    source: str
    environment: str
    options: RunOptions
    metadata: PushMetadata
    settings: Settings
    policy: ActivePolicy | None
    sources: Sources
    """The sources that can read it."""
    awaits_ingest: bool = True
    """Whether the runs begin with ingest, and take part in the order of their incident."""

    @cached_property
    def options_json(self) -> bytes:
        return _NO_OPTIONS_JSON if self.options is _NO_OPTIONS else self.options.model_dump_json().encode()


def _intake_of(
    request: RunRequest, metadata: PushMetadata, settings: Settings, policy: ActivePolicy | None, sources: Sources
) -> _Intake:
    return _Intake(
        trace_id=redact_text(checked_name("trace id", request.trace_id)) if request.trace_id else new_id(),
        source=request.source,
        environment=redact_text(checked_name("environment", request.environment)),
        options=_stored_options(request.options),
        metadata=metadata,
        settings=settings,
        policy=policy,
        sources=sources,
    )


def _stored_options(options: RunOptions) -> RunOptions:
    """The options without secrets in their labels, and without the characters that PostgreSQL refuses."""
    if not options.model_fields_set:
        return _NO_OPTIONS
    cleaned = RunOptions.model_validate(clean(options.model_dump()))
    return cleaned.model_copy(update={"labels": texts_without_secrets(cleaned.labels)})


def _checked_size(request: RunRequest, metadata: PushMetadata, settings: Settings) -> int:
    """The payload's size as JSON, in bytes.

    Raises:
        BadInput: JSON cannot hold the payload, or it is too large.
    """
    size, limit = metadata.size_bytes, settings.max_payload_bytes
    if size is None:
        size = size_of(request.payload)
    if size > limit:
        raise BadInput(
            f"The payload has {size:,} bytes, more than ORCHESTRATION_MAX_PAYLOAD_BYTES={limit}: send smaller pushes"
        )
    return size


async def _title_without_alerts(services: IntakeServices, request: RunRequest, plan: Plan | None) -> str | None:
    """The title of a run that needs no alert; None means that the payload must have alerts.

    `plan` is that of the definition; None means that the run is linear.
    """
    options = request.options
    if options.checks_only:
        return "Host health"
    if plan is None:
        return None
    if options.incident_id is not None:
        async with services.database.transaction() as tx:
            try:
                await incidents.find_incident(tx, options.incident_id)
            except IncidentNotFound as error:
                # A field of the request is wrong, not the address that it was sent to: this is no 404.
                raise BadInput(str(error)) from None
    if not ingests(plan):
        return _title_of_value(plan, clean(request.payload))
    if request.payload is None:
        raise BadInput(f"The definition {plan.name!r} ingests alerts: give it a payload that has one")
    if options.incident_id is not None:
        raise BadInput(f"The definition {plan.name!r} ingests alerts, which find their incident: give no incident_id")
    return None


def ingests(plan: Plan) -> bool:
    """Whether a payload has to have alerts."""
    return any(step.node.stage is Stage.INGEST for step in plan.steps.values())


def _title_of_value(plan: Plan, payload: object) -> str:
    given = cast("dict[str, object]", payload).get("title") if isinstance(payload, dict) else None
    return one_line(given, _TITLE_CHARACTERS) if isinstance(given, str) and given.strip() else str(plan.name)


def _severity_of_value(payload: object) -> Severity:
    """How bad the payload of a definition without alerts says that it is."""
    given = cast("dict[str, object]", payload).get("severity") if isinstance(payload, dict) else None
    return Severity(str(given)) if given in [one.value for one in Severity] else Severity.INFO


def _by_incident(payload: object, intake: _Intake) -> NewPush | HugePush:
    """The runs of a push with alerts, unless it is huge: everything that takes time and no database."""
    push = parse_push(payload, source=intake.source, sources=intake.sources)
    if not push.alerts:
        return _new_push(payload, [_ignored(push, intake)], intake)
    if intake.policy is not None and intake.policy.policy.grouping and not intake.options.test:
        push = _regrouped(push, intake.policy, intake.environment)
    groups = split_by_incident(map(without_secrets, push.alerts))
    ceiling = intake.settings.max_incidents_per_push
    if len(groups) > ceiling:
        return HugePush.of(push, groups, intake.environment, intake.policy)
    return _runs_of_groups(payload, push, groups, intake)


def _regrouped(push: Push, policy: ActivePolicy, environment: str) -> Push:
    """The push with the incident keys that the policy gives its alerts.

    What the sender says of its own groups then holds for no incident: how many alerts it has left out, and that all
    have ended. The title of a group goes where the policy makes another group of its alerts.
    """
    alerts = [policy.with_own_key(alert, environment=environment) for alert in push.alerts]
    pairs = [(before.incident_key, after.incident_key) for before, after in zip(push.alerts, alerts, strict=True)]
    if all(before == after for before, after in pairs):
        return push
    together = Counter(pairs)
    before, after = Counter(key for key, _ in pairs), Counter(key for _, key in pairs)
    for place, pair in enumerate(pairs):
        if push.omitted or not before[pair[0]] == together[pair] == after[pair[1]]:
            alerts[place] = alerts[place].model_copy(update={"title": ""})
    return replace(push, alerts=tuple(alerts), omitted=0, all_resolved=False)


def _runs_of_groups(payload: object, push: Push, groups: Sequence[Sequence[Alert]], intake: _Intake) -> NewPush:
    reserved = len(groups) if intake.metadata.reserved_runs is None else intake.metadata.reserved_runs
    runs = [_run(push, group, intake, reserved=index < reserved) for index, group in enumerate(groups)]
    return _new_push(payload, runs, intake)


def _runs_of_storms(
    payload: object,
    push: Push,
    alone: Sequence[Sequence[Alert]],
    folded: Mapping[str, Sequence[Alert]],
    intake: _Intake,
) -> NewPush:
    """A run for each group, and for each batch of alerts of a storm."""
    of_groups = _runs_of_groups(payload, push, alone, intake)
    of_storms: list[NewRun] = []
    for key, alerts in folded.items():
        for start in range(0, len(alerts), BATCH):
            batch = alerts[start : start + BATCH]
            run = _run(replace(push, omitted=0, all_resolved=False), batch, intake, reserved=False)
            of_storms.append(replace(run, incident_key=key, title=title_of_storm(batch)))
    return replace(of_groups, runs=(*of_groups.runs, *of_storms))


def _single(payload: object, title: str, intake: _Intake) -> NewPush:
    """A run without alerts, which is never a duplicate."""
    data = None if intake.options.checks_only else clean(payload)
    run = NewRun(
        run_id=new_id(),
        trace_id=intake.trace_id,
        source=checked_name("source", intake.source),
        environment=intake.environment,
        payload=StoredPush.model_validate({"data": data}).model_dump_json().encode(),
        options=intake.options_json,
        title=title,
        severity=_severity_of_value(payload),
        max_retries=intake.settings.max_retries_per_stage,
        lease_owner=intake.metadata.reserved_by,
        lease_seconds=intake.settings.lease_seconds,
    )
    return _new_push(payload, [run], intake)


def _ignored(push: Push, intake: _Intake) -> NewRun:
    """A run that is over at once, for an event that its sender documents and that does not change an alert's state."""
    return NewRun(
        run_id=new_id(),
        trace_id=intake.trace_id,
        source=push.source,
        environment=intake.environment,
        payload=StoredPush(errors=[redact_text(push.ignored)]).model_dump_json().encode(),
        options=intake.options_json,
        title=one_line(push.ignored, _TITLE_CHARACTERS),
        max_retries=intake.settings.max_retries_per_stage,
        skip_reason=Reason.IGNORED.value,
    )


def _new_push(payload: object, runs: Sequence[NewRun], intake: _Intake) -> NewPush:
    key = intake.metadata.idempotency_key
    push = NewPush(runs=tuple(runs), sender=intake.metadata.sender)
    if key is None:
        return push
    return replace(
        push,
        idempotency_key=identity_without_secrets(checked_name("idempotency key", key)),
        body_hash=_digest([intake.source, intake.environment, intake.options_json.decode(), clean(payload)]),
    )


def _options_of(group: Sequence[Alert], intake: _Intake) -> bytes:
    """The options of a run as JSON: the request's, with the definition that the policy's route names.

    A definition that the request names counts.
    """
    options, policy = intake.options, intake.policy
    if policy is None or not policy.names_definitions or options.defined or intake.metadata.linear:
        return intake.options_json
    decision = policy.route(group, environment=intake.environment, at=datetime.now(UTC))
    if decision.definition is None:
        return intake.options_json
    return options.model_copy(update={"definition": decision.definition, "routed": True}).model_dump_json().encode()


def _run(push: Push, group: Sequence[Alert], intake: _Intake, *, reserved: bool) -> NewRun:
    content = sorted(
        [alert.fingerprint, alert.status.value, alert.severity.value, str(alert.episode_at or "")] for alert in group
    )
    metadata, settings, options_json = intake.metadata, intake.settings, _options_of(group, intake)
    return NewRun(
        run_id=new_id(),
        trace_id=intake.trace_id,
        source=push.source,
        environment=intake.environment,
        payload=StoredPush(
            alerts=list(group),
            errors=[*map(redact_text, push.errors)],
            omitted=push.omitted,
            all_resolved=push.all_resolved,
        )
        .model_dump_json()
        .encode(),
        options=options_json,
        incident_key=group[0].incident_key,
        title=title_of(group),
        alert_fingerprint=group[0].fingerprint,
        severity=Severity.worst(*(alert.severity for alert in group)),
        content_hash=_digest([push.source, intake.environment, options_json.decode(), content]),
        max_retries=settings.max_retries_per_stage,
        lease_owner=metadata.reserved_by if reserved else None,
        lease_seconds=settings.lease_seconds,
        firing=any(alert.firing for alert in group),
        awaits_ingest=intake.awaits_ingest,
        duplicate_window_seconds=settings.duplicate_window_seconds if metadata.skip_duplicates else 0,
    )


def _digest(value: object) -> str:
    """The SHA-256 of a value as JSON with sorted keys: equal values have equal digests."""
    return hashlib.sha256(to_json(value, sort_keys=True)).hexdigest()


def _outcome_of(written: WrittenPush) -> str:
    if written.repeated:
        return "repeated"
    if written.ignored:
        return "ignored"
    return "duplicate" if len(written.duplicates) == len(written.run_ids) else "queued"


def _signal_skipped(signals: Signals, written: WrittenPush, runs: Sequence[NewRun]) -> None:
    """Send the signals of each run that is over before it began."""
    for run in runs:
        original = written.duplicates.get(run.run_id)
        reason = run.skip_reason if original is None else Reason.DUPLICATE.value
        if reason is None:
            continue
        tags = Tags(
            trace_id=run.trace_id,
            run_id=run.run_id,
            source=run.source,
            alert_fingerprint=run.alert_fingerprint or "",
            environment=run.environment,
        )
        signals.emit_skipped(tags, reason, duplicate_of=original)


def checked_name(what: str, text: str) -> str:
    """A short printable text.

    Raises:
        BadInput: it is empty, too long, or has characters that are not printable.
    """
    if not text or len(text) > _NAME_CHARACTERS or not text.isprintable():
        raise BadInput(f"The {what} {text[:40]!r} is not 1 to {_NAME_CHARACTERS} printable characters")
    return text


def size_of(payload: object) -> int:
    """The bytes of a value as JSON.

    Raises:
        BadInput: JSON cannot hold it.
    """
    try:
        # Values that only Python knows become text when the payload is parsed.
        return len(json.dumps(payload, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"The payload is not JSON: {error}") from None
