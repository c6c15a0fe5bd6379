"""Monitoring signals: their names, tags and forms, and that an outage of the monitoring never costs an alert."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields

import pytest

from orchestration.settings import Settings, StatsdTags, load_settings
from orchestration.signals import (
    Field,
    LoggingBackend,
    Signal,
    Signals,
    StatsdBackend,
    Tags,
    logfmt,
    make_signals,
)
from tests.conftest import RecordedSignals
from tests.receivers import statsd_receiver

RUN = Tags(
    trace_id="t1",
    run_id="r1",
    incident_id="7",
    source="alertmanager",
    alert_fingerprint="f1",
    environment="staging",
)
EIGHT = {
    "trace_id": "t1",
    "run_id": "r1",
    "incident_id": "7",
    "stage": "check",
    "source": "alertmanager",
    "alert_fingerprint": "f1",
    "environment": "staging",
    "attempt": 2,
}
UNRESOLVABLE = "no-such-host.invalid"


class BrokenBackend:
    """Monitoring that is down."""

    def emit(self, signal: Signal, tags: Tags, fields: Mapping[str, Field]) -> None:
        raise ConnectionError("statsd at 10.0.0.9 is gone, token=s3cr3t-value")


@pytest.fixture
def signal_lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="alert_pipeline")
    return caplog


def statsd_settings(**more: object) -> Settings:
    return load_settings({"metrics_backend": "statsd", **more})


def test_there_are_the_six_signals_of_the_spec() -> None:
    assert {signal.value for signal in Signal} == {
        "pipeline.stage.started",
        "pipeline.stage.succeeded",
        "pipeline.stage.failed",
        "pipeline.stage.retrying",
        "pipeline.started",
        "pipeline.completed",
    }


def test_a_signal_has_eight_tags() -> None:
    assert asdict(RUN.at("check", 2)) == EIGHT
    assert len(fields(Tags)) == 8


def test_the_runs_own_signals_are_of_the_stage_pipeline() -> None:
    assert RUN.stage == "pipeline"


@pytest.mark.parametrize("signal", Signal)
def test_every_log_line_has_the_signal_and_all_tags(signal: Signal, signal_lines: pytest.LogCaptureFixture) -> None:
    Signals([LoggingBackend()]).emit(signal, RUN.at("check", 2), duration_ms=12.34, error_type=None)

    (line,) = [record.getMessage() for record in signal_lines.records]
    assert line == (
        f"signal={signal.value} trace_id=t1 run_id=r1 incident_id=7 stage=check source=alertmanager "
        "alert_fingerprint=f1 environment=staging attempt=2 duration_ms=12.3"
    )


def test_an_unknown_tag_is_there_and_empty(signal_lines: pytest.LogCaptureFixture) -> None:
    Signals([LoggingBackend()]).emit(Signal.STARTED, Tags(trace_id="t1", run_id="r1"))

    assert 'incident_id=""' in signal_lines.text
    assert 'alert_fingerprint=""' in signal_lines.text


def test_failures_and_retries_are_warnings(signal_lines: pytest.LogCaptureFixture) -> None:
    signals = Signals([LoggingBackend()])
    for signal in Signal:
        signals.emit(signal, RUN)

    assert {record.levelname: record.name for record in signal_lines.records} == {
        "INFO": "alert_pipeline.signals",
        "WARNING": "alert_pipeline.signals",
    }
    warned = [record.getMessage() for record in signal_lines.records if record.levelno == logging.WARNING]
    assert ["stage.failed" in line or "stage.retrying" in line for line in warned] == [True, True]


BARE_PROGRAM = """
from orchestration.settings import load_settings
from orchestration.signals import Signal, Tags, make_signals
make_signals(load_settings()).emit(Signal.STARTED, Tags(trace_id="t1", run_id="r1"))
"""

PROGRAM_WITH_LOGGING = (
    """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="mine: %(message)s")
