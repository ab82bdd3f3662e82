"""What the operator sees of routers by asking through them, as customers do.

Promises: GET only, as customers that nobody has, one connection per request, each with a deadline; a few
requests a second per router, whatever the others do. What a cell answers, also with an error, is an answer: the
header `X-Router` says that a router gave it. A listener is told when answers begin or cease, not at each request.
Must not decide what that means for a router.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

from recell.api import Cell, Router
from recell.api.cell import ProbeScheme
from recell.api.placement import PlacementMode
from recell.api.router import CustomerKey
from recell.domain.observation import Asked, Landed
from recell.engine.ports import Clock, Key
from recell.providers import http
from recell.providers.access import request

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two rounds."""
EACH = 2
"""Requests of a round: with two router pods both are met within seconds."""
TIMEOUT = 2.0
"""Seconds for a request; customers are told of a router that takes longer."""
KEPT = timedelta(minutes=1)
CUSTOMERS = 1000
"""Invented ones, so that every cell is met."""
ROUTER_HEADER = "X-Router"
REASON_HEADER = "X-Reason"
NO_TABLE = "no-placement"
SHOW = {"X-Recell-Show": "cell"}
CELL_HEADER = "X-Recell-Cell"


@dataclass(frozen=True)
class WayIn:
    """Where customers connect to, and what is asked there."""

    host: str
    port: int
    key: CustomerKey
    path: str = "/"
    name: str = ""
    """Host that customers ask for; empty: the one that they connect to."""
    scheme: ProbeScheme = ProbeScheme.HTTP

    async def ask(self, session: http.Session, customer: str, more: Mapping[str, str] | None = None) -> http.Answer:
        """What a request of this customer gets; `more` are headers."""
        url, headers = self._request(customer)
        return await http.ask(
            session, url, timeout=TIMEOUT, headers=headers | dict(more or {}), server_name=self.name or None
        )

    def _request(self, customer: str) -> tuple[str, dict[str, str]]:
        """URL and headers of a request of this customer."""
        headers, path = request(self.key, customer, self.path)
        name = {"Host": self.name} if self.name else {}
        return http.url(self.scheme.value.lower(), self.host, self.port, path), name | headers


def way_in(
    router: Router,
    where: tuple[str, int],
    cells: Mapping[str, Cell],
    *,
    name: str = "",
    scheme: ProbeScheme = ProbeScheme.HTTP,
) -> WayIn | None:
    """What a cell's own probe asks for, as a customer would; None for a router that knows no customers."""
    block = router.spec.haproxy
    if block is None:
        return None
    probes = [cell.spec.health.probe for _, cell in sorted(cells.items())]
    path = next((probe.path for probe in probes if probe), "/")
    return WayIn(*where, block.customer_key, path, name, scheme)


_Door = tuple[Key, PlacementMode | None]
"""A router, and which of its two sides; None: whichever customers reach."""


@dataclass(frozen=True)
class _Sample:
    at: datetime
    ok: bool
    message: str


@dataclass
class _Watched:
    way: WayIn
    task: asyncio.Task[None] | None = None
    samples: deque[_Sample] = field(default_factory=deque)
    since: datetime | None = None
    ok: bool | None = None


def answered(answer: http.Answer) -> bool:
    """Did a router answer that has a table?"""
    return ROUTER_HEADER in answer.headers and answer.headers.get(REASON_HEADER) != NO_TABLE


async def land(way: WayIn, customers: Sequence[str]) -> Sequence[Landed]:
    """One request of each of these customers that nobody has, at once, asking to be shown where it lands."""

    async def one(session: http.Session, customer: str) -> Landed:
        answer = await way.ask(session, customer, SHOW)
        told = f"{answer.message} {answer.headers.get(REASON_HEADER, '')}".strip()
        return Landed(customer, answer.status, answer.headers.get(CELL_HEADER), told)

    async with http.session() as session:
        return await asyncio.gather(*(one(session, customer) for customer in customers))


class RouterProber:
    """`start()`, then `set_way` for each router whenever it may have changed; read by `asked`."""

    def __init__(self, clock: Clock, *, on_change: Callable[[Key], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._watched: dict[_Door, _Watched] = {}
        self._customer = count()

    def asked(self, router: Key, window: float, *, side: PlacementMode | None = None) -> Asked | None:
        """What came of the requests of the last `window` seconds, where customers connect to or to one side alone;
        None before the first."""
        watched = self._watched.get((router, side))
        if watched is None or not watched.samples or watched.since is None:
            return None
        oldest = self._clock.now() - timedelta(seconds=window)
        samples = [s for s in watched.samples if s.at >= oldest] or [watched.samples[-1]]
        failed = [s for s in samples if not s.ok]
        return Asked(
            asked=len(samples),
            unanswered=len(failed),
            message=(failed or samples)[-1].message,
            at=samples[-1].at,
            since=watched.since,
        )

    def set_way(self, router: Key, way: WayIn | None, *, side: PlacementMode | None = None) -> None:
        """Where and what to ask from now on; None: nothing. Repeatable; needs a running loop."""
        door = (router, side)
        known = self._watched.get(door)
        if known is not None and known.way == way:
            return
        if known is not None and known.task is not None:
            known.task.cancel()
        self._watched.pop(door, None)
        if way is not None:
            watched = self._watched[door] = _Watched(way)
            watched.task = asyncio.get_running_loop().create_task(
                self._ask_for_ever(router, watched), name=f"asking through router {router}"
            )

    async def stop(self) -> None:
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_for_ever(self, router: Key, watched: _Watched) -> None:
        await asyncio.sleep(INTERVAL * random.random())  # noqa: S311 - jitter
        async with http.session() as session, asyncio.TaskGroup() as rounds:
            while True:
                for _ in range(EACH):
                    rounds.create_task(self._ask(session, router, watched))
                await asyncio.sleep(INTERVAL)

    async def _ask(self, session: http.Session, router: Key, watched: _Watched) -> None:
        answer = await watched.way.ask(session, f"recell-probe-{next(self._customer) % CUSTOMERS}")
        ok, now = answered(answer), self._clock.now()
        message = answer.message
        if not ok and answer.status is not None:
            message = f"{message} {answer.headers.get(REASON_HEADER, 'by something that is no router')}"
        watched.samples.append(_Sample(now, ok, message))
        while watched.samples[0].at < now - KEPT:
            watched.samples.popleft()
        if watched.ok is not ok:
            watched.ok, watched.since = ok, now
            self._on_change(router)
