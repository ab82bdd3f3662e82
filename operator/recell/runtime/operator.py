"""The whole operator: opens the watches, waits to lead, lets the controllers work, ends in order.

The seam to the controllers is `Fleet` below; `recell.controllers.fleet.Fleet` is it. The order:

    open the API, health endpoint             (a standby does all of this too)
    fleet = Fleet(platform, enqueue)
    watches: store, workloads; fleet.open()
    all copies complete -> ready; kopf starts
    --- wait for the Lease ---                (nothing was written until here, nor is it below a fence)
    fleet.lead()                              raise the epoch of what earlier leaders wrote
    every key of every kind into its queue; workers start
    --- SIGTERM, or the Lease is lost ---
    SIGTERM: workers finish, events are written, fleet.close(), the Lease is released, exit 0
    lost:    exit 1 at once, nothing more is written
"""

import asyncio
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from recell.api import KINDS, Cell, Placement, RecoveryRun, Resource
from recell.api.cell import BackendType
from recell.api.placement import PlacementMode
from recell.api.recovery_run import RunPhase
from recell.controllers.queue import WorkQueue
from recell.engine.errors import RecellError
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.by_cluster import CellWorkloads
from recell.providers.kube.clusters import Clusters
from recell.providers.kube.events import Recorder
from recell.providers.kube.leadership import Leadership
from recell.providers.kube.reflector import Reflector
from recell.providers.kube.store import KubeStore
from recell.providers.kube.workloads import KubeWorkloads
from recell.providers.platform import Enqueue, Platform
from recell.providers.probing import Prober
from recell.runtime.frame import Frame
from recell.runtime.health import Health
from recell.runtime.metrics import Metrics, by_resource
from recell.runtime.settings import Settings
from recell.runtime.workers import Controller, Workers

logger = logging.getLogger(__name__)


class Fleet(Protocol):
    """What the controllers are to the runtime. Made by `build(platform, enqueue)`, before any watch runs."""

    @property
    def controllers(self) -> Mapping[type[Resource], Controller]:
        """By the kind whose keys they reconcile. A change of an object of that kind enqueues its key; whatever
        else is to trigger a reconcile, the fleet subscribes itself (`platform.store.subscribe`)."""
        ...

    async def open(self) -> None:
        """Before the watches start, on leader and standby alike: subscribe, open what has to be warm; no writes."""
        ...

    async def lead(self) -> None:
        """This process leads from now on and all copies are complete; returns before the first reconcile.
        Calls `platform.leadership.outrank` for every epoch found in Placements and runs."""
        ...

    async def close(self) -> None:
        """No reconcile runs any more; the Lease is still held."""
        ...


Build = Callable[[Platform, Enqueue], Fleet]


