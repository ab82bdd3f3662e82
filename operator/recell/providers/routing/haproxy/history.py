"""What one router pod counted over the last minutes. Pure: the moment of each report is passed in.

Promises: counters that start again with a new HAProxy process are joined, so that differences are
always what happened in between; memory is bounded: every report of the last minute, one per ten
seconds of the ten minutes before it, and cells in which nothing happened share their counters.
"""

from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import add, sub
from typing import NamedTuple

from recell.providers.routing.haproxy.report import Report

FULL = timedelta(minutes=1)
KEPT = timedelta(minutes=10)
THIN = timedelta(seconds=10)
FRESH = 10.0
"""A process not older than this had counted nothing before it started, which is known to be so."""


@dataclass(frozen=True)
class Snapshot:
    at: datetime
    rejected: int
    cells: Mapping[int | str, "array[int]"] = field(default_factory=dict)
    """By index of the cell, and by name of the class of requests."""


class Counted(NamedTuple):
    """The difference between two snapshots."""

    requests: int
    failures: int
    rest: tuple[int, ...]
    """Of a cell: answers by latency bucket. Of a class of requests: those that were shed."""


class PodHistory:
    def __init__(self) -> None:
        self._old: deque[Snapshot] = deque()
        self._recent: deque[Snapshot] = deque()
        self._instance = ""
        self._raw: dict[int | str, array[int]] = {}
        self._raw_rejected = 0
        self.bounds: tuple[float, ...] = ()
        self._nothing = Counted(0, 0, (0,))
        self.from_zero = False
        """The first snapshot is the start of a process: nothing was counted before it."""

    def add(self, report: Report, at: datetime) -> None:
        """A report without counters (HAProxy does not run) adds nothing."""
        if report.rejected is None or not report.instance:
            return
        last = self.last
        if last is None or report.bounds != self.bounds:
            last = self._begin(report, at)
        restarted = report.instance != self._instance
        at = max(at, last.at)
        cells, counters = dict(last.cells), report.counters
        for index, told in counters.items():
            cells[index] = self._joined(index, told, cells.get(index), restarted)
        before = 0 if restarted else self._raw_rejected
        rejected = last.rejected + max(0, report.rejected - before)
        self._raw_rejected = max(report.rejected, before)
        if restarted:
            self._raw = {index: raw for index, raw in self._raw.items() if index in counters}
        self._instance = report.instance
        self._keep(Snapshot(at, rejected, cells))

    @property
    def last(self) -> Snapshot | None:
        return self._recent[-1] if self._recent else None

    def first_since(self, moment: datetime) -> Snapshot | None:
        return next((snapshot for snapshot in self._all() if snapshot.at >= moment), None)

    def begins_with(self, snapshot: Snapshot) -> bool:
        """Whether it stands for the very start of the pod, so that nothing is missing before it."""
        return self.from_zero and next(self._all(), None) is snapshot

    def counted(self, index: int | str, since: Snapshot, until: Snapshot) -> Counted:
        """What happened to a cell between the two; zeros for one that is not known."""
        after, before = until.cells.get(index), since.cells.get(index)
        if after is None or after is before:
            return self._nothing
        requests, failures, *rest = after if before is None else map(sub, after, before)
        return Counted(requests, failures, tuple(rest))

    def _begin(self, report: Report, at: datetime) -> Snapshot:
        self._old.clear()
        self._recent.clear()
        self.bounds = report.bounds
        self._nothing = Counted(0, 0, (0,) * (len(report.bounds) + 1))
        self.from_zero = report.age <= FRESH
        if self.from_zero:
            self._raw, self._raw_rejected, self._instance = {}, 0, report.instance
            start = Snapshot(at - timedelta(seconds=report.age), 0)
        else:
            self._raw = report.counters
            self._raw_rejected, self._instance = report.rejected or 0, report.instance
            start = Snapshot(at, 0, {index: array("Q", bytes(8 * len(raw))) for index, raw in self._raw.items()})
        self._recent.append(start)
        return start

    def _joined(self, index: int | str, raw: "array[int]", total: "array[int] | None", restarted: bool) -> "array[int]":
        before = None if restarted else self._raw.get(index)
        if raw == before and total is not None:
            return total
        if before is not None:
            # Counters are read while they move: one may seem to fall by a request or two.
            raw = array("Q", map(max, raw, before))
        self._raw[index] = raw
        if total is None:
            total = array("Q", bytes(8 * len(raw)))
        gained = raw if before is None else array("Q", map(sub, raw, before))
        return array("Q", map(add, total, gained))

    def _keep(self, snapshot: Snapshot) -> None:
        self._recent.append(snapshot)
        while len(self._recent) > 1 and self._recent[0].at < snapshot.at - FULL:
            passing = self._recent.popleft()
            if not self._old or passing.at - self._old[-1].at >= THIN:
                self._old.append(passing)
        while self._old and self._old[0].at < snapshot.at - KEPT:
            self._old.popleft()
            self.from_zero = False

    def _all(self) -> Iterator[Snapshot]:
        yield from self._old
        yield from self._recent
