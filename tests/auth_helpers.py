"""Helpers for the tests of API keys: callers and their addresses, and the ways to send a key with a request."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

from orchestration.encryption import load_cipher
from orchestration.settings import Settings
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import NewKey, Scope
from service.api import create_app

PUBLIC = "0.0.0.0"
FAR = ("192.0.2.7", 40_000)


async def make_key(settings: Settings, database: Database, *scopes: Scope, name: str = "ci") -> NewKey:
    async with database.transaction() as tx:
        return await keys.create_key(tx, name, scopes, load_cipher(settings))


def bearer(key: NewKey) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.token}"}


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


WEBHOOK = "POST./alerts/webhook/"


def signed(key: NewKey, body: bytes, call: str = WEBHOOK, *, at: float | None = None, **change: str) -> dict[str, str]:
    """The headers that sign a request; `call` is its method and address, with a dot between them."""
    stamp = str(int(time.time() if at is None else at))
    content = f"{stamp}.{call}.".encode() + body
    digest = hmac.new(key.signing_secret.encode(), content, hashlib.sha256).hexdigest()
    headers = {"X-Key-Id": key.name, "X-Timestamp": stamp, "X-Signature": f"v2={digest}"}
    return headers | {name.replace("_", "-"): value for name, value in change.items()}


def signed_v1(key: NewKey, body: bytes) -> dict[str, str]:
    """The headers of a request that is signed without its address."""
    stamp = str(int(time.time()))
    digest = hmac.new(key.signing_secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Key-Id": key.name, "X-Timestamp": stamp, "X-Signature": f"sha256={digest}"}


def endpoints(settings: Settings) -> list[tuple[str, str]]:
    document = create_app(settings, "postgresql://nowhere/none").openapi()
    return [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]


def is_open(method: str, path: str) -> bool:
    """Whether an endpoint needs no key: a health check, which changes nothing and shows no alert."""
    return method.lower() in ("get", "options") and path.startswith(("/health/", "/ready/", "/alerts/webhook/"))
