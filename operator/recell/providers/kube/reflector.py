"""List and watch: a copy of some objects of the API server that can be trusted.

Promises
- What vanished while the watch was cut is gone from the copy as soon as the list after it is
  complete (a copy filled by handlers alone keeps such ghosts).
- An object never becomes older, whether it comes from the watch or from a write's answer (`put`).
- It never gives up: whatever breaks is retried with jitter, and `blind_for` says since when the
  copy may be out of date.
- Nothing is written to the API server.

Must not block: listeners are called in the event loop for every difference, deletions included.
"""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from recell.engine.errors import BadInput, RecellError, Retryable
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object, WatchEvent
from recell.providers.kube.errors import Expired

logger = logging.getLogger(__name__)

OnChange = Callable[[Key, Object | None, Object | None], None]
"""key, old, new: created (old is None), changed, or deleted (new is None)."""
Index = Callable[[Object], Iterable[Hashable]]
"""The values under which an object is found."""

IDLE = 130.0
"""Bookmarks come every 60 s, once after 120: longer silence is a broken watch."""
BACKOFF = (0.2, 1.0)
REFUSED_BACKOFF = 5.0
"""A missing permission or kind does not appear within a second."""
SHORT_WATCH = 1.0
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


def key_of(obj: Object) -> Key:
    metadata = obj["metadata"]
    return (metadata.get("namespace", ""), metadata["name"])


def version_of(obj: Object) -> int:
    """resourceVersions are comparable as integers (within one API server's resource)."""
    return int(obj["metadata"]["resourceVersion"])


