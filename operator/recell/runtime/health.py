"""Whether this process works: /healthz, /readyz, /metrics.

Promises
- /healthz fails when a restart would help: a watch whose loop has not stirred for long, a reconcile
  that never ends, an event loop that hangs. An API server that is away is no reason.
- /readyz fails until every copy is complete, and says which one is not, and why. It says nothing
  about who leads: a standby is ready.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web

from recell.controllers.queue import WorkQueue
from recell.engine.ports import Clock, Key
from recell.providers.kube.reflector import Reflector

logger = logging.getLogger(__name__)

STUCK_WATCH = 300.0
STUCK_RECONCILE = 300.0
STUCK_LOOP = 10.0
TICK = 0.5
LAGS = 120
"""Ticks that are remembered: a minute."""


class Health:
    def __init__(
        self,
        clock: Clock,
        *,
        reflectors: Callable[[], Sequence[Reflector]],
        queues: Callable[[], Mapping[str, WorkQueue[Key]]],
        render_metrics: Callable[[], bytes],
    ) -> None:
        self._clock = clock
        self._reflectors = reflectors
        self._queues = queues
        self._render_metrics = render_metrics
        self._lags = [0.0] * LAGS
        self._ticks = 0
        self._ticker: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self._stopping = False

    @property
    def loop_lag(self) -> float:
        """The longest of the last minute."""
        return max(self._lags)

    @property
    def port(self) -> int:
        """That it listens on (for port 0: the one that was free)."""
        if self._runner is None:
            raise RuntimeError("the health endpoint is not open")
        return int(self._runner.addresses[0][1])

    async def start(self, host: str, port: int) -> None:
        self._ticker = asyncio.create_task(self._tick(), name="event loop lag")
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host or None, port).start()

    def stopping(self) -> None:
        """From now on not ready."""
        self._stopping = True

    async def stop(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def ailments(self) -> list[str]:
        """Why a restart would help; empty: it would not."""
        now = self._clock.monotonic()
        found = [
            f"the watch of {reflector.path} has not stirred for {now - reflector.stirred:.0f} s"
            for reflector in self._reflectors()
            if now - reflector.stirred > STUCK_WATCH
        ]
        found += [
            f"a reconcile of {name} has been running for {queue.longest_work:.0f} s"
            for name, queue in self._queues().items()
            if queue.longest_work > STUCK_RECONCILE
        ]
        if self._lags[self._ticks % LAGS - 1] > STUCK_LOOP:
            found.append(f"the event loop hung for {self._lags[self._ticks % LAGS - 1]:.0f} s")
        return found

    def unready(self) -> list[str]:
        found = [
            f"{reflector.path} is not complete yet" + (f": {reflector.trouble}" if reflector.trouble else "")
            for reflector in self._reflectors()
            if not reflector.synced.is_set()
        ]
        return [*found, "stopping"] if self._stopping else found

    async def _healthz(self, request: web.Request) -> web.Response:
        return self._answer(self.ailments())

    async def _readyz(self, request: web.Request) -> web.Response:
        return self._answer(self.unready())

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._render_metrics(), headers={"Content-Type": "text/plain; version=0.0.4"})

    @staticmethod
    def _answer(problems: list[str]) -> web.Response:
        text = "\n".join(problems) or "ok"
        return web.Response(text=text + "\n", status=503 if problems else 200)

    async def _tick(self) -> None:
        while True:
            began = self._clock.monotonic()
            await asyncio.sleep(TICK)
            self._lags[self._ticks % LAGS] = max(0.0, self._clock.monotonic() - began - TICK)
            self._ticks += 1
