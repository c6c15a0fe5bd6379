"""What all tables share: their base, the types of their columns, and how records and many rows come to them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel
from sqlalchemy import BigInteger, DateTime, Identity, MetaData, Text, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.sql.elements import KeyedColumnElement


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


def insert_many(table: type[Base], rows: Sequence[dict[str, Any]]) -> Insert:
    """A statement that gets its rows as one JSON value.

    SQLAlchemy would compile thousands of parameters anew for each push, and block the event loop for seconds.
    """
    columns = [table.__table__.columns[name] for name in rows[0]]
    given = (
        func.jsonb_to_recordset(bindparam(None, rows, JSONB()))
        .table_valued(*(column(one.name, one.type) for one in columns))
        .render_derived(name="given", with_types=True)
    )
    return insert(table).from_select([one.name for one in columns], select(*given.c))
