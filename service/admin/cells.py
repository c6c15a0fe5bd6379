"""What stands in the cells of tables and on the pages of rows: sqladmin calls these with a row and a column's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from service.admin import words
from service.admin.mount import PATH

Labels = Mapping[str, str]
Formatters = Mapping[str, Callable[[Any, str], Any]]


def link(path: str, text: object) -> Markup:
    """A link to another page of the admin."""
    return Markup('<a href="{}{}">{}</a>').format(PATH, path, text)


def badge(row: Any, name: str) -> Markup:
    """A status or severity."""
    return words.badge(getattr(row, name))


def ago(row: Any, name: str) -> Markup:
    """A moment, as how long ago it was."""
    return words.ago(getattr(row, name))


def moment(row: Any, name: str) -> Markup:
    """A moment, as it is."""
    return words.moment(getattr(row, name))


def milliseconds(row: Any, name: str) -> str:
    """A duration."""
    return words.milliseconds(getattr(row, name))


def json(row: Any, name: str) -> Markup:
    """A stored value, without secrets."""
    value = getattr(row, name)
    return Markup("<pre>{}</pre>").format(words.pretty(value)) if value else Markup("")


def incident(row: Any, name: str) -> Markup | str:
    """An incident's number, as a link to it."""
    value = getattr(row, name)
    return "" if value is None else link(f"/incidents/{value}/", f"#{value}")
