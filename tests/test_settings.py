"""The settings: the variables of the specification, wrong values, and their sources."""

from __future__ import annotations

from typing import Any

import certifi
import pytest

from orchestration.errors import BadSetting
from orchestration.settings import CHECKER_NAMES, MetricsBackend, Settings, load_settings
from tasks.check.checkers.registry import CHECKERS

OF_THE_SPEC: dict[str, tuple[str, Any]] = {
    "ORCHESTRATION_MAX_RETRIES_PER_STAGE": ("max_retries_per_stage", 3),
    "ORCHESTRATION_BACKOFF_FACTOR": ("backoff_factor", 2.0),
    "ORCHESTRATION_INTELLIGENCE_FALLBACK_ENABLED": ("intelligence_fallback_enabled", True),
    "ORCHESTRATION_METRICS_BACKEND": ("metrics_backend", MetricsBackend.LOGGING),
    "STATSD_HOST": ("statsd_host", "localhost"),
    "STATSD_PORT": ("statsd_port", 8125),
    "STATSD_PREFIX": ("statsd_prefix", "pipeline"),
}

SECRET = "hunter2-xyzzy"

WRONG = [
    ("ORCHESTRATION_MAX_RETRIES_PER_STAGE", "many", "integer"),
    ("ORCHESTRATION_MAX_RETRIES_PER_STAGE", "-1", "greater than or equal to 0"),
    ("ORCHESTRATION_MAX_RETRIES_PER_STAGE", "2.5", "integer"),
    ("ORCHESTRATION_MAX_RETRIES_PER_STAGE", "1000", "less than or equal to 20"),
    ("ORCHESTRATION_BACKOFF_FACTOR", "fast", "number"),
    ("ORCHESTRATION_BACKOFF_FACTOR", "-2", "greater than or equal to 0"),
    ("ORCHESTRATION_BACKOFF_FACTOR", "nan", "finite"),
    ("ORCHESTRATION_BACKOFF_FACTOR", "inf", "finite"),
    ("ORCHESTRATION_INTELLIGENCE_FALLBACK_ENABLED", "perhaps", "boolean"),
    ("ORCHESTRATION_METRICS_BACKEND", "graphite", "'logging' or 'statsd'"),
    ("STATSD_PORT", "0", "greater than or equal to 1"),
    ("STATSD_PORT", "70000", "less than or equal to 65535"),
    ("STATSD_PORT", "http", "integer"),
    ("STATSD_PREFIX", "a prefix", "pattern"),
    ("STATSD_PREFIX", "trailing.", "pattern"),
    ("STATSD_TAGS", "influx", "'none' or 'dogstatsd'"),
    ("ORCHESTRATION_STAGE_TIMEOUT_SECONDS", "0", "greater than 0"),
    ("ORCHESTRATION_LEASE_SECONDS", "0.5", "greater than or equal to 1"),
    ("ORCHESTRATION_MAX_PAYLOAD_BYTES", "10", "greater than or equal to 1024"),
    ("ORCHESTRATION_LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ("CHECKERS_SKIP_ALL", "sometimes", "boolean"),
    ("CHECKERS_TIMEOUT_SECONDS", "0", "greater than 0"),
    ("CHECKERS_TIMEOUT_SECONDS", "nan", "finite"),
    ("CHECKERS_ENABLED", "cpu,nope", "unknown checker 'nope'; there are: cpu, disk"),
    ("CHECKERS_SKIP", "all", "unknown checker 'all'"),
    ("CHECKERS_ALLOW", "169.254.169.254", "169.254.169.254/32 is the metadata service of a cloud"),
    ("CHECKERS_ALLOW", "10.0.0.0/8,fe80::/64", "fe80::/64 is a link-local address"),
    ("CHECKERS_ALLOW", "::ffff:169.254.169.254", "metadata service"),
    ("CHECKERS_ALLOW", "0.0.0.0/8", "never checked"),
    ("CHECKERS_ALLOW", "db-1,Metadata.google.internal.", "metadata.google.internal is the metadata service"),
    ("ORCHESTRATION_RETENTION_DAYS", "inf", "finite"),
    ("ORCHESTRATION_RETENTION_DAYS", "1e300", "less than or equal to 36500"),
    ("INCIDENT_EXPIRE_AFTER_SECONDS", "86400,zabbix=1e300", "expected seconds"),
    ("PROMETHEUS_URL", "http://x:99999", "a port from 1 to 65535"),
    ("PROMETHEUS_URL", "http://x:0", "a port from 1 to 65535"),
    ("PROMETHEUS_URL", "http://x?a=1", "without a query"),
    ("PROMETHEUS_URL", "prometheus:9090", "http:// or https:// URL"),
    ("CANARY_API_URL", "http://x:99999", "a port from 1 to 65535"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "http:// or https:// URL"),
    ("SMTP_PORT", "smtp", "integer"),
    ("SMTP_SECURITY", "ssl", "'starttls', 'tls' or 'none'"),
]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)


