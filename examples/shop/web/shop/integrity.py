"""Is the cell's data what it must be? The orders are counted and digested, and compared with the invariants.

Promises: one statement sees one snapshot, so orders that arrive meanwhile cannot make good data look bad. `Unknown`
is never called intact or corrupted. At most one check runs at a time; callers that come meanwhile share its verdict.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from shop.database import Database, DatabaseUnavailable

CHECK_SECONDS = 30.0

_COMPARE = """
SELECT count(*) AS customers, coalesce((SELECT sum(customers) FROM shop.ledger), 0)::bigint AS expected_customers,
       coalesce(sum(found), 0)::bigint AS orders, coalesce(sum(expected), 0)::bigint AS expected_orders,
       count(*) FILTER (WHERE miscounted) AS miscounted, count(*) FILTER (WHERE altered AND NOT miscounted) AS altered,
       (SELECT id::text FROM shop.database) AS database_id
FROM shop.compared
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of the data, why, and the counts that say so."""

    state: Literal["Intact", "Corrupted", "Unknown"]
    reasons: tuple[str, ...] = ()
    counts: dict[str, object] = field(default_factory=dict)


class Integrity:
    """Checks one cell's data."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: asyncio.Task[Verdict] | None = None

    async def check(self) -> Verdict:
        """Count and compare now, or join the check that is under way."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._compare())
        # Shielded: one caller that goes away does not take the verdict from the others.
        return await asyncio.shield(self._running)

    async def _compare(self) -> Verdict:
        try:
            row = await self._database.fetch_one(_COMPARE, seconds=CHECK_SECONDS)
        except DatabaseUnavailable as fault:
            return Verdict("Unknown", (str(fault),))
        reasons = []
        if row["customers"] != row["expected_customers"]:
            reasons.append(f"{row['customers']} customers found, {row['expected_customers']} expected")
        if row["orders"] != row["expected_orders"]:
            reasons.append(f"{row['orders']} orders found, {row['expected_orders']} expected")
        if row["miscounted"]:
            reasons.append(f"{row['miscounted']} customers have more or fewer orders than they placed")
        if row["altered"]:
            reasons.append(f"{row['altered']} customers have orders that differ from what they placed")
        counts = {
            "customers": row["customers"],
            "orders": row["orders"],
            "affectedCustomers": row["miscounted"] + row["altered"],
            "database": row["database_id"],
        }
        return Verdict("Corrupted" if reasons else "Intact", tuple(reasons), counts)
