"""Alerts lose their secrets at the door, once: what is stored, listed, mirrored and sent is made of these alerts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from orchestration.alert import Alert
from orchestration.redaction import REDACTED, is_secret, redact, redact_text

_NAME_CHARACTERS = 512


def without_secrets(alert: Alert) -> Alert:
    """The alert without the secrets in its texts.

    What identifies it stays as the sender made it: source, fingerprint and incident key were read before this. Values
    under the name of a secret go, and the names of secrets stay (`secret_name`).
    """
    return alert.model_copy(
        update={
            "name": redact_text(alert.name)[:_NAME_CHARACTERS],
            "title": redact_text(alert.title)[:_NAME_CHARACTERS],
            "state_reason": redact_text(alert.state_reason)[:_NAME_CHARACTERS],
            "description": redact_text(alert.description),
            "labels": _texts(alert.labels),
            "annotations": _texts(alert.annotations),
            # Brackets would make an address of IPv6 of it.
            "links": {name: redact_text(url).replace(REDACTED, "redacted") for name, url in alert.links.items()},
            "raw_payload": cast("dict[str, object]", redact(alert.raw_payload)),
        }
    )


def _texts(texts: Mapping[str, str]) -> dict[str, str]:
    return {redact_text(name): REDACTED if is_secret(name, text) else redact_text(text) for name, text in texts.items()}
