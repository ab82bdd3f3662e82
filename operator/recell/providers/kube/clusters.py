"""The clusters in which cells have their workloads: the operator's own, and those that Cells name by a kubeconfig.

Promises
- One connection for each Secret entry, opened for the first Cell that names it, shared by all of them, closed after the
  last; workloads are watched in the namespaces of those Cells only. At most `MOST` at once.
- The Secret is watched, and it alone: other content is a new connection, without a restart.
- A cluster that has not answered for `LOST_AFTER` seconds is unreachable until it answers again. Nothing is sent there
  meanwhile but a question for its version, and whoever wants something of it is told so at once (`Unreachable`), so
  that one dead cluster holds up nobody. That is never a statement about a cell.
- No word of a Secret's content is told anywhere.

Must not: decide what an unreachable cluster means for a cell.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import orjson

from recell.api import Cell
from recell.api.cell import SecretKey
from recell.api.meta import timestamp
from recell.domain.observation import Reach
from recell.engine.errors import BadInput, Forbidden, RecellError, Unreachable
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, CallHook, Object
from recell.providers.kube.connection import Answer
from recell.providers.kube.consent import Consent
from recell.providers.kube.kubeconfig import Kubeconfig, parse
from recell.providers.kube.paths import SECRETS
from recell.providers.kube.reflector import Reflector
from recell.providers.kube.remote_connection import RemoteConnection
from recell.providers.kube.store import KubeStore
from recell.providers.kube.workloads import CellsByName, KubeWorkloads

logger = logging.getLogger(__name__)

MOST = 64
"""Kubeconfigs in use at once: each costs a watch of its Secret, a question every `BEAT` seconds, and a watch for each
kind of workload and namespace."""
BEAT = 10.0
"""Seconds between two questions for the version while it answers; watches may hang unseen for much longer."""
BEAT_AGAIN = 2.0
"""Seconds until the next one after it did not answer; doubled each time up to `BEAT_AT_LEAST`."""
BEAT_AT_LEAST = 30.0
EXPECTED = 120.0
"""Seconds for which the cluster of a cell that is not there yet is kept open after somebody asked for it."""
LOST_AFTER = 20.0
"""Seconds without an answer after which a cluster counts as unreachable: two questions, each with its time-out."""


class Way(Protocol):
    """To a cluster: see `RemoteConnection`."""

    silent: str | None

    async def beat(self) -> Answer: ...

    async def close(self) -> None: ...


class Connect(Protocol):
    """Opens the way to a cluster. Raises BadInput."""

    def __call__(self, kubeconfig: Kubeconfig, on_call: CallHook | None) -> tuple[Way, Api]: ...


def connect(kubeconfig: Kubeconfig, on_call: CallHook | None) -> tuple[Way, Api]:
    connection = RemoteConnection(kubeconfig)
    return connection, Api(connection, on_call=on_call)


class Cluster:
    """One cluster, as providers see it."""

    def __init__(
        self,
        api: Api,
        cells: CellsByName,
        consent: Consent,
        workloads: Callable[[str], KubeWorkloads],
        *,
        foreign: bool,
    ) -> None:
        self.api = api
        """Fenced."""
        self.cells = cells
        """Those with workloads there."""
        self.consent = consent
        self.workloads = workloads
        """Of a namespace."""
        self.foreign = foreign
        """Another one than the operator's own."""


class Part(Protocol):
    async def stop(self) -> None: ...


P = TypeVar("P", bound=Part)


class PerCluster(Generic[P]):
    """A provider for each cluster, made when it is first needed and stopped with its cluster."""

    def __init__(self, clusters: "Clusters", make: Callable[[Cluster], P]) -> None:
        self._clusters = clusters
        self._make = make
        self._parts: dict[Cluster, P] = {}
        clusters.on_close(self._close)

    def of(self, cell: Cell) -> P:
        """Raises Unreachable."""
        cluster = self._clusters.of(cell)
        if cluster not in self._parts:
            self._parts[cluster] = self._make(cluster)
        return self._parts[cluster]

    async def _close(self, cluster: Cluster) -> None:
        part = self._parts.pop(cluster, None)
        if part is not None:
            await part.stop()

    async def stop(self) -> None:
        for cluster in [*self._parts]:
            await self._close(cluster)


