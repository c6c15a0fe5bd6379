"""What all lists share: they only read, the newest first, page by page without counting, by bounded queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqladmin import ModelView
from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.errors import BadInput

PAGE = 50
_MOST_CHARACTERS = 256


@dataclass(frozen=True, kw_only=True)
class Filter:
    """One field of the form above a list. Without `choices` it takes any text."""

    name: str
    label: str
    choices: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some rows, what was asked for, and where the next ones begin; None: these are the last."""

    rows: Sequence[Any]
    older: str | None
    asked: Mapping[str, str] = field(default_factory=dict[str, str])
    suggestions: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @property
    def refined(self) -> dict[str, str]:
        """The filters and the search that the address has."""
        return {name: value for name, value in self.asked.items() if name != "before"}


class RecordView(ModelView):
    """A table, for looking at only. Its columns, labels and formatters are sqladmin's."""

    can_create = can_edit = can_delete = can_export = can_import = False

    # sqladmin leaves their types open.
    column_labels: ClassVar[Any] = {}
    column_formatters: ClassVar[Any] = {}
    column_formatters_detail: ClassVar[Any] = {}

    address: ClassVar[str] = ""
    """Its part of the addresses."""

    about: ClassVar[str] = ""
    filters: ClassVar[Sequence[Filter]] = ()
    search_hint: ClassVar[str] = ""
    window: ClassVar[int | None] = None
    """With a filter that no index serves, so many rows are looked at: the newest."""

    own_columns: ClassVar[Sequence[str]] = ()
    """Columns that formatters need beside those that are shown."""

    details: ClassVar[bool] = True
    """Whether a row has a page."""

    def asked(self, params: Mapping[str, str]) -> dict[str, str]:
        """What the address asks for, without what is empty.

        Raises:
            BadInput: a filter has a value that cannot be.
        """
        found: dict[str, str] = {}
        names = {one.name: one for one in self.filters}
        for name in (*names, "search", "before"):
            value = params.get(name, "").strip()
            if not value:
                continue
            if len(value) > _MOST_CHARACTERS or not value.isprintable():
                raise BadInput(f"{name}: expected at most {_MOST_CHARACTERS} printable characters")
            if name in names and names[name].choices and value not in names[name].choices:
                raise BadInput(f"There is no {name} {value!r}. Known: {', '.join(names[name].choices)}")
            found[name] = value
        return found

    def found_by(self, text: str) -> ColumnElement[bool]:
        """What a search looks for: equality only, in columns that have an index.

        Raises:
            BadInput: it is nothing that these rows are found by.
        """
        raise BadInput(f"{self.name_plural} cannot be searched, not for {text!r} either")

    async def page(self, tx: AsyncConnection, params: Mapping[str, str]) -> Page:
        """The rows that the address asks for.

        Raises:
            BadInput: it asks for something that cannot be.
        """
        asked = self.asked(params)
        key = self._key()
        query = self._columns(self._list_prop_names).order_by(key.desc()).limit(PAGE + 1)
        chosen = [name for name in asked if name not in ("search", "before")]
        query = query.where(*(getattr(self.model, name) == asked[name] for name in chosen))
        if chosen and self.window is not None:
            query = query.where(key > select(func.max(key) - self.window).scalar_subquery())
        if "search" in asked:
            query = query.where(self.found_by(asked["search"]))
        if "before" in asked:
            query = query.where(key < number(asked["before"]))
        rows = (await tx.execute(query)).all()
        older = str(rows[PAGE - 1].id) if len(rows) > PAGE else None
        return Page(rows=rows[:PAGE], older=older, asked=asked)

    async def one(self, tx: AsyncConnection, key: str) -> Any | None:
        """The row of this number, with the columns of its page; None: there is none."""
        if not self.details or not key.isdecimal() or int(key) >= 2**63:
            return None
        query = self._columns(self._details_prop_names).where(self._key() == int(key))
        return (await tx.execute(query)).first()

    def _columns(self, names: Sequence[str]) -> Select[tuple[Any, ...]]:
        wanted = dict.fromkeys(["id", *names, *self.own_columns])
        return select(*(getattr(self.model, name) for name in wanted))

    def _key(self) -> Any:
        return getattr(self.model, "id")  # noqa: B009 - sqladmin does not say what a model has


def number(text: str) -> int:
    """A row's number from an address.

    Raises:
        BadInput: it is none.
    """
    if not text.isascii() or not text.isdecimal() or int(text[:20]) >= 2**63 or len(text) > 19:
        raise BadInput(f"{text[:40]!r} is no number of a row")
    return int(text)
