"""Customers and their orders, as the cell's database has them.

Promises: `place` returns after the commit, and once for each idempotency key of a customer. What is read is what is
committed. All of it raises `DatabaseUnavailable`, and `place` also `WritesStopped`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shop.database import Database

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Order:
    """One order. `cents` is the price; `seq` orders a customer's orders by when they were placed here."""

    id: str
    item: str
    cents: int
    placed_at: datetime
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Home:
    """The cell that a customer's data belongs to, and how often the data moved to get there."""

    cell: str
    moves: int


@dataclass(frozen=True, slots=True)
class Placed:
    """The answer to an order: the order, the cell that the customer's data belongs to, whether it is a new one."""

    order: Order
    home: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Customer:
    """What is known of a customer."""

    id: str
    home: Home
    since: datetime
    orders: int
    cents: int


class Orders:
    """The orders of one cell."""

    def __init__(self, database: Database, cell: str) -> None:
        self._database = database
        self._cell = cell

    async def place(self, customer: str, item: str, cents: int, key: str | None) -> Placed:
        """Place an order; with a key that this customer used before, find that order instead."""
        row = await self._database.fetch_one(
            "SELECT * FROM shop.place_order($1, $2, $3, $4, $5)", self._cell, customer, key, item, cents
        )
        order = Order(str(row["order_id"]), row["order_item"], row["order_cents"], row["order_placed_at"])
        return Placed(order, Home(row["home_cell"], row["home_moves"]), row["is_new"])

    async def listed(self, customer: str, after: int, limit: int) -> tuple[Home | None, list[Order]]:
        """The customer's home (None: unknown here) and at most `limit` orders placed after number `after`."""
        rows = await self._database.fetch(
            "SELECT c.home, c.moves, o.seq, o.id, o.item, o.cents, o.placed_at FROM shop.customers c"
            " LEFT JOIN LATERAL (SELECT * FROM shop.orders WHERE customer = c.id AND seq > $2"
            " ORDER BY seq LIMIT $3) o ON true WHERE c.id = $1 ORDER BY o.seq",
            customer,
            after,
            min(limit, MAX_PAGE),
        )
        if not rows:
            return None, []
        return Home(rows[0]["home"], rows[0]["moves"]), [_order(row) for row in rows if row["id"] is not None]

    async def customer(self, customer: str) -> Customer | None:
        """What the cell knows of the customer; None if nothing."""
        row = await self._database.fetch_one(
            "SELECT c.id, c.home, c.moves, c.since, count(o.id) AS orders, coalesce(sum(o.cents), 0)::bigint AS cents"
            " FROM shop.customers c LEFT JOIN shop.orders o ON o.customer = c.id WHERE c.id = $1 GROUP BY c.id",
            customer,
        )
        if row is None:
            return None
        return Customer(row["id"], Home(row["home"], row["moves"]), row["since"], row["orders"], row["cents"])

    async def answers(self) -> None:
        """Return if the database can serve orders."""
        await self._database.fetch("SELECT FROM shop.database")

    async def corrupt(self, what: str, percent: float) -> int:
        """Spoil a share of the orders behind the invariants' back, as a faulty release or a bad disk would do."""
        chosen = (
            "SELECT seq FROM shop.orders ORDER BY random()"
            " LIMIT (SELECT ceil(count(*) * $1::float8 / 100)::bigint FROM shop.orders)"
        )
        statement = {
            "amounts": f"UPDATE shop.orders SET cents = cents + 1 WHERE seq IN ({chosen}) RETURNING seq",
            "rows": f"DELETE FROM shop.orders WHERE seq IN ({chosen}) RETURNING seq",
        }[what]
        row = await self._database.fetch_one(
            f"WITH spoilt AS ({statement}) SELECT count(*) AS rows FROM spoilt", percent, seconds=60.0
        )
        return int(row["rows"])


def _order(row: Any) -> Order:
    return Order(str(row["id"]), row["item"], row["cents"], row["placed_at"], row["seq"])
