"""Definitions that ship with the program, to run as they are and to begin one's own with."""

from __future__ import annotations

from importlib.resources import files

from orchestration.errors import BadInput

_SUFFIX = ".json"


def sample_names() -> list[str]:
    """The names of the samples."""
    return sorted(one.name.removesuffix(_SUFFIX) for one in files(__name__).iterdir() if one.name.endswith(_SUFFIX))


def sample_text(name: str) -> str:
    """A sample as it is written.

    Raises:
        BadInput: there is no such sample.
    """
    if name not in sample_names():
        raise BadInput(f"There is no sample {name[:80]!r}; there are: {', '.join(sample_names())}")
    return (files(__name__) / f"{name}{_SUFFIX}").read_text(encoding="utf-8")
