"""Pods of workloads that are not well, or held at zero: a healthy fleet costs no pod watch at all.

Promises: one watch per such workload, at most `WATCHES` at once (further ones are told without the
pods' own words), beside those that somebody has to see (`needed`); closed when its owner says so.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recell.engine.errors import Fenced, RecellError
from recell.engine.ports import Clock
from recell.providers.kube.api import Api, Object
from recell.providers.kube.kstatus import slim_pod
from recell.providers.kube.paths import PODS
from recell.providers.kube.reflector import Reflector

logger = logging.getLogger(__name__)

WATCHES = 64

WorkloadKey = tuple[str, str, str]
"""Kind, namespace, name."""


@dataclass(frozen=True)
class _Watch:
    selector: str
    reflector: Reflector
    first: asyncio.Task[None]
    """Tells when the first list is complete, even if it is empty."""


class PodWatches:
    """`on_change` is told of each workload whose pods look different, or are known from now on."""

    def __init__(self, api: Api, clock: Clock, on_change: Callable[[WorkloadKey], None]) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._watches: dict[WorkloadKey, _Watch] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def reflectors(self) -> Sequence[Reflector]:
        return tuple(watch.reflector for watch in self._watches.values())

    def pods(self, workload: WorkloadKey) -> Sequence[Object] | None:
        """None while they are not known: not watched, or not read yet."""
        found = self._watches.get(workload)
        return found.reflector.objects() if found and found.reflector.synced.is_set() else None

    def open(self, workload: WorkloadKey, selector: str, *, needed: bool = False) -> None:
        """Repeatable; a changed selector begins a new watch. `needed`: also beyond the most at once."""
        known = self._watches.get(workload)
        if known is not None and known.selector == selector:
            return
        self.close(workload)
        if not selector or (len(self._watches) >= WATCHES and not needed):
            return
        reflector = Reflector(self._api, PODS.collection(workload[1]), self._clock, labels=selector, trim=slim_pod)
        reflector.subscribe(lambda key, old, new: self._on_change(workload))
        reflector.start()
        first = asyncio.create_task(self._tell_when_known(workload, reflector))
        self._watches[workload] = _Watch(selector, reflector, first)

    async def _tell_when_known(self, workload: WorkloadKey, reflector: Reflector) -> None:
        await reflector.synced.wait()
        self._on_change(workload)

    def close(self, workload: WorkloadKey) -> None:
        found = self._watches.pop(workload, None)
        if found is not None:
            found.first.cancel()
            task = asyncio.create_task(found.reflector.stop())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        for workload in [*self._watches]:
            self.close(workload)
        await asyncio.gather(*self._closing)


def serves(pod: Object) -> bool:
    """May customers' requests reach it? A pod that is leaving still serves, but gets nothing new."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def log_of(api: Api, namespace: str, pod: str, container: str, *, lines: int, most: int) -> str:
    """The last lines, at most so many bytes; empty where they cannot be read: they explain, and nothing depends on
    them. Raises Fenced."""
    try:
        return await api.log(PODS.path(namespace, pod, "log"), container=container, lines=lines, most=most)
    except Fenced:
        raise
    except RecellError as error:
        logger.info("log of pod %s/%s: %s", namespace, pod, error)
        return ""
