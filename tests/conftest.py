"""What all tests stand on: one real stack a session (PostgreSQL, Prefect's server), and a clean database a test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import text

from orchestration.contracts import Delivery
from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.message import Message, NamedChannel
from orchestration.settings import Settings
from orchestration.signals import Signal, Signals, Tags
from orchestration.store.database import Database, open_database
from orchestration.store.models import Base
from service.prefect_patches import send_what_is_queued
from service.stack import StackAddresses, attach
from tasks.analyze.local import LocalAnalysis
from tasks.kinds import KINDS
from tests.model_server import model_server
from tests.receivers import HttpReceiver, http_receiver
from tests.stack_fixtures import new_home, settings_for

# Prefect reads these when it is imported, and a developer's own must not leak into the tests.
CHANNEL_VARIABLES = ("NOTIFY_", "SLACK_", "SMTP_", "EMAIL_", "PAGERDUTY_", "NTFY_", "APPRISE_")
OUR_VARIABLES = ("PREFECT_", "ORCHESTRATION_", "STATSD_", "CHECKERS_", "PROMETHEUS_", *CHANNEL_VARIABLES)
for _name in [name for name in os.environ if name.startswith(OUR_VARIABLES)]:
    del os.environ[_name]
for _name in ("DATABASE_URL", "ALERT_PIPELINE_HOME"):
    os.environ.pop(_name, None)
os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"

# On a busy machine everything takes longer, and that is no failure.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """Where the session's stack keeps its data. Commands with this ALERT_PIPELINE_HOME use that stack."""
    with new_home() as place:
        yield place


@pytest.fixture(scope="session")
def postgres_url(home: Path) -> Iterator[str]:
    """A real PostgreSQL."""
    with attach(settings_for(home), need_prefect=False) as addresses:
        yield addresses.database_url


@pytest.fixture(scope="session")
def stack(home: Path, postgres_url: str) -> Iterator[StackAddresses]:
    """The same PostgreSQL with a real Prefect server beside it."""
    with attach(settings_for(home)) as addresses:
        yield addresses


@pytest.fixture(scope="session")
async def _database(postgres_url: str) -> AsyncIterator[Database]:
    async with open_database(postgres_url) as database:
        yield database


_DELETIONS = "; ".join(f"delete from {table.name}" for table in reversed(Base.metadata.sorted_tables))
EMPTY_TABLES = f"""
do $$ begin
    {_DELETIONS};
    perform setval(oid::regclass, 1, false) from pg_class
    where relkind = 'S' and relnamespace = 'public'::regnamespace;
end $$
"""
"""Empties our tables and restarts their numbers. TRUNCATE makes new files for each table, which takes ten times as long
when there is next to nothing in them."""


@pytest.fixture
async def database(_database: Database) -> Database:
    """Our database, with its tables empty."""
    async with _database.transaction() as tx:
        await tx.execute(text(EMPTY_TABLES))
    return _database


@pytest.fixture
def settings(home: Path) -> Settings:
    """Settings with which a retry does not take seconds; the delays are 0.02, 0.0004, … s."""
    return settings_for(home, backoff_factor=0.02, checkers_enabled=("memory", "process"))


@dataclass
class RecordedSignals:
    """A signal backend that keeps what it is sent."""

    seen: list[tuple[Signal, Tags, Mapping[str, object]]] = field(default_factory=list)

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, object]) -> None:
        self.seen.append((signal, tags, fields))

    def names(self) -> list[str]:
        """`signal/stage/attempt`, in order, without the leading "pipeline."."""
        return [
            f"{signal.value.removeprefix('pipeline.')}/{tags.stage}/{tags.attempt}" for signal, tags, _ in self.seen
        ]


@dataclass
class MemoryChannel:
    """A channel that keeps what it is sent, and fails as often as it is told to."""

    failures: list[DeliveryFailed] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    driver: str = "memory"
    target: str = "memory"
    shows_state: bool = False

    async def send(self, message: Message) -> Delivery:
        if self.failures:
            raise self.failures.pop(0)
        self.messages.append(message)
        return Delivery(
            driver="memory", provider="memory", channel="memory", status="sent", provider_id=f"m{len(self.messages)}"
        )


@dataclass
class MemoryChannels:
    """The channels of a test: by default one that always takes the message."""

    named: dict[str, MemoryChannel]
    spare: dict[str, MemoryChannel] = field(default_factory=dict)
    """Those that only get what none of `named` accepts, or are named."""

    async def select(self, name: str | None) -> list[NamedChannel]:
        chosen = self.named if name is None else {name: (self.named | self.spare)[name]}
        return [NamedChannel(name=channel_name, channel=channel) for channel_name, channel in chosen.items()]

    async def others(self, names: Collection[str]) -> list[NamedChannel]:
        spare = {name: channel for name, channel in (self.named | self.spare).items() if name not in names}
        return [NamedChannel(name=name, channel=channel) for name, channel in spare.items()]


@pytest.fixture(scope="module", autouse=True)
async def own_services() -> AsyncIterator[None]:
    """What sends events and logs keeps the server of whoever began it, which the next tests may not have."""
    yield
    if "prefect.events.worker" in sys.modules:  # few tests need Prefect
        await send_what_is_queued(2)


@pytest.fixture
def signals() -> RecordedSignals:
    """The signals that were sent."""
    return RecordedSignals()


@pytest.fixture
def channel() -> MemoryChannel:
    """The default channel of `services`."""
    return MemoryChannel()


@pytest.fixture
def services(database: Database, settings: Settings, signals: RecordedSignals, channel: MemoryChannel) -> Services:
    """A process's services on the real database. Replace parts with `dataclasses.replace()`."""
    return Services(
        database=database,
        signals=Signals([signals]),
        settings=settings,
        channels=MemoryChannels({"memory": channel}),
        analysis=LocalAnalysis(),
        kinds=KINDS,
    )


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """An HTTP endpoint that accepts every message."""
    with http_receiver() as one:
        yield one


@pytest.fixture
def model() -> Iterator[HttpReceiver]:
    """The API of a vendor of models; a test says what it answers."""
    with model_server() as server:
        yield server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what goes through Prefect: on a busy machine its server may be slow, which is no outage."""
    monkeypatch.setenv("ORCHESTRATION_PREFECT_PATIENCE_SECONDS", "30")


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(home: Path, stack: StackAddresses) -> Command:
    """Runs one of our commands as a user would, on the session's stack: `command("run_pipeline", "--sample")`.

    `env` adds variables; `stdin` is text for its standard input.
    """

    def run(
        name: str, *arguments: str, env: Mapping[str, str] | None = None, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / name), *arguments],
            env={**clean_environment(), "ALERT_PIPELINE_HOME": str(home), **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def clean_environment() -> dict[str, str]:
    """The environment for a command, without what concerns Prefect or us."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OUR_VARIABLES)}
