"""All settings. A process reads them from the environment once, when it starts; nothing is read at import."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AliasGenerator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from orchestration.addresses import AddressList, AddressRules
from orchestration.errors import BadSetting
from orchestration.redaction import redact_text
from orchestration.setting_rules import (
    MAX_SECONDS,
    SecondsBySource,
    is_unambiguous_database_url,
    model_problems,
    prometheus_problems,
    read_certificates,
    web_url_problem,
    without_user,
)

CHECKER_NAMES = (
    *("cpu", "memory", "disk", "network", "process"),
    *("http", "tcp", "tls", "dns", "prometheus"),
)
"""The names of all checkers. `tasks/check/checkers/registry.py` has what they do."""

ROOT_HOME = Path("/var/lib/alert-pipeline")
"""The data folder of root. PostgreSQL runs as its own user there, and must be able to enter this folder."""


class MetricsBackend(StrEnum):
    """Where the monitoring signals are sent."""

    LOGGING = "logging"
    STATSD = "statsd"


class StatsdTags(StrEnum):
    """How tags are sent to StatsD."""

    NONE = "none"
    DOGSTATSD = "dogstatsd"


Names = Annotated[tuple[str, ...], NoDecode]
"""Names separated by commas."""


class Settings(BaseSettings):
    """The settings of one process. `docs/settings.md` lists them in a table.

    A setting's variable is its name in capitals, unless it has a `validation_alias`.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=str.upper),
        use_attribute_docstrings=True,
    )

    max_retries_per_stage: int = Field(3, ge=0, le=20, validation_alias="ORCHESTRATION_MAX_RETRIES_PER_STAGE")
    """Max retries per stage before failing: 3 retries are up to 4 attempts."""
    backoff_factor: float = Field(2.0, ge=0, le=60, validation_alias="ORCHESTRATION_BACKOFF_FACTOR")
    """Exponential backoff factor: factor ** n seconds before retry n (2, 4, 8 s)."""
    intelligence_fallback_enabled: bool = Field(True, validation_alias="ORCHESTRATION_INTELLIGENCE_FALLBACK_ENABLED")
    """Enable fallback when AI fails: the page goes out without the analysis."""
    metrics_backend: MetricsBackend = Field(MetricsBackend.LOGGING, validation_alias="ORCHESTRATION_METRICS_BACKEND")
    """Metrics backend (`logging` or `statsd`)."""
    statsd_host: str = Field("localhost", min_length=1)
    """StatsD host (when using statsd backend)."""
    statsd_port: int = Field(8125, ge=1, le=65535)
    """StatsD port."""
    statsd_prefix: str = Field("pipeline", pattern=r"^[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*$")
    """StatsD metric prefix."""
    otel_exporter_otlp_endpoint: str | None = None
    """Where spans go, over OTLP/HTTP, such as http://127.0.0.1:4318 (OpenTelemetry's variable). None means nowhere."""
    statsd_tags: StatsdTags = StatsdTags.NONE
    """Format of the tags of StatsD metrics: `none`, or `dogstatsd` if the server understands them."""

    stage_timeout_seconds: float = Field(60.0, gt=0, le=3600, validation_alias="ORCHESTRATION_STAGE_TIMEOUT_SECONDS")
    """How long one attempt at a stage may take, in seconds."""
    analyze_timeout_seconds: float = Field(
        20.0, gt=0, le=3600, validation_alias="ORCHESTRATION_ANALYZE_TIMEOUT_SECONDS"
    )
    """How long a page waits for a model, in seconds. Then the local analysis goes out, and the answer follows."""
    analysis_model: str | None = None
    """The name of the model that analyzes, at the API that ANALYSIS_MODEL_API names. None means none."""
    analysis_model_api: Literal["openai", "anthropic", "ollama"] = "openai"
    """The kind of that API: openai (and whatever is compatible with it), anthropic, or ollama."""
    analysis_model_url: str | None = None
    """The base URL of that API, such as https://models.example.com/v1. None means the vendor's own."""
    analysis_model_key: SecretStr | None = None
    """The key of that API."""
    analysis_model_tokens_per_hour: int = Field(500_000, ge=0)
    """How many tokens the model may use in an hour. Then the local analysis stands in."""
    lease_seconds: float = Field(30.0, ge=1, le=3600, validation_alias="ORCHESTRATION_LEASE_SECONDS")
    """How long a run stays with a process that no longer renews its lease, in seconds."""
    max_payload_bytes: int = Field(4 * 1024 * 1024, ge=1024, validation_alias="ORCHESTRATION_MAX_PAYLOAD_BYTES")
    """The largest push that is read, in bytes of JSON. Of a larger one over HTTP, one message says that it came."""
    max_incidents_per_push: int = Field(200, ge=1, validation_alias="ORCHESTRATION_MAX_INCIDENTS_PER_PUSH")
    """If a push has more incidents, those that are not open yet are a storm: one message for all."""
    page_deadline_seconds: float = Field(30.0, ge=0, le=3600, validation_alias="ORCHESTRATION_PAGE_DEADLINE_SECONDS")
    """How long a critical alert may wait before its run is executed without Prefect, in seconds."""
    prefect_patience_seconds: float = Field(3.0, gt=0, le=60, validation_alias="ORCHESTRATION_PREFECT_PATIENCE_SECONDS")
    """Seconds that Prefect may take to start a run; then it is executed without. A poll has 2/3, 10 s at most."""
    prefect_events: bool = Field(True, validation_alias="ORCHESTRATION_PREFECT_EVENTS")
    """Whether Prefect hears of incidents, pages, storms and canaries as events. See prefect.md."""
    retention_days: float = Field(90.0, gt=0, le=36_500, validation_alias="ORCHESTRATION_RETENTION_DAYS")
    """How long finished runs, resolved incidents and their alerts are stored, in days."""
    inbox_warning: int = Field(500, ge=1, validation_alias="ORCHESTRATION_INBOX_WARNING")
    """The number of waiting runs from which the upkeep flow warns that the inbox is long."""
    worker_concurrency: int = Field(8, ge=1, le=1000)
    """How many runs a worker executes at the same time, not counting runs that only wait."""
    worker_grace_seconds: float = Field(30.0, ge=0, le=3600)
    """How long a worker that is stopped waits for its runs to end, in seconds."""
    worker_metrics_port: int | None = Field(None, ge=1, le=65535)
    """Port on 127.0.0.1 where a worker serves its metrics for Prometheus. None means nowhere. See metrics.md."""
    duplicate_window_seconds: float = Field(
        300.0, ge=0, le=MAX_SECONDS, validation_alias="ORCHESTRATION_DUPLICATE_WINDOW_SECONDS"
    )
    """How long an identical push over HTTP is skipped as a duplicate, in seconds. 0 means never."""
    api_auth: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether the HTTP API requires a key: auto (yes, and the local key of ALERT_PIPELINE_HOME is one), "
        "on (yes, and the local key is none), or off.",
    )
    api_sync_timeout_seconds: float = Field(120.0, gt=0, le=3600)
    """How long a synchronous call waits for its runs, in seconds."""
    api_signature_window_seconds: float = Field(300.0, gt=0, le=86400)
    """How far the timestamp of a signed request may be in the past or future, in seconds."""
    api_signature_v1: bool = False
    """Accept signed requests of version 1 too, whose signature covers the body but not the address."""
    api_rate_limit_per_second: float = Field(2000.0, ge=0)
    """How many requests per second one key, or one address without a key, may make. 0 means no limit."""
    api_max_connections: int = Field(2000, ge=1)
    """How many connections the API has at most; a new one closes the one that has waited longest for its caller."""
    api_max_header_bytes: int = Field(64 * 1024, ge=1024)
    """The largest header of a request, in bytes."""
    api_header_timeout_seconds: float = Field(10.0, gt=0, le=3600)
    """How long the header of a request may take to arrive, in seconds."""
    api_public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#@]+(/[A-Za-z0-9_~\-][A-Za-z0-9._~\-]*)*/?$",
        description="The public URL of the API, such as https://alerts.example.com, or https://example.com/pipeline "
        "where a proxy serves it under a path. With https, the cookie of the "
        "admin is sent over https only. None means the URL of each request.",
    )
    admin_session_hours: float = Field(12.0, gt=0, le=720)
    """How long a session of the admin lasts, in hours."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", validation_alias="ORCHESTRATION_LOG_LEVEL")
    """The lowest level that is logged: DEBUG, INFO, WARNING or ERROR. Most signals are INFO."""

    checkers_enabled: Names = CHECKER_NAMES
    """The checkers that may run for alerts, separated by commas. Those run that can look at what the alert is about."""
    checkers_skip: Names = ()
    """The checkers that never run, separated by commas."""
    checkers_skip_all: bool = False
    """Run no checkers: the check stage is skipped."""
    checkers_timeout_seconds: float = Field(5.0, gt=0, le=600)
    """How long one checker may take, in seconds."""
    checkers_allow: Names = ()
    """Private networks and hosts that checks may connect to, such as 10.0.0.0/8,*.corp.example, separated by commas."""
    checkers_deny: Names = ()
    """Networks and hosts that checks never connect to, whatever CHECKERS_ALLOW says, separated by commas."""

    prometheus_url: str | None = None
    """The Prometheus that alerts are checked with. None means the block `default` in Prefect, if there is one."""
    prometheus_username: str | None = None
    """User name at Prometheus."""
    prometheus_password: SecretStr | None = None
    """Password at Prometheus."""
    prometheus_token: SecretStr | None = None
    """Bearer token of Prometheus, instead of a user."""
    prometheus_verify_tls: bool = True
    """Whether the certificate of Prometheus has to be trusted."""
    prometheus_ca_file: str | None = None
    """File with the certificate of the authority of Prometheus in PEM, if it is not a known one."""

    notify_remind_after_seconds: float = Field(14400, ge=0, le=MAX_SECONDS)
    """After how long an incident that still fires is notified again, in seconds. 0 means never."""
    notify_remind_critical_after_seconds: float = Field(3600, ge=0, le=MAX_SECONDS)
    """The same for a critical incident."""
    incident_acknowledge_seconds: float = Field(28800, ge=0, le=MAX_SECONDS)
    """How long an acknowledgement stops the reminders of an incident, in seconds. 0 means until it ends."""
    incident_expire_after_seconds: Annotated[SecondsBySource, NoDecode] = Field(
        SecondsBySource(86400),
        description="After how long an incident that nobody hears of any more counts as over, in seconds; 0 means "
        "never. A source can have its own: 86400,pagerduty=604800.",
    )

    heartbeats_max: int = Field(1000, ge=1, le=100_000)
    """How many heartbeats there may be at the same time."""
    changes_window_minutes: float = Field(120.0, gt=0, le=10_080)
    """How long before an incident a change event may lie that belongs to it, in minutes."""
    changes_dependencies_file: str | None = None
    """CSV file with the columns caller and callee, each the job of a part: who depends on whom. See changes.md."""
    github_webhook_secret: SecretStr | None = None
    """Secret of GitHub's webhooks for /changes/, with which GitHub signs deployments, pushes and workflow runs."""
    canary_channel: str | None = None
    """The channel that the canary goes through. None means that its schedule in Prefect stays off."""
    canary_within_seconds: float = Field(30.0, gt=0, le=3600)
    """How long the canary may take until its channel has accepted it, in seconds."""
    canary_ping_url: SecretStr | None = None
    """What is requested when the canary arrived in time: the address of a dead man's switch outside."""
    canary_api_url: str | None = None
    """The API that the canary goes through. None means http://127.0.0.1:8000, or the queue if none is there."""
    canary_api_key: SecretStr | None = None
    """The API key of the canary, with the scope trigger. None means the local key, on the machine of the API."""

    notify_channels: Names = ()
    """The default channels, separated by commas: names of channel blocks, or drivers."""
    respond_link_hours: float = Field(24.0, gt=0, le=720)
    """How long the link in a message, on whose page a person can acknowledge, snooze or resolve, is good, in hours."""
    notify_give_up_after_seconds: float = Field(86400.0, ge=60, le=30 * 86400)
    """How long a message that a channel refuses is tried again, in seconds. Then it is given up, which is said."""
    slack_webhook_url: SecretStr | None = None
    """Incoming webhook of the slack driver."""
    slack_bot_token: SecretStr | None = None
    """Bot token of the slack driver, with SLACK_CHANNEL."""
    slack_channel: str | None = None
    """Channel of the slack driver's bot, such as #oncall."""
    slack_signing_secret: SecretStr | None = None
    """Signing secret of the Slack app. With it, messages of a bot have buttons; the API and the workers need it."""
    slack_api_url: str = "https://slack.com/api/"
    """Slack's Web API, or a proxy of it."""
    pagerduty_routing_key: SecretStr | None = None
    """Integration key of the pagerduty driver: that of an Events API v2 integration."""
    pagerduty_api_url: str = "https://events.pagerduty.com/v2/enqueue"
    """PagerDuty's Events API v2, such as https://events.eu.pagerduty.com/v2/enqueue."""
    pagerduty_webhook_secret: SecretStr | None = None
    """Secret of PagerDuty's webhook subscription for /pagerduty/webhook/, with which PagerDuty signs its events."""
    sns_confirm_topics: Names = ()
    """Topics of Amazon SNS whose subscriptions are confirmed: ARNs in which * is anything. Empty means none."""
    ntfy_topic: SecretStr | None = None
    """Topic of the ntfy driver."""
    ntfy_url: str = "https://ntfy.sh"
    """Server of the ntfy driver."""
    ntfy_token: SecretStr | None = None
    """Access token of the ntfy driver, if the topic is protected."""
    apprise_url: SecretStr | None = None
    """Apprise URL of the apprise driver, such as discord://webhook_id/webhook_token."""
    smtp_host: str | None = None
    """Mail server of the email driver."""
    smtp_port: int = Field(587, ge=1, le=65535)
    """Port of the mail server."""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    """starttls, tls (from the start), or none."""
    smtp_username: str | None = None
    """User name at the mail server."""
    smtp_password: SecretStr | None = None
    """Password at the mail server."""
    email_from: str = "alert-pipeline@localhost"
    """Sender of the email driver."""
    email_to: Names = ()
    """Recipients of the email driver, separated by commas."""
    webhook_url: SecretStr | None = Field(None, validation_alias="NOTIFY_WEBHOOK_URL")
    """Endpoint of the generic driver."""
    webhook_authorization: SecretStr | None = Field(None, validation_alias="NOTIFY_WEBHOOK_AUTHORIZATION")
    """Authorization header that the generic driver sends."""

    database_url: SecretStr | None = None
    """PostgreSQL of this project: postgresql://user:password@host/database. None means embedded."""
    prefect_api_url: str | None = None
    """Prefect's API (a setting of Prefect). None means embedded."""
    prefect_ui_url: str | None = None
    """Prefect's UI, for links to it (a setting of Prefect). None means PREFECT_API_URL without /api."""
    home: Path = Field(default_factory=lambda: default_home(), validation_alias="ALERT_PIPELINE_HOME")
    """The data folder of the embedded stack."""

    secret_key: SecretStr | None = Field(None, min_length=16, validation_alias="ALERT_PIPELINE_SECRET_KEY")
    """Encrypts channels and signing secrets in the database. None means the key in secret.key."""

    @field_validator(
        *("checkers_enabled", "checkers_skip", "checkers_allow", "checkers_deny", "notify_channels", "email_to"),
        "sns_confirm_topics",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("checkers_enabled", "checkers_skip")
    @classmethod
    def _are_checkers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in CHECKER_NAMES:
                raise ValueError(f"unknown checker {name[:80]!r}; there are: {', '.join(sorted(CHECKER_NAMES))}")
        return value

    @field_validator("prometheus_url", "analysis_model_url", "canary_api_url")
    @classmethod
    def _is_base_url(cls, value: str | None) -> str | None:
        if value is not None and (problem := web_url_problem(value)):
            raise ValueError(problem)
        return value

    @field_validator("otel_exporter_otlp_endpoint", "prefect_ui_url")
    @classmethod
    def _is_base_url_of_others(cls, value: str | None) -> str | None:
        """A variable that other programs read as well, and which may have a user."""
        if value is not None and (problem := web_url_problem(without_user(value))):
            raise ValueError(problem)
        return value

    @field_validator("*")
    @classmethod
    def _has_no_control_characters(cls, value: object, about: ValidationInfo) -> object:
        secret = secret_text(value) if isinstance(value, SecretStr) and about.field_name != "secret_key" else ""
        if not secret.isprintable():
            raise ValueError("expected a value without line breaks and other control characters")
        return value

    @field_validator("checkers_allow", "checkers_deny")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AddressList.parse(value)
        return value

    @property
    def address_rules(self) -> AddressRules:
        """Which addresses checks may connect to."""
        return AddressRules(AddressList.parse(self.checkers_allow), AddressList.parse(self.checkers_deny))

    @field_validator("incident_expire_after_seconds", mode="before")
    @classmethod
    def _by_source(cls, value: object) -> object:
        return value if isinstance(value, SecondsBySource) else SecondsBySource.parse(str(value))

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("expected postgresql://user:password@host/database")
        if value is not None and not is_unambiguous_database_url(value.get_secret_value()):
            # libpq's own message would show a part of the password.
            raise ValueError(
                "it cannot be read as postgresql://user:password@host:port/database: write the characters "
                "@ : / ? # % [ ] and spaces of a user name or password percent-encoded, such as %40 for @"
            )
        return value

    @field_validator("slack_channel", "smtp_host", "smtp_username", "prefect_api_url", mode="after")
    @classmethod
    def _empty_is_unset(cls, value: str | None) -> str | None:
        return value or None

    @property
    def prefect_ui(self) -> str | None:
        """The URL of Prefect's UI, without a slash at the end; None means that it is not known."""
        if self.prefect_ui_url is not None:
            return self.prefect_ui_url.rstrip("/")
        api = re.sub("//[^/@]*@", "//", self.prefect_api_url or "").rstrip("/")
        return api.removesuffix("/api") if api.endswith("/api") else None

    def delays(self, retries: int) -> list[float]:
        """Seconds to wait before each of `retries` retries: `factor ** n` before retry n."""
        return [self.backoff_factor**retry for retry in range(1, retries + 1)]


def default_home() -> Path:
    """The default data folder: `/var/lib/alert-pipeline` for root, else the platform's folder for user data."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return ROOT_HOME
    return Path(platformdirs.user_data_dir("alert-pipeline", appauthor=False))


def load_settings(overrides: dict[str, Any] | None = None) -> Settings:
    """Read the settings from the environment. `overrides`, by field name, take precedence.

    An empty variable counts as unset.

    Raises:
        BadSetting: names each wrong variable, the expected value, and the actual value unless it is a secret.
    """
    try:
        settings = Settings(**{variable_of(name): value for name, value in (overrides or {}).items()})
    except ValidationError as error:
        raise BadSetting("; ".join(_explain_error(problem) for problem in error.errors())) from None
    if problems := list(_contradictions(settings)):
        raise BadSetting("; ".join(dict.fromkeys(_explain(name, expected) for name, expected in problems)))
    return settings


def variable_of(field: str) -> str:
    """The environment variable of a setting."""
    return str(Settings.model_fields[field].validation_alias)


_NEEDS: Mapping[str, str] = {
    **dict.fromkeys(
        ("analysis_model_api", "analysis_model_url", "analysis_model_key", "analysis_model_tokens_per_hour"),
        "analysis_model",
    ),
    **dict.fromkeys(
        (
            *("prometheus_username", "prometheus_password", "prometheus_token"),
            *("prometheus_verify_tls", "prometheus_ca_file"),
        ),
        "prometheus_url",
    ),
    "smtp_username": "smtp_password",
    "smtp_password": "smtp_username",
    "ntfy_token": "ntfy_topic",
    "webhook_authorization": "webhook_url",
}
"""Settings that have no effect without another one."""


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """What of the settings does not fit the others: the field, and what is expected."""
    for name, other in _NEEDS.items():
        if name in settings.model_fields_set and getattr(settings, other) is None:
            yield name, f"it has no effect without {variable_of(other)}: set both, or none"
    yield from _of_prometheus(settings)
    if settings.analysis_model is not None:
        found = model_problems(
            model=settings.analysis_model,
            base_url=settings.analysis_model_url or "",
            api_key=secret_text(settings.analysis_model_key),
        )
        fields = {"model": "analysis_model", "base_url": "analysis_model_url", "api_key": "analysis_model_key"}
        yield from ((fields[name], problem) for name, problem in found)
    if idle := list(settings.address_rules.idle_allowances(settings.checkers_allow)):
        yield "checkers_allow", f"expected what may be checked: {'; '.join(idle)}"


def _of_prometheus(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.prometheus_url is None:
        return
    certificates = ""
    if settings.prometheus_ca_file is not None:
        try:
            certificates = read_certificates(settings.prometheus_ca_file)
        except ValueError as error:
            yield "prometheus_ca_file", str(error)
    found = prometheus_problems(
        url=settings.prometheus_url,
        username=settings.prometheus_username or "",
        password=secret_text(settings.prometheus_password),
        token=secret_text(settings.prometheus_token),
        verify_tls=settings.prometheus_verify_tls,
        ca=certificates,
    )
    for name, problem in found:
        yield "prometheus_ca_file" if name == "ca" else f"prometheus_{name}", problem


def secret_text(secret: SecretStr | None) -> str:
    """The text of a secret; "" if it is not set."""
    return "" if secret is None else secret.get_secret_value()


def _explain_error(problem: ErrorDetails) -> str:
    variable = str(problem["loc"][0]) if problem["loc"] else "settings"
    name = next((name for name in Settings.model_fields if variable_of(name) == variable), variable)
    return _explain(name, problem["msg"].removeprefix("Value error, "))


def _explain(name: str, expected: str) -> str:
    """One wrong setting, with its value unless this is a secret."""
    field = Settings.model_fields.get(name)
    variable = name if field is None else variable_of(name)
    secret = field is not None and "SecretStr" in str(field.annotation)
    shown = "" if secret or variable not in os.environ else f"={redact_text(os.environ[variable], limit=200)!r}"
    return f"{variable}{shown}: {expected[0].lower()}{expected[1:]}"
