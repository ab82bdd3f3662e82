"""Counts of what was seen in some time: one second, or a whole run.

Promises: adding is cheap and takes constant memory; a percentile is right within 2 %. Nothing here reads a clock.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from shop_load.customers import UNKNOWN_HOME, Seen

_STEP = math.log(1.02)
_SMALLEST_MS = 0.05


class Latencies:
    """Durations in milliseconds, kept as a histogram with 2 % wide bins."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, milliseconds: float) -> None:
        """Count one duration."""
        self._bins[int(math.log(max(milliseconds, _SMALLEST_MS) / _SMALLEST_MS) / _STEP)] += 1

    def percentile(self, percent: float) -> float | None:
        """The duration that `percent` of all did not exceed; None if there is none."""
        wanted = max(1, math.ceil(self._bins.total() * percent / 100))
        passed = 0
        for number in sorted(self._bins):
            passed += self._bins[number]
            if passed >= wanted:
                return _SMALLEST_MS * math.exp((number + 0.5) * _STEP)
        return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended. `home` and `cell` are None where unknown; `error` is None for a good answer."""

    home: str | None
    cell: str | None
    error: str | None
    wrong: bool
    moved: bool
    milliseconds: float


@dataclass(slots=True)
class Tally:
    """Sums of outcomes. `unsent` counts requests that were due while too many were under way."""

    sent: int = 0
    unsent: int = 0
    ok: int = 0
    wrong: int = 0
    moved: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    cells: Counter[str] = field(default_factory=Counter)
    homes: dict[str, Seen] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def ended(self) -> int:
        """Requests that ended, well or badly."""
        return self.ok + self.errors.total()

    def count(self, outcome: Outcome) -> None:
        """Add one outcome."""
        if outcome.error is None:
            self.ok += 1
        else:
            self.errors[outcome.error] += 1
        if outcome.cell is not None:
            self.cells[outcome.cell] += 1
        self.wrong += outcome.wrong
        self.moved += outcome.moved
        self.latencies.add(outcome.milliseconds)
        home = self.homes.setdefault(outcome.home or UNKNOWN_HOME, Seen())
        home.add(Seen(1, outcome.error is not None, outcome.wrong, outcome.moved))

    def described(self) -> dict[str, object]:
        """As a JSON object."""
        p50, p99 = self.latencies.percentile(50), self.latencies.percentile(99)
        return {
            "sent": self.sent,
            "unsent": self.unsent,
            "ended": self.ended,
            "ok": self.ok,
            "errors": dict(sorted(self.errors.items())),
            "wrong": self.wrong,
            "moved": self.moved,
            "p50Ms": None if p50 is None else round(p50, 2),
            "p99Ms": None if p99 is None else round(p99, 2),
            "cells": dict(sorted(self.cells.items())),
            "homes": {home: seen.described() for home, seen in sorted(self.homes.items())},
        }
