"""A Prefect block that refuses fields which it does not have. Those of Prefect ignore them, and so a typing error."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Self, cast

from prefect.blocks.core import Block
from pydantic import ConfigDict, model_validator

from orchestration.signals import logger

_PREFECTS_OWN = frozenset({"block_type_slug"})
"""What Prefect adds to the fields of a block that it has saved."""


class KnownFieldsBlock(Block):
    """A block whose fields are all known. One that was saved with others is read without them, with a warning: it must
    not stop a page."""

    model_config = ConfigDict(hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _are_known(cls, values: Any) -> Any:
        if unknown := cls._unknown(values):
            raise ValueError(f"{cls.__name__} has no {_fields(unknown)}. It has: {', '.join(cls.model_fields)}")
        return values

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """The block with these saved fields, without those that it does not have."""
        if unknown := cls._unknown(obj):
            _warn(cls.__name__, _fields(unknown), ", ".join(cls.model_fields))
            obj = {name: value for name, value in obj.items() if name not in unknown}
        return super().model_validate(obj, **options)

    @classmethod
    def _unknown(cls, values: Any) -> tuple[str, ...]:
        if not isinstance(values, Mapping):
            return ()
        given = map(str, cast("Mapping[Any, Any]", values))
        return tuple(name for name in given if name not in cls.model_fields and name not in _PREFECTS_OWN)


def _fields(names: tuple[str, ...]) -> str:
    return f"field{'s' if len(names) > 1 else ''} {', '.join(repr(name[:60]) for name in names[:10])}"


@cache  # a channel is read for each message
def _warn(block: str, unknown: str, known: str) -> None:
    logger.warning("A saved %s has %s, which it does not know, and ignores. It has: %s", block, unknown, known)
