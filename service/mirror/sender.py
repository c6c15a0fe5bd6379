"""Prefect as a sender: the automations with which a Prefect server of the user reports failed, late and long flow runs
and lost workers to our webhook. The mapping `prefect` reads what they send.

The template that Prefect fills in makes a small JSON of an event, and not `{{ event | tojson }}`: an event may have
more than a megabyte, and a body that is too large would be lost. Each text is cut, and then written by `tojson`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.flow_run import LINEAR_FLOW
from orchestration.alert import Severity
from orchestration.moments import length_in_words
from service.mirror.deployments import POOL_NAME
from service.mirror.flow_runs import DEFINITION_FLOW_NAME

WEBHOOK_PATH = "/alerts/webhook/prefect/"

OWN_FLOWS = (LINEAR_FLOW, DEFINITION_FLOW_NAME)
"""The flows whose runs are pages. A page about a failed page would fail too, so Prefect reports none of them. The rest
of our flows has the tag `alert-pipeline`, which the mapping ignores: others may have flows with the same names."""

OWN_TAG = "alert-pipeline"

_TEXT, _MESSAGE = 255, 4000
"""The most characters of a name and of a state's message."""
_TAGS = 30
_OF_STATE = {"type": _TEXT, "name": _TEXT, "message": _MESSAGE}

_NEW_POOL_SECONDS = 10
"""Prefect reports a work pool as not ready when it is created, before its first worker can have started."""

