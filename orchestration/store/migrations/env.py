"""Alembic's entry: runs the migrations on the URL that the caller gives in `config.attributes`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

from orchestration.store.models import Base

engine = create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
