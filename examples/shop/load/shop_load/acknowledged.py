"""The orders that the shop acknowledged: what it said it has, to be looked for later.

Promises: an order is written to the file before anything else is reported about it, and the file is readable at any
moment (one JSON object a line); a line that was cut short by a kill is told apart from a wrong file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO


class BadOrdersFile(Exception):
    """The file does not hold acknowledged orders; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One order, when its acknowledgement came (RFC 3339), and the cell that gave it."""

    order: str
    customer: str
    item: str
    cents: int
    cell: str
    at: str


class Memory:
    """Where a run puts its acknowledged orders: a list, a file, or both."""

    def __init__(self, keep: bool, file: IO[str] | None) -> None:
        self.count = 0
        self.orders: list[Acknowledged] = []
        self._keep = keep
        self._file = file

    def remember(self, order: Acknowledged) -> None:
        """Take one order."""
        self.count += 1
        if self._keep:
            self.orders.append(order)
        if self._file is not None:
            self._file.write(json.dumps(asdict(order)) + "\n")


@contextmanager
def open_memory(keep: bool, path: Path | None) -> Iterator[Memory]:
    """A memory that appends to `path`, if one is given, line by line."""
    if path is None:
        yield Memory(keep, None)
        return
    with path.open("a", buffering=1, encoding="utf-8") as file:
        yield Memory(keep, file)


def read_orders(path: Path) -> list[Acknowledged]:
    """The orders in a file; raises BadOrdersFile, OSError."""
    orders = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                orders.append(Acknowledged(**json.loads(line)))
            except (ValueError, TypeError) as wrong:
                if not line.endswith("\n"):
                    break  # the writer was killed in the middle of its last line
                raise BadOrdersFile(f"{path}, line {number}: not an acknowledged order ({wrong})") from wrong
    return orders


def by_customer(orders: Iterable[Acknowledged]) -> dict[str, list[Acknowledged]]:
    """The orders of each customer."""
    grouped: dict[str, list[Acknowledged]] = {}
    for order in orders:
        grouped.setdefault(order.customer, []).append(order)
    return grouped