def test_the_variables_of_the_spec_keep_their_names_and_defaults() -> None:
    settings = load_settings()

    for variable, (field, default) in OF_THE_SPEC.items():
        assert Settings.model_fields[field].validation_alias == variable
        assert getattr(settings, field) == default


def test_the_environment_sets_the_variables_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in {
        "ORCHESTRATION_MAX_RETRIES_PER_STAGE": "5",
        "ORCHESTRATION_BACKOFF_FACTOR": "1.5",
        "ORCHESTRATION_INTELLIGENCE_FALLBACK_ENABLED": "0",
        "ORCHESTRATION_METRICS_BACKEND": "statsd",
        "STATSD_HOST": "metrics.example.net",
        "STATSD_PORT": "9125",
        "STATSD_PREFIX": "ops.alerts",
    }.items():
        monkeypatch.setenv(variable, text)

    settings = load_settings()

    assert {field: getattr(settings, field) for field, _ in OF_THE_SPEC.values()} == {
        "max_retries_per_stage": 5,
        "backoff_factor": 1.5,
        "intelligence_fallback_enabled": False,
        "metrics_backend": MetricsBackend.STATSD,
        "statsd_host": "metrics.example.net",
        "statsd_port": 9125,
        "statsd_prefix": "ops.alerts",
    }


@pytest.mark.parametrize(("variable", "value", "expected"), WRONG)
def test_a_wrong_value_names_its_variable_and_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(BadSetting) as wrong:
        load_settings()

    assert str(wrong.value).startswith(f"{variable}='{value}': ")
    assert expected in str(wrong.value)
    assert len(str(wrong.value).splitlines()) == 1


