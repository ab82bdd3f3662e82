"""What all cells of a router share, asked from the operator: `dependencies` of a RecoveryPolicy.

Promises: connect, or GET where a path is given, with a deadline; nothing else is sent. A dependency is broken when it
has not answered for `failedAfter`, so that one lost packet holds nothing; a listener is told when that changes. What
is asked is bounded by the policy (16 for a router).

Must not decide anything: that a failure is shared is said by `domain.failure`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from recell.api.meta import seconds
from recell.api.recovery_policy import Dependency, RecoveryPolicySpec
from recell.engine.ports import Clock, Key
from recell.providers import http

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two tries of a dependency."""
WITHIN = 2.0
"""Seconds that an answer may take."""


@dataclass
class _Watched:
    asked: Dependency
    failed_after: float
    task: asyncio.Task[None]
    failing_since: float | None = None
    """Monotonic."""
    broken: bool = False


class DependencyProber:
    """`watch` for each Router, whenever its policy may have changed; `broken` reads."""

    def __init__(self, clock: Clock, *, on_change: Callable[[Key], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._watched: dict[Key, dict[str, _Watched]] = {}
        self._session: aiohttp.ClientSession | None = None

    def broken(self, router: Key) -> tuple[str, ...]:
        """Names of those that do not answer."""
        return tuple(sorted(name for name, known in self._watched.get(router, {}).items() if known.broken))

    def watch(self, router: Key, policy: RecoveryPolicySpec) -> None:
        """These and no others from now on. Needs a running loop; repeatable."""
        known, failed_after = self._watched.setdefault(router, {}), seconds(policy.detection.failed_after)
        wanted = {dependency.name: dependency for dependency in policy.dependencies}
        for name in [n for n, w in known.items() if wanted.get(n) != w.asked or w.failed_after != failed_after]:
            known.pop(name).task.cancel()
        for name, dependency in wanted.items():
            if name not in known:
                task = asyncio.get_running_loop().create_task(
                    self._ask_for_ever(router, name), name=f"dependency {name} of {router[1]}"
                )
                known[name] = _Watched(dependency, failed_after, task)

    def drop(self, router: Key) -> None:
        """The Router is gone. Repeatable."""
        for known in self._watched.pop(router, {}).values():
            known.task.cancel()

    async def stop(self) -> None:
        tasks: Sequence[asyncio.Task[None]] = [w.task for known in self._watched.values() for w in known.values()]
        for router in list(self._watched):
            self.drop(router)
        await asyncio.gather(*tasks, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask_for_ever(self, router: Key, name: str) -> None:
        while True:
            await asyncio.sleep(EVERY)
            watched = self._watched[router][name]
            told = await self._ask(watched.asked)
            now = self._clock.monotonic()
            watched.failing_since = None if not told else watched.failing_since or now
            broken = watched.failing_since is not None and now - watched.failing_since >= watched.failed_after
            if broken != watched.broken:
                watched.broken = broken
                log.warning("dependency %s of %s/%s: %s", name, *router, told or "it answers again")
                self._on_change(router)

    async def _ask(self, asked: Dependency) -> str:
        """Why it does not answer as it should; empty when it does."""
        if asked.path is None:
            try:
                async with asyncio.timeout(WITHIN):
                    _, writer = await asyncio.open_connection(asked.host, asked.port)
            except (OSError, TimeoutError) as error:
                return f"{type(error).__name__} {error}".strip()
            writer.close()
            return ""
        if self._session is None:
            self._session = http.session()
        answer = await http.ask(self._session, http.url("http", asked.host, asked.port, asked.path), timeout=WITHIN)
        return "" if answer.status is not None and answer.status < 500 else answer.message
