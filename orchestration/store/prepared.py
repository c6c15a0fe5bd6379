"""Statements that every run executes: their SQL is built once, and psycopg itself executes it.

Each time, SQLAlchemy builds a statement, looks up its SQL and wraps its result. That costs two to four times the
processor time of the statement itself, which is too much for statements of every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, LiteralString, cast

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Compiled, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import NoResultFound
from sqlalchemy.sql.elements import ClauseElement

from orchestration.errors import Unavailable
from orchestration.store.database import Transaction, driver_of, reason_of

_DIALECT = PGDialect_psycopg()

Row = Mapping[str, Any]
"""A row by the names of its columns, with psycopg's own types."""


class Prepared:
    """A statement with named parameters. Its values are given as PostgreSQL takes them: JSON as text, for example.

    Each of its methods raises `Unavailable` if the database does not answer or the connection breaks, and else
    psycopg's own errors.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement

    @cached_property
    def sql(self) -> str:
        """The SQL, with placeholders as psycopg writes them."""
        return str(self._compiled)

    @cached_property
    def _compiled(self) -> Compiled:
        return self._statement.compile(dialect=_DIALECT)

    @cached_property
    def _constants(self) -> dict[str, Any]:
        """The values that the statement brings with it, such as those of its limits."""
        return {
            name: value for name, value in cast("dict[str, Any]", self._compiled.params).items() if value is not None
        }

    async def rows(self, tx: Transaction, values: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """All rows of the result."""
        return await (await self._execute(tx, values)).fetchall()

    async def row(self, tx: Transaction, values: Mapping[str, Any] | None = None) -> Row | None:
        """The first row of the result; None if it has none."""
        return await (await self._execute(tx, values)).fetchone()

    async def one(self, tx: Transaction, values: Mapping[str, Any] | None = None) -> Row:
        """The row of a result that always has one.

        Raises:
            NoResultFound: it has none.
        """
        if (row := await self.row(tx, values)) is None:
            raise NoResultFound(self.sql)
        return row

    async def value(self, tx: Transaction, values: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row; None if there is no row."""
        row = await self.row(tx, values)
        return None if row is None else next(iter(row.values()))

    async def run(self, tx: Transaction, values: Mapping[str, Any] | None = None) -> None:
        """Execute it, for what it does."""
        await self._execute(tx, values)

    async def _execute(self, tx: Transaction, values: Mapping[str, Any] | None) -> psycopg.AsyncCursor[dict[str, Any]]:
        cursor = _cursor_of(tx)
        try:
            return await cursor.execute(cast("LiteralString", self.sql), {**self._constants, **(values or {})})
        except psycopg.OperationalError as error:
            if cursor.connection.closed:
                await tx.invalidate(error)
            raise Unavailable(f"The database does not answer: {reason_of(error)}") from error


def _cursor_of(tx: Transaction) -> psycopg.AsyncCursor[dict[str, Any]]:
    """The connection's cursor. A new one for each statement would cost as much as a tenth of the statement."""
    cursor = cast("psycopg.AsyncCursor[dict[str, Any]] | None", tx.info.get(_CURSOR))
    if cursor is None:
        tx.info[_CURSOR] = cursor = driver_of(tx).cursor(row_factory=dict_row)
    return cursor


_CURSOR = "cursor"


def prepared(sql: str) -> Prepared:
    """A statement in SQL, with its parameters as `:name`."""
    return Prepared(text(sql))
