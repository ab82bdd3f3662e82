"""Who waits for an object of Velero, or for what it brings, is woken when it changes.

Promises: watches of exactly what is waited for, by names and labels; a change of any of it tells the Cell that waits.
They end when nobody waits any more, or `KEPT` seconds after it was said last. Nothing is kept here to be read.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from recell.engine.errors import Forbidden
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.made import KEPT
from recell.providers.kube.paths import Resource
from recell.providers.kube.reflector import Reflector


@dataclass(frozen=True)
class Awaited:
    """Objects of one kind in a namespace: the one of that name, or those with these labels."""

    resource: Resource
    namespace: str
    name: str = ""
    labels: str = ""


@dataclass
class _Waiting:
    timer: asyncio.TimerHandle
    watches: dict[Awaited, Reflector]


class VeleroWatches:
    """`on_change` is told the key of the Cell that waits."""

    def __init__(self, api: Api, clock: Clock, *, on_change: Callable[[Key], None]) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._waiting: dict[Key, _Waiting] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def reflectors(self) -> Sequence[Reflector]:
        return [watch for waiting in self._waiting.values() for watch in waiting.watches.values()]

    def open(self, cell: Key, wanted: Iterable[Awaited]) -> None:
        """The cell waits for these, and for nothing else. Raises Forbidden where one cannot be watched."""
        known = self._waiting.pop(cell, None)
        watches = known.watches if known else {}
        if known:
            known.timer.cancel()
        wanted = tuple(wanted)
        for awaited in [awaited for awaited in watches if awaited not in wanted]:
            self._stop(watches.pop(awaited))
        for awaited in wanted:
            if awaited not in watches:
                watches[awaited] = self._watch(cell, awaited)
        timer = asyncio.get_running_loop().call_later(KEPT, self.close, cell)
        self._waiting[cell] = _Waiting(timer, watches)
        for watch in watches.values():
            if isinstance(watch.trouble, Forbidden):
                raise watch.trouble

    def close(self, cell: Key) -> None:
        """Repeatable."""
        if waiting := self._waiting.pop(cell, None):
            waiting.timer.cancel()
            for watch in waiting.watches.values():
                self._stop(watch)

    async def stop(self) -> None:
        for cell in [*self._waiting]:
            self.close(cell)
        await asyncio.gather(*self._closing)

    def _watch(self, cell: Key, awaited: Awaited) -> Reflector:
        def changed(key: Key, old: Object | None, new: Object | None) -> None:
            self._on_change(cell)

        path = awaited.resource.collection(awaited.namespace)
        fields = f"metadata.name={awaited.name}" if awaited.name else ""
        watch = Reflector(self._api, path, self._clock, labels=awaited.labels, fields=fields, trim=_name_only)
        watch.subscribe(changed)
        watch.start()
        return watch

    def _stop(self, watch: Reflector) -> None:
        task = asyncio.create_task(watch.stop())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _name_only(obj: Object) -> Object:
    return {"metadata": obj["metadata"]}