class Operator:
    def __init__(self, settings: Settings, build: Build, clock: Clock) -> None:
        self._settings = settings
        self._build = build
        self._clock = clock
        self._metrics = Metrics()
        self._queues: dict[type[Resource], WorkQueue[Key]] = {}
        self._stop = asyncio.Event()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """End in order, as on SIGTERM."""
        self._stop.set()

    async def run(self) -> int:
        """Until it is told to stop (0) or may not go on (1: the caller ends the process at once)."""
        settings, clock = self._settings, self._clock
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        api = await Api.connect(settings.kubeconfig, settings.context, on_call=self._metrics.called)
        leadership = Leadership(
            api,
            clock,
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            identity=f"{settings.identity}_{uuid.uuid4().hex[:8]}",
            terms=settings.terms,
        )
        fenced = api.fenced(leadership.check)
        store = KubeStore(fenced, clock, settings.fleet_namespaces)
        home = KubeWorkloads(fenced, clock, store, settings.all_namespaces, on_change=self._cell_changed)
        clusters = Clusters(
            fenced,
            clock,
            store,
            home,
            fence=leadership.check,
            on_change=self._cell_changed,
            on_call=self._metrics.called,
        )
        workloads = CellWorkloads(clusters, self._cell_changed)

        def has_endpoints(key: Key) -> bool:
            cell = store.cell(key)
            if cell is None:
                return False
            seen = workloads.endpoints(cell)
            return seen.ready > 0 if seen is not None else cell.spec.backend.type == BackendType.ADDRESS

        prober = Prober(clock, has_endpoints=has_endpoints, on_change=self._cell_changed)
        recorder = Recorder(fenced, clock, instance=settings.identity)
        platform = Platform(
            clock=clock,
            api=fenced,
            store=store,
            clusters=clusters,
            workloads=workloads,
            prober=prober,
            recorder=recorder,
            leadership=leadership,
            reports=self._metrics,
            identity=settings.identity,
            namespace=settings.lease_namespace,
            fleet_namespaces=settings.fleet_namespaces,
            router_image=settings.router_image,
        )
        fleet = self._build(platform, self._enqueue)
        workers = self._prepare(fleet, store)

        def reflectors() -> list[Reflector]:
            # Not those of other clusters: they make this process neither ready nor ill.
            return [*store.reflectors, *home.reflectors]

        health = Health(
            clock,
            reflectors=reflectors,
            queues=lambda: {kind.INFO.kind: queue for kind, queue in self._queues.items()},
            render_metrics=self._metrics.render,
        )
        self._metrics.watch_reflectors(lambda: by_resource(reflectors()))
        self._metrics.watch_fallbacks(
            lambda: sum(placed.spec.mode is PlacementMode.FALLBACK for placed in store.all(Placement))
        )
        self._metrics.watch_runs(lambda: sum(run.phase is RunPhase.AWAITING_APPROVAL for run in store.all(RecoveryRun)))
        self._metrics.watch_leadership(lambda: leadership.leading, lambda: leadership.epoch)
        self._metrics.watch_clusters(lambda: clusters.foreign, lambda: clusters.unreachable)
        self._metrics.watch_clock(lambda: api.skew, lambda: health.loop_lag)
        frame = Frame(api.connection, KINDS, settings.fleet_namespaces, _deliver_to(store))

        await health.start(settings.host, settings.port)
        logger.info("health and metrics on port %d", health.port)
        await fleet.open()
        store.subscribe(Cell, clusters.attend)
        store.start()
        home.start()
        prober.start()
        recorder.start()
        leading = asyncio.create_task(self._lead(fleet, store, home, frame, leadership, workers), name="leading")
        lost = await self._until_the_end(leading)
        if lost is not None:
            logger.error("ending: %s", lost)
            return 1

        logger.info("stopping")
        health.stopping()
        await asyncio.gather(*(w.stop(settings.grace) for w in workers))
        await prober.stop()
        await fleet.close()
        await recorder.stop()
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        await leadership.release()
        await frame.stop(timeout=3.0)
        await clusters.stop()
        await home.stop()
        await store.stop()
        await health.stop()
        await api.close()
        logger.info("stopped")
        return 0

    # How

    def _prepare(self, fleet: Fleet, store: KubeStore) -> list[Workers]:
        made = []
        for kind, controller in fleet.controllers.items():
            name = kind.INFO.kind
            queue: WorkQueue[Key] = WorkQueue(on_latency=self._metrics.queue_waits(name))
            self._metrics.watch_queue(name, queue.__len__)
            self._queues[kind] = queue
            store.subscribe(kind, queue.add)
            made.append(
                Workers(
                    name,
                    controller,
                    queue,
                    self._clock,
                    self._metrics,
                    count=self._settings.workers,
                    on_fenced=self._end,
                )
            )
        return made

    async def _lead(
        self,
        fleet: Fleet,
        store: KubeStore,
        workloads: KubeWorkloads,
        frame: Frame,
        leadership: Leadership,
        workers: list[Workers],
    ) -> None:
        await store.wait_synced()
        await workloads.wait_synced()
        logger.info("every copy is complete, waiting to lead")
        frame.start()
        await leadership.acquire()
        holding = asyncio.create_task(leadership.hold(), name="holding the lease")
        try:
            await fleet.lead()
            for kind, queue in self._queues.items():
                for key in store.keys(kind):
                    queue.add(key)
            for worker in workers:
                worker.start()
            await holding
            self._end("the Lease is lost")
        finally:
            holding.cancel()

    async def _until_the_end(self, leading: asyncio.Task[None]) -> str | None:
        """None: told to stop. Else why this process may not go on."""
        stopping = asyncio.create_task(self._stop.wait())
        ends: list[asyncio.Future[Any]] = [stopping, self._ended, leading]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._ended.done():
            return self._ended.result()
        if leading.done() and leading.exception() is not None:
            return f"leading failed: {leading.exception()}"
        return None

    def _end(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_result(why)

    def _enqueue(self, kind: type[Resource], key: Key, after: float = 0.0) -> None:
        self._queues[kind].add_after(key, after)

    def _cell_changed(self, key: Key) -> None:
        if Cell in self._queues:
            self._queues[Cell].add(key)


def run(settings: Settings, build: Build, clock: Clock) -> NoReturn:
    """The process: runs the operator, then ends at once, so that nothing that is left over writes any more."""

    async def operate() -> int:
        return await Operator(settings, build, clock).run()

    try:
        code = asyncio.run(operate())
    except RecellError as error:
        logger.error("cannot start: %s", error)
        code = 2
    except Exception:
        logger.exception("cannot go on")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _deliver_to(store: KubeStore) -> Callable[[type[Resource], str, Object], None]:
    def deliver(kind: type[Resource], event: str, obj: Object) -> None:
        if event == "DELETED":
            store.gone(kind, obj)
        else:
            store.put(kind, obj)

    return deliver
