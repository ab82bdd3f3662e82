"""What name servers answer for each Router, looked at for as long as the Router is there: the `Traffic` port.

Promises
- `applied` is the newest Placement whose records are in force (`publication`); one that changes no record is in force
  with the one before it.
- All name servers are asked at once, every few seconds while a change is under way and twice a minute after that.
- A Placement that is older than the one that counts, or of another UID without a higher epoch, is refused.
- `on_change` is told when a change is in force, or waits for something else; not at each look.

Must not: write anything, or say anything about traffic: nobody counts it, so `observed` is always None.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from recell.api.dns import DNS
from recell.domain.observation import Applied, RouterTraffic
from recell.engine.errors import Retryable
from recell.engine.ports import Clock, Key
from recell.providers.routing.dns.publication import Outcome, Publication, Reply, Wanted, ask, look
from recell.providers.routing.dns.resolving import Server
from recell.providers.routing.version import Version

logger = logging.getLogger(__name__)

LOOK_EVERY = 2.0
"""Seconds between two looks while a change is under way."""
SETTLED_EVERY = 30.0
"""Seconds between two looks while none is: the zone may be changed by others."""
FIRST_LOOK = 5.0
"""Seconds."""
QUESTIONS = 8
"""To each name server at each look, where an answer names one target of several: within a TTL of 60 s that is more
than 200 answers of each, among which a record with one customer in fifty is missed less often than once in 50."""


class Names(Protocol):
    """Name servers, to be asked."""

    async def servers(self, block: DNS) -> Sequence[Server]: ...

    async def ask(self, server: Server, name: str, record_type: str) -> Reply: ...


async def ask_all(names: Names, block: DNS, name: str, record_type: str, *, times: int = 1) -> list[Reply]:
    """Every name server of the block, all at once, each so many times. Raises Retryable where they cannot be found."""
    questions = [server for server in await names.servers(block) for _ in range(times)]
    return list(await asyncio.gather(*(names.ask(server, name, record_type) for server in questions)))


@dataclass
class _Router:
    block: DNS
    publication: Publication
    taken: bool = False
    """ExternalDNS has taken up the newest records."""
    applied: Applied | None = None
    heard: int = 0
    """Name servers that told something at the last look."""
    refused: str = ""
    complained: bool = False
    """At the last look."""
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class DNSTraffic:
    """Implements `recell.engine.ports.Traffic`."""

    def __init__(self, clock: Clock, names: Names, *, on_change: Callable[[Key], None]) -> None:
        self._clock = clock
        self._names = names
        self._on_change = on_change
        self._routers: dict[Key, _Router] = {}
        self._ending: set[asyncio.Task[None]] = set()

    # What the data plane says.

    async def publish(self, router: Key, block: DNS, wanted: Wanted, *, taken: bool) -> None:
        """These records were asked for; `taken`: ExternalDNS has taken them up. A Router's first look is waited for, so
        that nothing is said of name servers that were not asked yet."""
        now = self._clock.monotonic()
        known = self._routers.get(router)
        if known is None:
            known = self._routers[router] = _Router(block, ask(None, wanted, now), taken)
            known.task = asyncio.create_task(self._follow(router, known), name=f"name servers of {'/'.join(router)}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOOK):
                    await known.looked.wait()
            return
        new, last = wanted.version, known.publication.wanted.version
        known.refused = ""
        if not new.may_follow(last):
            known.refused = f"the records are of Placement {last}, and {new} is older or another one"
            return
        before, told = known.publication, (known.block, known.taken)
        known.block, known.taken = block, taken
        known.publication = ask(before, wanted, now)
        if known.publication.in_force:
            self._in_force(known)
        if known.publication != before or told != (block, taken):
            known.stirred.set()

    def drop(self, router: Key) -> None:
        """The Router is gone. Repeatable."""
        known = self._routers.pop(router, None)
        if known is not None and known.task is not None:
            known.task.cancel()
            self._ending.add(known.task)
            known.task.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        for router in list(self._routers):
            self.drop(router)
        await asyncio.gather(*self._ending, return_exceptions=True)

    # What it tells.

    def applied(self, router: Key) -> Applied | None:
        known = self._routers.get(router)
        return known.applied if known else None

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        return None

    def serving(self, router: Key) -> int:
        """Name servers that told something at the last look."""
        known = self._routers.get(router)
        return known.heard if known else 0

    def complaint(self, router: Key) -> str:
        """What somebody has to look into: a refused Placement, or a name server that is late or wrong."""
        known = self._routers.get(router)
        if known is None:
            return ""
        return known.refused or known.publication.complaint(self._clock.monotonic())

    def progress(self, router: Key) -> str:
        """What the newest change waits for, or what is seen of it."""
        known = self._routers.get(router)
        if known is None:
            return ""
        wanted = known.publication.wanted
        if known.publication.waits:
            return known.publication.waits
        if not wanted.targets:
            return f"No name server has {wanted.question}: no cell may serve anybody"
        if wanted.exact:
            return f"Every name server answers {wanted.question} with the cells that serve, and no others"
        return (
            f"Every name server answers {wanted.question} with cells that serve, and no others; how often with which,"
            " no answer shows: that the weights are in force is by time alone"
        )

    # How.

    async def _follow(self, router: Key, known: _Router) -> None:
        """Until cancelled."""
        while True:
            known.stirred.clear()
            asked = known.publication.wanted
            replies = await self._look(known)
            if known.publication.wanted.content == asked.content:  # else the answers are judged by the wrong records
                self._judge(router, known, replies)
                known.looked.set()
                pause = LOOK_EVERY
                if known.publication.in_force and not known.publication.waits:
                    pause = SETTLED_EVERY
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await known.stirred.wait()

    async def _look(self, known: _Router) -> list[Reply]:
        block, wanted = known.block, known.publication.wanted
        times = QUESTIONS if block.weighted and wanted.targets else 1
        try:
            return await ask_all(self._names, block, wanted.name, wanted.record_type, times=times)
        except Retryable as error:
            return [Reply(f"The zone of {block.hostname}", Outcome.SILENT, said=str(error))]

    def _judge(self, router: Key, known: _Router, replies: Sequence[Reply]) -> None:
        before, heard, complained = known.publication, known.heard, known.complained
        now = self._clock.monotonic()
        known.publication = after = look(before, replies, taken=known.taken, now=now)
        known.complained = bool(after.complaint(now))
        told = {reply.server for reply in replies if reply.outcome in (Outcome.ANSWERED, Outcome.NO_RECORD)}
        known.heard = len(told)
        if after.in_force and not before.in_force:
            self._in_force(known)
            logger.info("%s of Router %s/%s is in force", after.wanted.question, *router)
        elif before.in_force and not after.in_force:
            known.applied = None
            logger.warning("%s of Router %s/%s: %s", after.wanted.question, *router, after.waits)
        seen = (before.in_force, before.waits, heard > 0, complained)
        if seen != (after.in_force, after.waits, known.heard > 0, known.complained):
            self._on_change(router)

    def _in_force(self, known: _Router) -> None:
        version, last = known.publication.wanted.version, known.applied
        if last is None or Version(last.uid, last.epoch, last.generation) != version:
            known.applied = Applied(
                version.uid, version.epoch, version.generation, pods=max(1, known.heard), at=self._clock.now()
            )
