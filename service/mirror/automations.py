"""Automations as code: sets of automations in Prefect that a command creates, updates, lists and deletes.

Each has two tags, `alert-pipeline` and `alert-pipeline-set:NAME`. Its description ends with a digest of its trigger and
actions as they were applied: what an operator has changed since is known by that, and stays. Whether an automation is
switched on always stays.

The coroutines raise whatever Prefect's client raises: call them within `blocks.prefect_api.prefect_errors()`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import TypeAdapter

from blocks.prefect_api import PAGE_SIZE, read_pages
from orchestration.json_text import to_json

TAG = "alert-pipeline"
"""The tag of all automations of all sets."""

OWN_SET = "itself"
"""The name of the set about ourselves."""

SETS_PREFIX = "alert-pipeline watches "
"""How the names of automations begin, but those about ourselves."""

_SET, _APPLIED = "alert-pipeline-set:", "Applied by `alert-pipeline automations apply`: "

_AUTOMATIONS = TypeAdapter(list[Automation])

Done = Literal["created", "updated", "unchanged", "changed in Prefect, left as it is", "deleted"]


@dataclass(frozen=True, kw_only=True)
class AppliedAutomation:
    """An automation of a set, and what was done with it."""

    name: str
    done: Done
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class KnownAutomation:
    """An automation of a set, as it is in Prefect."""

    id: UUID
    name: str
    set_name: str
    enabled: bool
    changed: bool
    """Whether somebody has changed it in Prefect since it was applied."""


async def read_sets(client: PrefectClient) -> list[KnownAutomation]:
    """The automations of all sets, by name."""
    return [
        KnownAutomation(
            id=one.id, name=one.name, set_name=_set_of(one), enabled=one.enabled, changed=_digest(one) != _applied(one)
        )
        for one in await _read(client)
    ]


async def apply_set(
    client: PrefectClient,
    set_name: str,
    wanted: Sequence[AutomationCore],
    *,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[AppliedAutomation]:
    """Bring a set to what is wanted: create, update, and delete what is not wanted any more.

    What was changed in Prefect since it was applied stays, unless it is overwritten.
    """
    known = {one.name: one for one in await _read(client) if _set_of(one) == set_name}
    done: list[AppliedAutomation] = []
    for each in wanted:
        automation = _labelled(each, set_name)
        done.append(await _apply(client, automation, known.pop(automation.name, None), overwrite, dry_run))
    for left in known.values():
        keep = _digest(left) != _applied(left) and not overwrite
        if not keep and not dry_run:
            await client.delete_automation(left.id)
        says: Done = "changed in Prefect, left as it is" if keep else "deleted"
        done.append(AppliedAutomation(name=left.name, done=says, enabled=left.enabled))
    return done


async def delete_set(client: PrefectClient, set_name: str) -> list[str]:
    """Delete the automations of a set, also those that were changed in Prefect. Returns their names."""
    found = [one for one in await _read(client) if _set_of(one) == set_name]
    for one in found:
        await client.delete_automation(one.id)
    return [one.name for one in found]


async def find_webhook(client: PrefectClient, name: str) -> UUID | None:
    """The id of the saved webhook block with this name. None means that there is none."""
    with suppress(ObjectNotFound):
        found = await client.read_block_document_by_name(name, block_type_slug=Webhook.get_block_type_slug())
        return found.id
    return None


async def delete_webhook(client: PrefectClient, name: str) -> None:
    """Delete the saved webhook block with this name, if there is one."""
    if (block_id := await find_webhook(client, name)) is not None:
        await client.delete_block_document(block_id)


async def _apply(
    client: PrefectClient, wanted: AutomationCore, known: Automation | None, overwrite: bool, dry_run: bool
) -> AppliedAutomation:
    if known is None:
        if not dry_run:
            await client.create_automation(wanted)
        return AppliedAutomation(name=wanted.name, done="created")
    if _digest(known) == _digest(wanted):
        return AppliedAutomation(name=wanted.name, done="unchanged", enabled=known.enabled)
    if _digest(known) != _applied(known) and not overwrite:
        return AppliedAutomation(name=wanted.name, done="changed in Prefect, left as it is", enabled=known.enabled)
    if not dry_run:
        tags = sorted({*known.tags, *wanted.tags})
        # Not with the client's own method: Prefect's API refuses an update that names an owner, as that sends it.
        automation = wanted.model_copy(update={"enabled": known.enabled, "tags": tags})
        body = automation.model_dump(mode="json", exclude={"owner_resource"})
        await client.request("PUT", "/automations/{id}", path_params={"id": known.id}, json=body)
    return AppliedAutomation(name=wanted.name, done="updated", enabled=known.enabled)


async def _read(client: PrefectClient) -> list[Automation]:
    async def page(offset: int) -> list[Automation]:
        wanted: dict[str, Any] = {"limit": PAGE_SIZE, "offset": offset}
        return _AUTOMATIONS.validate_json((await client.request("POST", "/automations/filter", json=wanted)).content)

    return sorted((one for one in await read_pages(page) if _set_of(one)), key=lambda one: one.name)


def _labelled(automation: AutomationCore, set_name: str) -> AutomationCore:
    prefix = "alert-pipeline " if set_name == OWN_SET else SETS_PREFIX
    return automation.model_copy(
        update={
            "name": f"{prefix}{set_name}: {automation.name}",
            "tags": [TAG, f"{_SET}{set_name}"],
            "description": f"{automation.description}\n\n{_APPLIED}{_digest(automation)}".lstrip(),
        }
    )


def _set_of(automation: Automation) -> str:
    """The name of the automation's set; "" if it is in none."""
    return next((tag.removeprefix(_SET) for tag in automation.tags if tag.startswith(_SET)), "")


def _digest(automation: AutomationCore) -> str:
    """The SHA-256 of what an automation does, in the form in which Prefect's client reads it."""
    read = AutomationCore.model_validate(automation.model_dump(mode="json"))
    what = read.model_dump(mode="json", include={"trigger", "actions", "actions_on_trigger", "actions_on_resolve"})
    trigger: dict[str, Any] = what["trigger"]
    in_order = {name: sorted(trigger[name]) for name in ("after", "expect", "for_each") if name in trigger}
    return hashlib.sha256(to_json({**what, "trigger": {**trigger, **in_order}}, sort_keys=True)).hexdigest()[:16]


def _applied(automation: AutomationCore) -> str:
    """The digest that the description names; "" if it names none."""
    return automation.description.rpartition(_APPLIED)[2].strip() if _APPLIED in automation.description else ""
