"""The controllers, put together: what the runtime runs, and what wakes which controller.

Every wire from a change to a reconcile stands here:
    Cell, Router, RecoveryRun, RecoveryPolicy   their own controllers (by the runtime)
    Cell                                        its Router, its runs
    Router, Placement, router pods              the Router, its cells, their runs
    RecoveryRun                                 its cell, its parent, and when it ends the runs that wait
    RecoveryFreeze, RecoveryPolicy              every cell and run of the namespace
    workloads, Services, probes                 the cell (by the providers)
"""

from collections.abc import Callable, Mapping

from recell.api import Cell, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Resource, Router
from recell.api.recovery_run import TargetKind
from recell.controllers.announcer import EventAnnouncer
from recell.controllers.cell import CellController
from recell.controllers.data_plane import HAProxyDataPlane
from recell.controllers.observer import CellObserver, router_of
from recell.controllers.policy import RecoveryPolicyController
from recell.controllers.records import RunRecords
from recell.controllers.recovery_run import RecoveryRunController
from recell.controllers.router import RouterController
from recell.controllers.switchboard import PlacementSwitchboard
from recell.engine.engine import Engine
from recell.engine.ports import Key, Ports
from recell.procedures import PROCEDURES
from recell.providers.platform import Platform
from recell.providers.routing.haproxy.objects import Surroundings
from recell.providers.routing.haproxy.streams import HAProxyTraffic

Enqueue = Callable[[type[Resource], Key], None]
Controller = CellController | RouterController | RecoveryRunController | RecoveryPolicyController


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
            on_change=self._router_changed,
        )
        self._switchboard = PlacementSwitchboard(platform.api, platform.store, platform.leadership)
        self._observer = CellObserver(
            platform.clock, platform.store, platform.workloads, platform.prober, self._traffic, self._switchboard
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
                self._traffic,
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
                self._traffic,
                self._switchboard,
                records,
                platform.recorder,
            ),
            RecoveryRun: RecoveryRunController(platform.clock, platform.api, platform.store, engine),
            RecoveryPolicy: RecoveryPolicyController(platform.clock, platform.api, platform.store),
        }

    @property
    def controllers(self) -> Mapping[type[Resource], Controller]:
        return self._controllers

    async def open(self) -> None:
        store = self._platform.store
        store.subscribe(Cell, self._cell_changed)
        store.subscribe(Router, self._router_changed)
        store.subscribe(Placement, self._router_changed)
        store.subscribe(RecoveryRun, self._run_changed)
        store.subscribe(RecoveryFreeze, self._namespace_changed)
        store.subscribe(RecoveryPolicy, self._namespace_changed)
        self._data_plane.start()

    async def lead(self) -> None:
        """Above every epoch that an earlier leader wrote, before anything else is written (rule 18)."""
        await self._data_plane.wait_synced()
        store, leadership = self._platform.store, self._platform.leadership
        for placement in store.all(Placement):
            if placement.spec.epoch >= leadership.epoch:
                leadership.outrank(placement.spec.epoch)
        for run in store.all(RecoveryRun):
            if run.status.epoch is not None and run.status.epoch >= leadership.epoch:
                leadership.outrank(run.status.epoch)

    async def close(self) -> None:
        await self._traffic.stop()
        await self._data_plane.stop()

    # --- what wakes whom -------------------------------------------------------------------------

    def _cell_changed(self, key: Key) -> None:
        cell = self._platform.store.cell(key)
        if cell is not None:
            self._enqueue(Router, router_of(cell))
        else:
            for router in self._platform.store.all(Router, key[0]):
                self._enqueue(Router, router.key)
        self._runs_of(key)

    def _router_changed(self, key: Key) -> None:
        """The Router, its Placement or its pods."""
        self._enqueue(Router, key)
        for cell in self._platform.store.cells_of(key).values():
            self._enqueue(Cell, cell.key)
            self._runs_of(cell.key)

    def _traffic_changed(self, key: Key) -> None:
        """A router's pods applied something, or see a cell differently."""
        self._router_changed(key)

    def _run_changed(self, key: Key) -> None:
        run = self._platform.store.run(key)
        if run is None:
            self._namespace_changed(key)
            return
        if run.spec.target_ref.kind is TargetKind.CELL:
            self._enqueue(Cell, (key[0], run.spec.target_ref.name))
        if run.spec.escalated_from:
            self._enqueue(RecoveryRun, (key[0], run.spec.escalated_from))
        if run.phase.ended:
            self._waiting_runs(key[0])

    def _namespace_changed(self, key: Key) -> None:
        """A freeze or policy says something else about everything in its namespace."""
        for cell in self._platform.store.all(Cell, key[0]):
            self._enqueue(Cell, cell.key)
        self._waiting_runs(key[0])

    def _waiting_runs(self, namespace: str) -> None:
        for run in self._platform.store.runs_in(namespace):
            if not run.phase.ended:
                self._enqueue(RecoveryRun, run.key)

    def _runs_of(self, cell: Key) -> None:
        for run in self._platform.store.runs_of(TargetKind.CELL, cell):
            if not run.phase.ended:
                self._enqueue(RecoveryRun, run.key)
