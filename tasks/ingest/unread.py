"""The alert that says that a sender is not understood: no source could read its push, which is kept."""

from __future__ import annotations

import hashlib
from typing import cast

from pydantic import JsonValue

from orchestration.alert import KEPT_PUSH, NOT_UNDERSTOOD, Severity
from orchestration.errors import json_kind
from orchestration.json_text import to_json
from orchestration.redaction import one_line
from orchestration.store.unread import UnreadPush

_SHOWN_FIELDS, _SHOWN_NAMES = 8, 4
_SHOWN_CHARACTERS = 60
_DIGEST_CHARACTERS = 12


def shape_of(body: object) -> str:
    """What two bodies have in common that come from one template: the names of their fields at the top."""
    if not isinstance(body, dict):
        return json_kind(body)
    names = sorted(str(name) for name in cast("dict[object, object]", body))
    return hashlib.sha256(to_json(names)).hexdigest()[:_DIGEST_CHARACTERS]


def first_fields(body: object) -> str:
    """The first fields of a body, for people."""
    if not isinstance(body, dict):
        return f"It is {json_kind(body)}: {one_line(str(body), 4 * _SHOWN_CHARACTERS)}"
    fields = list(cast("dict[object, object]", body).items())[:_SHOWN_FIELDS]
    shown = [f"{one_line(str(name), 40)}: {one_line(_said(value), _SHOWN_CHARACTERS)}" for name, value in fields]
    return f"Its first fields: {'; '.join(shown)}" if shown else "It has no fields"


def unread_push(kept: UnreadPush, body: object, *, resolved: bool = False) -> dict[str, JsonValue]:
    """The body of an alert of our own that stands for pushes of one sender and shape that no source can read.

    Args:
        kept: one of them.
        body: what it says.
        resolved: whether a source could read all of them meanwhile.
    """
    sender, about = kept.sender_in_words, first_fields(body)
    # Each shape is an incident of its own, so that nobody misses the second one; a flood of them is a storm.
    identity = f"{NOT_UNDERSTOOD}/{kept.source}/{kept.sender}/{kept.shape}"
    return {
        "name": NOT_UNDERSTOOD,
        "title": f"A sender with {sender} says something at {kept.path} that is not understood. {about}",
        "severity": Severity.WARNING.value,
        "status": "resolved" if resolved else "firing",
        "description": (
            f"{about}. {kept.reason}. It is kept as {kept.name}: `alert-pipeline sources try --push {kept.name}` shows "
            f"it, `alert-pipeline sources draft --push {kept.name}` proposes a mapping, and once one is applied "
            "`alert-pipeline pushes replay` reads what was kept"
        ),
        "labels": {"entity": f"{kept.sender or 'the local key'} ({_field_names(body)})"},
        "annotations": {KEPT_PUSH: kept.name},
        "fingerprint": identity,
        "incident_key": identity,
    }


def _field_names(body: object) -> str:
    if not isinstance(body, dict):
        return json_kind(body)
    names = [one_line(str(name), 40) for name in cast("dict[object, object]", body)]
    return ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "") if names else "no fields"


def _said(value: object) -> str:
    return value if isinstance(value, str) else to_json(value).decode()[: 2 * _SHOWN_CHARACTERS]
