"""Workers: take a key from the queue, reconcile it, say when again.

Promises: a key is with one worker at a time; whatever a reconcile raises is counted, logged once
and retried with backoff; a reconcile has a deadline; thousands of reconciles that find nothing to
do keep nobody else from running, least of all whoever renews the Lease; `stop` lets those that run
finish.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from recell.controllers.queue import Closed, WorkQueue
from recell.engine.errors import Conflict, Fenced, NotFound, RecellError, Retryable
from recell.engine.ports import Clock, Key
from recell.runtime.metrics import Metrics

logger = logging.getLogger(__name__)

DEADLINE = 120.0


class Controller(Protocol):
    """Looks after the objects of one kind."""

    async def reconcile(self, key: Key) -> float | None:
        """Bring one object nearer to what it should be; it may be gone already. Returns in how many seconds to
        be called again even if nothing happens; None: only when something does. Waiting is not an exception."""
        ...


class Workers:
    def __init__(
        self,
        name: str,
        controller: Controller,
        queue: WorkQueue[Key],
        clock: Clock,
        metrics: Metrics,
        *,
        count: int,
        on_fenced: Callable[[str], None],
    ) -> None:
        """`on_fenced`: somebody else leads, so this process has to end."""
        self._name = name
        self._controller = controller
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self._count = count
        self._on_fenced = on_fenced
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for number in range(self._count):
            self._tasks.append(asyncio.create_task(self._work(), name=f"{self._name} worker {number}"))

    async def stop(self, grace: float) -> None:
        """No new reconcile begins; those that run have `grace` seconds."""
        self._queue.close()
        try:
            async with asyncio.timeout(grace):
                await self._queue.drained()
        except TimeoutError:
            logger.warning("a reconcile of %s did not finish within %g s", self._name, grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except Closed:
                return
            began = self._clock.monotonic()
            result = "error"
            try:
                result = await self._reconcile(key)
            finally:
                self._queue.done(key)
                self._metrics.reconciled(self._name, result, self._clock.monotonic() - began)
            await asyncio.sleep(0)

    async def _reconcile(self, key: Key) -> str:
        """Returns the result as it is counted."""
        try:
            async with asyncio.timeout(DEADLINE):
                again = await self._controller.reconcile(key)
        except Fenced as error:
            self._on_fenced(str(error))
            return "fenced"
        except Conflict as error:
            self._retry(key, error, logging.DEBUG)
            return "conflict"
        except (Retryable, NotFound) as error:
            self._retry(key, error, logging.INFO, getattr(error, "after", None) or 0.0)
            return "retry"
        except RecellError as error:
            self._retry(key, error, logging.WARNING)
            return "refused"
        except TimeoutError:
            self._retry(key, TimeoutError(f"not finished within {DEADLINE:g} s"), logging.ERROR)
            return "timeout"
        except Exception as error:
            logger.exception("%s %s/%s failed unexpectedly", self._name, *key)
            self._retry(key, error, logging.DEBUG)
            return "error"
        self._queue.forget(key)
        if again is not None:
            self._queue.add_after(key, again)
        return "ok"

    def _retry(self, key: Key, error: Exception, level: int, at_least: float = 0.0) -> None:
        wait = self._queue.retry(key, at_least)
        logger.log(level, "%s %s/%s again in %.1f s: %s", self._name, *key, wait, error or type(error).__name__)
