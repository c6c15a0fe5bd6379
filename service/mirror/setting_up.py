"""Sets up Prefect as a sender of alerts on a server: the webhook block with our address, and the automations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from http import HTTPStatus
from uuid import UUID

import httpx
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow

from blocks.prefect_api import PAGE_SIZE, read_pages
from orchestration.errors import BadInput, Unavailable
from orchestration.redaction import one_line, redact_text
from service.mirror.automations import AppliedAutomation, apply_set, find_webhook
from service.mirror.sender import OWN_FLOWS, OWN_TAG, Watched, sending_automations, webhook_block

REQUEST_SECONDS = 10.0

_NO_BLOCK = UUID(int=0)
_PROBE = {"prefect_automation": "probe", "event": "probe", "id": "prefect.probe"}
"""The mapping `prefect` ignores it, so that address and key can be tried."""


@dataclass(frozen=True, kw_only=True)
class SenderOrder:
    """What Prefect is to report, and where."""

    set_name: str
    watched: Watched
    url: str
    key: str | None = field(default=None, repr=False)
    environment: str | None = None
    overwrite: bool = False
    check: bool = True
    """Try address and key from here first."""
    dry_run: bool = False

    @property
    def block_name(self) -> str:
        """The name of the saved webhook block."""
        return f"alert-pipeline-{self.set_name}"


async def set_up_sender(client: PrefectClient, order: SenderOrder) -> list[AppliedAutomation]:
    """Create or update the webhook block and the automations of a set.

    Call it within `blocks.prefect_api.prefect_errors()`.

    Raises:
        BadInput: Prefect has no such flow, or it is one of our own; or the API refuses the key.
        Unavailable: the API does not answer.
        Exception: whatever Prefect's client raises.
    """
    await _ensure_flows(client, order.watched)
    block_id = await find_webhook(client, order.block_name)
    known = None if block_id is None else await Webhook.aload(order.block_name, client=client)
    block = webhook_block(order.url, key=order.key, environment=order.environment, known=known)
    if order.check:
        await asyncio.to_thread(try_door, order.url, block)
    if not order.dry_run:
        block_id = await block.asave(order.block_name, overwrite=True, client=client)
    wanted = list(sending_automations(order.watched, block_id or _NO_BLOCK))
    return await apply_set(client, order.set_name, wanted, overwrite=order.overwrite, dry_run=order.dry_run)


def try_door(url: str, block: Webhook) -> None:
    """Post a body that is ignored, as Prefect will post its own.

    Raises:
        Unavailable: nobody answers.
        BadInput: the address or the key is refused, or it is not our API.
    """
    shown = redact_text(url)
    try:
        answer = httpx.post(
            block.url.get_secret_value(),
            json=_PROBE,
            headers={name: str(value) for name, value in block.headers.get_secret_value().items()},
            timeout=REQUEST_SECONDS,
            trust_env=False,
            verify=block.verify,
        )
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise BadInput(f"{shown} is no address of an API: it is written as http://host:port") from None
    except httpx.HTTPError as error:
        raise Unavailable(
            f"{shown} does not answer from here ({type(error).__name__}). If only Prefect's server reaches it, "
            "add --no-check"
        ) from None
    said = one_line(answer.text, 200)
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise BadInput(
            f"{shown} refuses the key ({answer.status_code}): {said}. Give one with the scope trigger by --key or "
            "AUTOMATIONS_API_KEY: alert-pipeline keys create prefect --scope trigger"
        )
    if answer.status_code != HTTPStatus.ACCEPTED:
        raise BadInput(f"{shown} answered {answer.status_code}, not as the API of alert-pipeline does: {said}")


async def _ensure_flows(client: PrefectClient, watched: Watched) -> None:
    own = sorted({*OWN_FLOWS} & {*watched.flows})
    if own or OWN_TAG in watched.tags:
        what = f"The flow {own[0]}" if own else f"The tag {OWN_TAG}"
        raise BadInput(
            f"{what} is alert-pipeline's own: a page about a page that failed would fail as well. "
            "alert-pipeline automations apply --notify BLOCK reports it through Prefect alone"
        )
    exact = [name for name in watched.flows if not set(name) & set("*?[!")]
    if not exact:
        return
    flows: list[Flow] = await read_pages(lambda offset: client.read_flows(limit=PAGE_SIZE, offset=offset))
    _refuse_unknown(exact, [flow.name for flow in flows])


def _refuse_unknown(wanted: Sequence[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.4)
            shown = list(dict.fromkeys([*near, *sorted(set(known) - {*OWN_FLOWS})]))[:5]
            hint = f"; it has {', '.join(shown)}" if shown else ", and no other one"
            raise BadInput(f"Prefect has no flow {name[:80]!r}{hint}. A flow is known once it has run or is deployed")
