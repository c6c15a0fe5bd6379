"""Who sends alerts, and what their bodies become. `registry.py` is the table of contents."""

from tasks.ingest.sources.registry import ENTRY_POINTS, SOURCES, parse_push, recognise, source_named
from tasks.ingest.sources.source import Push, Source

__all__ = ["ENTRY_POINTS", "SOURCES", "Push", "Source", "parse_push", "recognise", "source_named"]
