"""Pods of workloads that are not well, so that a healthy fleet costs no pod watch at all.

Promises: one watch per unhealthy workload, at most `WATCHES` at once (further ones are told
without the pods' own words); closed as soon as the workload is well or gone.
"""

import asyncio
from collections.abc import Callable, Sequence

from recell.engine.ports import Clock
from recell.providers.kube.api import Api, Object
from recell.providers.kube.kstatus import slim_pod
from recell.providers.kube.paths import PODS
from recell.providers.kube.reflector import Reflector

WATCHES = 64

WorkloadKey = tuple[str, str, str]
"""Kind, namespace, name."""


class PodWatches:
    def __init__(self, api: Api, clock: Clock, on_change: Callable[[WorkloadKey], None]) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._watches: dict[WorkloadKey, tuple[str, Reflector]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def reflectors(self) -> Sequence[Reflector]:
        return tuple(reflector for _, reflector in self._watches.values())

    def pods(self, workload: WorkloadKey) -> Sequence[Object]:
        """Empty while they are not watched."""
        found = self._watches.get(workload)
        return found[1].objects() if found else ()

    def open(self, workload: WorkloadKey, selector: str) -> None:
        """Repeatable; a changed selector begins a new watch."""
        known = self._watches.get(workload)
        if known is not None and known[0] == selector:
            return
        self.close(workload)
        if not selector or len(self._watches) >= WATCHES:
            return
        reflector = Reflector(self._api, PODS.collection(workload[1]), self._clock, labels=selector, trim=slim_pod)
        reflector.subscribe(lambda key, old, new: self._on_change(workload))
        reflector.start()
        self._watches[workload] = (selector, reflector)

    def close(self, workload: WorkloadKey) -> None:
        found = self._watches.pop(workload, None)
        if found is not None:
            task = asyncio.create_task(found[1].stop())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        for workload in [*self._watches]:
            self.close(workload)
        await asyncio.gather(*self._closing)
