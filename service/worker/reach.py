"""Whether the messages of this worker reach anybody: without a channel nobody is notified, and the log must say so."""

from __future__ import annotations

import asyncio

import orjson

from orchestration.errors import PipelineError, Unavailable
from orchestration.message import ChannelSource
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.store.encrypted_cache import DEFAULT_CHANNELS, DefaultChannels, EncryptedCache

LOOK_EVERY_SECONDS = 15.0
_RULE = "!" * 78
_NOBODY = f"""NO CHANNEL IS SET UP: NOBODY IS NOTIFIED OF ANY ALERT
{_RULE}
  Alerts are accepted and recorded, and no message leaves this machine.
  Set one of these, and restart:  SLACK_WEBHOOK_URL=…
                                  SMTP_HOST=… EMAIL_TO=…
                                  PAGERDUTY_ROUTING_KEY=…
                                  NOTIFY_WEBHOOK_URL=…
  or save a channel block with `default` in Prefect, which is known after half a minute.
  docs/channels.md says how. `alert-pipeline doctor` tests it.
{_RULE}"""


class Reach:
    """Looks up the default channels, says when there are none, and stores their names for the API's `/ready/`."""

    def __init__(self, channels: ChannelSource, store: EncryptedCache) -> None:
        self._channels = channels
        self._store = store
        self._known: DefaultChannels | None = None

    async def look(self) -> None:
        """Look once. A change is logged and stored; an outage changes nothing."""
        try:
            found = DefaultChannels(names=await self._names())
        except Unavailable:
            return
        except PipelineError as error:
            found = DefaultChannels(problem=one_line(str(error), 300))
        except Exception:  # noqa: BLE001 - a bug, which must not end the worker
            logger.exception("The default channels could not be looked up")
            return
        if found == self._known:
            return
        if found.problem:
            logger.error("Messages that name no channel reach nobody: %s", found.problem)
        elif not found.names:
            logger.warning(_NOBODY)
        elif self._known is not None:
            logger.info("Messages that name no channel go to %s now", ", ".join(found.names))
        try:
            await self._store.write(DEFAULT_CHANNELS, orjson.dumps(found.model_dump()))
        except Unavailable as error:
            logger.warning("The names of the default channels could not be stored: %s", error)
            return
        self._known = found

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            await self.look()

    async def _names(self) -> list[str]:
        return [named.name for named in await self._channels.select(None) if named.channel.driver != "console"]
