"""The gateway's verbs on an API server in memory: versions, conflicts, watches, and time that passes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

from recell.engine.errors import Conflict, NotFound
from recell.providers.kube.api import Listing, Object, WatchEvent
from recell.providers.kube.reflector import INITIAL_EVENTS_END
from tests.fakes.merging import merged


class FakeServer:
    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.version = 100
        self.writes: list[tuple[str, str]] = []
        self._watches: list[tuple[str, asyncio.Queue[Sequence[WatchEvent]]]] = []

    def next_version(self) -> str:
        self.version += 1
        return str(self.version)

    def put(self, path: str, obj: Object) -> Object:
        known = path in self.objects
        metadata = obj.setdefault("metadata", {})
        metadata.setdefault("uid", f"uid-{path}")
        metadata["resourceVersion"] = self.next_version()
        self.objects[path] = deepcopy(obj)
        self._tell(path, "MODIFIED" if known else "ADDED", obj)
        return deepcopy(obj)

    def remove(self, path: str) -> None:
        gone = self.objects.pop(path)
        gone["metadata"]["resourceVersion"] = self.next_version()
        self._tell(path, "DELETED", gone)

    def _tell(self, path: str, type: str, obj: Object) -> None:
        for collection, events in self._watches:
            if path.rpartition("/")[0] == collection:
                events.put_nowait([WatchEvent(type, deepcopy(obj))])


class FakeApi:
    """One client's way to the server; `delay` seconds a call, `broken` raised by each."""

    def __init__(self, server: FakeServer, fence: Callable[[], None] | None = None) -> None:
        self.server = server
        self.delay = 0.0
        self.broken: Exception | None = None
        self.skew: float | None = 0.0
        self.calls = 0
        self._fence = fence

    async def _call(self) -> None:
        self.calls += 1
        assert self.calls < 100_000, "it asks without end"
        await asyncio.sleep(self.delay)
        if self.broken is not None:
            raise self.broken

    async def get(self, path: str) -> Object:
        await self._call()
        if path not in self.server.objects:
            raise NotFound(path)
        return deepcopy(self.server.objects[path])

    async def list(self, path: str, *, labels: str = "", **_: str) -> Listing:
        await self._call()
        found = [deepcopy(obj) for key, obj in self.server.objects.items() if key.rpartition("/")[0] == path]
        return Listing([obj for obj in found if _labelled(obj, labels)], str(self.server.version))

    def _may_write(self, verb: str, path: str) -> None:
        if self._fence is not None:
            self._fence()
        self.server.writes.append((verb, path))

    async def create(self, path: str, body: Object) -> Object:
        await self._call()
        place = f"{path}/{body['metadata']['name']}"
        self._may_write("create", place)
        if place in self.server.objects:
            raise Conflict(place)
        return self.server.put(place, deepcopy(body))

    async def replace(self, path: str, body: Object) -> Object:
        await self._call()
        self._may_write("update", path)
        self._same_version(path, body)
        return self.server.put(path, deepcopy(body))

    async def apply(self, path: str, body: Object) -> Object:
        await self._call()
        self._may_write("apply", path)
        return self.server.put(path, merged(self.server.objects.get(path, {}), body))

    async def delete(self, path: str, *, uid: str | None = None) -> None:
        await self._call()
        self._may_write("delete", path)
        if path not in self.server.objects:
            raise NotFound(path)
        if uid is not None and uid != self.server.objects[path]["metadata"]["uid"]:
            raise Conflict(path)
        self.server.remove(path)

    async def merge_patch(self, path: str, body: Object, *, field_manager: str = "recell") -> Object:
        await self._call()
        self._may_write("patch", path)
        if path not in self.server.objects:
            raise NotFound(path)
        if "resourceVersion" in body.get("metadata", {}):
            self._same_version(path, body)
        return self.server.put(path, merged(self.server.objects[path], body))

    def _same_version(self, path: str, body: Object) -> None:
        if path not in self.server.objects:
            raise NotFound(path)
        if body["metadata"]["resourceVersion"] != self.server.objects[path]["metadata"]["resourceVersion"]:
            raise Conflict(path)

    @asynccontextmanager
    async def watch(
        self, path: str, *, params: Mapping[str, str], **_: Any
    ) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        await self._call()
        events: asyncio.Queue[Sequence[WatchEvent]] = asyncio.Queue()
        if "sendInitialEvents" in params:
            batch = [WatchEvent("ADDED", obj) for obj in (await self.list(path)).items]
            end = {"resourceVersion": str(self.server.version), "annotations": {INITIAL_EVENTS_END: "true"}}
            events.put_nowait([*batch, WatchEvent("BOOKMARK", {"metadata": end})])
        entry = (path, events)
        self.server._watches.append(entry)

        async def stream() -> AsyncIterator[Sequence[WatchEvent]]:
            while True:
                yield await events.get()

        try:
            yield stream()
        finally:
            self.server._watches.remove(entry)


def _labelled(obj: Object, selector: str) -> bool:
    """Terms `name` and `name=value` alone."""
    labels = obj["metadata"].get("labels") or {}
    terms = [term.partition("=") for term in selector.split(",") if term]
    return all(name in labels and (not equal or labels[name] == value) for name, equal, value in terms)
