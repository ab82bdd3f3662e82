"""What is known about the cells, put together from watches, probes and the router: the `Observer` port.

Promises: reading never waits; health has its hysteresis, which lives in memory: after a take-over it is
built anew, and until one detection period has passed nothing is said (rule 12). What a cell got while it was well lives
in memory too (rule 17): of a cell that failed before a take-over nothing is known but its present load.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from recell.api import Cell
from recell.api.cell import Failure
from recell.api.failure import DataIntegrity
from recell.api.meta import ConditionStatus, find_condition, seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain import failure as failures
from recell.domain import health, placement
from recell.domain.capacity import Load
from recell.domain.health import HealthState, Level, RouterVerdicts
from recell.domain.observation import (
    CellObservation,
    CellTraffic,
    Endpoints,
    IntegrityResult,
    ProbeResult,
    Reach,
    WorkloadState,
)
from recell.domain.router_health import USUAL
from recell.engine.ports import Clock, Key, Switchboard, Traffic
from recell.providers.kube.store import KubeStore


class Cluster(Protocol):
    """The workloads' side of a cell, as the API server tells."""

    def states(self, cell: Cell) -> tuple[WorkloadState, ...]: ...

    def endpoints(self, cell: Cell) -> Endpoints | None: ...

    def reach(self, cell: Cell) -> Reach | None: ...


class Probes(Protocol):
    """The operator's own requests to the cells."""

    def probe(self, cell: Key) -> ProbeResult | None: ...

    def integrity(self, cell: Key) -> IntegrityResult | None: ...

    def last_intact(self, cell: Key) -> datetime | None: ...


class Dependencies(Protocol):
    """What all cells of a router share."""

    def broken(self, router: Key) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class _Glance:
    """What the router's figures said at the last look at a cell, and by which policy."""

    policy: RecoveryPolicySpec
    said: RouterVerdicts


@dataclass(frozen=True)
class _Serving:
    """How many slots a cell serves, and at which look that was first so."""

    slots: int
    since: datetime


