"""The page that accounts for every line of the specification is true: what it names is there."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest
from pydantic import BaseModel
from sqlalchemy import UniqueConstraint

from orchestration import contracts
from orchestration.settings import Settings
from orchestration.signals import Signal
from orchestration.states import RunStatus
from orchestration.store import models
from service.api.shapes import Attempt, LastError, Queued, RunDetail, RunList

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "spec-coverage.md").read_text()

STATUSES = ["PENDING", "INGESTED", "CHECKED", "ANALYZED", "NOTIFIED", "FAILED", "RETRYING", "SKIPPED"]
SIGNALS = [
    "pipeline.stage.started",
    "pipeline.stage.succeeded",
    "pipeline.stage.failed",
    "pipeline.stage.retrying",
    "pipeline.started",
    "pipeline.completed",
]
TAGS = ["trace_id", "run_id", "incident_id", "stage", "source", "alert_fingerprint", "environment", "attempt"]
ENDPOINTS = [
    "POST /orchestration/pipeline/",
    "POST /orchestration/pipeline/sync/",
    "GET /orchestration/pipeline/<run_id>/",
    "GET /orchestration/pipelines/?status=failed&limit=10",
    "POST /orchestration/pipeline/<run_id>/resume/",
]
SETTINGS = [
    "ORCHESTRATION_MAX_RETRIES_PER_STAGE",
    "ORCHESTRATION_BACKOFF_FACTOR",
    "ORCHESTRATION_INTELLIGENCE_FALLBACK_ENABLED",
    "ORCHESTRATION_METRICS_BACKEND",
    "STATSD_HOST",
    "STATSD_PORT",
    "STATSD_PREFIX",
]
COMMANDS = [
    "run_pipeline --sample --dry-run",
    "run_pipeline --sample",
    "run_pipeline --sample --source alertmanager",
    "run_pipeline --file alert.json",
    """run_pipeline --payload '{"name": "Test", "status": "firing", "severity": "warning"}'""",
    "run_pipeline --sample --json",
    "run_pipeline --sample --environment production --trace-id my-trace-123",
    "run_pipeline --sample --checks-only",
    "run_pipeline --sample --notify-driver slack",
    "run_pipeline --definition my-pipeline-name",
    "run_pipeline --config path/to/pipeline.json",
    "monitor_pipeline",
    "monitor_pipeline --limit 50",
    "monitor_pipeline --status failed",
    "monitor_pipeline --run-id abc123",
]
ELSEWHERE = [
    *("--source grafana", "--status completed", "/admin/orchestration/", "intelligence_fallback_used=True"),
    *("uv run pytest -v", "prefect deployment run alert-pipeline/default", "result.stages_completed"),
]

# The fields of the specification, and of the facts behind it.
CONTRACTS = {
    "StageContext": "trace_id run_id incident_id attempt environment source alert_fingerprint payload previous_results",
    "IngestResult": "incident_id alert_fingerprint severity source normalized_payload_ref alerts_created "
    "alerts_updated alerts_resolved incidents_created incidents_updated errors duration_ms",
    "CheckResult": "checks checks_run checks_passed checks_failed timings errors checker_output_ref duration_ms",
    "AnalyzeResult": "summary probable_cause actions recommendations confidence ai_output_ref model_info fallback_used "
    "errors duration_ms",
    "NotifyResult": "deliveries provider_ids messages notify_output_ref channels_attempted channels_succeeded "
    "channels_failed errors duration_ms",
    "Delivery": "driver provider channel status provider_id response",
    "StageError": "error_type message stack_trace retryable",
    "PipelineResult": "trace_id run_id status incident_id ingest check analyze notify started_at completed_at "
    "total_duration_ms stages_completed final_error",
}
TABLES = {
    "pipeline_run": "trace_id run_id status current_stage incident_id source alert_fingerprint environment "
    "normalized_payload_ref checker_output_ref intelligence_output_ref notify_output_ref intelligence_fallback_used "
    "total_attempts max_retries last_error_type last_error_message last_error_retryable created_at updated_at "
    "started_at completed_at total_duration_ms payload prefect_flow_run_id engine definition_name definition_version "
    "lease_owner lease_expires_at",
    "stage_execution": "pipeline_run_id node_id stage status attempt idempotency_key input_ref output_ref "
    "output_snapshot error_type error_message error_stack error_retryable started_at completed_at duration_ms",
    "alert": "fingerprint source name severity status description labels annotations raw_payload started_at ended_at "
    "received_at updated_at",
    "membership": "incident_id alert_id status",
    "incident": "title status severity description summary metadata opened_at acknowledged_at resolved_at closed_at",
    "history": "alert_id incident_id event old_status new_status details",
    "definition": "name description version config tags is_active created_by",
}
ANSWERS: list[tuple[type[BaseModel], str]] = [
    (Queued, "status task_id run_id run_ids trace_id message"),
    (
        RunDetail,
        "trace_id run_id status current_stage incident_id source environment total_attempts intelligence_fallback_used "
        "created_at started_at completed_at total_duration_ms last_error stage_executions",
    ),
    (LastError, "type message retryable"),
    (Attempt, "stage status attempt started_at completed_at duration_ms error_type error_message"),
    (RunList, "count runs"),
]


def rows() -> list[list[str]]:
    """The rows of all tables of the page, cell by cell, without their heads."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    heads = {number - 1 for number, row in enumerate(cells) if set("".join(row)) <= set("- ")}
    return [row for number, row in enumerate(cells) if number not in heads and number - 1 not in heads]


