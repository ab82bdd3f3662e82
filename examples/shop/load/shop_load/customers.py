"""The customers: who they are, which slot they hash to, and what each of them saw.

Promises: `slot_of` is the rule that routers use (first four bytes of the key's MD5, big-endian, modulo the slots).
A customer's home is the cell that answered first; what happened before that answer counts for that home too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

DEFAULT_SLOTS = 1024
UNKNOWN_HOME = "?"


def slot_of(key: str, slots: int = DEFAULT_SLOTS) -> int:
    """The slot of a customer key."""
    digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big") % slots


@dataclass(slots=True)
class Seen:
    """What was seen by somebody: requests that ended, errors among them, answers by a wrong cell, changes of cell."""

    requests: int = 0
    errors: int = 0
    wrong: int = 0
    moved: int = 0

    def add(self, other: Seen) -> None:
        """Count the other's as well."""
        self.requests += other.requests
        self.errors += other.errors
        self.wrong += other.wrong
        self.moved += other.moved

    def described(self) -> dict[str, int]:
        """As a JSON object."""
        return {"requests": self.requests, "errors": self.errors, "wrong": self.wrong, "moved": self.moved}


@dataclass(slots=True)
class Customer:
    """One customer. `home` answered first, `cell` the latest request; `acknowledged` counts this run's orders, `moves`
    is the highest number of moves that an answer told."""

    key: str
    slot: int
    home: str | None = None
    cell: str | None = None
    latest: int = -1
    acknowledged: int = 0
    moves: int = 0
    seen: Seen = field(default_factory=Seen)

    def answered_by(self, cell: str, request: int) -> bool:
        """Note which cell answered a request (numbered as sent); returns whether the customer changed cells.

        A late answer, to a request that was sent before one already answered, is no change.
        """
        self.home = self.home or cell
        if request < self.latest:
            return False
        moved = self.cell is not None and self.cell != cell
        self.cell, self.latest = cell, request
        return moved


def make_customers(count: int, prefix: str, slots: int) -> list[Customer]:
    """`count` customers, the same ones every time."""
    keys = [f"{prefix}{number:05d}" for number in range(count)]
    return [Customer(key, slot_of(key, slots)) for key in keys]


def seen_by_home(customers: Iterable[Customer]) -> dict[str, Seen]:
    """What the customers of each home saw; those whom no cell ever answered come under UNKNOWN_HOME."""
    homes: dict[str, Seen] = {}
    for customer in customers:
        homes.setdefault(customer.home or UNKNOWN_HOME, Seen()).add(customer.seen)
    return dict(sorted(homes.items()))