class CellObserver:
    def __init__(
        self,
        clock: Clock,
        store: KubeStore,
        cluster: Cluster,
        probes: Probes,
        traffic: Traffic,
        switchboard: Switchboard,
        dependencies: Dependencies,
    ) -> None:
        self._dependencies = dependencies
        self._clock = clock
        self._store = store
        self._cluster = cluster
        self._probes = probes
        self._traffic = traffic
        self._switchboard = switchboard
        self._states: dict[Key, HealthState] = {}
        self._failures: dict[Key, Failure] = {}
        self._first_look: dict[Key, float] = {}
        self._told_intact: dict[Key, datetime] = {}
        """Since when another controller last said so, by the condition DataIntact."""
        self._serving: dict[Key, _Serving] = {}
        self._loads: dict[Key, Load] = {}
        """When it was last well."""
        self._glances: dict[Key, dict[Key, _Glance]] = {}
        """By Router and Cell."""

    def observe(self, cell: Cell, *, not_before: datetime | None = None) -> CellObservation:
        policy = self._store.policy_for(cell).spec
        return CellObservation(
            workloads=self._cluster.states(cell),
            endpoints=self._cluster.endpoints(cell),
            cluster=self._cluster.reach(cell),
            probe=self._probes.probe(cell.key),
            integrity=self._probes.integrity(cell.key),
            traffic=self._traffic_of(router_of(cell), cell.key, policy, not_before),
        )

    def look(self, cell: Cell) -> tuple[HealthState, float | None]:
        """Look at a cell: its health by now, and after how many seconds time alone changes it."""
        policy, now, router = self._store.policy_for(cell).spec, self._clock.now(), router_of(cell)
        self._first_look.setdefault(cell.key, self._clock.monotonic())
        self._note_data_intact(cell)
        seen = self.observe(cell)
        glance = _Glance(policy, health.router_verdicts(seen.traffic, policy))
        self._glances.setdefault(router, {})[cell.key] = glance
        evidence = health.assess(cell, seen, policy, now)
        known = self._states.get(cell.key) or health.recalled(cell.status.failure, now)
        state = self._states[cell.key] = health.advance(known, evidence, policy, now)
        self._note_load(cell.key, router, state, now)
        failure = None
        if state.level in (Level.DEGRADED, Level.FAILED):
            placed = self._switchboard.current(router)
            failure = failures.derive(
                cell,
                states_of(self, self._store.cells_of(router)),
                evidence,
                placed.spec if placed else None,
                self._traffic.observed(router, window=seconds(policy.detection.window)),
                policy,
                now,
                integrity=self._probes.integrity(cell.key),
                broken=self.broken(router),
            )
        if failure is None:
            self._failures.pop(cell.key, None)
        else:
            self._failures[cell.key] = failure
        return state, health.next_look(state, policy, now, cell=cell)

    def changed(self, router: Key) -> list[Key]:
        """Cells of which the router's figures say something else than at the last look at them."""
        return [
            cell
            for cell, glance in self._glances.get(router, {}).items()
            if health.router_verdicts(self._traffic_of(router, cell, glance.policy), glance.policy) != glance.said
        ]

    def failing(self, router: Key) -> list[Key]:
        """Cells that were not well when they were last looked at."""
        return [cell for cell in self._failures if cell in self._glances.get(router, ())]

    @property
    def routers(self) -> list[Key]:
        """Those that have cells which were looked at."""
        return list(self._glances)

    def _traffic_of(
        self, router: Key, cell: Key, policy: RecoveryPolicySpec, not_before: datetime | None = None
    ) -> CellTraffic | None:
        seen = self._traffic.observed(router, window=seconds(policy.detection.window), not_before=not_before)
        return seen.cells.get(cell[1]) if seen else None

    def settled(self, cell: Cell) -> bool:
        """Has the cell been looked at for one detection period? Nothing is started before (rule 12)."""
        first = self._first_look.get(cell.key)
        period = seconds(self._store.policy_for(cell).spec.detection.window)
        return first is not None and self._clock.monotonic() - first >= period

    def health(self, cell: Key) -> HealthState | None:
        return self._states.get(cell)

    def failure(self, cell: Key) -> Failure | None:
        return self._failures.get(cell)

    def integrity(self, cell: Cell, *, not_before: datetime | None = None) -> DataIntegrity:
        policy, now = self._store.policy_for(cell).spec, self._clock.now()
        state = self._states.get(cell.key)
        onset = state.failing_since if state and state.failing_since else now
        last = self._probes.integrity(cell.key)
        evidence = health.assess(cell, self.observe(cell), policy, now)
        return failures.data_integrity(cell, evidence, policy, onset=onset, now=now, last=last, not_before=not_before)

    def broken(self, router: Key) -> tuple[str, ...]:
        return self._dependencies.broken(router)

    def loads(self, router: Key) -> Mapping[str, Load]:
        return {cell[1]: self._loads[cell] for cell in self._glances.get(router, ()) if cell in self._loads}

    def _note_load(self, cell: Key, router: Key, state: HealthState, now: datetime) -> None:
        """While nothing is wrong with the cell, on figures of minutes in which it served the same slots: what goes
        wrong right now, and is not noticed yet, counts little there."""
        placed = self._switchboard.current(router)
        if placed is None:
            return
        slots = placement.served_slots(placed.spec)[placement.index_of(placed.spec, cell[1])]
        known = self._serving.get(cell)
        if known is None or known.slots != slots:
            known = self._serving[cell] = _Serving(slots, now)
        well = state.level is Level.HEALTHY and state.failing_since is None
        if not slots or not well or (now - known.since).total_seconds() < USUAL:
            return
        seen = self._traffic.observed(router, window=USUAL)
        if seen is not None and cell[1] in seen.cells:
            self._loads[cell] = Load(seen.cells[cell[1]].requests_per_second, slots)

    def last_intact(self, cell: Cell) -> datetime | None:
        """When the cell's data was last asked about and passed; where another controller checks it, since when it was
        last intact, for an earlier moment is safe and a later one is not. None: this process saw neither."""
        if cell.spec.data.integrity is not None:
            return self._probes.last_intact(cell.key)
        self._note_data_intact(cell)
        return self._told_intact.get(cell.key)

    def _note_data_intact(self, cell: Cell) -> None:
        told = find_condition(cell.status.conditions, health.DATA_INTACT)
        if told is not None and told.status is ConditionStatus.TRUE and told.last_transition_time is not None:
            self._told_intact[cell.key] = told.last_transition_time

    def forget(self, cell: Key) -> None:
        self._states.pop(cell, None)
        self._failures.pop(cell, None)
        self._first_look.pop(cell, None)
        self._told_intact.pop(cell, None)
        self._serving.pop(cell, None)
        self._loads.pop(cell, None)
        for router, glances in list(self._glances.items()):
            glances.pop(cell, None)
            if not glances:
                del self._glances[router]


def router_of(cell: Cell) -> Key:
    return (cell.metadata.namespace, cell.spec.router_ref.name)


def states_of(observer: CellObserver, cells: Mapping[str, Cell]) -> dict[str, HealthState]:
    """As last looked at, of those whose health is known."""
    return {name: state for name, cell in cells.items() if (state := observer.health(cell.key)) is not None}
