"""Every setting, read from the environment once, by whoever starts a process. Nothing is read at import."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from orchestration.errors import BadSetting

ROOT_HOME = Path("/var/lib/alert-pipeline")
"""Where root keeps its data: PostgreSQL runs as a user of its own there and must be able to reach it."""


class MetricsBackend(StrEnum):
    """Where the monitoring signals go."""

    LOGGING = "logging"
    STATSD = "statsd"


Names = Annotated[tuple[str, ...], NoDecode]
"""Names separated by commas."""


class Settings(BaseSettings):
    """The settings of one process. `docs/settings.md` has them as a table."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    max_retries_per_stage: int = Field(
        3,
        ge=0,
        le=20,
        validation_alias="ORCHESTRATION_MAX_RETRIES_PER_STAGE",
        description="Max retries per stage before failing: 3 retries are up to 4 attempts.",
    )
    backoff_factor: float = Field(
        2.0,
        ge=0,
        le=60,
        allow_inf_nan=False,
        validation_alias="ORCHESTRATION_BACKOFF_FACTOR",
        description="Exponential backoff factor: factor ** n seconds before retry n (2, 4, 8 s).",
    )
    intelligence_fallback_enabled: bool = Field(
        True,
        validation_alias="ORCHESTRATION_INTELLIGENCE_FALLBACK_ENABLED",
        description="Enable fallback when AI fails: the page goes out without the analysis.",
    )
    metrics_backend: MetricsBackend = Field(
        MetricsBackend.LOGGING,
        validation_alias="ORCHESTRATION_METRICS_BACKEND",
        description="Metrics backend (`logging` or `statsd`).",
    )
    statsd_host: str = Field(
        "localhost",
        min_length=1,
        validation_alias="STATSD_HOST",
        description="StatsD host (when using statsd backend).",
    )
    statsd_port: int = Field(8125, ge=1, le=65535, validation_alias="STATSD_PORT", description="StatsD port.")
    statsd_prefix: str = Field(
        "pipeline",
        pattern=r"^[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*$",
        validation_alias="STATSD_PREFIX",
        description="StatsD metric prefix.",
    )

    stage_timeout_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        validation_alias="ORCHESTRATION_STAGE_TIMEOUT_SECONDS",
        description="How long one attempt at a stage may take, in seconds.",
    )
    lease_seconds: float = Field(
        30.0,
        ge=1,
        le=3600,
        validation_alias="ORCHESTRATION_LEASE_SECONDS",
        description="How long a run belongs to a process that has stopped answering, in seconds.",
    )
    max_payload_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        validation_alias="ORCHESTRATION_MAX_PAYLOAD_BYTES",
        description="The largest push that is read, in bytes of JSON.",
    )
    page_deadline_seconds: float = Field(
        30.0,
        ge=0,
        le=3600,
        validation_alias="ORCHESTRATION_PAGE_DEADLINE_SECONDS",
        description="How long a critical alert may wait for its turn before it is run without Prefect, in seconds.",
    )
    prefect_patience_seconds: float = Field(
        3.0,
        gt=0,
        le=60,
        validation_alias="ORCHESTRATION_PREFECT_PATIENCE_SECONDS",
        description="How long Prefect may take to start a run before it is run without Prefect, in seconds.",
    )
    retention_days: float = Field(
        90.0,
        gt=0,
        validation_alias="ORCHESTRATION_RETENTION_DAYS",
        description="How long finished runs, resolved incidents and their alerts are kept, in days.",
    )
    inbox_warning: int = Field(
        500,
        ge=1,
        validation_alias="ORCHESTRATION_INBOX_WARNING",
        description="How many waiting runs make the upkeep flow warn that the inbox is deep.",
    )
    worker_concurrency: int = Field(
        8,
        ge=1,
        le=1000,
        validation_alias="WORKER_CONCURRENCY",
        description="How many runs a worker works on at once.",
    )
    worker_grace_seconds: float = Field(
        30.0,
        ge=0,
        le=3600,
        validation_alias="WORKER_GRACE_SECONDS",
        description="How long a worker that is told to end lets its runs go on, in seconds.",
    )
    duplicate_window_seconds: float = Field(
        300.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias="ORCHESTRATION_DUPLICATE_WINDOW_SECONDS",
        description="How long an identical repeat over HTTP is skipped at the door, in seconds. 0: never.",
    )
    api_auth: Literal["auto", "on", "off"] = Field(
        "auto",
        validation_alias="API_AUTH",
        description="Whether the HTTP API asks for a key: on, off, or auto (on, but for calls from this very machine "
        "to an API that listens on loopback only).",
    )
    api_sync_timeout_seconds: float = Field(
        120.0,
        gt=0,
        le=3600,
        validation_alias="API_SYNC_TIMEOUT_SECONDS",
        description="How long a synchronous call waits for its runs, in seconds.",
    )
    api_signature_window_seconds: float = Field(
        300.0,
        gt=0,
        le=86400,
        validation_alias="API_SIGNATURE_WINDOW_SECONDS",
        description="How old the timestamp of a signed request may be, in seconds, and how far in the future.",
    )
    api_rate_limit_per_second: float = Field(
        2000.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias="API_RATE_LIMIT_PER_SECOND",
        description="Requests per second that one key, or one address without a key, may make. 0: any number.",
    )
    api_public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#@]+/?$",
        validation_alias="API_PUBLIC_URL",
        description="Where people reach the API, such as https://alerts.example.com: with https, the admin's cookie "
        "goes over https only. None: as the request came.",
    )
    admin_session_hours: float = Field(
        12.0,
        gt=0,
        le=720,
        validation_alias="ADMIN_SESSION_HOURS",
        description="How long one is signed in to the admin, in hours.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        validation_alias="ORCHESTRATION_LOG_LEVEL",
        description="What is logged: DEBUG, INFO, WARNING or ERROR. The signals of the logging backend are INFO.",
    )

    checkers_enabled: Names = Field(
        ("cpu", "memory", "disk", "network", "process"),
        validation_alias="CHECKERS_ENABLED",
        description="The checkers that run for each alert, separated by commas.",
    )
    checkers_skip: Names = Field(
        (), validation_alias="CHECKERS_SKIP", description="Checkers that do not run, separated by commas."
    )
    checkers_skip_all: bool = Field(
        False, validation_alias="CHECKERS_SKIP_ALL", description="Run no checker: the check stage is skipped."
    )
    checkers_timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=600,
        validation_alias="CHECKERS_TIMEOUT_SECONDS",
        description="How long one checker may take, in seconds.",
    )

    notify_channels: Names = Field(
        (),
        validation_alias="NOTIFY_CHANNELS",
        description="The default channels, separated by commas: names of channel blocks, or drivers.",
    )
    slack_webhook_url: SecretStr | None = Field(
        None, validation_alias="SLACK_WEBHOOK_URL", description="Incoming webhook of the slack driver."
    )
    slack_bot_token: SecretStr | None = Field(
        None, validation_alias="SLACK_BOT_TOKEN", description="Bot token of the slack driver, with SLACK_CHANNEL."
    )
    slack_channel: str | None = Field(
        None, validation_alias="SLACK_CHANNEL", description="Channel of the slack driver's bot, such as #oncall."
    )
    slack_api_url: str = Field(
        "https://slack.com/api/", validation_alias="SLACK_API_URL", description="Slack's Web API, or a proxy of it."
    )
    smtp_host: str | None = Field(None, validation_alias="SMTP_HOST", description="Mail server of the email driver.")
    smtp_port: int = Field(587, ge=1, le=65535, validation_alias="SMTP_PORT", description="Port of the mail server.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", validation_alias="SMTP_SECURITY", description="starttls, tls (from the start), or none."
    )
    smtp_username: str | None = Field(None, validation_alias="SMTP_USERNAME", description="User at the mail server.")
    smtp_password: SecretStr | None = Field(
        None, validation_alias="SMTP_PASSWORD", description="Password at the mail server."
    )
    email_from: str = Field(
        "alert-pipeline@localhost", validation_alias="EMAIL_FROM", description="Sender of the email driver."
    )
    email_to: Names = Field(
        (), validation_alias="EMAIL_TO", description="Recipients of the email driver, separated by commas."
    )
    webhook_url: SecretStr | None = Field(
        None, validation_alias="NOTIFY_WEBHOOK_URL", description="Endpoint of the generic driver."
    )
    webhook_authorization: SecretStr | None = Field(
        None,
        validation_alias="NOTIFY_WEBHOOK_AUTHORIZATION",
        description="Authorization header that the generic driver sends.",
    )

    database_url: SecretStr | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="PostgreSQL of this project: postgresql://user:password@host/database. None: the embedded one.",
    )
    prefect_api_url: str | None = Field(
        None,
        validation_alias="PREFECT_API_URL",
        description="Prefect's API (a setting of Prefect's own). None: the embedded server.",
    )
    prefect_ui_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s]+$",
        validation_alias="PREFECT_UI_URL",
        description="Prefect's UI, for links to it (a setting of Prefect's own). None: PREFECT_API_URL without /api.",
    )
    home: Path = Field(
        default_factory=lambda: default_home(),
        validation_alias="ALERT_PIPELINE_HOME",
        description="Where the embedded stack keeps its data.",
    )

    secret_key: SecretStr | None = Field(
        None,
        min_length=16,
        validation_alias="ALERT_PIPELINE_SECRET_KEY",
        description="Seals channels and signing secrets in the database. None: the key in secret.key, see below.",
    )

    @field_validator("checkers_enabled", "checkers_skip", "notify_channels", "email_to", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("expected postgresql://user:password@host/database")
        return value

    @field_validator("slack_channel", "smtp_host", "smtp_username", "prefect_api_url", mode="after")
    @classmethod
    def _empty_is_unset(cls, value: str | None) -> str | None:
        return value or None

    @property
    def prefect_ui(self) -> str | None:
        """Where Prefect's UI is, without a slash at the end; None: not known."""
        if self.prefect_ui_url is not None:
            return self.prefect_ui_url.rstrip("/")
        api = re.sub("//[^/@]*@", "//", self.prefect_api_url or "").rstrip("/")
        return api.removesuffix("/api") if api.endswith("/api") else None

    @property
    def retry_delays(self) -> list[float]:
        """Seconds to wait before retry 1, 2, …: `factor ** n`."""
        return self.delays(self.max_retries_per_stage)

    def delays(self, retries: int) -> list[float]:
        """The same, for another number of retries."""
        return [self.backoff_factor**retry for retry in range(1, retries + 1)]


def default_home() -> Path:
    """`/var/lib/alert-pipeline` for root, else the platform's folder for a user's data."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return ROOT_HOME
    return Path(platformdirs.user_data_dir("alert-pipeline", appauthor=False))


def load_settings(overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of this process, from the environment; `overrides` come first, by field name.

    An empty variable counts as unset.

    Raises:
        BadSetting: naming each wrong variable, what was expected, and the value if it is no secret.
    """
    try:
        return Settings(**{_variable(name): value for name, value in (overrides or {}).items()})
    except ValidationError as error:
        raise BadSetting("; ".join(_explain(problem) for problem in error.errors())) from None


def _variable(field: str) -> str:
    return str(Settings.model_fields[field].validation_alias)


def _explain(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    field = next((f for f in Settings.model_fields.values() if f.validation_alias == name), None)
    secret = field is not None and "SecretStr" in str(field.annotation)
    value = "" if secret or name not in os.environ else f"={os.environ[name]!r}"
    expected = problem["msg"].removeprefix("Value error, ")
    return f"{name}{value}: {expected[0].lower()}{expected[1:]}"
