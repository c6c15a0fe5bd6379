"""The OpenAPI document: what FastAPI writes, with the ways to authenticate."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.shapes import Execute, Trigger

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, apk_…"},
    "basic": {"type": "http", "scheme": "basic", "description": "Any user, and an API key as the password."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Signature",
        "description": "sha256= and the HMAC-SHA256 of X-Timestamp, a dot and the body; X-Key-Id names the key.",
    },
}


_SHAPE = "#/components/schemas/{model}"
TRIGGER_REF = _SHAPE.format(model="Trigger")
EXECUTE_REF = _SHAPE.format(model="Execute")
"""Where the document describes the body of a trigger: FastAPI does not, as the routes read their bodies themselves."""


def _version() -> str:
    try:
        return version("alert-pipeline")
    except PackageNotFoundError:
        return "0"


VERSION = _version()


def is_open(method: str, path: str) -> bool:
    """Whether an endpoint needs no key: health checks, which change nothing and tell nothing."""
    return method.lower() == "get" and path.startswith(("/health/", "/ready/", "/alerts/webhook/"))


def install(app: FastAPI) -> None:
    """Have the app serve its document with the ways to authenticate in it."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            components = made.setdefault("components", {})
            components["securitySchemes"] = _SCHEMES
            for body in (Trigger, Execute):
                schema = body.model_json_schema(ref_template=_SHAPE)
                components.setdefault("schemas", {}).update({**schema.pop("$defs", {}), body.__name__: schema})
            for path, operations in made["paths"].items():
                for method, operation in operations.items():
                    operation["security"] = [] if is_open(method, path) else [{name: []} for name in _SCHEMES]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document
