"""What all tables of the admin share: they can only be read, by bounded queries.

A list shows the newest rows first, page by page, without counting them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqladmin import ModelView
from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.errors import BadInput

PAGE_ROWS = 50
_NUMBER_DIGITS = 19
"""Those of the largest number of a row. Python refuses to read one of thousands."""
_MAX_CHARACTERS = 256


@dataclass(frozen=True)
class Column:
    """A column of a list, or a line of a row's page.

    Attributes:
        name: the column of the database, or the name of a value that `RecordView.one()` adds.
        label: the heading.
        show: formats the value. None shows the value as it is.
        show_row: formats the row, for a cell that needs several of its values; used instead of `show`.
    """

    name: str
    label: str
    show: Callable[[Any], object] | None = None
    show_row: Callable[[Any], object] | None = None

    def format(self, row: Any) -> object:
        """The cell of this row."""
        if self.show_row:
            return self.show_row(row)
        value = getattr(row, self.name)
        return self.show(value) if self.show else value


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A field of the form above a list. Without `choices`, any text can be entered."""

    name: str
    choices: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some rows of a table.

    Attributes:
        older: where the next page begins. None means that this is the last page.
        asked: the filters, the search and the position that the address contains.
        suggestions: known values of the filters that take any text.
    """

    rows: Sequence[Any]
    older: str | None
    asked: Mapping[str, str]
    suggestions: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @property
    def refined(self) -> dict[str, str]:
        """The filters and the search that the address contains, without the position."""
        return {name: value for name, value in self.asked.items() if name != "before"}


class RecordView(ModelView):
    """A table that can only be read. A subclass declares it."""

    can_create = can_edit = can_delete = can_export = can_import = False

    address: ClassVar[str] = ""
    """The part of the path after `PATH`."""

    about: ClassVar[str] = ""
    columns: ClassVar[Sequence[Column]] = ()
    page_columns: ClassVar[Sequence[Column]] = ()
    """The lines of a row's page. A table without them has no pages of rows, or its own in `pages.py`."""

    extra_columns: ClassVar[Sequence[str]] = ()
    """Columns that are not shown, but needed to format others."""

    filters: ClassVar[Sequence[Filter]] = ()
    search_hint: ClassVar[str] = ""
    search_column: ClassVar[str] = ""
    """The column that a search looks in. A table without it has no search, or its own `search()`."""

    computed: ClassVar[Mapping[str, ColumnElement[Any]]] = {}
    """Values of a row that are no columns of its table, by name: expressions that are selected with it."""

    window: ClassVar[int | None] = None
    """How many of the newest rows a filter looks at, because no index serves it. None means all rows."""

    def search(self, text: str) -> ColumnElement[bool]:
        """The condition of a search. It compares for equality, in columns that have an index.

        Raises:
            BadInput: the table has no search, or the text cannot be searched for.
        """
        if not self.search_column:
            raise BadInput(f"{self.name_plural} cannot be searched, not for {text!r} either")
        return getattr(self.model, self.search_column) == text

    def narrowed(self, asked: Mapping[str, str]) -> Sequence[ColumnElement[bool]]:
        """What a filter looks at: conditions that an index serves, so that it does not look at all rows."""
        key = self._key()
        if self.window is None or not any(one.name in asked for one in self.filters):
            return ()
        return (key > select(func.max(key) - self.window).scalar_subquery(),)

    async def page(self, tx: AsyncConnection, params: Mapping[str, str]) -> Page:
        """The rows that the address asks for.

        Raises:
            BadInput: the address contains an impossible filter, search or position.
        """
        asked = self.read_query(params)
        key = self._key()
        query = self._select(self.columns).order_by(key.desc()).limit(PAGE_ROWS + 1)
        chosen = [name for name in asked if name not in ("search", "before")]
        query = query.where(*(getattr(self.model, name) == asked[name] for name in chosen))
        query = query.where(*self.narrowed(asked))
        if "search" in asked:
            query = query.where(self.search(asked["search"]))
        if "before" in asked:
            query = query.where(key < row_number(asked["before"]))
        rows = (await tx.execute(query)).all()
        older = str(rows[PAGE_ROWS - 1].id) if len(rows) > PAGE_ROWS else None
        return Page(rows=rows[:PAGE_ROWS], older=older, asked=asked)

    async def one(self, tx: AsyncConnection, key: str) -> Any | None:
        """The row with this id, with the columns of its page. None means that there is no such page."""
        if not self.page_columns or not key.isdecimal() or len(key) > _NUMBER_DIGITS or int(key) >= 2**63:
            return None
        query = self._select(self.page_columns).where(self._key() == int(key))
        return (await tx.execute(query)).first()

    def read_query(self, params: Mapping[str, str]) -> dict[str, str]:
        """The filters, the search and the position that the address contains, without empty ones.

        Raises:
            BadInput: a filter has an impossible value.
        """
        found: dict[str, str] = {}
        choices = {one.name: one.choices for one in self.filters}
        for name in (*choices, "search", "before"):
            value = params.get(name, "").strip()
            if not value:
                continue
            if len(value) > _MAX_CHARACTERS or not value.isprintable():
                raise BadInput(f"{name}: expected at most {_MAX_CHARACTERS} printable characters")
            if (known := choices.get(name)) and value not in known:
                raise BadInput(f"There is no {name} {value!r}. Known: {', '.join(known)}")
            found[name] = value
        return found

    def _select(self, columns: Sequence[Column]) -> Select[tuple[Any, ...]]:
        wanted = dict.fromkeys(["id", *(column.name for column in columns), *self.extra_columns])
        known = [getattr(self.model, name) for name in wanted if hasattr(self.model, name)]
        return select(*known, *(self.computed[name].label(name) for name in wanted if name in self.computed))

    def _key(self) -> Any:
        return getattr(self.model, "id")  # noqa: B009 - sqladmin does not say what a model has


def row_number(text: str) -> int:
    """The id of a row, as an address contains it.

    Raises:
        BadInput: the text is no id.
    """
    if not text.isascii() or not text.isdecimal() or int(text[:20]) >= 2**63 or len(text) > 19:
        raise BadInput(f"{text[:40]!r} is no number of a row")
    return int(text)