"""
    + BARE_PROGRAM
)


def run_program(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)


def test_signals_are_visible_in_a_program_that_has_not_configured_logging() -> None:
    ended = run_program(BARE_PROGRAM)

    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert " INFO signal=pipeline.started trace_id=t1 run_id=r1 " in line


def test_a_program_that_has_configured_logging_gets_them_its_own_way_once() -> None:
    ended = run_program(PROGRAM_WITH_LOGGING)

    assert ended.stderr == ""
    (line,) = ended.stdout.splitlines()
    assert line.startswith("mine: signal=pipeline.started ")


def test_statsd_counts_signals_and_times_durations() -> None:
    check = RUN.at("check", 1)
    with statsd_receiver() as receiver:
        signals = make_signals(statsd_settings(statsd_host=receiver.host, statsd_port=receiver.port))
        signals.emit(Signal.STARTED, RUN)
        signals.emit(Signal.STAGE_STARTED, check)
        signals.emit(Signal.STAGE_FAILED, check, duration_ms=20.5, error_type="Unavailable")
        signals.emit(Signal.STAGE_RETRYING, check, error_type="Unavailable")
        signals.emit(Signal.STAGE_SUCCEEDED, check, duration_ms=12)
        signals.emit(Signal.COMPLETED, RUN, duration_ms=250.0, status="notified")
        lines = receiver.wait_for(10)

    assert lines == [
        "pipeline.started.alertmanager:1|c",
        "pipeline.stage.started.check.alertmanager:1|c",
        "pipeline.stage.failed.check.alertmanager:1|c",
        "pipeline.stage.duration.check.alertmanager:20.500000|ms",
        "pipeline.stage.retrying.check.alertmanager:1|c",
        "pipeline.stage.succeeded.check.alertmanager:1|c",
        "pipeline.stage.duration.check.alertmanager:12.000000|ms",
        "pipeline.completed.alertmanager:1|c",
        "pipeline.completed.notified.alertmanager:1|c",
        "pipeline.duration.alertmanager:250.000000|ms",
    ]


def test_statsd_counts_fallbacks_and_engines() -> None:
    with statsd_receiver() as receiver:
        signals = make_signals(statsd_settings(statsd_host=receiver.host, statsd_port=receiver.port))
        signals.emit(Signal.STAGE_SUCCEEDED, RUN.at("analyze", 4), fallback=True, engine="prefect")
        signals.emit(Signal.COMPLETED, RUN, status="notified", fallback=True, engine="direct")
        lines = receiver.wait_for(5)

    assert lines == [
        "pipeline.stage.succeeded.analyze.alertmanager:1|c",
        "pipeline.stage.fallback.analyze.alertmanager:1|c",
        "pipeline.completed.alertmanager:1|c",
        "pipeline.completed.notified.alertmanager:1|c",
        "pipeline.engine.direct.alertmanager:1|c",
    ]


def test_dogstatsd_has_the_names_of_the_signals_and_all_eight_tags() -> None:
    with statsd_receiver() as receiver:
        settings = statsd_settings(statsd_host=receiver.host, statsd_port=receiver.port, statsd_tags="dogstatsd")
        signals = make_signals(settings)
        signals.emit(Signal.STAGE_SUCCEEDED, RUN.at("check", 2), duration_ms=12, fallback=True, engine="prefect")
        signals.emit(Signal.COMPLETED, RUN, duration_ms=250.0, status="notified", engine="direct")
        lines = receiver.wait_for(4)

    eight = "#" + ",".join(f"{name}:{value}" for name, value in EIGHT.items())
    own = eight.replace("stage:check", "stage:pipeline").replace("attempt:2", "attempt:1")
    assert lines == [
        f"pipeline.stage.succeeded:1|c|{eight},engine:prefect,fallback:true",
        f"pipeline.stage.duration:12.000000|ms|{eight},engine:prefect,fallback:true",
        f"pipeline.completed:1|c|{own},status:notified,engine:direct",
        f"pipeline.duration:250.000000|ms|{own},status:notified,engine:direct",
    ]


def test_a_hostile_tag_stays_one_tag_of_one_metric_and_an_unknown_one_is_left_out() -> None:
    tags = Tags(trace_id="a,b|c\nevil:9|g", run_id="r", source="token=s3cr3t-value")
    with statsd_receiver() as receiver:
        backend = StatsdBackend(receiver.host, receiver.port, "pipeline", StatsdTags.DOGSTATSD)
        backend.emit(Signal.STARTED, tags, {})
        (line,) = receiver.wait_for(1)

    assert line == (
        "pipeline.started:1|c|#trace_id:a_b_c_evil:9_g,run_id:r,stage:pipeline,source:token__redacted_,"
        "environment:production,attempt:1"
    )


def test_the_prefix_is_the_operators_and_comes_once() -> None:
    with statsd_receiver() as receiver:
        StatsdBackend(receiver.host, receiver.port, "ops.pipeline").emit(Signal.STAGE_STARTED, RUN.at("notify", 1), {})

        assert receiver.wait_for(1) == ["ops.pipeline.stage.started.notify.alertmanager:1|c"]


def test_a_hostile_source_stays_one_part_of_the_metric() -> None:
    tags = Tags(trace_id="t", run_id="r", source="a.b:1|c\nevil:9|g", stage="check")
    with statsd_receiver() as receiver:
        StatsdBackend(receiver.host, receiver.port, "pipeline").emit(Signal.STAGE_STARTED, tags, {})

        assert receiver.wait_for(1) == ["pipeline.stage.started.check.a_b_1_c_evil_9_g:1|c"]


def test_a_backend_that_raises_disturbs_neither_the_run_nor_the_other_backends(
    signals: RecordedSignals, signal_lines: pytest.LogCaptureFixture
) -> None:
    Signals([BrokenBackend(), signals]).emit(Signal.STARTED, RUN)

    assert signals.names() == ["started/pipeline/1"]
    assert "BrokenBackend could not send a signal" in signal_lines.text
    assert "s3cr3t-value" not in signal_lines.text


def test_a_statsd_server_that_does_not_listen_disturbs_nothing() -> None:
    with statsd_receiver() as receiver:
        port = receiver.port

    Signals([StatsdBackend("127.0.0.1", port, "pipeline")]).emit(Signal.STARTED, RUN)


def test_with_an_unresolvable_statsd_host_signals_go_to_the_log(signal_lines: pytest.LogCaptureFixture) -> None:
    make_signals(statsd_settings(statsd_host=UNRESOLVABLE)).emit(Signal.STARTED, RUN)

    complaint, line = [record.getMessage() for record in signal_lines.records]
    assert f"STATSD_HOST='{UNRESOLVABLE}' cannot be resolved" in complaint
    assert line.startswith("signal=pipeline.started ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("two\nlines\r", r'"two\nlines\r"'),
        ('say "no"', r'"say \"no\""'),
        ("a=b", '"a=b"'),
        ("C:\\temp", r'"C:\\temp"'),
        ("", '""'),
        ("\x1b[31mred", r'"\u001b[31mred"'),
        ("\x9b31mred", r'"\u009b31mred"'),
        ("turn\u202eed", r'"turn\u202eed"'),
        ("line\u2028end", r'"line\u2028end"'),
        (True, "true"),
        (3, "3"),
        (1234.5678, "1234.6"),
    ],
)
def test_a_value_is_one_readable_word_on_one_line(value: Field, shown: str) -> None:
    assert logfmt({"key": value}) == f"key={shown}"


@pytest.mark.parametrize(
    "text",
    [
        "https://hooks.slack.com/services/T0/B0/abcdefghijklmnop answered 500",
        "postgresql://me:abcdefghijklmnop@db/alerts",
        "Authorization: Bearer abcdefghijklmnop",
        "password=abcdefghijklmnop",
    ],
)
def test_secrets_do_not_reach_the_log(text: str) -> None:
    assert "abcdefghijklmnop" not in logfmt({"message": text})
