"""The sources of an installation: those that ship, and those of the mappings that its people have stored."""

from __future__ import annotations

from functools import lru_cache

from orchestration.signals import logger
from orchestration.store.mappings import StoredMapping, StoredMappings
from tasks.ingest.sources.mapped import source_of
from tasks.ingest.sources.mapping_text import BadMapping, parse_mapping
from tasks.ingest.sources.registry import ENTRY_POINTS, IN_CODE, SOURCES, Sources
from tasks.ingest.sources.source import Source


def sources_with(stored: StoredMappings) -> Sources:
    """The sources by name. A stored mapping replaces the one that ships under the same name.

    A mapping that another version of alert-pipeline has stored, and that this one cannot use, is left out.
    """
    own = {mapping.name: source for mapping in stored if (source := _source(mapping)) is not None}
    return {**SOURCES, **own} if own else SOURCES


def name_problem(name: str) -> str | None:
    """Why no mapping can have this name. None means that one can."""
    if name in IN_CODE:
        return f"{name} is read by code, which says more than a mapping can: give the mapping another name"
    if name in ENTRY_POINTS:
        return f"{name} is the name of a way in, not of a sender: give the mapping another name"
    return None


@lru_cache(maxsize=1024)
def _source(stored: StoredMapping) -> Source | None:
    try:
        mapping = parse_mapping(stored.document)
    except BadMapping as error:
        logger.error("The mapping %s, version %d, cannot be used: %s", stored.name, stored.version, error)
        return None
    if (problem := name_problem(mapping.name)) is not None:
        logger.error("The mapping %s, version %d, is not used: %s", stored.name, stored.version, problem)
        return None
    return source_of(mapping)