class _CellsOf:
    """What of the store is about one kubeconfig."""

    def __init__(self, store: KubeStore, secret: SecretKey) -> None:
        self._store = store
        self._secret = secret

    def cell(self, key: Key) -> Cell | None:
        return self._store.cell(key)

    def cells_naming_workload(self, kind: str, namespace: str, name: str) -> Sequence[Key]:
        return self._store.cells_naming_workload(kind, namespace, name, self._secret)

    def cells_naming_service(self, namespace: str, name: str) -> Sequence[Key]:
        """None is reached by one."""
        return ()


class _Remote:
    """An open connection, and what is watched through it."""

    def __init__(
        self,
        secret: SecretKey,
        way: Way,
        api: Api,
        clock: Clock,
        store: KubeStore,
        *,
        on_change: Callable[[Key], None],
        on_beat: Callable[[], None],
    ) -> None:
        self._secret = secret
        self._way = way
        self._clock = clock
        self._on_change = on_change
        self._on_beat = on_beat
        self._watched: dict[str, KubeWorkloads] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._answered: float | None = None
        """Monotonic moment of its last answer."""
        self._opened, self._first_asked = clock.monotonic(), clock.now()
        self._seen: datetime | None = None
        self._version = ""
        self._silent = ""
        """What kept it from answering last."""
        cells = _CellsOf(store, secret)
        consent = Consent(api, clock, foreign=True, on_change=on_change)
        self.cluster = Cluster(api, cells, consent, self._workloads, foreign=True)
        self._task = asyncio.create_task(self._listen(), name=f"cluster of {secret}")

    async def stop(self) -> None:
        ending = [self._task, *self._reading]
        for task in ending:
            task.cancel()
        watched = [*self._watched.values()]
        self._watched.clear()
        await asyncio.gather(*ending, *self._closing, *(each.stop() for each in watched), return_exceptions=True)
        await self._way.close()

    def watch_only(self, namespaces: Iterable[str]) -> None:
        for namespace in [name for name in self._watched if name not in {*namespaces}]:
            task = asyncio.create_task(self._watched.pop(namespace).stop())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _workloads(self, namespace: str) -> KubeWorkloads:
        found = self._watched.get(namespace)
        if found is None:
            cluster = self.cluster
            found = self._watched[namespace] = KubeWorkloads(
                cluster.api,
                self._clock,
                cluster.cells,
                (namespace,),
                consent=cluster.consent,
                services=False,
                on_change=self._on_change,
            )
            found.start()
            task = asyncio.create_task(self._tell_when_read(found))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)
        return found

    async def _tell_when_read(self, workloads: KubeWorkloads) -> None:
        await workloads.wait_synced()
        self._on_beat()

    # Listening for it

    async def _listen(self) -> None:
        failures = 0
        while True:
            answered = await self._ask()
            failures = 0 if answered else failures + 1
            self._way.silent = None if self._lost_since is None else f"{self._secret}: {self._unreachable()}"
            self._on_beat()
            wait = min(BEAT_AGAIN * 2.0 ** (failures - 1), BEAT_AT_LEAST) if failures else BEAT
            await asyncio.sleep(wait * random.uniform(0.8, 1.0))  # noqa: S311 - jitter

    async def _ask(self) -> bool:
        try:
            answer = await self._way.beat()
        except RecellError as error:
            self._silent = str(error)
            return False
        except Exception as error:  # whatever it is, a cluster that nobody listens to any more would be lost for good
            logger.exception("the API server of %s cannot be asked", self._secret)
            self._silent = type(error).__name__
            return False
        if answer.status != 200:
            refused = answer.status in (401, 403)
            self._silent = "the credentials are refused: renew them" if refused else f"it answers {answer.status}"
            return False
        self._answered, self._seen, self._silent = self._clock.monotonic(), self._clock.now(), ""
        self._version = _version(answer.body)
        return True

    @property
    def _lost_since(self) -> datetime | None:
        """When it answered last, or was asked first, if that is too long ago."""
        last = self._opened if self._answered is None else self._answered
        silence = self._clock.monotonic() - last
        if not self._silent or silence < LOST_AFTER:
            return None
        return self._seen or self._first_asked

    def _unreachable(self) -> str:
        if self._seen is None:
            return f"the API server has not answered yet: {self._silent}"
        return f"the API server has not answered since {timestamp(self._seen)}: {self._silent}"

    def reach(self, namespace: str) -> Reach:
        """As of now: its API server, and the watches in this namespace."""
        if (since := self._lost_since) is not None:
            return Reach(False, "Unreachable", f"{self._secret}: {self._unreachable()}", since)
        if self._answered is None:
            return Reach(False, "Connecting", f"{self._secret}: {self._silent or 'the API server is asked now'}")
        workloads = self._workloads(namespace)
        trouble = next((r.trouble for r in workloads.reflectors if r.trouble is not None), None)
        if isinstance(trouble, Forbidden):
            return Reach(False, "Forbidden", f"{self._secret}: {trouble}")
        if not workloads.synced:
            return Reach(False, "Reading", f"{self._secret}: the workloads of namespace {namespace} are being read")
        if workloads.blind_for >= LOST_AFTER:
            return Reach(False, "NotWatched", f"{self._secret}: the workloads of namespace {namespace} are not watched")
        return Reach(True, "Reachable", f"Kubernetes {self._version}, by {self._secret}")


