"""What the OpenAPI document says of each endpoint besides its shapes: examples, and what can go wrong."""

from __future__ import annotations

from typing import Any

from service.api import document
from service.api.shapes import Problem, Readiness

RUN_ID = "177db13394314a4faea4fc22302669eb"
TRACE_ID = "ff3a11d0cc2d4081acd430f2340c96d0"

_WHY = {
    400: "The body is no JSON, or broken gzip.",
    401: "No valid key.",
    403: "The key is not for this.",
    404: "There is no such run, or no such definition.",
    408: "The body did not come in time.",
    409: "It cannot be done as things stand.",
    413: "The body is too large.",
    415: "The body's encoding is not known.",
    422: "The request can be read, but not be used; the error says why.",
    429: "Too many requests; Retry-After says when to try again.",
    502: "The pipeline failed.",
    503: "The database does not answer; nothing was stored. Retry-After says when to try again.",
    504: "The pipeline is not over yet; it goes on.",
}

_QUEUED = {
    "status": "queued",
    "task_id": RUN_ID,
    "run_id": RUN_ID,
    "run_ids": [RUN_ID],
    "trace_id": TRACE_ID,
    "message": "Pipeline queued for execution",
}

_RESULT = {
    "trace_id": TRACE_ID,
    "run_id": RUN_ID,
    "status": "COMPLETED",
    "incident_id": "1",
    "started_at": "2026-11-23T22:38:40.100000Z",
    "completed_at": "2026-11-23T22:38:40.474000Z",
    "total_duration_ms": 374.1,
    "stages_completed": ["ingest", "check", "analyze", "notify"],
    "final_error": None,
}

_CONFIG: dict[str, Any] = {
    "description": "Takes an alert in, analyzes it and tells the person on call.",
    "nodes": [
        {"id": "ingest", "type": "ingest", "next": "analyze"},
        {"id": "analyze", "type": "intelligence", "next": "notify"},
        {"id": "notify", "type": "notify"},
    ],
}

_DEFINITION = {
    "name": "central-hub",
    "description": _CONFIG["description"],
    "version": 3,
    "is_active": True,
    "tags": ["sample"],
    "node_count": 3,
    "created_by": "ana",
    "created_at": "2026-11-23T21:04:05Z",
    "updated_at": "2026-11-23T21:04:05Z",
}

_RESULT_OF_DEFINITION = {
    **_RESULT,
    "stages_completed": ["ingest", "analyze", "notify"],
    "definition_name": "central-hub",
    "definition_version": 3,
    "nodes": [{"id": "ingest", "stage": "ingest", "status": "succeeded", "attempts": 1, "duration_ms": 17.0}],
}

_SUMMARY = {
    "trace_id": TRACE_ID,
    "run_id": RUN_ID,
    "status": "failed",
    "current_stage": "notify",
    "incident_id": "1",
    "title": "HighCPU on web-1",
    "severity": "critical",
    "source": "grafana",
    "environment": "production",
    "total_attempts": 7,
    "intelligence_fallback_used": False,
    "skip_reason": None,
    "duplicate_of": None,
    "engine": "prefect",
    "definition_name": None,
    "definition_version": None,
    "created_at": "2026-11-23T22:38:40.050000Z",
    "started_at": "2026-11-23T22:38:40.100000Z",
    "completed_at": "2026-11-23T22:38:54.500000Z",
    "total_duration_ms": 14400.2,
    "last_error": {"type": "DeliveryFailed", "message": "slack: channel_not_found", "retryable": False},
}

_DETAIL = {
    **_SUMMARY,
    "stage_executions": [
        {
            "node_id": "ingest",
            "stage": "ingest",
            "status": "succeeded",
            "attempt": 1,
            "started_at": "2026-11-23T22:38:40.110000Z",
            "completed_at": "2026-11-23T22:38:40.127000Z",
            "duration_ms": 17.0,
            "error_type": None,
            "error_message": None,
        }
    ],
}

_PUSHES = {
    "alertmanager": {
        "summary": "Prometheus Alertmanager",
        "value": {
            "version": "4",
            "groupKey": '{}:{alertname="HighCPU"}',
            "status": "firing",
            "receiver": "alert-pipeline",
            "groupLabels": {"alertname": "HighCPU"},
            "commonLabels": {"alertname": "HighCPU", "severity": "critical"},
            "commonAnnotations": {},
            "externalURL": "https://alertmanager.example.com",
            "alerts": [
                {
                    "status": "firing",
                    "labels": {"alertname": "HighCPU", "severity": "critical", "instance": "web-1"},
                    "annotations": {"summary": "CPU of web-1 is nearly used up"},
                    "startsAt": "2026-11-23T22:30:00Z",
                    "endsAt": "0001-01-01T00:00:00Z",
                    "fingerprint": "6f5c2d3e4b5a6978",
                }
            ],
        },
    },
    "generic": {
        "summary": "Anything with a name",
        "value": {"name": "HighCPU", "severity": "critical", "host": "web-1", "status": "firing"},
    },
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": _WHY[status]} for status in statuses}


def _answer(status: int, description: str, example: object) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": description, "content": {"application/json": {"example": example}}}}


def _body(schema: dict[str, Any], examples: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": required, "content": content}}


_HEADERS = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "maxLength": 128},
        "description": "The same key and body again are the same push.",
    },
    {
        "name": "X-Trace-Id",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "The trace, where the body names none: up to 128 printable characters, else ignored.",
    },
    {
        "name": "traceparent",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "The trace as W3C Trace Context has it, where X-Trace-Id names none. A wrong one is ignored.",
    },
]

