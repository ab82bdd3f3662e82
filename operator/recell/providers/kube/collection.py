"""One resource watched in some namespaces: several Reflectors read as one copy.

Promises: the same as `Reflector`, over all of its namespaces.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from recell.engine.errors import RecellError
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import Resource
from recell.providers.kube.reflector import Index, OnChange, Reflector


class Collection:
    """`namespaces` ("",) is all of them; without any nothing is watched."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        clock: Clock,
        namespaces: Sequence[str] = ("",),
        *,
        labels: str = "",
        trim: Callable[[Object], Object] | None = None,
        indexes: Mapping[str, Index] | None = None,
    ) -> None:
        self.resource = resource
        self._reflectors = {
            namespace: Reflector(api, resource.collection(namespace), clock, labels=labels, trim=trim, indexes=indexes)
            for namespace in dict.fromkeys(namespaces)
        }

    @property
    def reflectors(self) -> Sequence[Reflector]:
        return tuple(self._reflectors.values())

    def covers(self, namespace: str) -> bool:
        return "" in self._reflectors or namespace in self._reflectors

    def _of(self, namespace: str) -> Reflector | None:
        found = self._reflectors.get(namespace)
        return self._reflectors.get("") if found is None else found

    def get(self, key: Key) -> Object | None:
        reflector = self._of(key[0])
        return None if reflector is None else reflector.get(key)

    def by(self, index: str, value: Hashable) -> Sequence[Object]:
        return tuple(obj for reflector in self.reflectors for obj in reflector.by(index, value))

    def __iter__(self) -> Iterator[Object]:
        for reflector in self.reflectors:
            yield from reflector.objects()

    def __len__(self) -> int:
        return sum(len(reflector) for reflector in self.reflectors)

    def put(self, obj: Object) -> None:
        """See `Reflector.put`; ignored for a namespace that is not watched."""
        reflector = self._of(obj["metadata"].get("namespace", ""))
        if reflector is not None:
            reflector.put(obj)

    def gone(self, obj: Object) -> None:
        """See `Reflector.gone`."""
        reflector = self._of(obj["metadata"].get("namespace", ""))
        if reflector is not None:
            reflector.gone(obj)

    def subscribe(self, listener: OnChange) -> None:
        for reflector in self.reflectors:
            reflector.subscribe(listener)

    @property
    def synced(self) -> bool:
        return all(reflector.synced.is_set() for reflector in self.reflectors)

    @property
    def trouble(self) -> RecellError | None:
        """What keeps one of them from being read."""
        return next((reflector.trouble for reflector in self.reflectors if reflector.trouble is not None), None)

    @property
    def blind_for(self) -> float:
        return max((reflector.blind_for for reflector in self.reflectors), default=0.0)

    def start(self) -> None:
        for reflector in self.reflectors:
            reflector.start()

    async def wait_synced(self) -> None:
        """No deadline of its own: the caller has one."""
        await asyncio.gather(*(reflector.synced.wait() for reflector in self.reflectors))

    async def synced_within(self, seconds: float) -> bool:
        """Whether everything was read once by then; `trouble` may say why not."""
        try:
            async with asyncio.timeout(seconds):
                await self.wait_synced()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        await asyncio.gather(*(reflector.stop() for reflector in self.reflectors))
