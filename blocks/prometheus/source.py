"""Which Prometheus alerts are checked with: the one that the settings name, else the block `default` in Prefect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Self, TypedDict

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, ValidationError, model_validator

from blocks.prefect_api import SavedBlock, broken_block, read_saved_blocks
from blocks.prometheus.client import PrometheusClient
from orchestration.errors import BadSetting, Unavailable
from orchestration.setting_rules import prometheus_problems, read_certificates
from orchestration.settings import Settings, secret_text
from orchestration.signals import logger
from orchestration.threads import in_own_thread

BLOCK_NAME = "default"
"""The name of the block that is used."""

KNOWN_FOR_SECONDS = 60.0
"""How long a block counts as it was read last: an edit is used after this time."""

READ_TIMEOUT_SECONDS = 1.0
"""How long Prefect may take to give the block: a check waits for it."""


class _Reached(TypedDict):
    """How a Prometheus is reached. An empty text is a field that is not set."""

    url: str
    username: str
    password: str
    token: str
    verify_tls: bool
    ca: str


class PrometheusSource(Block):
    """A Prometheus, or what speaks like one, that alerts are checked with. The one that is used is called `default`."""

    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "Prometheus Source"
    _block_type_slug = "prometheus-source"
    _description = "The Prometheus that alert-pipeline asks about the alerts that it checks."

    url: str = Field(description="Its URL, such as https://prometheus.example.com, with the path if it has one.")
    username: str | None = Field(default=None, description="The user, if it asks for one.")
    password: SecretStr | None = Field(default=None, description="The user's password.")
    token: SecretStr | None = Field(default=None, description="A bearer token, instead of a user.")
    verify_tls: bool = Field(default=True, description="Whether its certificate has to be trusted.")
    ca: str | None = Field(default=None, description="The certificate of its authority in PEM, if it is no known one.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for field, problem in prometheus_problems(**self._how()):
            raise ValueError(f"{field}: {problem}")
        return self

    def client(self) -> PrometheusClient:
        """The client that asks it."""
        return PrometheusClient(**self._how())

    def _how(self) -> _Reached:
        return _Reached(
            url=self.url,
            username=self.username or "",
            password=secret_text(self.password),
            token=secret_text(self.token),
            verify_tls=self.verify_tls,
            ca=self.ca or "",
        )


BlockReader = Callable[[], Awaitable[list[SavedBlock]]]
"""Reads the saved block, if there is one. Raises `Unavailable`."""


async def read_source_block() -> list[SavedBlock]:
    """The block `default`, from Prefect.

    Raises:
        PrefectUnavailable: Prefect's API does not answer.
    """
    return await read_saved_blocks([PrometheusSource.get_block_type_slug()], name=BLOCK_NAME)


class PrometheusSources:
    """Finds the Prometheus of a process, as `orchestration.prometheus.PrometheusFinder` describes it.

    With PROMETHEUS_URL, Prefect is not asked. A block that was read once is still used while Prefect does not answer.
    """

    def __init__(self, settings: Settings, *, read: BlockReader | None = read_source_block) -> None:
        self._settings = settings
        self._read = read
        self._known: list[SavedBlock] | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def find(self) -> PrometheusClient | None:
        """The Prometheus of this installation. None means that none is set up.

        Raises:
            BadSetting: the settings or the block are wrong.
            Unavailable: no block was read yet, and Prefect does not answer.
        """
        if self._settings.prometheus_url is not None:
            return await in_own_thread(client_of, self._settings)
        if self._read is None:
            return None
        async with self._reading:
            if time.monotonic() - self._read_at > KNOWN_FOR_SECONDS:
                await self._refresh(self._read)
        if self._known is None:
            raise Unavailable("Whether a Prometheus source is set up is not known: Prefect does not answer")
        return _built(self._known[0]) if self._known else None

    async def _refresh(self, read: BlockReader) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                self._known = await read()
        except (Unavailable, TimeoutError) as error:
            logger.warning("The Prometheus source could not be read from Prefect: %s", error or "it is too slow")
        self._read_at = time.monotonic()  # also after an outage: not every check waits for it


def client_of(settings: Settings) -> PrometheusClient:
    """The Prometheus that the settings name.

    Raises:
        BadSetting: a variable is wrong.
    """
    try:
        ca = "" if settings.prometheus_ca_file is None else read_certificates(settings.prometheus_ca_file)
    except ValueError as error:
        raise BadSetting(f"PROMETHEUS_CA_FILE: {error}") from None
    return PrometheusClient(
        url=settings.prometheus_url or "",
        username=settings.prometheus_username or "",
        password=secret_text(settings.prometheus_password),
        token=secret_text(settings.prometheus_token),
        verify_tls=settings.prometheus_verify_tls,
        ca=ca,
    )


def _built(saved: SavedBlock) -> PrometheusClient:
    try:
        return PrometheusSource.model_validate(saved.data).client()
    except ValidationError as error:
        raise BadSetting(broken_block("Prometheus source", saved, error)) from None
