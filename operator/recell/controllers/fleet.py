"""The controllers, put together: what the runtime runs, and what wakes which controller.

Every wire from a change to a reconcile stands here; with a thousand cells it matters that nobody is woken
who has nothing to do:
    Cell, Router, RecoveryRun, RecoveryPolicy   their own controllers (by the runtime)
    Cell                                        its runs; its Router and failing siblings if it matters to them
    Router                                      its cells and its runs
    Placement, router pods                      the Router, its runs and those of its cells, and the cells whose share
                                                is shown otherwise, that are held, or of which the figures tell
                                                something new
    requests through a router                   the Router and its runs, when answers begin or cease
    RecoveryRun                                 its target, its parent, and when it ends the runs that wait
    RecoveryFreeze, RecoveryPolicy              every cell, router and run of the namespace
    CellTemplate                                its own controller, the cells that name it, and the runs that may wait
    objects of a made cell, data providers      the cell, and the runs of the namespace (by the providers)
    workloads, Services, probes, clusters       the cell (by the providers)
    dependencies of a policy                    the Router, its runs and its failing cells
"""

import asyncio
import logging
from collections.abc import Mapping

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Resource, Router
from recell.api.cell import DataType
from recell.api.meta import percent_text
from recell.api.recovery_run import TargetKind
from recell.api.router import RouterType
from recell.controllers.announcer import EventAnnouncer
from recell.controllers.cell import CellController
from recell.controllers.cell_template import CellTemplateController
from recell.controllers.data_plane import HAProxyDataPlane
from recell.controllers.fallbacks import Fallbacks
from recell.controllers.observer import CellObserver, router_of
from recell.controllers.policy import RecoveryPolicyController
from recell.controllers.programming import Programming
from recell.controllers.protection import Protection
from recell.controllers.records import RunRecords
from recell.controllers.recovery_run import RecoveryRunController
from recell.controllers.retirement import Retirements
from recell.controllers.router import RouterController
from recell.controllers.router_observer import RouterObserver
from recell.controllers.router_recovery import RouterRecoveries
from recell.controllers.storms import Storms
from recell.controllers.switchboard import PlacementSwitchboard
from recell.controllers.turning_away import TurningAway
from recell.domain import placement
from recell.engine.admission import of_cells
from recell.engine.engine import Engine
from recell.engine.ports import Key, Ports
from recell.procedures import PROCEDURES
from recell.providers.access import RouterAccess
from recell.providers.data.by_cluster import DataByCluster
from recell.providers.data.by_cluster import Provider as DataProvider
from recell.providers.data.by_type import DataByType
from recell.providers.data.cloud_native_pg import CloudNativePGData
from recell.providers.data.jobs import JobsData
from recell.providers.data.velero import VeleroData
from recell.providers.data.volume_snapshots import VolumeSnapshotsData
from recell.providers.dependencies import DependencyProber
from recell.providers.kube.api import Object
from recell.providers.kube.by_cluster import CellIsolation, remains_of
from recell.providers.kube.clusters import Cluster, PerCluster
from recell.providers.kube.provisioner import Ground, KubeProvisioner
from recell.providers.platform import Enqueue, Platform
from recell.providers.routing.asking import RouterProber
from recell.providers.routing.by_type import DataPlaneByType
from recell.providers.routing.dns.data_plane import DNSDataPlane
from recell.providers.routing.dns.resolving import NameServers
from recell.providers.routing.dns.switch import DNSSwitch
from recell.providers.routing.dns.traffic import DNSTraffic
from recell.providers.routing.gateway.data_plane import GatewayDataPlane
from recell.providers.routing.gateway.figures import Figures
from recell.providers.routing.gateway.switch import GatewaySwitch
from recell.providers.routing.haproxy.objects import Surroundings
from recell.providers.routing.haproxy.streams import SAMPLE_INTERVAL, HAProxyTraffic
from recell.providers.routing.switches import Switches

log = logging.getLogger(__name__)

AFTERWARDS = 0.1
"""Seconds until what is only shown is looked at: first what has to be done, and several changes are one look."""


Controller = (
    CellController | RouterController | RecoveryRunController | RecoveryPolicyController | CellTemplateController
)


