"""A worker's duty for channels that fail: it has them tried again, and reports their outages on the other channels."""

from __future__ import annotations

from functools import partial

from orchestration.alert import AlertStatus, Severity
from orchestration.engine.run import Services
from orchestration.errors import Unavailable
from orchestration.requests import RunOptions, RunRequest
from orchestration.signals import logger
from orchestration.store import channels
from orchestration.store.channels import Outage
from orchestration.store.pushes import write_push
from tasks.ingest.inbox import accept
from tasks.ingest.sources.registry import OWN_SOURCE


async def look_after_channels(services: Services) -> None:
    """Have each channel tried again whose pause is over, and report outages and their ends. Over all workers, each
    outage and each end is reported once.

    Raises:
        Unavailable: the database does not answer.
    """
    async with services.database.transaction() as tx:
        await channels.wake_probes(tx)
    try:
        await _report(services)
    except Unavailable:
        raise
    except Exception:  # noqa: BLE001 - a bug here must not end the worker
        logger.exception("The outages of channels could not be reported")


async def _report(services: Services) -> None:
    async with services.database.transaction() as tx:
        # One transaction marks an outage as reported and accepts its alert: both happen, or neither does.
        outages = await channels.outages_to_report(tx)
        for outage in outages:
            await accept(services, _request(outage), write=partial(write_push, tx))
    for outage in outages:
        await _log(services, outage)


def _request(outage: Outage) -> RunRequest:
    """The outage as an incident of its own, for every channel but the broken one."""
    name = f"Channel {outage.channel} does not accept messages"
    payload = {
        "name": name,
        "fingerprint": f"channel/{outage.channel}",
        "incident_key": f"{OWN_SOURCE}/channel/{outage.channel}",
        "severity": Severity.CRITICAL.value,
        "status": (AlertStatus.RESOLVED if outage.over else AlertStatus.FIRING).value,
        "description": "It accepts messages again." if outage.over else f"It answered last: {outage.error}",
        "labels": {"channel": outage.channel},
        "started_at": outage.since.isoformat() if outage.since else None,
    }
    return RunRequest(
        payload={name: value for name, value in payload.items() if value is not None},
        source=OWN_SOURCE,
        options=RunOptions(except_channels=[outage.channel]),
    )


async def _log(services: Services, outage: Outage) -> None:
    if outage.over:
        logger.info("Channel %s accepts messages again", outage.channel)
    elif await services.channels.others([outage.channel]):
        logger.warning("Channel %s does not accept messages: %s", outage.channel, outage.error)
    else:
        logger.error(
            "Channel %s does not accept messages, and there is no other channel to say so: %s",
            outage.channel,
            outage.error,
        )
