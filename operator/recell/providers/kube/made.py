"""Copies of what was made from templates, by watches that run only while somebody asks.

Promises: one watch per kind and namespace, on the label `recell.dev/made-by`, shared by all cells that are made
there; at most `WATCHES` at once, beyond that nothing is known here and the API server has to be asked. A watch
ends `KEPT` seconds after nobody asked any more. Reading never waits, and tells nothing that may be out of date.

Must not: keep what is in a ConfigMap or Secret.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from recell.api.meta import LABEL_CELL, LABEL_MADE_BY
from recell.domain.provisioning import Progress
from recell.engine.errors import Forbidden
from recell.engine.ports import Clock, Key
from recell.providers.kube import kstatus
from recell.providers.kube.api import Api, Object
from recell.providers.kube.discovery import Kind
from recell.providers.kube.pods import PodWatches, WorkloadKey
from recell.providers.kube.readiness import has_pods, readiness
from recell.providers.kube.reflector import Reflector

WATCHES = 256
KEPT = 60.0
"""Seconds. A run that makes a cell asks every few seconds; one that is paused does not."""
MADE = f"{LABEL_MADE_BY}=recell"
"""Selects whatever was made here."""


@dataclass(frozen=True)
class Place:
    """Where objects of one kind are."""

    kind: Kind
    namespace: str


@dataclass(frozen=True)
class _Asked:
    places: frozenset[Place]
    timer: asyncio.TimerHandle


class MadeObjects:
    """`on_change` is told the key of each cell that is asked for and of which an object looks different."""

    def __init__(self, api: Api, clock: Clock, *, on_change: Callable[[Key], None]) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._asked: dict[Key, _Asked] = {}
        self._watches: dict[Place, Reflector] = {}
        self._pods = PodWatches(api, clock, self._pods_changed)
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def reflectors(self) -> Sequence[Reflector]:
        return (*self._watches.values(), *self._pods.reflectors)

    def open(self, cell: Key, places: Iterable[Place]) -> None:
        """The cell's objects are there; to be said again within `KEPT` seconds for as long as that is of interest."""
        wanted = frozenset(places)
        if known := self._asked.get(cell):
            known.timer.cancel()
        self._asked[cell] = _Asked(wanted, asyncio.get_running_loop().call_later(KEPT, self.close, cell))
        for place in sorted(wanted - set(self._watches), key=str):
            if len(self._watches) < WATCHES:
                self._watch(place)
        self._close_what_nobody_wants()

    def close(self, cell: Key) -> None:
        """Nobody is interested any more. Repeatable."""
        if asked := self._asked.pop(cell, None):
            asked.timer.cancel()
            self._close_what_nobody_wants()

    async def stop(self) -> None:
        for cell in [*self._asked]:
            self.close(cell)
        await self._pods.stop()
        await asyncio.gather(*self._closing)

    # Reading

    def get(self, place: Place, name: str) -> Object | None:
        """None: it is not there, or that is not known now."""
        reflector = self._watches.get(place)
        if reflector is None or not reflector.current:
            return None
        return reflector.get((place.namespace, name))

    def pods(self, place: Place, name: str) -> Sequence[Object]:
        """Of a workload that is not Current; empty while they are not known."""
        return self._pods.pods(_workload(place, name)) or ()

    def put(self, place: Place, obj: Object) -> None:
        """The answer of a read or a write."""
        if reflector := self._watches.get(place):
            reflector.put(obj)

    def obstacle(self, cell: Key) -> Forbidden | None:
        """Why some of the cell's objects cannot be watched."""
        asked = self._asked.get(cell)
        watches = [self._watches[place] for place in asked.places if place in self._watches] if asked else []
        return next((w.trouble for w in watches if isinstance(w.trouble, Forbidden)), None)

    # How

    def _watch(self, place: Place) -> None:
        def changed(key: Key, old: Object | None, new: Object | None) -> None:
            if has_pods(place.kind):
                self._look_at_pods(place, key[1], new)
            self._tell(new or old)

        path = place.kind.resource.collection(place.namespace)
        reflector = Reflector(self._api, path, self._clock, labels=MADE, trim=_trim)
        reflector.subscribe(changed)
        reflector.start()
        self._watches[place] = reflector

    def _look_at_pods(self, place: Place, name: str, obj: Object | None) -> None:
        workload = _workload(place, name)
        if obj is None or readiness(place.kind, obj, (), self._clock.now()).progress is Progress.READY:
            self._pods.close(workload)
        else:
            self._pods.open(workload, kstatus.selector_of(obj))

    def _pods_changed(self, workload: WorkloadKey) -> None:
        kind, namespace, name = workload
        for place, reflector in self._watches.items():
            if has_pods(place.kind) and (place.kind.resource.kind, place.namespace) == (kind, namespace):
                self._tell(reflector.get((namespace, name)))

    def _tell(self, obj: Object | None) -> None:
        name = ((obj or {}).get("metadata", {}).get("labels") or {}).get(LABEL_CELL)
        for cell in [cell for cell in self._asked if cell[1] == name]:
            self._on_change(cell)

    def _close_what_nobody_wants(self) -> None:
        wanted = {place for asked in self._asked.values() for place in asked.places}
        for place in [place for place in self._watches if place not in wanted]:
            reflector = self._watches.pop(place)
            if has_pods(place.kind):
                for obj in reflector.objects():
                    self._pods.close(_workload(place, obj["metadata"]["name"]))
            task = asyncio.create_task(reflector.stop())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _workload(place: Place, name: str) -> WorkloadKey:
    return (place.kind.resource.kind, place.namespace, name)


def _trim(obj: Object) -> Object:
    return {name: obj[name] for name in ("metadata", "spec", "status") if name in obj}
