"""The monitoring systems that send alerts, and their parsers. `registry.py` lists them."""

from tasks.ingest.sources.registry import ENTRY_POINTS, SOURCES, parse_push, recognise, source_named
from tasks.ingest.sources.source import Push, Source

__all__ = ["ENTRY_POINTS", "SOURCES", "Push", "Source", "parse_push", "recognise", "source_named"]
