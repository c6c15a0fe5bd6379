"""What all tables share: their base, the types of their columns, and how records and many rows come to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel
from sqlalchemy import BigInteger, DateTime, Identity, MetaData, Text, TextClause, func, text
from sqlalchemy.dialects.postgresql import JSONB, dialect
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.sql.elements import KeyedColumnElement

from orchestration.json_text import to_json


class Base(DeclarativeBase):
    """The base of all tables. Constraints are named by rule, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: DateTime(timezone=True),
        str: Text(),
        dict[str, Any]: JSONB(),
    }


RowId = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
"""The number of a row."""

Now = Annotated[datetime, mapped_column(server_default=func.now())]
"""When the row was written, unless something else is said."""


def columns_of(table: type[Base], record: type[BaseModel]) -> list[KeyedColumnElement[Any]]:
    """The columns of a table for which a record has a field of the same name."""
    return [column for name, column in table.__table__.columns.items() if name in record.model_fields]


def types_of(columns: Iterable[KeyedColumnElement[Any]]) -> str:
    """The names of columns with their types, as `jsonb_to_recordset` wants them."""
    return ", ".join(f"{column.name} {column.type.compile(dialect())}" for column in columns)


@cache
def insert_many(table: type[Base], names: tuple[str, ...], more: str = "") -> TextClause:
    """A statement that inserts many rows; `more` ends it. Its parameter `rows` is a JSON list of objects: `as_json()`.

    SQLAlchemy would compile thousands of parameters anew for each push, and block the event loop for seconds; and what
    it builds for `on conflict` it compiles anew each time.
    """
    given, columns = types_of(table.__table__.columns[name] for name in names), ", ".join(names)
    return text(
        f"""
        insert into {table.__tablename__} ({columns})
        select {columns} from jsonb_to_recordset(cast(:rows as jsonb)) as given ({given})
        {more}
        """
    )


def as_json(values: Sequence[object]) -> str:
    """Rows, or texts, as one JSON value."""
    return to_json(values).decode()


def one_of(name: str) -> str:
    """What stands behind `in` for one of many texts. The parameter of this name is a JSON list of them: `as_json()`.

    psycopg takes a tenth of a second to send twenty thousand texts as an array.
    """
    return f"(select jsonb_array_elements_text(cast(:{name} as jsonb)))"