PROMETHEUS = {"PROMETHEUS_URL": "https://prometheus.example.com"}
MODEL = {"ANALYSIS_MODEL": "gpt-5-mini"}
DOES_NOT_FIT: list[tuple[dict[str, str], str]] = [
    ({**PROMETHEUS, "PROMETHEUS_USERNAME": "u"}, "PROMETHEUS_PASSWORD: expected one"),
    ({**PROMETHEUS, "PROMETHEUS_PASSWORD": SECRET}, "PROMETHEUS_USERNAME: expected one"),
    (
        {**PROMETHEUS, "PROMETHEUS_USERNAME": "u", "PROMETHEUS_PASSWORD": SECRET, "PROMETHEUS_TOKEN": SECRET},
        "PROMETHEUS_TOKEN: expected a token, or a user name with a password, and not both",
    ),
    ({**PROMETHEUS, "PROMETHEUS_TOKEN": f"{SECRET}\nb"}, "PROMETHEUS_TOKEN: expected a value without line breaks"),
    ({**PROMETHEUS, "PROMETHEUS_TOKEN": f"{SECRET}ö"}, "PROMETHEUS_TOKEN: expected letters, digits and signs"),
    ({**PROMETHEUS, "PROMETHEUS_CA_FILE": "/nonexistent"}, "PROMETHEUS_CA_FILE='/nonexistent': expected a file"),
    ({**PROMETHEUS, "PROMETHEUS_CA_FILE": __file__}, "expected certificates in PEM"),
    ({**PROMETHEUS, "PROMETHEUS_CA_FILE": "/dev/zero"}, "PROMETHEUS_CA_FILE='/dev/zero': expected a file"),
    ({"PROMETHEUS_TOKEN": SECRET}, "PROMETHEUS_TOKEN: it has no effect without PROMETHEUS_URL"),
    ({"PROMETHEUS_VERIFY_TLS": "0"}, "PROMETHEUS_VERIFY_TLS='0': it has no effect without PROMETHEUS_URL"),
    ({"ANALYSIS_MODEL_KEY": SECRET}, "ANALYSIS_MODEL_KEY: it has no effect without ANALYSIS_MODEL"),
    ({"ANALYSIS_MODEL_URL": "http://m/v1"}, "ANALYSIS_MODEL_URL='http://m/v1': it has no effect without"),
    ({"ANALYSIS_MODEL_API": "ollama"}, "ANALYSIS_MODEL_API='ollama': it has no effect without"),
    ({**MODEL, "ANALYSIS_MODEL_URL": "http://m/v1?x=1"}, "ANALYSIS_MODEL_URL='http://m/v1?x=1': expected a URL"),
    ({**MODEL, "ANALYSIS_MODEL_KEY": f"{SECRET} "}, "ANALYSIS_MODEL_KEY: expected letters, digits and signs"),
    ({"ANALYSIS_MODEL": " "}, "ANALYSIS_MODEL=' ': expected a name"),
    ({"SMTP_HOST": "mail", "EMAIL_TO": "a@example.com", "SMTP_USERNAME": "u"}, "SMTP_USERNAME='u': it has no effect"),
    ({"NTFY_TOKEN": SECRET}, "NTFY_TOKEN: it has no effect without NTFY_TOPIC"),
    ({"NOTIFY_WEBHOOK_AUTHORIZATION": SECRET}, "NOTIFY_WEBHOOK_AUTHORIZATION: it has no effect without"),
    ({"CHECKERS_ALLOW": "10.1.0.0/16", "CHECKERS_DENY": "10.0.0.0/8"}, "10.1.0.0/16 is in CHECKERS_DENY"),
    ({"PROMETHEUS_URL": f"http://u:{SECRET}@p"}, "PROMETHEUS_URL='http://"),
]


@pytest.mark.parametrize(("environment", "expected"), DOES_NOT_FIT)
def test_settings_that_do_not_fit_each_other_stop_the_start_in_one_line(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)

    with pytest.raises(BadSetting) as wrong:
        load_settings()

    assert expected in str(wrong.value)
    assert SECRET not in str(wrong.value)
    assert len(str(wrong.value).splitlines()) == 1


def test_settings_that_fit_each_other_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = certifi.where()
    for variable, value in {
        **PROMETHEUS,
        "PROMETHEUS_USERNAME": "u",
        "PROMETHEUS_PASSWORD": SECRET,
        "PROMETHEUS_CA_FILE": authority,
        **MODEL,
        "ANALYSIS_MODEL_URL": "http://[::1]:8864/v1",
        "CHECKERS_ALLOW": "10.0.0.0/8,0.0.0.0/0,::/0,*.internal,localhost,127.0.0.1",
        "CHECKERS_DENY": "10.0.9.0/24",
    }.items():
        monkeypatch.setenv(variable, value)

    assert load_settings().prometheus_ca_file == authority


def test_the_settings_know_every_checker() -> None:
    assert set(CHECKER_NAMES) == set(CHECKERS)


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATSD_PORT", "x")
    monkeypatch.setenv("ORCHESTRATION_BACKOFF_FACTOR", "y")

    with pytest.raises(BadSetting, match=r"(?=.*STATSD_PORT='x')(?=.*ORCHESTRATION_BACKOFF_FACTOR='y')"):
        load_settings()


