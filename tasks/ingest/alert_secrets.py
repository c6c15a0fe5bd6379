"""Alerts lose their secrets at the door, once: what is stored, listed, mirrored and sent is made of these alerts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import cast

from orchestration.alert import Alert
from orchestration.redaction import REDACTED, is_secret, redact, redact_text

_NAME_CHARACTERS = 512
_DIGEST = re.compile("[0-9a-f]{16,64}")
"""Most fingerprints: those of Alertmanager, and those that are made here."""


def without_secrets(alert: Alert) -> Alert:
    """The alert without the secrets in its texts.

    It is identified as before: a fingerprint or key with a secret in it becomes its digest. Values under the name of a
    secret go, and the names of secrets stay (`secret_name`).
    """
    return alert.model_copy(
        update={
            "fingerprint": identity_without_secrets(alert.fingerprint),
            "incident_key": _stored_key(alert),
            "name": redact_text(alert.name)[:_NAME_CHARACTERS],
            "title": redact_text(alert.title)[:_NAME_CHARACTERS],
            "state_reason": redact_text(alert.state_reason)[:_NAME_CHARACTERS],
            "description": redact_text(alert.description),
            "labels": texts_without_secrets(alert.labels),
            "annotations": texts_without_secrets(alert.annotations),
            # Brackets would make an address of IPv6 of it.
            "links": {name: redact_text(url).replace(REDACTED, "redacted") for name, url in alert.links.items()},
            "raw_payload": cast("dict[str, object]", redact(alert.raw_payload)),
        }
    )


def _stored_key(alert: Alert) -> str:
    """The incident key under which an alert is stored."""
    return identity_without_secrets(alert.incident_key, keeps=f"{alert.source}:")


@lru_cache(maxsize=4096)
def identity_without_secrets(key: str, *, keeps: str = "") -> str:
    """A key or fingerprint, or its digest if it has a secret in it: equal ones stay equal, and others different.

    `keeps` is the beginning of the key that stays in front of the digest.
    """
    # Nothing announces a secret in a word, and what is kept in front is no part of one.
    named = key.removeprefix(keeps)
    if _DIGEST.fullmatch(named) or redact_text(named) == named:
        return key
    return f"{keeps if key.startswith(keeps) else ''}sha256:{hashlib.sha256(key.encode(errors='replace')).hexdigest()}"


def texts_without_secrets(texts: Mapping[str, str]) -> dict[str, str]:
    """Labels or annotations without secrets."""
    return {redact_text(name): REDACTED if is_secret(name, text) else redact_text(text) for name, text in texts.items()}
