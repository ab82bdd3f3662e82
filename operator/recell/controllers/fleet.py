"""The controllers, put together: what the runtime runs, and what wakes which controller.

Every wire from a change to a reconcile stands here; with a thousand cells it matters that nobody is woken
who has nothing to do:
    Cell, Router, RecoveryRun, RecoveryPolicy   their own controllers (by the runtime)
    Cell                                        its runs; its Router and failing siblings if it matters to them
    Router                                      its cells
    Placement, router pods                      the Router, the runs of its cells, and the cells whose share is shown
                                                otherwise, that are held, or of which the figures tell something new
    RecoveryRun                                 its cell, its parent, and when it ends the runs that wait
    RecoveryFreeze, RecoveryPolicy              every cell and run of the namespace
    CellTemplate                                its own controller, the cells that name it, and the runs that may wait
    objects of a made cell, data providers      the cell, and the runs of the namespace (by the providers)
    workloads, Services, probes                 the cell (by the providers)
"""

import asyncio
import logging
from collections.abc import Mapping

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Resource, Router
from recell.api.cell import DataType
from recell.api.meta import percent_text
from recell.api.recovery_run import TargetKind
from recell.controllers.announcer import EventAnnouncer
from recell.controllers.cell import CellController
from recell.controllers.cell_template import CellTemplateController
from recell.controllers.data_plane import HAProxyDataPlane
from recell.controllers.observer import CellObserver, router_of
from recell.controllers.policy import RecoveryPolicyController
from recell.controllers.programming import Programming
from recell.controllers.protection import Protection
from recell.controllers.records import RunRecords
from recell.controllers.recovery_run import RecoveryRunController
from recell.controllers.retirement import Retirements
from recell.controllers.router import RouterController
from recell.controllers.switchboard import PlacementSwitchboard
from recell.domain import placement
from recell.engine.engine import Engine
from recell.engine.ports import Key, Ports
from recell.procedures import PROCEDURES
from recell.providers.access import RouterAccess
from recell.providers.data.by_type import DataByType
from recell.providers.data.cloud_native_pg import CloudNativePGData
from recell.providers.data.jobs import JobsData
from recell.providers.data.volume_snapshots import VolumeSnapshotsData
from recell.providers.kube.api import Object
from recell.providers.kube.isolation import KubeIsolation
from recell.providers.kube.provisioner import KubeProvisioner
from recell.providers.kube.remains import CellRemains
from recell.providers.platform import Enqueue, Platform
from recell.providers.routing.haproxy.objects import Surroundings
from recell.providers.routing.haproxy.streams import SAMPLE_INTERVAL, HAProxyTraffic

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
        self._traffic = HAProxyTraffic(platform.clock, on_change=self._traffic_changed)
        self._data_plane = HAProxyDataPlane(
            platform.api,
            platform.clock,
            platform.fleet_namespaces,
            self._traffic,
            Surroundings(image=platform.router_image, operator_namespace=platform.namespace),
            on_change=self._traffic_changed,
        )
        self._switchboard = PlacementSwitchboard(platform.api, platform.store, platform.leadership)
        self._observer = CellObserver(
            platform.clock, platform.store, platform.workloads, platform.prober, self._traffic, self._switchboard
        )
        programming = Programming(platform.clock, self._traffic, self._switchboard)
        self._held: dict[Key, set[str]] = {}
        """Cells that were held when their Router's Placement was last looked at."""
        self._looking: asyncio.Task[None] | None = None
        self._provisioner = KubeProvisioner(
            platform.api,
            platform.clock,
            platform.store,
            platform.workloads.consent,
            is_home=self._is_home,
            on_change=self._work_changed,
        )
        self._jobs = JobsData(
            platform.api,
            platform.clock,
            platform.fleet_namespaces,
            require_consent=platform.workloads.consent.ensure,
            on_change=self._work_changed,
        )
        self._snapshots = VolumeSnapshotsData(
            platform.api,
            platform.clock,
            platform.workloads,
            require_consent=platform.workloads.consent.ensure,
            is_home=self._is_home,
            on_change=self._work_changed,
        )
        self._postgres = CloudNativePGData(
            platform.api,
            platform.clock,
            platform.fleet_namespaces,
            require_consent=platform.workloads.consent.ensure,
            is_home=self._is_home,
            on_change=self._work_changed,
        )
        data = DataByType(
            {
                DataType.JOBS: self._jobs,
                DataType.VOLUME_SNAPSHOTS: self._snapshots,
                DataType.CLOUD_NATIVE_PG: self._postgres,
            }
        )
        records = RunRecords(platform.api, platform.store)
        engine = Engine(
            Ports(
                clock=platform.clock,
                store=platform.store,
                records=records,
                observer=self._observer,
                traffic=self._traffic,
                switchboard=self._switchboard,
                workloads=platform.workloads,
                provisioner=self._provisioner,
                isolation=KubeIsolation(
                    platform.api, platform.workloads.consent, cut_off=lambda: platform.prober.operator_cut_off
                ),
                data=data,
                access=RouterAccess(platform.api, platform.clock),
                announcer=EventAnnouncer(platform),
                leadership=platform.leadership,
            ),
            PROCEDURES,
        )
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
                    CellRemains(platform.api, platform.store, platform.workloads.consent),
                    platform.leadership,
                    platform.recorder,
                ),
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
        await self._jobs.stop()
        await self._snapshots.stop()
        await self._postgres.stop()
        await self._traffic.stop()
        await self._data_plane.stop()

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

    def _router_changed(self, key: Key) -> None:
        """The Router's spec, labels or annotations, or it came or went."""
        self._enqueue(Router, key)
        for cell in self._platform.store.cells_of(key).values():
            self._enqueue(Cell, cell.key)
            self._runs_of(cell.key)

    def _placement_changed(self, router: Key) -> None:
        """The Placement, or what the router's pods applied of it."""
        store = self._platform.store
        self._enqueue(Router, router, AFTERWARDS)
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
            if run.spec.target_ref.name in cells:
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
        if run.spec.target_ref.kind is TargetKind.CELL:
            self._enqueue(Cell, (key[0], run.spec.target_ref.name), AFTERWARDS)
        if run.spec.escalated_from:
            self._enqueue(RecoveryRun, (key[0], run.spec.escalated_from))
        if run.phase.ended:
            self._waiting_runs(key[0])

    def _namespace_changed(self, key: Key) -> None:
        """A freeze or policy says something else about everything in its namespace."""
        for cell in self._platform.store.keys(Cell, key[0]):
            self._enqueue(Cell, cell)
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

    def _runs_of(self, cell: Key) -> None:
        for run in self._platform.store.runs_of(TargetKind.CELL, cell):
            if not run.phase.ended:
                self._enqueue(RecoveryRun, run.key)


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
