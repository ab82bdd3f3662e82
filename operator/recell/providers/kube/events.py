"""Kubernetes Events: what happened to an object, for `kubectl describe` and `kubectl get events`.

Promises: `emit` never waits, never raises and never slows a reconcile; what cannot be written is
logged and dropped. The same (object, reason, note) within ten minutes is one Event with a count.
Memory is bounded. Events are written by the leader alone (the API given is fenced).
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from recell.api.meta import GROUP
from recell.engine.errors import Fenced, NotFound, RecellError
from recell.engine.ports import Clock
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import EVENTS

logger = logging.getLogger(__name__)

WAITING = 1000
REMEMBERED = 4096
SERIES_WINDOW = 600.0
BEHIND = 0.25
"""Seconds after what it tells that an Event is written: first what has to be done, then what is to be read."""
CONTROLLER = f"{GROUP}/operator"


@dataclass(frozen=True)
class Event:
    """What is to be written about an object."""

    regarding: tuple[str, str, str, str, str]
    """apiVersion, kind, namespace, name, uid."""
    type: str
    reason: str
    action: str
    note: str
    at: datetime

    @property
    def series(self) -> tuple[str, ...]:
        return (*self.regarding, self.type, self.reason, self.note)


@dataclass
class _Written:
    name: str
    count: int
    last: float


class Recorder:
    """`start()`, then `emit()` from anywhere in the event loop."""

    def __init__(self, api: Api, clock: Clock, *, instance: str) -> None:
        """`instance`: the pod's name."""
        self._api = api
        self._clock = clock
        self._instance = instance[:128]
        self._queue: asyncio.Queue[Event] = asyncio.Queue(WAITING)
        self._written: OrderedDict[tuple[str, ...], _Written] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def emit(self, obj: Object, reason: str, message: str, *, warning: bool = False, action: str = "Reconcile") -> None:
        """About this object (JSON with apiVersion, kind and metadata). `reason` and `action` in CamelCase."""
        meta = obj["metadata"]
        about = (obj["apiVersion"], obj["kind"], meta.get("namespace", ""), meta["name"], meta.get("uid", ""))
        kind = "Warning" if warning else "Normal"
        event = Event(about, kind, reason[:128], action[:128], _short(message), self._clock.now())
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            logger.warning("too many events, dropped: %s of %s: %s", reason, "/".join(about[1:4]), message)

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="events")

    async def stop(self, timeout: float = 2.0) -> None:
        """Write what still waits, for at most `timeout` seconds."""
        task, self._task = self._task, None
        if task is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._queue.join()
        except TimeoutError:
            logger.warning("%d events were not written", self._queue.qsize())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            event = await self._queue.get()
            await asyncio.sleep(BEHIND - min(BEHIND, max(0.0, (self._clock.now() - event.at).total_seconds())))
            try:
                await self._write(event)
            except Fenced:
                logger.debug("not the leader, dropped the event: %s", event.note)
            except RecellError as error:
                logger.warning("event %s of %s not written: %s", event.reason, "/".join(event.regarding[1:4]), error)
            finally:
                self._queue.task_done()

    async def _write(self, event: Event) -> None:
        now = self._clock.monotonic()
        known = self._written.get(event.series)
        if known is not None and now - known.last < SERIES_WINDOW:
            known.count, known.last = known.count + 1, now
            self._written.move_to_end(event.series)
            series = {"count": known.count, "lastObservedTime": _micro(event.at)}
            try:
                await self._api.merge_patch(EVENTS.path(event.regarding[2], known.name), {"series": series})
                return
            except NotFound:
                pass  # it has expired: write a new one
        body = self._body(event)
        await self._api.create(EVENTS.collection(event.regarding[2]), body)
        self._written[event.series] = _Written(body["metadata"]["name"], 1, now)
        self._written.move_to_end(event.series)
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)

    def _body(self, event: Event) -> Object:
        api_version, kind, namespace, name, uid = event.regarding
        digest = hashlib.sha256("\0".join((*event.series, _micro(event.at))).encode()).hexdigest()[:16]
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{name[:200]}.{digest}", "namespace": namespace},
            "eventTime": _micro(event.at),
            "type": event.type,
            "reason": event.reason,
            "action": event.action,
            "note": event.note,
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": api_version,
                "kind": kind,
                "namespace": namespace,
                "name": name,
                "uid": uid,
            },
        }


def _micro(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _short(note: str) -> str:
    """The API server takes 1,024 bytes."""
    raw = note.encode()
    return note if len(raw) <= 1024 else raw[:1021].decode(errors="ignore") + "..."