def lines_of_the_specification() -> list[list[str]]:
    """The rows that say where a line lives, and what proves it."""
    return [row for row in rows() if len(row) == 3]


@lru_cache
def named_in(file: str) -> set[str]:
    """The test functions of a file, read without running it."""
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_no_line_is_without_its_place_and_its_proof() -> None:
    assert len(lines_of_the_specification()) > 100
    assert [row for row in rows() if not all(row)] == []
    for line, where, proof in lines_of_the_specification():
        assert re.search(r"`[\w./-]+`", where), line
        assert "::test_" in proof or proof.startswith("open"), line


def test_every_place_is_there() -> None:
    named = {path for _, where, _ in lines_of_the_specification() for path in re.findall(r"`([^`]+)`", where)}
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_every_proof_is_there() -> None:
    named = {proof for *_, cell in lines_of_the_specification() for proof in re.findall(r"`(tests/[^`]+)`", cell)}
    gone = [
        proof
        for proof in sorted(named)
        for file, _, test in [proof.partition("::")]
        if not (ROOT / file).is_file() or test not in named_in(file)
    ]
    assert gone == []


@pytest.mark.parametrize("word", [*STATUSES, *SIGNALS, *TAGS, *ENDPOINTS, *SETTINGS, *COMMANDS])
def test_the_page_has_each_word_of_the_specification(word: str) -> None:
    assert any(f"`{word}`" in line for line, *_ in lines_of_the_specification())


@pytest.mark.parametrize("word", [*ELSEWHERE, *sorted(CONTRACTS.keys() - {"Delivery"})])
def test_the_page_speaks_of_the_rest_too(word: str) -> None:
    assert word in PAGE


def test_the_page_names_what_there_is() -> None:
    assert [status.name for status in RunStatus] == STATUSES
    assert {signal.value for signal in Signal} == set(SIGNALS)
    assert set(SETTINGS) <= {str(field.validation_alias) for field in Settings.model_fields.values()}


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_contracts_have_the_fields_of_the_specification(name: str) -> None:
    contract = getattr(contracts, name)
    assert set(CONTRACTS[name].split()) - set(contract.model_fields) == set()
    assert contract.model_config["frozen"]


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_have_the_fields_of_the_specification(name: str) -> None:
    columns = models.Base.metadata.tables[name].columns
    assert set(TABLES[name].split()) - set(columns.keys()) == set()


def test_what_the_specification_calls_unique_is_unique() -> None:
    tables = models.Base.metadata.tables
    assert tables["pipeline_run"].columns["run_id"].unique
    for table, names in {
        "stage_execution": {"pipeline_run_id", "node_id", "attempt"},
        # The environment is part of the identity: the same rules fire in staging and in production.
        "alert": {"source", "environment", "fingerprint"},
    }.items():
        unique = [one for one in tables[table].constraints if isinstance(one, UniqueConstraint)]
        assert names in [{column.name for column in one.columns} for one in unique]


@pytest.mark.parametrize(("answer", "fields"), ANSWERS)
def test_the_answers_have_the_fields_of_the_specification(answer: type[BaseModel], fields: str) -> None:
    assert set(fields.split()) - set(answer.model_fields) == set()
