"""Observed time: how long something was looked at without a gap, in this process.

Promises: time in which nothing could be seen, and the time before a take-over, is not counted
(rule 30), because it lives in memory only. Must not be used for records: those have wall-clock times.
"""

from collections.abc import Hashable
from dataclasses import dataclass

GAP = 10.0
"""Seconds; a longer time between two looks was not seen."""


@dataclass
class _Watch:
    total: float
    last: float
    seen: bool


class Dwell:
    """Stopwatches by key; bounded by `drop`, which the engine calls when a run or step ends."""

    def __init__(self) -> None:
        self._watches: dict[tuple[Hashable, ...], _Watch] = {}

    def elapsed(self, key: tuple[Hashable, ...], now: float, *, seen: bool = True) -> float:
        """Look at `key` at monotonic second `now`; the seconds counted so far."""
        watch = self._watches.get(key)
        if watch is None:
            self._watches[key] = _Watch(0.0, now, seen)
            return 0.0
        gap = now - watch.last
        if watch.seen and seen and 0 <= gap <= GAP:
            watch.total += gap
        watch.last, watch.seen = now, seen
        return watch.total

    def forget(self, key: tuple[Hashable, ...]) -> None:
        self._watches.pop(key, None)

    def pause(self, prefix: tuple[Hashable, ...]) -> None:
        """The time until the next look at these keys is not counted."""
        for key, watch in self._watches.items():
            if key[: len(prefix)] == prefix:
                watch.seen = False

    def drop(self, prefix: tuple[Hashable, ...]) -> None:
        for key in [k for k in self._watches if k[: len(prefix)] == prefix]:
            del self._watches[key]
