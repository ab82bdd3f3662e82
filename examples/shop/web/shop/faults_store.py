"""The cell's faults, kept in its database so that all of its pods have them and a restart does not lose them.

Promises: a fault with `until: restart` is seen only by processes that started before it was ordered; both times are
the database's clock. While the database does not answer, the faults last read stay as they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import datetime, timedelta

from shop.database import Database, DatabaseUnavailable
from shop.faults import Fault, Faults, FaultSpec, describe_spec, parse_spec

REFRESH_SECONDS = 0.5

logger = logging.getLogger(__name__)


class FaultsStore:
    """Reads and writes the faults of one cell, on behalf of a process that started at `started` (loop's clock)."""

    def __init__(self, database: Database, faults: Faults, cell: str, started: float) -> None:
        self._database = database
        self._faults = faults
        self._cell = cell
        self._started = started
        self._started_at: datetime | None = None
        self._reachable: bool | None = None
        # What was read before a change must not be believed after it.
        self._turn = asyncio.Lock()

    async def add(self, spec: FaultSpec) -> str:
        """Order a fault of the cell; returns its id. Faults whose time is over are dropped on this occasion."""
        async with self._turn:
            await self._database.fetch("DELETE FROM shop.faults WHERE expires_at < clock_timestamp()")
            row = await self._database.fetch_one(
                "INSERT INTO shop.faults (cell, spec, lasts_until, expires_at) VALUES"
                " ($1, $2, $3, clock_timestamp() + make_interval(secs => $4)) RETURNING id",
                self._cell,
                json.dumps(describe_spec(spec)),
                spec.until,
                spec.seconds,
            )
            await self._read()
        return str(row["id"])

    async def remove(self, fault_id: str | None) -> int:
        """Take back one fault, or all of them (None), of the cell and of this process; returns how many there were."""
        # First from memory: with the database down, this process's own faults still go.
        known = self._faults.remove(fault_id)
        async with self._turn:
            rows = await self._database.fetch(
                "DELETE FROM shop.faults WHERE cell = $1 AND ($2::text IS NULL OR id::text = $2) RETURNING id",
                self._cell,
                fault_id,
            )
            self._faults.remove(fault_id)
        return max(known, len(rows))

    async def refresh(self) -> None:
        """Read the cell's faults."""
        async with self._turn:
            await self._read()

    async def _read(self) -> None:
        if self._started_at is None:
            now = (await self._database.fetch_one("SELECT clock_timestamp() AS now"))["now"]
            self._started_at = now - timedelta(seconds=asyncio.get_running_loop().time() - self._started)
        rows = await self._database.fetch(
            "SELECT id::text, spec, extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds_left"
            " FROM shop.faults WHERE cell = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())"
            " AND (lasts_until = 'reset' OR created_at > $2)",
            self._cell,
            self._started_at,
        )
        now_here = asyncio.get_running_loop().time()
        self._faults.set_of_cell(
            Fault(
                row["id"],
                parse_spec(json.loads(row["spec"])),
                None if row["seconds_left"] is None else now_here + row["seconds_left"],
            )
            for row in rows
        )

    async def follow(self) -> None:
        """Keep the schema, the faults and the process's obedience to them current, for as long as it runs."""
        while True:
            try:
                if self._reachable is not True and await self._database.ensure_schema():
                    logger.warning("the database was empty: made the schema")
                await self.refresh()
                if self._reachable is not True:
                    logger.info("the database answers")
                self._reachable = True
            except DatabaseUnavailable as fault:
                if self._reachable is not False:
                    logger.warning("the database does not answer: %s", fault)
                self._reachable = False
            self._faults.crash_if_ordered()
            await asyncio.sleep(REFRESH_SECONDS)
