"""What a flow works with: the process's services, or its own where it is the whole process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from blocks.analysis_model import ModelResolver
from blocks.channels.resolver import ChannelResolver, read_channel_blocks
from blocks.dependencies import SavedDependencies
from blocks.prefect_api import BlockSource
from blocks.prometheus.source import PrometheusSources
from flows.definitions import DefinitionResolver
from flows.model_tools import PipelineTools
from orchestration.embedded_stack import find_database_url
from orchestration.engine.run import Services
from orchestration.settings import Settings, load_settings
from orchestration.signals import SignalBackend, make_signals
from orchestration.store.database import Database, open_database
from orchestration.store.mappings import MappingReader
from orchestration.store.policies import StoredPolicies
from orchestration.tracing import span_backends
from tasks.analyze.local import LocalAnalysis
from tasks.kinds import KINDS

_current: ContextVar[Services | None] = ContextVar("alert_pipeline_services", default=None)


@asynccontextmanager
async def open_services(settings: Settings, database_url: str) -> AsyncGenerator[Services]:
    """Services on this database, with its schema current; closed at the end.

    Raises:
        Unavailable: the database does not answer.
    """
    async with open_database(database_url) as database:
        yield make_services(settings, database)


def make_services(
    settings: Settings,
    database: Database,
    *,
    blocks: BlockSource = read_channel_blocks,
    console: bool = False,
    counted: Sequence[SignalBackend] = (),
) -> Services:
    """The services of a process.

    `blocks` lists the saved channel blocks. With `console`, messages that name no channel go to the console where no
    other channel is set up: for commands, whose console somebody reads. The signals also go to `counted`.
    """
    prometheus = PrometheusSources(settings)
    return Services(
        database=database,
        signals=make_signals(settings, *counted, *span_backends(settings)),
        settings=settings,
        channels=ChannelResolver(settings, source=blocks, console=console),
        analysis=LocalAnalysis(),
        models=ModelResolver(settings, source=blocks),
        kinds=KINDS,
        definitions=DefinitionResolver(database),
        mappings=MappingReader(database),
        policies=StoredPolicies(database),
        prometheus=prometheus,
        dependencies=SavedDependencies(blocks),
        tools=PipelineTools(settings=settings, database=database, prometheus=prometheus),
    )


@contextmanager
def use_services(services: Services) -> Generator[None]:
    """The flows that run within use these services."""
    token = _current.set(services)
    try:
        yield
    finally:
        _current.reset(token)


@asynccontextmanager
async def flow_services() -> AsyncGenerator[Services]:
    """The services of this process; a flow that Prefect started in a process of its own opens them itself.

    Raises:
        BadSetting: nothing says where the database is, and no embedded stack runs.
        Unavailable: the database does not answer.
    """
    if (services := _current.get()) is not None:
        yield services
        return
    settings = load_settings()
    async with open_services(settings, find_database_url(settings)) as services:
        with use_services(services):  # the flows of the push's other incidents run within
            yield services