_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What Prefect reports."""

    flows: Sequence[str] = ()
    """Names of flows, in which * is anything. Empty means all, but our own."""
    tags: Sequence[str] = ()
    """Tags of which a flow run, its deployment or its flow has at least one. Empty means that none is needed."""
    late: bool = True
    workers: bool = True
    running_longer_than: timedelta | None = None
    severity: Severity = Severity.CRITICAL
    """Of what failed and of lost workers. What is late or long is a warning at most, so that its failure is a rise."""
    ui_url: str | None = None
    """Where people see Prefect. None means that alerts have no link."""


def webhook_block(url: str, *, key: str | None, environment: str | None, known: Webhook | None = None) -> Webhook:
    """The block that has our address and key. What else somebody has set in the known one stays."""
    query = f"?{urlencode({'environment': environment})}" if environment else ""
    before = {} if known is None else known.headers.get_secret_value()
    headers = {**before, "Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
    more = {} if known is None else {"verify": known.verify, "allow_private_urls": known.allow_private_urls}
    return Webhook.model_validate({"url": f"{url.rstrip('/')}{WEBHOOK_PATH}{query}", "headers": headers, **more})


def sending_automations(watched: Watched, block_id: UUID) -> Iterator[AutomationCore]:
    """The automations that report this through the saved block."""
    yield _automation(
        "flow runs that fail, and the next good one",
        # By type: an event has the name of its state, which may be any.
        _trigger_of_runs(watched, {"prefect.state-type": ["FAILED", "CRASHED", "COMPLETED"]}, "prefect.flow-run.*"),
        _payload(watched, "flow-runs", _FLOW_RUN_PAGE),
        block_id,
    )
    if watched.late:
        yield _automation(
            "flow runs that are late",
            _trigger_of_runs(watched, {}, "prefect.flow-run.Late"),
            _payload(watched, "late", _FLOW_RUN_PAGE),
            block_id,
        )
    if watched.running_longer_than is not None:
        states = {"prefect.state-type": ["RUNNING", *_ENDED], "prefect.state-name": "!Retrying"}
        yield _automation(
            "flow runs that take too long",
            _trigger_of_runs(
                watched,
                states,
                "prefect.flow-run.*",
                posture=Posture.Proactive,
                after={"prefect.flow-run.Running"},
                for_each={"prefect.resource.id"},
                within=watched.running_longer_than,
            ),
            _payload(watched, "long", _FLOW_RUN_PAGE, limit=watched.running_longer_than),
            block_id,
        )
    if watched.workers:
        yield from _about_workers(watched, block_id)


def _trigger_of_runs(watched: Watched, match: Mapping[str, Any], expect: str, **more: Any) -> EventTrigger:
    """A trigger on an event of the flow runs that are watched. `match` is what their labels have beside that."""
    return EventTrigger.model_validate(
        {
            "posture": Posture.Reactive,
            "match": {"prefect.resource.id": "prefect.flow-run.*", **match},
            "match_related": _related(watched),
            "expect": {expect},
            **more,
        }
    )


def _about_workers(watched: Watched, block_id: UUID) -> Iterator[AutomationCore]:
    states = ("not-ready", "ready")
    kinds: dict[str, tuple[dict[str, Any], str]] = {
        "work-pool": ({"prefect.resource.name": f"!{POOL_NAME}"}, "/work-pools/work-pool/{{ r.name | urlencode }}"),
        "deployment": ({}, "/deployments/deployment/{{ r.id[19:] | urlencode }}"),
    }
    titles = {"work-pool": "work pools without a worker", "deployment": "served deployments without a process"}
    for kind, (match, page) in kinds.items():
        yield _automation(
            titles[kind],
            EventTrigger.model_validate(
                {
                    "posture": Posture.Reactive,
                    "match": {"prefect.resource.id": f"prefect.{kind}.*"} | match,
                    "match_related": [] if kind == "work-pool" else _flows_of(watched),
                    "expect": {f"prefect.{kind}.{state}" for state in states},
                }
            ),
            _payload(watched, "workers", page, pool=kind == "work-pool"),
            block_id,
        )


def _related(watched: Watched) -> list[dict[str, Any]]:
    tagged = [f"prefect.tag.{tag}" for tag in watched.tags]
    tag: list[dict[str, Any]] = [{"prefect.resource.role": "tag", "prefect.resource.id": tagged}] if tagged else []
    return [*_flows_of(watched), *tag]


def _flows_of(watched: Watched) -> list[dict[str, Any]]:
    """The conditions for the flow of an event: a watched one, and none of our own. Each of them has to match."""
    chosen: list[dict[str, Any]] = [{"prefect.resource.name": list(watched.flows)}] if watched.flows else []
    not_ours = [{"prefect.resource.name": f"!{name}"} for name in OWN_FLOWS]
    return [{"prefect.resource.role": "flow"} | each for each in (*chosen, *not_ours)]


def _automation(name: str, trigger: EventTrigger, payload: str, block_id: UUID) -> AutomationCore:
    action = CallWebhook(block_document_id=block_id, payload=payload)
    return AutomationCore(name=name, trigger=trigger, actions=[action])


_FLOW_RUN_PAGE = "/runs/flow-run/{{ r.id[17:] | urlencode }}"


_NEW_POOL = (
    "{{ 'true' if work_pool and work_pool.created "
    f"and (event.occurred - work_pool.created).total_seconds() < {_NEW_POOL_SECONDS} else 'false' }}}}"
)


def _text(expression: str, most: int = _TEXT) -> str:
    """A part of a template: the text as JSON, cut, and "" if there is none."""
    return f"{{{{ ({expression} | default('', true) | string)[:{most}] | tojson }}}}"


def _resource(role: str) -> str:
    return _object({name: _text(f"by[{role!r}].{name}") for name in ("id", "name")})


def _object(fields: Mapping[str, str]) -> str:
    """A part of a template: a JSON object of values that are templates."""
    return f"{{{', '.join(f'{json.dumps(name)}: {value}' for name, value in fields.items())} }}"


def _moment(limit: timedelta | None) -> str:
    """An expression of when it happened.

    What a proactive trigger reports is true from the limit on. It may fire later than that, and after the run's end.
    """
    if limit is None:
        return "event.occurred"
    past = f"event.occurred.timestamp() + {limit.total_seconds():g}"
    return (
        f"(event.occurred.fromtimestamp({past}, event.occurred.tzinfo) if event and event.occurred "
        "else firing.triggered)"
    )


def _payload(watched: Watched, kind: str, page: str, *, limit: timedelta | None = None, pool: bool = False) -> str:
    """The template of the body.

    It names no `flow_run` and the like, for which Prefect asks its own API, but the work pool, which is seldom needed.
    """
    link = json.dumps(watched.ui_url.rstrip("/"))[1:-1].replace("{", "%7B") + page if watched.ui_url else ""
    within = "" if limit is None else length_in_words(limit.total_seconds())
    tags = (
        f"{{% for tag in (event.resources_in_role['tag'] | default([], true))[:{_TAGS}] %}}"
        f"{{{{ ',' if not loop.first }}}}{_text('tag.id[12:]', 100)}{{% endfor %}}"
    )
    severity = (
        Severity.WARNING
        if kind in ("late", "long") and watched.severity.rank > Severity.WARNING.rank
        else watched.severity
    )
    fields = {
        "prefect_automation": json.dumps(kind),
        "severity": json.dumps(severity.value),
        "event": _text("event.event"),
        "occurred": _text(_moment(limit)),
        "id": _text("r.id"),
        "name": _text("r.name"),
        "state": _object({name: _text(f"r['prefect.state-{name}']", most) for name, most in _OF_STATE.items()}),
        "flow": _resource("flow"),
        "deployment": _resource("deployment"),
        "pool": _resource("work-pool"),
        "tags": f"[{tags}]",
        "limit": json.dumps(within),
        "new": _NEW_POOL if pool else "false",
        "url": f'"{link}"' if link else '""',
    }
    return f"{{%- set r = event.resource %}}{{% set by = event.resource_in_role -%}}\n{_object(fields)}"
