"""A worker's duty for channels that fail: it has them tried again, and reports their outages on the other channels."""

from __future__ import annotations

from orchestration.engine.run import Services
from orchestration.errors import Unavailable
from orchestration.requests import RunRequest
from orchestration.signals import logger
from orchestration.store import channels
from orchestration.store.channels import Outage
from service.worker.own_alerts import own_alert, report


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
            await report(services, _alert(outage), tx)
    for outage in outages:
        await _log(services, outage)


def _alert(outage: Outage) -> RunRequest:
    """The outage as an incident of its own, for every channel but the broken one."""
    return own_alert(
        f"channel/{outage.channel}",
        f"Channel {outage.channel} does not accept messages",
        "It accepts messages again." if outage.over else f"It answered last: {outage.error}",
        over=outage.over,
        since=outage.since,
        labels={"channel": outage.channel},
        except_channels=[outage.channel],
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
