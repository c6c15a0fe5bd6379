"""The roles of the embedded PostgreSQL: the cluster's owner, and one for each database, which cannot read the other.

A statement that somebody smuggles into Prefect's server, or into ours, is no superuser's: it starts no program, reads
no file, and does not see the other's tables. All roles log in as the same user of the system, for whom the kernel
vouches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import psycopg

    Connection = psycopg.AsyncConnection[tuple[object, ...]]
    Connect = Callable[[str, str], Awaitable[Connection]]
    """Connects to a database as a role."""

OWNER = "postgres"
"""The superuser that made the cluster. Only the start of the stack uses it."""

ROLE = "alert_pipeline"
DATABASE = "alert_pipeline"
PREFECT_ROLE = "prefect"
PREFECT_DATABASE = "prefect"

_ROLE_OF = {DATABASE: ROLE, PREFECT_DATABASE: PREFECT_ROLE}

_RENAMING = "alert_pipeline_renaming"
ALL_ROLES = (OWNER, ROLE, PREFECT_ROLE, _RENAMING)

# What the superuser owns in the schemas of a database, apart from extensions. Sequences of columns follow their table.
_FOREIGN_OBJECTS = """
select format('alter %s %s owner to', kind, name) from (
    select case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end
           as kind, c.oid, 'pg_class'::regclass as class, relowner as owner, relnamespace as space,
           c.oid::regclass::text as name
    from pg_class c where relkind in ('r', 'p', 'v', 'm', 'S') and not exists (
        select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
        and c.relkind = 'S')
    union all
    select 'routine', p.oid, 'pg_proc'::regclass, proowner, pronamespace, p.oid::regprocedure::text from pg_proc p
    union all
    select 'type', t.oid, 'pg_type'::regclass, typowner, typnamespace, t.oid::regtype::text from pg_type t
    where typtype in ('e', 'd')
) as found
join pg_namespace on pg_namespace.oid = space
where owner = 10 and nspname not like 'pg\\_%' and nspname <> 'information_schema' and not exists (
    select from pg_depend d where d.classid = class and d.objid = found.oid and d.deptype = 'e')
"""
_FOREIGN_SCHEMAS = """
select format('alter schema %I owner to', nspname) from pg_namespace
where nspowner = 10 and nspname not like 'pg\\_%' and nspname not in ('information_schema', 'public')
"""


def role_of(database: str) -> str:
    """The role that uses a database of the stack."""
    return _ROLE_OF.get(database, OWNER)


async def ensure_roles(connect: Connect) -> None:
    """Make roles and databases that are missing, and give each database to its role, also in a home of older versions.

    There, one role was the superuser and owned everything. It can neither lose that right nor rename itself, so a
    passing superuser gives it the name that it has in new homes.
    """
    await _rename_superuser(connect)
    async with await connect("postgres", OWNER) as connection:
        await _run(connection, f"drop role if exists {_RENAMING}")
        roles = await _names(connection, "select rolname from pg_roles")
        databases = await _names(connection, "select datname from pg_database")
        for database, role in _ROLE_OF.items():
            if role not in roles:
                await _run(connection, f"create role {role} login nosuperuser nocreatedb nocreaterole noreplication")
            if database not in databases:
                await _run(connection, f"create database {database} owner {role}")
            await _run(connection, f"alter database {database} owner to {role}")
            await _run(connection, f"revoke all on database {database} from public")
        await _run(connection, "revoke all on database postgres, template1 from public")
    for database, role in _ROLE_OF.items():
        async with await connect(database, OWNER) as connection:
            if database == PREFECT_DATABASE:
                await _run(connection, "create extension if not exists pg_trgm")
            for statement in await _names(connection, _FOREIGN_SCHEMAS) | await _names(connection, _FOREIGN_OBJECTS):
                await _run(connection, f"{statement} {role}")


async def _rename_superuser(connect: Connect) -> None:
    import psycopg

    try:
        async with await connect("postgres", OWNER):
            return
    except psycopg.OperationalError as error:
        if f'role "{OWNER}" does not exist' not in str(error):
            raise
    async with await connect("postgres", ROLE) as connection:
        await _run(connection, f"drop role if exists {_RENAMING}")
        await _run(connection, f"create role {_RENAMING} login superuser")
    async with await connect("postgres", _RENAMING) as connection:
        await _run(connection, f"alter role {ROLE} rename to {OWNER}")


async def _names(connection: Connection, query: str) -> set[str]:
    return {str(row[0]) for row in await (await connection.execute(query.encode())).fetchall()}


async def _run(connection: Connection, statement: str) -> None:
    await connection.execute(statement.encode())
