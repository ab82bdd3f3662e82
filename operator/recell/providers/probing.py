"""What the operator sees of cells by asking them: HTTP probes and integrity checks.

Promises: GET only, one connection per request, each with the deadline of its check; at most
`CONCURRENCY` at once; a cell's checks are spread by jitter and go on whatever happens to others.
A failure that only the operator can have (every probed cell with endpoints refuses it at once) is
marked as such (rule 12). A listener is told when a result changes, not at each probe.
Must not decide what a result means for a cell.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import aiohttp

from recell.api import Cell
from recell.api.cell import HTTPProbe, IntegrityCheck, ProbeScheme
from recell.api.meta import seconds
from recell.domain.observation import IntegrityResult, ProbeResult
from recell.engine.ports import Clock, Key
from recell.providers import http

logger = logging.getLogger(__name__)

CONCURRENCY = 64
FIRST_WITHIN = 2.0
"""Seconds after which a new target has been asked first; spread, so that a start does not ask all at once."""


@dataclass(frozen=True)
class ProbeTarget:
    """Where to ask, and what."""

    host: str
    port: int
    probe: HTTPProbe | None = None
    integrity: IntegrityCheck | None = None


@dataclass
class _Watched:
    target: ProbeTarget
    tasks: list[asyncio.Task[None]]
    probe: ProbeResult | None = None
    refused: bool = False
    """The last probe did not even get a connection."""
    integrity: IntegrityResult | None = None


class Prober:
    """`start()`, then `set_target` for each cell, whenever it may have changed; read by `probe` and `integrity`."""

    def __init__(
        self,
        clock: Clock,
        *,
        has_endpoints: Callable[[Key], bool],
        on_change: Callable[[Key], None],
    ) -> None:
        """`has_endpoints`: whether the cell should be answering, as the cluster sees it."""
        self._clock = clock
        self._has_endpoints = has_endpoints
        self._on_change = on_change
        self._watched: dict[Key, _Watched] = {}
        self._last_intact: dict[Key, datetime] = {}
        self._limit = asyncio.Semaphore(CONCURRENCY)
        self._session: aiohttp.ClientSession | None = None
        self._was_cut_off = False

    # Reading

    def probe(self, cell: Key) -> ProbeResult | None:
        """The last result; None before the first and for a cell that is not probed."""
        watched = self._watched.get(cell)
        if watched is None or watched.probe is None:
            return None
        if watched.probe.ok or not self.operator_cut_off:
            return watched.probe
        return replace(watched.probe, operator_cut_off=True)

    def integrity(self, cell: Key) -> IntegrityResult | None:
        watched = self._watched.get(cell)
        return watched.integrity if watched else None

    def last_intact(self, cell: Key) -> datetime | None:
        """When the cell's data was last asked about and found intact; kept while the cell cannot be asked."""
        return self._last_intact.get(cell)

    @property
    def operator_cut_off(self) -> bool:
        """Two or more cells are probed that have endpoints, and none of them gives a connection."""
        expected = [
            watched for key, watched in self._watched.items() if watched.probe is not None and self._has_endpoints(key)
        ]
        return len(expected) >= 2 and all(watched.refused for watched in expected)

    # Running

    def start(self) -> None:
        if self._session is None:
            self._session = http.session()

    async def stop(self) -> None:
        for cell in [*self._watched]:
            self._stop(cell)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def set_target(self, cell: Cell, address: tuple[str, int] | None) -> None:
        """Where and what to ask from now on; None: nothing. Repeatable; results are kept while it stays the same."""
        wanted = None
        if address is not None and (cell.spec.health.probe or cell.spec.data.integrity):
            wanted = ProbeTarget(*address, cell.spec.health.probe, cell.spec.data.integrity)
        known = self._watched.get(cell.key)
        if known is not None and known.target == wanted:
            return
        self._stop(cell.key)
        if wanted is not None:
            self._watch(cell.key, wanted)

    def drop(self, cell: Key) -> None:
        """The cell is gone: ask no more, and forget what was answered."""
        self._stop(cell)
        self._last_intact.pop(cell, None)

    def _stop(self, cell: Key) -> None:
        watched = self._watched.pop(cell, None)
        if watched is not None:
            for task in watched.tasks:
                task.cancel()

    # How

    def _watch(self, key: Key, target: ProbeTarget) -> None:
        watched = self._watched[key] = _Watched(target, [])
        if target.probe is not None:
            watched.tasks.append(asyncio.create_task(self._probe_for_ever(key, watched, target.probe)))
        if target.integrity is not None:
            watched.tasks.append(asyncio.create_task(self._check_for_ever(key, watched, target.integrity)))

    async def _probe_for_ever(self, key: Key, watched: _Watched, probe: HTTPProbe) -> None:
        interval = seconds(probe.interval)
        await asyncio.sleep(min(interval * 0.2, FIRST_WITHIN) * random.random())  # noqa: S311 - jitter
        while True:
            began = self._clock.monotonic()
            outcome = await self._ask(watched.target, probe.scheme, probe.path, seconds(probe.timeout))
            self._take_probe(key, watched, outcome)
            await self._rest(began, interval)

    async def _check_for_ever(self, key: Key, watched: _Watched, check: IntegrityCheck) -> None:
        interval = seconds(check.interval)
        await asyncio.sleep(min(interval * 0.2, FIRST_WITHIN) * random.random())  # noqa: S311 - jitter
        while True:
            began, at = self._clock.monotonic(), self._clock.now()
            scheme = watched.target.probe.scheme if watched.target.probe else ProbeScheme.HTTP
            outcome = await self._ask(watched.target, scheme, check.path, seconds(check.timeout))
            self._take_integrity(key, watched, check.path, outcome, at)
            await self._rest(began, interval)

    async def _rest(self, began: float, interval: float) -> None:
        left = began + interval * random.uniform(0.95, 1.05) - self._clock.monotonic()  # noqa: S311 - jitter
        await asyncio.sleep(max(0.05, left))

    def _take_probe(self, key: Key, watched: _Watched, outcome: http.Answer) -> None:
        ok = outcome.status is not None and 200 <= outcome.status < 400
        old, now = watched.probe, self._clock.now()
        since = old.since if old is not None and old.ok == ok else now
        watched.probe = ProbeResult(ok=ok, message=outcome.message, at=now, since=since)
        watched.refused = not ok and not outcome.connected
        cut_off = self.operator_cut_off
        if cut_off != self._was_cut_off:
            self._was_cut_off = cut_off
            logger.warning("no probed cell can be reached from the operator" if cut_off else "probes get through again")
            for other in [*self._watched]:
                self._on_change(other)
        elif old is None or old.ok != ok:
            self._on_change(key)

    def _take_integrity(self, key: Key, watched: _Watched, path: str, outcome: http.Answer, at: datetime) -> None:
        """`at`: when it was asked. What was written after that, the answer may not be about (rule 9)."""
        intact: bool | None = None
        if outcome.status is not None and 200 <= outcome.status < 300:
            intact = True
        elif outcome.status in (409, 503):
            intact = False
        old = watched.integrity
        if intact is None and old is not None and old.intact is not None:
            return  # the last verdict stands, and grows older, until there is another (rule 16)
        message = f"{path}: {outcome.message}"
        if outcome.body and intact is not True:
            message = f"{message}: {outcome.body}"
        watched.integrity = IntegrityResult(intact=intact, message=message, at=at)
        if intact:
            self._last_intact[key] = at
        if old is None or old.intact != intact:
            self._on_change(key)

    async def _ask(self, target: ProbeTarget, scheme: ProbeScheme, path: str, timeout: float) -> http.Answer:
        async with self._limit:
            if self._session is None:
                return http.Answer(None, "the operator is not probing", connected=False)
            url = http.url(scheme.value.lower(), target.host, target.port, path)
            return await http.ask(self._session, url, timeout=timeout)
