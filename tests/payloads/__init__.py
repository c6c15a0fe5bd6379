"""Bodies in the vendors' documented shapes, one file each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_SAMPLES = _FOLDER.parent / "sources"

NAMES = sorted(path.stem for path in _FOLDER.glob("*.json"))
IGNORED = sorted(f"ignored/{path.stem}" for path in (_FOLDER / "ignored").glob("*.json"))
"""Bodies that say nothing about an alert. They are accepted, and notify nobody."""
SAMPLES = sorted(f"{path.parent.name}/{path.stem}" for path in _SAMPLES.glob("*/*.json"))
"""Bodies of the senders that have a mapping, such as `uptime-kuma/firing`."""


def body(name: str) -> dict[str, Any]:
    """A fresh copy of the body of this name."""
    folder = _SAMPLES if name in SAMPLES else _FOLDER
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
