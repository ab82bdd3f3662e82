"""The gateway's verbs on an API server in memory: versions, conflicts, watches, and time that passes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

from recell.engine.errors import BadInput, Conflict, NotFound
from recell.providers.kube.api import Listing, Object, WatchEvent
from recell.providers.kube.reflector import INITIAL_EVENTS_END
from tests.fakes.merging import merged

Watch = tuple[str, str, str, asyncio.Queue[Sequence[WatchEvent]]]
"""Collection, label selector, field selector, what is to be told."""


def selected(obj: Object, labels: str, fields: str = "") -> bool:
    """`name=value` and `name`, with commas between; an empty selector takes everything. Of fields `metadata.name`."""
    if fields and fields != f"metadata.name={obj['metadata']['name']}":
        return False
    found = obj["metadata"].get("labels") or {}
    terms = [term.partition("=") for term in labels.split(",") if term]
    return all(name in found and (not equals or found[name] == value) for name, equals, value in terms)


class FakeServer:
    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.version = 100
        self.writes: list[tuple[str, str]] = []
        self._watches: list[Watch] = []

    def next_version(self) -> str:
        self.version += 1
        return str(self.version)

    def put(self, path: str, obj: Object) -> Object:
        before = self.objects.get(path)
        metadata = obj.setdefault("metadata", {})
        metadata.setdefault("uid", f"uid-{path}")
        metadata["resourceVersion"] = self.next_version()
        self.objects[path] = deepcopy(obj)
        self._tell(path, before, obj)
        return deepcopy(obj)

    def remove(self, path: str) -> None:
        gone = self.objects.pop(path)
        gone["metadata"]["resourceVersion"] = self.next_version()
        self._tell(path, gone, None)

    def _tell(self, path: str, before: Object | None, after: Object | None) -> None:
        for collection, labels, fields, events in self._watches:
            if path.rpartition("/")[0] != collection:
                continue
            was, now = (obj is not None and selected(obj, labels, fields) for obj in (before, after))
            if was or now:
                type = "DELETED" if not now else "MODIFIED" if was else "ADDED"
                events.put_nowait([WatchEvent(type, deepcopy(after or before or {}))])

    def watched(self) -> list[tuple[str, str]]:
        """Collection and label selector of each open watch."""
        return sorted((collection, labels) for collection, labels, *_ in self._watches)


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

    async def list(self, path: str, *, labels: str = "", fields: str = "") -> Listing:
        await self._call()
        there = [obj for key, obj in self.server.objects.items() if key.rpartition("/")[0] == path]
        return Listing([deepcopy(obj) for obj in there if selected(obj, labels, fields)], str(self.server.version))

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

    async def merge_patch(self, path: str, body: Object, *, field_manager: str = "recell") -> Object:
        """Under the version and UID that it names; the subresource takes the status alone. What is being deleted gets
        no new finalizer, and goes with its last one."""
        await self._call()
        self._may_write("patch", path)
        place = path.removesuffix("/status")
        if place not in self.server.objects:
            raise NotFound(place)
        found, given = self.server.objects[place], body.get("metadata", {})
        if "resourceVersion" in given:
            self._same_version(place, body)
        if given.get("uid", found["metadata"]["uid"]) != found["metadata"]["uid"]:
            raise Conflict(f"{place} is another one")
        changed: Object = merged(found, body if place == path else {"status": body["status"]})
        if "deletionTimestamp" in found["metadata"]:
            left, before = (obj["metadata"].get("finalizers") or [] for obj in (changed, found))
            if set(left) - set(before):
                raise BadInput("no new finalizers can be added if the object is being deleted")
            if before and not left:
                self.server.remove(place)
                return changed
        return self.server.put(place, changed)

    async def apply(self, path: str, body: Object, *, force: bool = True) -> Object:
        """Every field is the caller's: it merges, and a missing object is made."""
        await self._call()
        self._may_write("apply", path)
        if "resourceVersion" in body.get("metadata", {}):
            self._same_version(path, body)
        return self.server.put(path, merged(self.server.objects.get(path, {}), body))

    async def delete(self, path: str, *, uid: str | None = None, propagation: str = "Background") -> Object:
        """A finalizer keeps it; so do, for a while, the pods of what is deleted in the foreground."""
        await self._call()
        self._may_write("delete", path)
        if path not in self.server.objects:
            raise NotFound(path)
        metadata = deepcopy(self.server.objects[path]["metadata"])
        if uid is not None and uid != metadata["uid"]:
            raise Conflict(path)
        if propagation == "Foreground":
            metadata["finalizers"] = [*metadata.get("finalizers", ()), "foregroundDeletion"]
        if not metadata.get("finalizers"):
            self.server.remove(path)
            return {"kind": "Status", "metadata": {}, "status": "Success"}
        metadata["deletionTimestamp"] = "2026-01-31T12:00:00Z"
        return self.server.put(path, self.server.objects[path] | {"metadata": metadata})

    def _same_version(self, path: str, body: Object) -> None:
        if path not in self.server.objects:
            raise NotFound(path)
        if body["metadata"]["resourceVersion"] != self.server.objects[path]["metadata"]["resourceVersion"]:
            raise Conflict(path)

    @asynccontextmanager
    async def watch(
        self, path: str, *, params: Mapping[str, str], labels: str = "", fields: str = "", **_: Any
    ) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        await self._call()
        events: asyncio.Queue[Sequence[WatchEvent]] = asyncio.Queue()
        if "sendInitialEvents" in params:
            batch = [WatchEvent("ADDED", obj) for obj in (await self.list(path, labels=labels, fields=fields)).items]
            end = {"resourceVersion": str(self.server.version), "annotations": {INITIAL_EVENTS_END: "true"}}
            events.put_nowait([*batch, WatchEvent("BOOKMARK", {"metadata": end})])
        entry = (path, labels, fields, events)
        self.server._watches.append(entry)

        async def stream() -> AsyncIterator[Sequence[WatchEvent]]:
            while True:
                yield await events.get()

        try:
            yield stream()
        finally:
            self.server._watches.remove(entry)
