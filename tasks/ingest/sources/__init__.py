"""The monitoring systems that send alerts, and their parsers. `registry.py` lists them."""

from tasks.ingest.sources.registry import (
    ENTRY_POINTS,
    IN_CODE,
    SOURCES,
    Sources,
    bids_for,
    parse_push,
    recognise,
    source_named,
    unknown_words,
)
from tasks.ingest.sources.source import Push, Source

__all__ = [
    "ENTRY_POINTS",
    "IN_CODE",
    "SOURCES",
    "Push",
    "Source",
    "Sources",
    "bids_for",
    "parse_push",
    "recognise",
    "source_named",
    "unknown_words",
]