def test_a_wrong_secret_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"mysql://me:{SECRET}@db/alerts")

    with pytest.raises(BadSetting, match="DATABASE_URL: expected postgresql://") as wrong:
        load_settings()

    assert SECRET not in str(wrong.value)


def test_settings_never_show_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "SLACK_WEBHOOK_URL",
        "SLACK_BOT_TOKEN",
        "SMTP_PASSWORD",
        "NOTIFY_WEBHOOK_URL",
        "NOTIFY_WEBHOOK_AUTHORIZATION",
        "PAGERDUTY_ROUTING_KEY",
        "NTFY_TOPIC",
        "NTFY_TOKEN",
        "APPRISE_URL",
    ):
        monkeypatch.setenv(variable, SECRET)
    monkeypatch.setenv("SMTP_USERNAME", "ada")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{SECRET}@db/alerts")

    settings = load_settings()

    assert SECRET not in repr(settings)
    assert SECRET not in settings.model_dump_json()


def test_variables_that_are_not_ours_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    ours = {str(field.validation_alias) for field in Settings.model_fields.values()}
    for field in Settings.model_fields:
        # HOME is the user's, below which an ordinary user's data rightly is; it has the next test.
        if field.upper() not in ours and field != "home":
            monkeypatch.setenv(field.upper(), "17")
    monkeypatch.setenv("PREFIX", "x")

    assert load_settings() == before


def test_the_home_of_the_user_is_not_our_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/tmp/somebody")
    monkeypatch.setenv("ALERT_PIPELINE_HOME", "/tmp/ours")

    assert str(load_settings().home) == "/tmp/ours"


@pytest.mark.parametrize(
    "variable", [*OF_THE_SPEC, "DATABASE_URL", "PREFECT_API_URL", "ALERT_PIPELINE_HOME", "CHECKERS_ENABLED"]
)
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    unset = load_settings()
    monkeypatch.setenv(variable, "")

    assert load_settings() == unset


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKERS_ENABLED", "cpu, disk ,,memory")

    assert load_settings().checkers_enabled == ("cpu", "disk", "memory")


def test_retries_wait_two_four_and_eight_seconds() -> None:
    assert load_settings().delays(3) == [2, 4, 8]


def test_without_retries_there_is_no_wait() -> None:
    assert load_settings().delays(0) == []


def test_what_a_caller_sets_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATSD_PORT", "9999")

    assert load_settings({"statsd_port": 1234}).statsd_port == 1234


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://alerts:p@{secret}@db.internal/x",
        "postgresql://alerts:{secret} pw77@db.internal/x",
        "postgresql://alerts:a/{secret}@db.internal/x",
        "postgresql://alerts:12/{secret}@db.internal/x",
        "postgresql://alerts:12?{secret}@db.internal/x",
        "postgresql://alerts:#{secret}@db.internal/x",
        "postgresql://alerts:a%DB{secret}@db.internal/x",
        "postgresql://alerts:a%zz{secret}@db.internal/x",
        "postgresql://alerts:[{secret}@db.internal:x/x",
        "postgresql://alerts:a%00{secret}@db.internal/x",
    ],
)
def test_a_database_url_that_can_be_misread_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url.format(secret="DBPLANTss"))
    with pytest.raises(BadSetting, match="percent-encoded, such as %40 for @") as wrong:
        load_settings()
    assert "DBPLANT" not in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:p%40ss%2Fword@db.internal:5432/alerts?sslmode=require",
        "postgresql://me@/alerts?host=/var/lib/alert-pipeline/postgres/run",
        "postgresql://db1:5432,db2:5433/alerts?target_session_attrs=read-write",
        "postgres://me:secret@[::1]:5432/alerts",
        "postgresql:///alerts",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/alerts",
    ],
)
def test_a_plain_database_url_is_accepted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert load_settings().database_url is not None