def slim(obj: Object) -> Object:
    """A copy without what is half of an object's size and of no use here."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    if LAST_APPLIED in (metadata.get("annotations") or {}):
        metadata["annotations"] = {n: v for n, v in metadata["annotations"].items() if n != LAST_APPLIED}
    return obj | {"metadata": metadata}


class Reflector:
    """One resource of one namespace (or of all), by optional selectors.

    `trim` takes away what is not needed, after `slim`; it has to keep metadata.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        clock: Clock,
        *,
        labels: str = "",
        fields: str = "",
        trim: Callable[[Object], Object] | None = None,
        indexes: Mapping[str, Index] | None = None,
        idle: float = IDLE,
    ) -> None:
        self.path = path
        self.synced = asyncio.Event()
        self.restarts = 0
        """Watches begun after the first."""
        self.trouble: RecellError | None = None
        """What broke the watch that is being mended now."""
        self._api = api
        self._clock = clock
        self._labels, self._fields = labels, fields
        self._trim = trim
        self._idle = idle
        self._indexes = dict(indexes or {})
        self._by: dict[str, dict[Hashable, set[Key]]] = {name: defaultdict(set) for name in self._indexes}
        self._objects: dict[Key, Object] = {}
        self._listeners: list[OnChange] = []
        self._position: str | None = None
        self._streams_initial = True
        self._put_since_list: set[Key] = set()
        self._task: asyncio.Task[None] | None = None
        self.alive = clock.monotonic()
        """Monotonic moment of the last sign of life from the server."""
        self.stirred = self.alive
        """Monotonic moment at which this loop last did something, if only to try again."""
        self._blind_since: float | None = self.alive

    # Reading

    def get(self, key: Key) -> Object | None:
        return self._objects.get(key)

    def objects(self) -> Sequence[Object]:
        return tuple(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def by(self, index: str, value: Hashable) -> Sequence[Object]:
        """In the order of their names."""
        return tuple(self._objects[key] for key in sorted(self._by[index].get(value, ())))

    @property
    def blind_for(self) -> float:
        """Seconds since when no watch is open; 0 while one is."""
        return 0.0 if self._blind_since is None else self._clock.monotonic() - self._blind_since

    @property
    def current(self) -> bool:
        """What is here is all there is: the first list is complete, and a watch is open."""
        return self.synced.is_set() and not self.blind_for

    # Listening

    def subscribe(self, listener: OnChange) -> None:
        """From now on; what is there already is not told."""
        self._listeners.append(listener)

    def put(self, obj: Object) -> None:
        """The answer of a write, so that the next look sees it. Ignored if newer is known, deletion included."""
        key = key_of(obj)
        if key not in self._objects and self._position is not None and version_of(obj) <= int(self._position):
            return  # the watch is past this version and has seen the object go
        if self._position is None:
            self._put_since_list.add(key)
        self._accept(obj)

    def gone(self, obj: Object) -> None:
        """Another watch saw this object deleted, as of its resourceVersion."""
        self._drop(key_of(obj), until=version_of(obj))

    # Running

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self.run(), name=f"reflector {self.path}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            began = self.stirred = self._clock.monotonic()
            try:
                if self._position is None and not self._streams_initial:
                    await self._list()
                await self._watch()
                # An orderly end goes on at once, unless the server ends every watch at once.
                failures = failures + 1 if self._clock.monotonic() - began < SHORT_WATCH else 0
                wait = self._backoff(failures) if failures > 1 else 0.0
            except Expired as error:
                logger.info("list anew: %s", error)
                self._position = None
                failures += 1
                wait = self._backoff(failures) if failures > 1 else 0.0
            except RecellError as error:
                if isinstance(error, BadInput) and self._streams_initial and self._position is None:
                    logger.info("this API server does not stream lists, paging instead: %s", error)
                    self._streams_initial = False
                    continue
                failures = 1 if self._clock.monotonic() - began > IDLE else failures + 1
                wait = self._failed(error, failures)
            except Exception as error:  # whatever it is, a watch that ended for good would be blindness unseen
                logger.exception("watch of %s failed unexpectedly", self.path)
                failures += 1
                wait = self._failed(Retryable(f"{type(error).__name__}: {error}"), failures)
            self._lost_sight()
            self.restarts += 1
            if wait:
                await asyncio.sleep(wait)

    def _failed(self, error: RecellError, failures: int) -> float:
        if self.trouble is None or type(error) is not type(self.trouble):
            logger.warning("watch of %s broke, trying again: %s", self.path, error)
        self.trouble = error
        if not isinstance(error, Retryable):
            return REFUSED_BACKOFF * random.uniform(0.5, 1)  # noqa: S311 - jitter
        return max(self._backoff(failures), min(error.after or 0.0, 30.0))

    @staticmethod
    def _backoff(failures: int) -> float:
        first, most = BACKOFF
        return min(most, first * 2.0 ** (failures - 1)) * random.uniform(0.5, 1)  # noqa: S311 - jitter

    def _lost_sight(self) -> None:
        if self._blind_since is None:
            self._blind_since = self._clock.monotonic()

    def _sees(self) -> None:
        self.alive = self._clock.monotonic()
        self._blind_since = None
        if self.trouble is not None:
            logger.info("watch of %s works again", self.path)
            self.trouble = None

    async def _list(self) -> None:
        self._put_since_list.clear()
        listing = await self._api.list(self.path, labels=self._labels, fields=self._fields)
        for obj in listing.items:
            self._accept(obj, listed=True)
        self._keep_only({key_of(obj) for obj in listing.items}, listing.resource_version)

    async def _watch(self) -> None:
        params = {"timeoutSeconds": str(random.randint(240, 300))}  # noqa: S311 - jitter
        listed: set[Key] | None = None
        if self._position is None:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            self._put_since_list.clear()
            listed = set()
        else:
            params["resourceVersion"] = self._position
        async with self._api.watch(
            self.path, params=params, labels=self._labels, fields=self._fields, idle=self._idle
        ) as batches:
            if listed is None:
                self._sees()
            async for batch in batches:
                for event in batch:
                    listed = self._take(event, listed)
                self.alive = self.stirred = self._clock.monotonic()

    def _take(self, event: WatchEvent, listed: set[Key] | None) -> set[Key] | None:
        """One event. `listed`: what an unfinished initial list has brought so far, else None."""
        obj = event.object
        if event.type == "BOOKMARK":
            ends_list = (obj["metadata"].get("annotations") or {}).get(INITIAL_EVENTS_END) == "true"
            if listed is not None and ends_list:
                self._keep_only(listed, obj["metadata"]["resourceVersion"])
                return None
        elif event.type == "DELETED":
            if listed is not None:
                listed.discard(key_of(obj))
            self._drop(key_of(obj), until=version_of(obj))
        else:
            if listed is not None:
                listed.add(key_of(obj))
            self._accept(obj, listed=listed is not None)
        if listed is None:
            self._position = obj["metadata"]["resourceVersion"]
        return listed

    # Changing the copy

    def _keep_only(self, listed: set[Key], position: str) -> None:
        """A list is complete as of `position`: what is not in it is gone, unless it was written after that."""
        for key in [key for key in self._objects if key not in listed]:
            if key in self._put_since_list:
                self._drop(key, until=int(position))
            else:
                self._drop(key)
        self._put_since_list.clear()
        self._position = position
        self._sees()
        self.synced.set()

    def _accept(self, obj: Object, *, listed: bool = False) -> None:
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None:
            ours, theirs = version_of(old), version_of(obj)
            # A list tells the truth also after the server's data was restored from a backup (lower versions).
            believed = theirs != ours if listed and key not in self._put_since_list else theirs > ours
            if not believed:
                return
        new = slim(obj)
        if self._trim is not None:
            new = self._trim(new)
        self._reindex(key, old, new)
        self._objects[key] = new
        self._tell(key, old, new)

    def _drop(self, key: Key, *, until: int | None = None) -> None:
        """Forget the object, unless what is here is newer than `until`: then it was made anew."""
        old = self._objects.get(key)
        if old is None or (until is not None and version_of(old) > until):
            return
        del self._objects[key]
        self._reindex(key, old, None)
        self._tell(key, old, None)

    def _reindex(self, key: Key, old: Object | None, new: Object | None) -> None:
        for name, index in self._indexes.items():
            entries = self._by[name]
            before = set(index(old)) if old is not None else set()
            after = set(index(new)) if new is not None else set()
            for value in before - after:
                entries[value].discard(key)
                if not entries[value]:
                    del entries[value]
            for value in after - before:
                entries[value].add(key)

    def _tell(self, key: Key, old: Object | None, new: Object | None) -> None:
        for listener in self._listeners:
            try:
                listener(key, old, new)
            except Exception:
                logger.exception("a listener of %s failed for %s/%s", self.path, *key)