class Fleet:
    def __init__(self, platform: Platform, enqueue: Enqueue) -> None:
        self._platform = platform
        self._enqueue = enqueue
        traffic = HAProxyTraffic(platform.clock, on_change=self._traffic_changed)
        haproxy = HAProxyDataPlane(
            platform.api,
            platform.clock,
            platform.fleet_namespaces,
            traffic,
            Surroundings(image=platform.router_image, operator_namespace=platform.namespace),
            platform.store.cells_of,
            on_change=self._traffic_changed,
        )
        gateway = GatewayDataPlane(
            platform.api,
            platform.clock,
            platform.fleet_namespaces,
            platform.store.cells_of,
            Figures(platform.api, platform.clock),
            turns_away=haproxy.turns_away,
            on_change=self._traffic_changed,
        )
        names = NameServers(platform.clock)
        dns = DNSDataPlane(
            platform.api,
            platform.clock,
            DNSTraffic(platform.clock, names, on_change=self._traffic_changed),
            on_change=self._traffic_changed,
        )
        self._data_plane = DataPlaneByType(
            platform.store, {RouterType.HAPROXY: haproxy, RouterType.GATEWAY: gateway, RouterType.DNS: dns}
        )
        self._record_switch = DNSSwitch(
            platform.api,
            platform.clock,
            platform.fleet_namespaces,
            haproxy.services,
            names,
            platform.store.cells_of,
            on_change=self._traffic_changed,
        )
        self._switches = Switches(
            platform.store.router,
            haproxy.switch,
            GatewaySwitch(
                platform.api,
                platform.clock,
                gateway.routes,
                platform.store.cells_of,
                on_change=self._traffic_changed,
            ),
            self._record_switch,
        )
        self._switchboard = PlacementSwitchboard(platform.api, platform.store, platform.leadership)
        self._dependencies = DependencyProber(platform.clock, on_change=self._dependency_changed)
        self._observer = CellObserver(
            platform.clock,
            platform.store,
            platform.workloads,
            platform.prober,
            self._data_plane,
            self._switchboard,
            self._dependencies,
        )
        self._asking = RouterProber(platform.clock, on_change=self._router_answers)
        self._routers = RouterObserver(
            platform.clock,
            platform.store,
            haproxy,
            traffic,
            self._asking,
            cut_off=lambda: platform.prober.operator_cut_off,
            at=self._switches.at,
        )
        programming = Programming(platform.clock, self._data_plane, self._switchboard)
        self._held: dict[Key, set[str]] = {}
        """Cells that were held when their Router's Placement was last looked at."""
        self._looking: asyncio.Task[None] | None = None
        clusters = platform.clusters
        self._grounds = PerCluster(clusters, self._ground)
        self._provisioner = KubeProvisioner(
            platform.api,
            platform.clock,
            platform.store,
            clusters.home.consent,
            is_home=self._is_home,
            on_change=self._work_changed,
            elsewhere=self._grounds.of,
        )
        self._data: PerCluster[DataProvider] = PerCluster(clusters, self._data_of)
        data = DataByCluster(self._data)
        records = RunRecords(platform.api, platform.store)
        engine = Engine(
            Ports(
                clock=platform.clock,
                store=platform.store,
                records=records,
                observer=self._observer,
                routers=self._routers,
                switches=self._switches.all,
                traffic=self._data_plane,
                switchboard=self._switchboard,
                workloads=platform.workloads,
                provisioner=self._provisioner,
                isolation=CellIsolation(clusters, cut_off=lambda: platform.prober.operator_cut_off),
                data=data,
                access=RouterAccess(platform.api, platform.clock, names),
                announcer=EventAnnouncer(platform),
                leadership=platform.leadership,
            ),
            PROCEDURES,
        )
        storms = Storms(platform.clock, platform.store, self._observer, self._data_plane, self._switchboard, records)
        self._controllers: dict[type[Resource], Controller] = {
            Router: RouterController(
                platform.clock,
                platform.api,
                platform.store,
                platform.workloads,
                self._data_plane,
                self._observer,
                programming,
                self._switchboard,
                platform.leadership,
                platform.recorder,
                RouterRecoveries(platform.clock, platform.store, self._routers, self._switchboard, records, storms),
                Fallbacks(
                    platform.clock,
                    platform.store,
                    self._observer,
                    self._routers,
                    haproxy,
                    self._switches,
                    self._switchboard,
                    programming,
                ),
                TurningAway(haproxy, programming),
                storms,
                self._dependencies,
            ),
            Cell: CellController(
                platform.clock,
                platform.api,
                platform.store,
                platform.workloads,
                platform.prober,
                self._observer,
                programming,
                self._switchboard,
                records,
                Retirements(
                    platform.clock,
                    platform.api,
                    platform.store,
                    platform.workloads,
                    self._observer,
                    Protection(data),
                    lambda cell: remains_of(clusters, cell),
                    platform.leadership,
                    platform.recorder,
                ),
                storms,
                platform.recorder,
            ),
            RecoveryRun: RecoveryRunController(platform.clock, platform.api, platform.store, engine),
            RecoveryPolicy: RecoveryPolicyController(platform.clock, platform.api, platform.store),
            CellTemplate: CellTemplateController(platform.clock, platform.api, platform.store),
        }

    @property
    def controllers(self) -> Mapping[type[Resource], Controller]:
        return self._controllers

    async def open(self) -> None:
        store = self._platform.store
        store.subscribe(Cell, self._runs_of)
        store.subscribe(Cell, self._cell_matters, when=_matters_to_others)
        store.subscribe(Router, self._router_changed, when=_said_otherwise)
        store.subscribe(Placement, self._placement_changed)
        store.subscribe(RecoveryRun, self._run_changed)
        store.subscribe(RecoveryFreeze, self._namespace_changed, when=_said_otherwise)
        store.subscribe(RecoveryPolicy, self._namespace_changed, when=_said_otherwise)
        store.subscribe(CellTemplate, self._template_changed, when=_said_otherwise)
        self._data_plane.start()

    async def lead(self) -> None:
        """Above every epoch that an earlier leader wrote, before anything else is written (rule 18)."""
        await self._data_plane.wait_synced()
        store, leadership = self._platform.store, self._platform.leadership
        for placed in store.all(Placement):
            if placed.spec.epoch >= leadership.epoch:
                leadership.outrank(placed.spec.epoch)
        for run in store.all(RecoveryRun):
            if run.status.epoch is not None and run.status.epoch >= leadership.epoch:
                leadership.outrank(run.status.epoch)
        self._looking = asyncio.create_task(self._look_at_figures(), name="looking at figures")

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._provisioner.stop()
        await self._grounds.stop()
        await self._data.stop()
        await self._asking.stop()
        await self._dependencies.stop()
        await self._record_switch.stop()
        await self._data_plane.stop()

    # --- what there is once for each cluster -----------------------------------------------------

    def _ground(self, cluster: Cluster) -> Ground:
        return Ground(
            cluster.api, self._platform.clock, cluster.consent, foreign=cluster.foreign, on_change=self._work_changed
        )

    def _data_of(self, cluster: Cluster) -> DataProvider:
        clock, consent = self._platform.clock, cluster.consent.ensure
        # Of another cluster no more than the namespaces of its cells is watched.
        namespaces = () if cluster.foreign else self._platform.fleet_namespaces
        return DataByType(
            {
                DataType.JOBS: JobsData(
                    cluster.api, clock, namespaces, require_consent=consent, on_change=self._work_changed
                ),
                DataType.VOLUME_SNAPSHOTS: VolumeSnapshotsData(
                    cluster.api,
                    clock,
                    self._platform.workloads,
                    require_consent=consent,
                    is_home=self._is_home,
                    on_change=self._work_changed,
                ),
                DataType.CLOUD_NATIVE_PG: CloudNativePGData(
                    cluster.api,
                    clock,
                    namespaces,
                    require_consent=consent,
                    is_home=self._is_home,
                    on_change=self._work_changed,
                ),
                DataType.VELERO: VeleroData(
                    cluster.api,
                    clock,
                    self._platform.workloads,
                    require_consent=consent,
                    is_home=self._is_home,
                    on_change=self._work_changed,
                ),
            }
        )

    # --- what wakes whom -------------------------------------------------------------------------

    async def _look_at_figures(self) -> None:
        """After each report of the router pods, and when none comes: the cells that look different by now."""
        while True:
            await asyncio.sleep(SAMPLE_INTERVAL)
            for router in self._observer.routers:
                try:
                    for cell in self._observer.changed(router):
                        self._enqueue(Cell, cell)
                except Exception:  # one Router's figures must not keep the others' from being looked at
                    log.exception("the figures of Router %s/%s cannot be looked at", *router)
                await asyncio.sleep(0)

    def _cell_matters(self, key: Key) -> None:
        cell = self._platform.store.cell(key)
        if cell is None:
            for router in self._platform.store.keys(Router, key[0]):
                self._enqueue(Router, router)
            return
        self._enqueue(Router, router_of(cell), AFTERWARDS)
        for sibling in self._observer.failing(router_of(cell)):  # one failure or several at once: another type
            self._enqueue(Cell, sibling)

    def _dependency_changed(self, router: Key) -> None:
        """What all cells share does not answer, or answers again: their failures are of another type."""
        self._enqueue(Router, router)
        self._runs_of(router, TargetKind.ROUTER)
        for cell in self._observer.failing(router):
            self._enqueue(Cell, cell)

    def _router_answers(self, key: Key) -> None:
        """The router began to answer the operator's requests, or ceased to."""
        self._enqueue(Router, key)
        self._runs_of(key, TargetKind.ROUTER)

    def _router_changed(self, key: Key) -> None:
        """The Router's spec, labels or annotations, or it came or went."""
        self._enqueue(Router, key)
        self._runs_of(key, TargetKind.ROUTER)
        for cell in self._platform.store.cells_of(key).values():
            self._enqueue(Cell, cell.key)
            self._runs_of(cell.key)

    def _placement_changed(self, router: Key) -> None:
        """The Placement, or what the router's pods applied of it."""
        store = self._platform.store
        found = store.router(router)
        # HAProxy's pods watch the Placement themselves; for other types it is the controller that carries it out.
        watched = found is None or found.spec.type is RouterType.HAPROXY
        self._enqueue(Router, router, AFTERWARDS if watched else 0.0)
        cells = store.cells_of(router)
        placed = store.placement(router)
        held = {hold.cell for hold in placed.spec.holds} if placed else set()
        shares = placement.shares(placed.spec) if placed else {}
        for name, cell in cells.items():
            share = percent_text(shares[name]) if name in shares else None
            shown = cell.status.share
            told = (shown.asked, shown.applied) if shown else (None, None)
            if told != (share, share) or name in held or name in self._held.get(router, ()):
                self._enqueue(Cell, cell.key, AFTERWARDS)
        self._held[router] = held
        for run in store.open_runs(router[0]):
            if of_cells(run, cells) or _of_router(run, router):
                self._enqueue(RecoveryRun, run.key)

    def _traffic_changed(self, key: Key) -> None:
        """A router's pods came or went, applied or refused something, or see a cell's check differently."""
        self._placement_changed(key)
        for cell in self._observer.changed(key):
            self._enqueue(Cell, cell)

    def _run_changed(self, key: Key) -> None:
        run = self._platform.store.run(key)
        if run is None:
            self._namespace_changed(key)
            return
        target: type[Resource] = Cell if run.spec.target_ref.kind is TargetKind.CELL else Router
        self._enqueue(target, (key[0], run.spec.target_ref.name), AFTERWARDS)
        if run.spec.escalated_from:
            self._enqueue(RecoveryRun, (key[0], run.spec.escalated_from))
        if run.phase.ended:
            self._waiting_runs(key[0])

    def _namespace_changed(self, key: Key) -> None:
        """A freeze or policy says something else about everything in its namespace."""
        for kind in (Cell, Router):
            for target in self._platform.store.keys(kind, key[0]):
                self._enqueue(kind, target)
        self._waiting_runs(key[0])

    def _work_changed(self, cell: Key) -> None:
        """Something that a run or a retirement makes or waits for looks different: few runs work at a time, so all of
        them look."""
        self._enqueue(Cell, cell, AFTERWARDS)
        self._waiting_runs(cell[0])

    def _template_changed(self, key: Key) -> None:
        for cell in self._platform.store.all(Cell):
            ref = cell.spec.template_ref
            if ref is not None and (cell.metadata.namespace, ref.name) == key:
                self._enqueue(Cell, cell.key, AFTERWARDS)
        self._waiting_runs(key[0])

    def _is_home(self, router: Key, cell: str) -> bool:
        """Whether customers are at home in the cell; while nobody can say, they are."""
        placed = self._switchboard.current(router)
        return placed is None or placement.has_customers(placed.spec, cell)

    def _waiting_runs(self, namespace: str) -> None:
        for run in self._platform.store.open_runs(namespace):
            self._enqueue(RecoveryRun, run.key)

    def _runs_of(self, target: Key, kind: TargetKind = TargetKind.CELL) -> None:
        for run in self._platform.store.runs_of(kind, target):
            if not run.phase.ended:
                self._enqueue(RecoveryRun, run.key)


def _of_router(run: RecoveryRun, router: Key) -> bool:
    ref = run.spec.target_ref
    return ref.kind is TargetKind.ROUTER and (run.metadata.namespace, ref.name) == router


def _said_otherwise(old: Object | None, new: Object | None) -> bool:
    """Not by its status alone: what people say stands in spec, labels and annotations."""
    if old is None or new is None:
        return True
    told = ("generation", "labels", "annotations", "deletionTimestamp", "uid")
    return any(old["metadata"].get(name) != new["metadata"].get(name) for name in told)


def _matters_to_others(old: Object | None, new: Object | None) -> bool:
    """To the Router and to the cells beside it."""
    if _said_otherwise(old, new) or old is None or new is None:
        return True
    phases = [(obj.get("status") or {}).get("phase") for obj in (old, new)]
    return phases[0] != phases[1] or old["metadata"].get("finalizers") != new["metadata"].get("finalizers")