_TRIGGER_BODY = _body(
    {"$ref": document.TRIGGER_REF},
    {
        "spec": {
            "summary": "An alert",
            "value": {
                "payload": {"alertname": "HighCPU", "severity": "critical", "instance": "web-1"},
                "source": "grafana",
                "environment": "production",
            },
        },
        "definition": {
            "summary": "An alert for a definition of one's own",
            "value": {"payload": {"alertname": "HighCPU", "severity": "critical"}, "definition": "central-hub"},
        },
    },
)

_REFUSED = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)

TRIGGER: dict[str, Any] = {
    "openapi_extra": {**_TRIGGER_BODY, "parameters": _HEADERS},
    "responses": {**_answer(202, "Stored; it will run.", _QUEUED), **_problems(*_REFUSED)},
}
TRIGGER_SYNC: dict[str, Any] = {
    "openapi_extra": {**_TRIGGER_BODY, "parameters": _HEADERS},
    "responses": {
        **_answer(200, "The pipeline is over: COMPLETED or SKIPPED.", _RESULT),
        **_answer(502, _WHY[502], {**_RESULT, "status": "FAILED"}),
        **_problems(*_REFUSED, 504),
    },
}
STATUS: dict[str, Any] = {"responses": {**_answer(200, "The run.", _DETAIL), **_problems(401, 403, 404, 422, 429, 503)}}
LIST: dict[str, Any] = {
    "responses": {
        **_answer(200, "The runs.", {"count": 1, "next_cursor": None, "runs": [_SUMMARY]}),
        **_problems(401, 403, 422, 429, 503),
    }
}
RESUME: dict[str, Any] = {
    "responses": {
        **_answer(202, "It goes on.", {**_QUEUED, "message": "Pipeline queued to go on where it stood"}),
        **_problems(401, 403, 404, 408, 409, 413, 422, 429, 503),
    }
}
DEFINITIONS: dict[str, Any] = {
    "responses": {
        **_answer(200, "The definitions.", {"count": 1, "definitions": [_DEFINITION]}),
        **_problems(401, 403, 422, 429, 503),
    }
}
DEFINITION: dict[str, Any] = {
    "responses": {
        **_answer(200, "The definition.", {**_DEFINITION, "config": _CONFIG}),
        **_problems(401, 403, 404, 422, 429, 503),
    }
}
VALIDATE: dict[str, Any] = {
    "openapi_extra": _body(
        {"type": "object", "properties": {"config": {"description": "What is to be looked at, whatever it is."}}},
        {"of the body": {"summary": "A definition that is not stored", "value": {"config": _CONFIG}}},
        required=False,
    ),
    "responses": {
        **_answer(
            200,
            "Looked at; `valid` and `errors` say what was found.",
            {
                "name": "central-hub",
                "version": 3,
                "valid": False,
                "errors": [{"node": "analyze", "field": "next", "message": "there is no node 'notfy' (known: …)"}],
            },
        ),
        **_problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
    },
}
EXECUTE: dict[str, Any] = {
    "openapi_extra": {
        **_body(
            {"$ref": document.EXECUTE_REF},
            {
                "alert": {
                    "summary": "An alert",
                    "value": {"payload": {"alertname": "HighCPU", "severity": "critical", "instance": "web-1"}},
                }
            },
            required=False,
        ),
        "parameters": _HEADERS,
    },
    "responses": {
        **_answer(200, "The pipeline is over: COMPLETED or SKIPPED.", _RESULT_OF_DEFINITION),
        **_answer(502, _WHY[502], {**_RESULT_OF_DEFINITION, "status": "FAILED"}),
        **_problems(*_REFUSED, 504),
    },
}
WEBHOOK: dict[str, Any] = {
    "openapi_extra": {**_body({"type": "object"}, _PUSHES), "parameters": _HEADERS},
    "responses": {**_answer(202, "Stored; it will run.", _QUEUED), **_problems(*_REFUSED)},
}
WEBHOOK_HEALTH: dict[str, Any] = {
    "responses": {
        **_answer(200, "Webhooks are taken.", {"status": "ok", "sources": ["alertmanager"]}),
        **_problems(422),
    }
}
HEALTH: dict[str, Any] = {"responses": _answer(200, "Alive.", {"status": "ok"})}
READY: dict[str, Any] = {
    "responses": {
        **_answer(
            200,
            "Ready, or degraded: without Prefect.",
            {
                "status": "ready",
                "database": {"ok": True, "detail": "answers"},
                "migrations": {"ok": True, "detail": "current"},
                "worker": {"ok": True, "detail": "1 alive, 0 runs in progress"},
                "prefect": {"ok": True, "detail": "answers"},
            },
        ),
        503: {"model": Readiness, "description": "Not ready; the parts say why."},
    }
}
