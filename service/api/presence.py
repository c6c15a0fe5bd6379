"""Notes since when this process can accept heartbeats: what it could not accept is not the absence of its sender."""

from __future__ import annotations

import asyncio

from orchestration.errors import Unavailable
from orchestration.heartbeat import DOOR_SECONDS
from orchestration.signals import logger
from orchestration.store import heartbeats
from orchestration.store.database import Database


class Presence:
    """Notes in the database that this process can accept beats, and when it could not."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lost = True

    def lose(self) -> None:
        """A beat could not be accepted: the time of all heartbeats counts anew from the next note on."""
        self._lost = True

    async def note(self) -> bool:
        """Note that beats can be accepted now. Returns whether the time of all heartbeats counts anew.

        Raises:
            Unavailable: the database does not answer.
        """
        opens, self._lost = self._lost, False
        try:
            async with self._database.transaction() as tx:
                return await heartbeats.see_door(tx, opens=opens)
        except BaseException:
            self._lost = True
            raise

    async def keep(self) -> None:
        """Note it every `DOOR_SECONDS`. Never ends."""
        said = ""
        while True:
            try:
                await self.note()
                said = ""
            except Unavailable as error:
                if said != str(error):
                    logger.warning("Heartbeats cannot be accepted: %s", error)
                said = str(error)
            except Exception:  # noqa: BLE001 - a bug here must not end the note-taking: nothing would be missing any more
                logger.exception("That heartbeats are accepted could not be noted")
            await asyncio.sleep(DOOR_SECONDS)
