"""The connection to the cell's PostgreSQL, and the schema in it.

Promises: every call ends within its time limit; whatever goes wrong on the way to an answer of the database is a
`DatabaseUnavailable`, and a write that the database refuses because the customer moves to another cell is a
`WritesStopped`, so that callers need to know no driver. What a statement reported as done is committed.

Must not: decide anything about orders or faults; their statements are in `orders`, `integrity` and `faults_store`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import asyncpg  # type: ignore[import-untyped]

CONNECT_SECONDS = 3.0
STATEMENT_SECONDS = 5.0
MAX_CONNECTIONS = 8

# Any two processes that find an empty database agree by this lock on who makes the schema.
_SCHEMA_LOCK = 7_304_551

# The error code that the schema raises.
_WRITES_STOPPED = "SW001"


class DatabaseUnavailable(Exception):
    """The database did not answer, or not in time, or not as it should; the message says what it said."""


class WritesStopped(Exception):
    """The customer's data is on its way to another cell, where the write will be possible; the message names both."""


class Database:
    """A pool of connections that outlives restarts of the database."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    async def open(cls) -> Database:
        """Make the pool. It connects when it is first used, so this needs no database that answers."""
        return cls(
            await asyncpg.create_pool(
                min_size=0,
                max_size=MAX_CONNECTIONS,
                timeout=CONNECT_SECONDS,
                command_timeout=STATEMENT_SECONDS,
                server_settings={"application_name": "shop-web", "TimeZone": "UTC"},
                reset=_keep_as_it_is,
            )
        )

    async def fetch(self, statement: str, *values: object, seconds: float = STATEMENT_SECONDS) -> list[Any]:
        """Run one statement in a transaction of its own and return its rows."""
        async with self._connection() as connection:
            rows: list[Any] = await connection.fetch(statement, *values, timeout=seconds)
            return rows

    async def fetch_one(self, statement: str, *values: object, seconds: float = STATEMENT_SECONDS) -> Any:
        """Run one statement in a transaction of its own and return its first row, or None."""
        rows = await self.fetch(statement, *values, seconds=seconds)
        return rows[0] if rows else None

    async def ensure_schema(self) -> bool:
        """Make the schema if the database is empty; returns whether it was. May be repeated."""
        script = resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")
        async with self._connection() as connection, connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})", timeout=STATEMENT_SECONDS)
            if await connection.fetchval("SELECT to_regnamespace('shop') IS NOT NULL", timeout=STATEMENT_SECONDS):
                return False
            await connection.execute(script, timeout=STATEMENT_SECONDS)
            return True

    def close(self) -> None:
        """Close all connections at once, whatever they are doing."""
        self._pool.terminate()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        try:
            async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
                yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as fault:
            if getattr(fault, "sqlstate", None) == _WRITES_STOPPED:
                raise WritesStopped(str(fault)) from fault
            raise DatabaseUnavailable(f"{type(fault).__name__}: {fault}".rstrip(": ")) from fault


async def _keep_as_it_is(_connection: Any) -> None:
    """In place of a statement that resets the session after each use: none of ours changes the session."""
