"""The mappings that ship: one file each in `mappings/`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from tasks.ingest.sources.mapped import source_of
from tasks.ingest.sources.mapping import SourceMapping
from tasks.ingest.sources.mapping_text import read_mapping
from tasks.ingest.sources.source import Source

_FOLDER = files("tasks.ingest.sources") / "mappings"
_ENDING = ".yaml"


@cache
def shipped_text(name: str) -> str:
    """The text of a mapping that ships.

    Raises:
        FileNotFoundError: none with this name ships.
    """
    return (_FOLDER / f"{name}{_ENDING}").read_text(encoding="utf-8")


def _names() -> list[str]:
    return sorted(file.name.removesuffix(_ENDING) for file in _FOLDER.iterdir() if file.name.endswith(_ENDING))


SHIPPED: dict[str, SourceMapping] = {name: read_mapping(shipped_text(name)).mapping for name in _names()}
"""The mappings by name, which is that of their file too."""


def shipped_sources() -> list[Source]:
    """The sources that they describe."""
    return [source_of(mapping) for mapping in SHIPPED.values()]
