"""The queue between what happened and who looks after it.

Promises: a key that is added many times is handed out once; a key is never with two workers at
once, and one that is added while it is worked on is handed out again afterwards; a later moment
(`add_after`) never replaces an earlier one; failures of a key wait ever longer, with jitter. The
order is first come, first served.

Pure scheduling: no I/O, no threads. Time comes from the event loop, so that tests run in virtual time.
"""

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BACKOFF_FIRST = 0.1
BACKOFF_MOST = 60.0

LatencyHook = Callable[[float], None]
"""Told how many seconds a key waited after it was due."""


class Closed(Exception):
    """The queue gives out nothing any more."""


class WorkQueue(Generic[K]):
    """`add` from anywhere in the event loop; workers `get`, work, then `done`."""

    def __init__(
        self,
        *,
        first: float = BACKOFF_FIRST,
        most: float = BACKOFF_MOST,
        jitter: Callable[[], float] = random.random,
        on_latency: LatencyHook | None = None,
    ) -> None:
        """`jitter` gives 0..1; a wait is between half and all of the backoff."""
        self._loop = asyncio.get_running_loop()
        self._first, self._most, self._jitter, self._on_latency = first, most, jitter, on_latency
        self._ready: dict[K, float] = {}
        self._busy: dict[K, float] = {}
        self._again: set[K] = set()
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._order = itertools.count()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    # Adding

    def add(self, key: K) -> None:
        """Now."""
        if self._closed:
            return
        if self._due.pop(key, None) is not None:
            self._trim_heap()
        if key in self._busy:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = self._loop.time()
            self._wake_one()

    def add_after(self, key: K, delay: float) -> None:
        """In `delay` seconds, unless it is due sooner already."""
        if delay <= 0:
            self.add(key)
            return
        due = self._loop.time() + delay
        if self._closed or key in self._ready or self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._arm()

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """After a failure: later each time. Returns the wait in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        backoff = min(self._most, self._first * 2.0 ** min(failures, 32))
        wait = max(at_least, backoff * (0.5 + 0.5 * self._jitter()))
        self.add_after(key, wait)
        return wait

    def forget(self, key: K) -> None:
        """After a success: the next failure starts from the shortest wait."""
        self._failures.pop(key, None)

    # Working

    async def get(self) -> K:
        """The next key; waits for one. Raises Closed after `close()`."""
        while not self._ready:
            if self._closed:
                raise Closed
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                elif self._ready:
                    self._wake_one()  # the wake-up that this one got is for somebody else now
                raise
        if self._closed:
            raise Closed
        key = next(iter(self._ready))
        since = self._ready.pop(key)
        now = self._loop.time()
        self._busy[key] = now
        self._idle.clear()
        if self._on_latency is not None:
            self._on_latency(now - since)
        return key

    def done(self, key: K) -> None:
        """The worker has finished with the key."""
        del self._busy[key]
        if not self._busy:
            self._idle.set()
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Give out nothing more. Keys that are being worked on may still be finished."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._ready.clear()
        while self._waiting:
            self._wake_one()

    async def drained(self) -> None:
        """Wait until no key is being worked on. No deadline of its own: the caller has one."""
        await self._idle.wait()

    # Looking

    def __len__(self) -> int:
        """Keys that are due and wait for a worker."""
        return len(self._ready)

    @property
    def later(self) -> int:
        """Keys that are not due yet."""
        return len(self._due)

    @property
    def longest_wait(self) -> float:
        """Seconds that the oldest due key has waited for a worker."""
        return self._loop.time() - next(iter(self._ready.values())) if self._ready else 0.0

    @property
    def longest_work(self) -> float:
        """Seconds that a key has been with a worker."""
        return self._loop.time() - min(self._busy.values()) if self._busy else 0.0

    # How

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _trim_heap(self) -> None:
        """Entries that were overtaken stay in the heap until they come up; rebuild when they are the most of it."""
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due):
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer = self._loop.call_at(self._heap[0][0], self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self.add(key)
        self._arm()
