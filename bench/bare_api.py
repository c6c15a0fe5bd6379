"""The floor under accepts: FastAPI and psycopg, which insert and commit one row a request.

It is run by `uvicorn bench.bare_api:app`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

_TABLE = "CREATE TABLE IF NOT EXISTS floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body jsonb NOT NULL)"

pool = AsyncConnectionPool(os.environ["DATABASE_URL"], min_size=8, max_size=8, open=False)


@asynccontextmanager
async def _open(_: FastAPI) -> AsyncIterator[None]:
    async with pool:
        async with pool.connection() as connection:
            await connection.execute(_TABLE)
        yield


app = FastAPI(lifespan=_open)


@app.post("/", status_code=202)
async def accept(body: dict[str, Any]) -> dict[str, Any]:
    """Keep the body, and answer with its number."""
    async with pool.connection() as connection:
        cursor = await connection.execute("INSERT INTO floor (body) VALUES (%s) RETURNING id", [Jsonb(body)])
        row = await cursor.fetchone()
    return {"id": row and row[0]}


@app.get("/health/")
async def health() -> dict[str, str]:
    """Say that it is up."""
    return {"status": "ok"}
