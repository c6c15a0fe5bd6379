"""The policy as runs use it: the stored version that counts now, with its overrides and calendars."""

from __future__ import annotations

import asyncio
import time

from orchestration.errors import PipelineError
from orchestration.policy.active import ActivePolicy
from orchestration.policy.parse import parse_policy
from orchestration.signals import logger
from orchestration.store.database import Database, read_clock
from orchestration.store.definitions import find_policy
from orchestration.store.oncall import read_schedules

FRESH_SECONDS = 2.0
"""How long what was read counts: an edit, or an override, counts in every process after that at the latest."""


class StoredPolicies:
    """Finds the policy, as `orchestration.policy.active.PolicySource` requires."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.latest: ActivePolicy | None = None
        """The policy as it was read last."""
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def active(self) -> ActivePolicy | None:
        """The policy that counts now. None means that there is none: the default channels are notified.

        Never raises: nothing about a policy may stop a page. Where it cannot be read, the last one that could counts.
        """
        async with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at >= FRESH_SECONDS:
                await self.read()
            return self.latest

    async def read(self) -> None:
        """Read the policy now. Never raises: where it cannot be read, the last one that could stays."""
        try:
            self.latest = await self._read()
        except PipelineError as error:
            logger.error("The policy cannot be read, the last one that could counts: %s", error)
        except Exception:  # noqa: BLE001 - a bug here must not stop a page
            logger.exception("The policy cannot be read, the last one that could counts")
        self._read_at = time.monotonic()

    async def _read(self) -> ActivePolicy | None:
        async with self._database.transaction() as tx:
            record = await find_policy(tx)
            if record is None:
                return None
            known = self.latest
            # To read a policy with thousands of routes takes a second.
            same = known is not None and known.version == record.version
            policy = known.policy if known is not None and same else parse_policy(record.config).policy
            found = await read_schedules(tx, await read_clock(tx), policy)
        return ActivePolicy(policy=policy, version=record.version, rosters=found.rosters)
