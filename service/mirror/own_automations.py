"""Automations about alert-pipeline itself: Prefect notifies somebody through a block of its own when pages fail, no
canary arrives, no worker executes runs, or a report of Prefect to us fails.

The block shares no code with our channels, so that what breaks those does not silence it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from blocks.channels import CHANNELS
from blocks.channels.prefects import CAPABILITY
from blocks.prefect_api import read_blocks_with
from orchestration.errors import BadInput
from service.mirror.automations import OWN_SET, SETS_PREFIX, AppliedAutomation, apply_set
from service.mirror.deployments import POOL_NAME

SOME_TIME = 300
"""After a notification, so many seconds pass before the same automation notifies again."""

CANARY_SECONDS = 900
"""Three times the interval of the canary."""

_BLOCK_PARTS = 2


_TRIGGER: Mapping[str, Any] = {"posture": Posture.Reactive, "threshold": 1, "within": SOME_TIME}
"""What each trigger has, unless it says otherwise."""


@dataclass(frozen=True, kw_only=True)
class _Own:
    """An automation about us. Prefect fills in the templates of subject and body."""

    name: str
    trigger: Mapping[str, Any]
    subject: str
    body: str


_OWN = (
    _Own(
        name="a page failed",
        trigger={"expect": {"alert-pipeline.page.failed"}, "match": {"prefect.resource.id": "alert-pipeline.page.*"}},
        subject="a page failed: {{ event.resource.name }}",
        body="Channel {{ event.payload.channel }}: {{ event.payload.error }}\n"
        "Tries: {{ event.payload.tries }}. Incident {{ event.resource['alert-pipeline.incident'] }}, "
        "{{ event.resource['alert-pipeline.severity'] }}.\nalert-pipeline why {{ event.payload.run_id }}",
    ),
    _Own(
        name="a canary did not arrive",
        trigger={
            "expect": {"alert-pipeline.canary.missed"},
            "match": {"prefect.resource.id": "alert-pipeline.canary.*"},
        },
        subject="the canary did not arrive on {{ event.payload.channel }}",
        body="{{ event.payload.problem }}\nReal alerts may not arrive either: alert-pipeline doctor",
    ),
    _Own(
        name="no canary arrives",
        trigger={
            "posture": Posture.Proactive,
            "match": {"prefect.resource.id": "alert-pipeline.canary.*"},
            "after": {"alert-pipeline.canary.delivered", "alert-pipeline.canary.missed"},
            "expect": {"alert-pipeline.canary.delivered", "alert-pipeline.canary.missed"},
            "for_each": {"prefect.resource.id"},
            "within": CANARY_SECONDS,
        },
        subject="no canary for a quarter of an hour",
        body="Nothing shows that alerts arrive: is a worker alive, and the database? alert-pipeline doctor",
    ),
    _Own(
        name="no worker executes runs",
        trigger={
            "expect": {"prefect.work-pool.not-ready"},
            "match": {"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": POOL_NAME},
        },
        subject="no worker is alive",
        body="The work pool {{ event.resource.name }} has no worker that is alive: alerts wait in the queue. "
        "Start one: alert-pipeline worker",
    ),
    _Own(
        name="the upkeep is late or fails",
        trigger={
            "expect": {"prefect.flow-run.Late", "prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": [
                {"prefect.resource.role": "flow", "prefect.resource.name": "upkeep"},
                {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.alert-pipeline"},
            ],
        },
        subject="the upkeep is {{ event.resource['prefect.state-name'] }}",
        body="{{ event.resource['prefect.state-message'] or 'Nothing has started it in time.' }}\n"
        "Old rows are not deleted, and stuck runs are not found.",
    ),
    _Own(
        name="a report to alert-pipeline failed",
        trigger={
            "expect": {"prefect.automation.action.failed"},
            # Not the automations of this set: one whose own block fails would call itself for ever.
            "match": {"prefect.resource.id": "prefect.automation.*", "prefect.resource.name": f"{SETS_PREFIX}*"},
        },
        subject="a report to it failed: {{ event.resource.name }}",
        body="{{ event.payload.reason }}\nWhat Prefect reported is lost: is the API alive? "
        "alert-pipeline automations list",
    ),
)


async def apply_own(
    client: PrefectClient, block: str, *, overwrite: bool = False, dry_run: bool = False
) -> list[AppliedAutomation]:
    """Create or update the automations about us, which notify through this block: `slack-webhook/ops`.

    Call it within `blocks.prefect_api.prefect_errors()`.

    Raises:
        BadInput: there is no such block, it cannot notify, or it is one of our channels.
        Exception: whatever Prefect's client raises.
    """
    block_id = await _find_block(client, block)
    wanted = [_automation(each, block_id) for each in _OWN]
    return await apply_set(client, OWN_SET, wanted, overwrite=overwrite, dry_run=dry_run)


def _automation(own: _Own, block_id: UUID) -> AutomationCore:
    subject = f"alert-pipeline: {own.subject}"
    action = SendNotification(block_document_id=block_id, subject=subject, body=own.body)
    return AutomationCore(
        name=own.name, trigger=EventTrigger.model_validate({**_TRIGGER, **own.trigger}), actions=[action]
    )


async def _find_block(client: PrefectClient, named: str) -> UUID:
    parts = named.split("/")
    if len(parts) != _BLOCK_PARTS or not all(parts):
        raise BadInput(f"{named[:80]!r} names no block: write its type and its name, as slack-webhook/ops")
    slug, name = parts
    if slug in {each.get_block_type_slug() for each in CHANNELS.values()}:
        raise BadInput(
            f"{named[:80]} is a channel of alert-pipeline: what breaks a page would break this as well. "
            "Take a block of Prefect's own, such as slack-webhook or custom-webhook"
        )
    try:
        document = await client.read_block_document_by_name(name, block_type_slug=slug)
    except ObjectNotFound:
        known = ", ".join(sorted(await _notifying())[:10])
        hint = f"it has {known}" if known else "create one in its UI under Blocks, or with `prefect block create`"
        raise BadInput(f"Prefect has no block {named[:80]!r} that can notify; {hint}") from None
    schema = document.block_schema
    if schema is not None and CAPABILITY not in schema.capabilities:
        raise BadInput(f"The block {named[:80]} cannot notify: its type has no capability `{CAPABILITY}`")
    return document.id


async def _notifying() -> list[str]:
    """The saved blocks that can notify and are none of our channels."""
    ours = {each.get_block_type_slug() for each in CHANNELS.values()}
    return [f"{block.slug}/{block.name}" for block in await read_blocks_with(CAPABILITY) if block.slug not in ours]
