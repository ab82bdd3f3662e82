"""Slots: the parts of the customers that routers move between cells.

Promises: the databases divide customers into SLOTS, the most that a router has; a router's slot is one or several of
those. Lists are written as `0-511,700`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SLOTS = 16384


def parse(text: str, count: int) -> list[int]:
    """The slots in a list, sorted; ValueError if one is not from 0 to `count` - 1."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal():
            raise ValueError(f"{part!r} is neither a slot nor a range of slots")
        lowest, highest = int(first), int(last)
        if not lowest <= highest < count:
            raise ValueError(f"{part!r} is not within 0-{count - 1}")
        found.update(range(lowest, highest + 1))
    return sorted(found)


def write(slots: Iterable[int]) -> str:
    """The list of some slots, the shortest that `parse` reads back."""
    ranges: list[list[int]] = []
    for slot in sorted(set(slots)):
        if ranges and slot == ranges[-1][1] + 1:
            ranges[-1][1] = slot
        else:
            ranges.append([slot, slot])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def of_databases(slots: Sequence[int], count: int) -> list[int]:
    """The databases' slots that are a router's, which has `count`."""
    return [part for slot in slots for part in range(slot, SLOTS, count)]
