"""Who depends on whom, as a Prefect block: instead of CHANGES_DEPENDENCIES_FILE."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, ValidationError, field_validator

from blocks.prefect_api import BlockSource, SavedBlock, broken_block
from orchestration.changes.blame import Dependency
from orchestration.errors import Unavailable
from orchestration.signals import logger

BLOCK_NAME = "default"
"""The name of the block that is used."""

READ_TIMEOUT_SECONDS = 1.0
"""How long the blocks may take to be read, where no worker keeps a copy of them: a check waits for it."""

_MOST_PAIRS = 10_000


class ServiceDependencies(Block):
    """Who depends on whom: the check stage looks also at what the alert's job calls. The one used is `default`."""

    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "Service Dependencies"
    _block_type_slug = "service-dependencies"
    _description = "Which part of a system calls which, so that alert-pipeline finds where a trouble began."

    calls: dict[str, list[str]] = Field(
        description='Whom each part calls, by the names of their jobs in Prometheus, such as {"web": ["db", "mail"]}.'
    )

    @field_validator("calls")
    @classmethod
    def _bounded(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        if sum(map(len, value.values())) > _MOST_PAIRS:
            raise ValueError(f"it may have {_MOST_PAIRS:,} pairs of caller and callee")
        return value

    def pairs(self) -> list[Dependency]:
        """Each caller with each of its callees."""
        return [(caller, callee) for caller, callees in self.calls.items() for callee in callees]


SLUG = ServiceDependencies.get_block_type_slug()


class SavedDependencies:
    """The dependencies of the block `default`, as `orchestration.changes.blame.DependencySource` requires.

    `source` lists the saved blocks: a request to Prefect each time, or a `ChannelCache`.
    """

    def __init__(self, source: BlockSource) -> None:
        self._source = source

    async def __call__(self) -> Sequence[Dependency]:
        """Who depends on whom; nothing if there is no block. What is wrong is logged: no check fails for it."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                saved = await self._source()
        except (Unavailable, TimeoutError) as error:
            logger.warning("Whether a block says who depends on whom is not known: %s", error or "Prefect is too slow")
            return ()
        return next((_pairs(one) for one in saved if one.slug == SLUG and one.name == BLOCK_NAME), ())


def _pairs(saved: SavedBlock) -> Sequence[Dependency]:
    try:
        return ServiceDependencies.model_validate(saved.data).pairs()
    except ValidationError as error:
        logger.warning("%s", broken_block("service-dependencies block", saved, error))
        return ()