@dataclass
class _Used:
    """A Secret entry that Cells name."""

    watch: Reflector
    first: asyncio.Task[None]
    """Tells when the Secret was read, even if it is not there."""
    cells: dict[Key, str]
    """With the namespaces of their workloads."""
    digest: str = ""
    """Of the content that `remote` or `refusal` came from."""
    remote: _Remote | None = None
    refusal: Reach | None = None
    told: Mapping[Key, Reach] | None = None


class Clusters:
    """`attend` is told of every change of a Cell. `on_change` is told the key of each Cell of whose cluster something
    is different."""

    def __init__(
        self,
        home: Api,
        clock: Clock,
        store: KubeStore,
        workloads: KubeWorkloads,
        *,
        fence: Callable[[], None],
        on_change: Callable[[Key], None],
        on_call: CallHook | None = None,
        connect: Connect = connect,
    ) -> None:
        """`home` and `workloads`: of the operator's own cluster. `fence`: see `Api.fenced`."""
        self.home = Cluster(home, store, workloads.consent, lambda namespace: workloads, foreign=False)
        self._clock = clock
        self._store = store
        self._fence = fence
        self._on_change = on_change
        self._on_call = on_call
        self._connect = connect
        self._used: dict[SecretKey, _Used] = {}
        self._by_cell: dict[Key, SecretKey] = {}
        self._expected: dict[Key, asyncio.TimerHandle] = {}
        self._closers: list[Callable[[Cluster], Awaitable[None]]] = []
        self._closing: set[asyncio.Task[None]] = set()

    # Which

    def of(self, cell: Cell) -> Cluster:
        """Where the cell's workloads are, also of one that is about to be made: asking opens it. Raises Unreachable
        with the reason while nothing can be done there."""
        secret = cell.kubeconfig
        if secret is None:
            return self.home
        if self._cell(cell.key) is None:
            self._expect(cell, secret)
        used, reach = self._used.get(secret), self.reach(cell)
        if used is None or used.remote is None or (reach is not None and reach.reason in ("Unreachable", "Connecting")):
            raise Unreachable(f"Cell {'/'.join(cell.key)}: spec.cluster: {reach.message if reach else 'not open'}")
        return used.remote.cluster

    def reach(self, cell: Cell) -> Reach | None:
        """None for a cell in the operator's own cluster."""
        secret = cell.kubeconfig
        if secret is None:
            return None
        used = self._used.get(secret)
        if used is None:
            if len(self._used) >= MOST:
                return Reach(False, "TooMany", f"{secret}: {MOST} kubeconfigs are in use already, and no more can be")
            return Reach(False, "Connecting", f"{secret} is being read")
        if used.remote is not None:
            return used.remote.reach(cell.workload_namespace)
        return used.refusal or _unread(secret, used.watch)

    def last_seen(self, cell: Cell) -> KubeWorkloads | None:
        """The copies of the cell's workloads, however old; None: there are none."""
        secret = cell.kubeconfig
        if secret is None:
            return self.home.workloads(cell.workload_namespace)
        used = self._used.get(secret)
        return used.remote.cluster.workloads(cell.workload_namespace) if used and used.remote else None

    @property
    def foreign(self) -> int:
        """Kubeconfigs in use."""
        return len(self._used)

    @property
    def unreachable(self) -> int:
        """Those of them that lead nowhere at present."""
        cells = (self._cell(key) for used in self._used.values() for key in [*used.cells][:1])
        reaches = [self.reach(cell) for cell in cells if cell is not None]
        return sum(reach is not None and not reach.ok for reach in reaches)

    # Opening and closing

    def on_close(self, listener: Callable[[Cluster], Awaitable[None]]) -> None:
        """To be awaited with each cluster that is closed."""
        self._closers.append(listener)

    def attend(self, key: Key) -> None:
        """A Cell came, went or changed: open what it names, close what nobody names any more."""
        try:
            cell = self._store.cell(key)
        except BadInput:
            return  # it cannot be read, which is not to be gone
        secret = cell.kubeconfig if cell is not None else None
        before = self._by_cell.get(key)
        if before is not None and before != secret:
            self._leave(key, before)
        if cell is None or secret is None:
            return
        self._enter(cell, secret)

    def _enter(self, cell: Cell, secret: SecretKey) -> None:
        used = self._used.get(secret)
        if used is None:
            if len(self._used) >= MOST:
                return
            watch = self._watch(secret)
            first = asyncio.create_task(self._tell_when_read(secret, watch))
            used = self._used[secret] = _Used(watch, first, {})
        self._by_cell[cell.key] = secret
        used.cells[cell.key] = cell.workload_namespace

    def _expect(self, cell: Cell, secret: SecretKey) -> None:
        """A cell that is about to be made: nobody tells if it never is."""
        if timer := self._expected.pop(cell.key, None):
            timer.cancel()
        self._enter(cell, secret)
        self._expected[cell.key] = asyncio.get_running_loop().call_later(EXPECTED, self._expire, cell.key)

    def _expire(self, key: Key) -> None:
        del self._expected[key]
        self.attend(key)

    def _leave(self, key: Key, secret: SecretKey) -> None:
        del self._by_cell[key]
        used = self._used[secret]
        used.cells.pop(key)
        if used.cells:
            if used.remote is not None:
                used.remote.watch_only(used.cells.values())
            return
        crowded = len(self._used) >= MOST
        del self._used[secret]
        self._drop(secret, used)
        for waiting in self._store.keys(Cell) if crowded else ():
            if waiting not in self._by_cell and waiting != key:
                self.attend(waiting)

    def _drop(self, secret: SecretKey, used: _Used) -> None:
        used.first.cancel()
        self._soon(used.watch.stop())
        self._close(secret, used)

    def _watch(self, secret: SecretKey) -> Reflector:
        path, fields = SECRETS.collection(secret.namespace), f"metadata.name={secret.name}"
        watch = Reflector(self.home.api, path, self._clock, fields=fields, trim=lambda obj: _entry(obj, secret.key))
        watch.subscribe(lambda key, old, new: self._read(secret, new))
        watch.start()
        return watch

    async def _tell_when_read(self, secret: SecretKey, watch: Reflector) -> None:
        await watch.synced.wait()
        self._tell(secret)

    def _read(self, secret: SecretKey, obj: Object | None) -> None:
        """The Secret as it is now; None: it is gone."""
        used = self._used.get(secret)
        if used is None:
            return
        encoded = ((obj or {}).get("data") or {}).get(secret.key)
        digest = hashlib.sha256(encoded.encode()).hexdigest() if encoded else ""
        if digest and digest == used.digest:
            return
        self._close(secret, used)
        used.digest, used.refusal = digest, None
        if obj is not None and not encoded:
            used.refusal = Reach(False, "KubeconfigMissing", f"{secret}: the Secret has no such key, or it is empty")
        elif encoded:
            self._open(secret, used, encoded)
        self._tell(secret)

    def _open(self, secret: SecretKey, used: _Used, encoded: str) -> None:
        try:
            way, api = self._connect(parse(_decoded(encoded)), self._on_call)
        except BadInput as error:
            used.refusal = Reach(False, "KubeconfigRefused", f"{secret}: {error}")
            logger.warning("%s", used.refusal.message)
            return
        used.remote = _Remote(
            secret,
            way,
            api.fenced(self._fence),
            self._clock,
            self._store,
            on_change=self._on_change,
            on_beat=lambda: self._tell(secret),
        )
        logger.info("opened the cluster of %s", secret)

    def _close(self, secret: SecretKey, used: _Used) -> None:
        remote, used.remote = used.remote, None
        if remote is not None:
            logger.info("closing the cluster of %s", secret)
            self._soon(self._end(remote))

    async def _end(self, remote: _Remote) -> None:
        for closer in self._closers:
            await closer(remote.cluster)
        await remote.stop()

    def _tell(self, secret: SecretKey) -> None:
        """Whom of its Cells something new is known about."""
        used = self._used.get(secret)
        if used is None:
            return
        cells = {key: self._cell(key) for key in used.cells}
        reaches = {key: reach for key, cell in cells.items() if cell and (reach := self.reach(cell))}
        before, used.told = used.told or {}, reaches
        for key, reach in reaches.items():
            if before.get(key) != reach:
                if not reach.ok and reach.reason not in ("Connecting", "Reading"):
                    logger.warning("cell %s: %s", "/".join(key), reach.message)
                self._on_change(key)

    def _cell(self, key: Key) -> Cell | None:
        """None also for one that cannot be read, which the Cell's controller tells."""
        try:
            return self._store.cell(key)
        except BadInput:
            return None

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        for timer in self._expected.values():
            timer.cancel()
        used, self._used, self._by_cell = self._used, {}, {}
        for secret, each in used.items():
            self._drop(secret, each)
        await asyncio.gather(*self._closing, return_exceptions=True)


def _unread(secret: SecretKey, watch: Reflector) -> Reach:
    if isinstance(watch.trouble, Forbidden):
        grant = "features.remoteClusters of the chart grants it"
        return Reach(False, "Forbidden", f"{secret} cannot be read: {watch.trouble}. {grant}")
    if not watch.synced.is_set():
        return Reach(False, "Connecting", f"{secret} is being read")
    return Reach(False, "SecretNotFound", f"{secret} does not exist: create it, with a kubeconfig in it")


def _entry(obj: Object, key: str) -> Object:
    """The Secret with this entry alone."""
    entry = (obj.get("data") or {}).get(key)
    return {"metadata": obj["metadata"], "data": {key: entry} if entry else {}}


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        raise BadInput("the kubeconfig is not base64") from None


def _version(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["gitVersion"])[:32]
    except (ValueError, KeyError, TypeError):
        return "of unknown version"
