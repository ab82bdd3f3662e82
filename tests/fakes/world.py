"""A whole fleet in virtual time: the engine's ports as behaving fakes, with a log of every write.

`World.crash_after = n` makes the process die right after its n-th write has landed (`Crash`), as a
killed operator does; what is in memory is lost by building a new Engine. `World.left = []` collects the
world as a process would have left it that was killed after each write. Writers conflict as they do on a
real API server: by resourceVersion and epoch.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Router
from recell.api.cell import Failure, WorkloadKind, WorkloadRef
from recell.api.cell_template import TemplateRef
from recell.api.failure import DataIntegrity, Evidence
from recell.api.meta import (
    ANNOTATION_RETIRED,
    ANNOTATION_RUN_HISTORY,
    ANNOTATION_STARTED_UID,
    FINALIZER,
    ObjectMeta,
    seconds,
)
from recell.api.placement import PlacementSpec
from recell.api.recovery_run import RecoveryRunStatus, TargetKind
from recell.domain import failure as failures
from recell.domain import health, placement, runs
from recell.domain.capacity import Load
from recell.domain.decommission import Retirement
from recell.domain.observation import (
    CellObservation,
    Endpoints,
    IntegrityResult,
    ProbeResult,
    Reach,
    RouterTraffic,
    WorkloadPhase,
    WorkloadState,
)
from recell.engine.errors import BadInput, Conflict, Fenced, NotFound, Reverted, Unreachable
from recell.engine.ports import Key, Ports
from tests.fakes.cells import FakeAccess, FakeIsolation, FakeProvisioner
from tests.fakes.data import FakeData
from tests.fakes.routers import FakeRouters
from tests.fakes.traffic import FakeTraffic

NAMESPACE = "fleet"
LOOK_EVERY = 2.0
"""Virtual seconds between two looks at health: more often costs most of the time that tests take, and shows no more."""
START = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)


class Crash(BaseException):
    """The process was killed."""


class FakeClock:
    def __init__(self) -> None:
        self._now = START
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


@dataclass
class Write:
    """One write that landed."""

    kind: str
    """status, metadata, create, placement, restart, stop, provision, remove, isolate, lift, data, switch or renew."""
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.what}"


@dataclass
class FakeWorkload:
    ref: WorkloadRef
    takes: float = 5.0
    """Seconds from a restart until it is Available again."""
    broken: bool = False
    """It does not come up after a restart."""
    missing: bool = False
    token: str | None = None
    restarts: int = 0
    restarted_at: datetime | None = None
    heals: bool = True
    """A restart mends the cell's behaviour."""
    stop_token: str | None = None
    stopped_at: datetime | None = None
    stops: bool = True
    """False: its pods never end, as those of a lost node."""
    stoppable: bool = True
    """False: a kind that cannot be scaled."""
    reverted_by: str | None = None
    """Who took back twice what was written."""


@dataclass
class World:
    """Everything outside of the engine."""

    clock: FakeClock = field(default_factory=FakeClock)
    routers: dict[Key, Router] = field(default_factory=dict)
    cells: dict[Key, Cell] = field(default_factory=dict)
    runs: dict[Key, RecoveryRun] = field(default_factory=dict)
    policies: dict[Key, RecoveryPolicy] = field(default_factory=dict)
    templates: dict[Key, CellTemplate] = field(default_factory=dict)
    freezes: list[RecoveryFreeze] = field(default_factory=list)
    placements: dict[Key, Placement] = field(default_factory=dict)
    workloads: dict[str, list[FakeWorkload]] = field(default_factory=dict)
    integrities: dict[str, bool | None] = field(default_factory=dict)
    health_states: dict[str, health.HealthState] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)
    crash_after: int | None = None
    loads: dict[str, Load] = field(default_factory=dict)
    """What cells got when they were last well, as far as this process saw."""
    broken: list[str] = field(default_factory=list)
    """What all cells depend on and does not answer."""
    left: "list[World] | None" = None
    epoch: int = 1
    fenced: bool = False
    refusals: int = 0
    """How often a write was refused since it is not the leader's any more."""
    obstacle: str | None = None
    unreachable: set[str] = field(default_factory=set)
    unprobed: set[str] = field(default_factory=set)
    """Cells that customers reach, and the operator's probe does not."""
    """Cells in clusters of their own that do not answer."""
    _versions: Any = field(default_factory=lambda: count(100))

    def __post_init__(self) -> None:
        self.traffic = FakeTraffic(self.clock)
        self.provisioner = FakeProvisioner(self)
        self.isolation = FakeIsolation(self)
        self.router_side = FakeRouters(self)
        self.data = FakeData(self.clock, wrote=self.wrote, guard=self.guard)
        self._looked_at = 0.0
        self.intact_at: dict[str, datetime] = {}
        self.asked_at: dict[str, datetime] = {}
        """When cells were last asked whether their data is intact; those that are not in it are asked all the time."""

    # --- what a test builds ----------------------------------------------------------------------

    def fleet(self, *names: str, router: dict[str, Any] | None = None, policy: dict[str, Any] | None = None) -> None:
        """A Router `shop` with these cells, all admitted and serving."""
        spec = {
            "type": "HAProxy",
            "customerData": "Shared",
            "haproxy": {"customerKey": {"type": "Header", "name": "x-customer-id"}, "initialCells": list(names)},
            **(router or {}),
        }
        self.routers[NAMESPACE, "shop"] = Router.model_validate({"metadata": self._meta("shop"), "spec": spec})
        self.policies[NAMESPACE, "default"] = RecoveryPolicy.model_validate(
            {"metadata": self._meta("default"), "spec": policy or {}}
        )
        for name in names:
            self.cells[NAMESPACE, name] = Cell.model_validate(
                {
                    "metadata": self._meta(name),
                    "spec": {
                        "routerRef": {"name": "shop"},
                        "backend": {"type": "Service", "service": {"name": name, "port": 80}},
                        "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-web"}],
                        "health": {"probe": {}},
                        "data": {"integrity": {"path": "/integrity"}},
                    },
                }
            )
            self.workloads[name] = [FakeWorkload(self.cells[NAMESPACE, name].spec.workloads[0])]
            self.integrities[name] = True
        self.place(*names)

    def place(self, *names: str) -> None:
        routing = placement.Routing.of(self.routers[NAMESPACE, "shop"])
        candidates = [
            placement.Candidate(
                name=name,
                uid=self.cells[NAMESPACE, name].metadata.uid,
                address=f"10.0.0.{i + 1}",
                port=80,
                weight=self.cells[NAMESPACE, name].spec.weight,
            )
            for i, name in enumerate(names)
        ]
        spec = placement.initial(routing, candidates, epoch=self.epoch)
        placed = Placement(
            metadata=ObjectMeta(name="shop", namespace=NAMESPACE, uid="placement-uid", generation=1), spec=spec
        )
        self.placements[NAMESPACE, "shop"] = placed
        self.traffic.apply(placed)

    def template(self, name: str, **spec: Any) -> None:
        """A CellTemplate, named by every cell there is."""
        body = {
            "cell": {
                "backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}},
                "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(CELL)-web"}],
                "health": {"probe": {}},
                "data": {"integrity": {"path": "/integrity"}, "type": "Jobs", "jobs": {"check": "check"}},
            },
            "objects": [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "$(CELL)-web"}}],
            **spec,
        }
        self.templates[NAMESPACE, name] = CellTemplate.model_validate({"metadata": self._meta(name), "spec": body})
        for key, cell in self.cells.items():
            changed = cell.spec.model_copy(update={"template_ref": TemplateRef(name=name)})
            self.cells[key] = cell.model_copy(update={"spec": changed})

    def lose_cluster_of(self, name: str) -> None:
        """The cell is in a cluster of its own, which does not answer; the cell itself does what it did."""
        cell = self.cells[NAMESPACE, name]
        spec = cell.spec.to_dict() | {
            "backend": {"type": "Address", "address": {"host": "10.1.0.1", "port": 80}},
            "cluster": {"kubeconfigSecretRef": {"name": name}},
        }
        self.cells[cell.key] = Cell.model_validate({"metadata": cell.metadata, "spec": spec, "status": cell.status})
        self.unreachable.add(name)

    def reach(self, cell: Cell) -> None:
        """Raises Unreachable."""
        self.guard()
        if cell.metadata.name in self.unreachable:
            raise Unreachable("the API server has not answered since 03:00")

    def add_cell(self, name: str, spec: dict[str, Any], labels: dict[str, str]) -> Cell:
        """A Cell and its workloads come to be; the Router admits it as it admits any Cell."""
        meta = {**self._meta(name), "labels": labels}
        cell = Cell.model_validate({"metadata": meta, "spec": spec})
        self.cells[cell.key] = cell
        self.workloads[name] = [FakeWorkload(ref) for ref in cell.spec.workloads]
        self.integrities.setdefault(name, True)
        self.admit()
        return cell

    def drop_cell(self, name: str) -> None:
        self.cells.pop((NAMESPACE, name), None)
        self.workloads.pop(name, None)
        self.health_states.pop(name, None)
        self._replace(lambda spec: placement.remove(spec, self._routing, name))

    def admit(self) -> None:
        """What the Router's controller does with Cells that Placement does not list as they are."""
        for number, ((_, name), cell) in enumerate(sorted(self.cells.items())):
            candidate = placement.Candidate(name, cell.metadata.uid, f"10.0.1.{number + 1}", 80, cell.spec.weight)
            known = next((c for c in self.placements[NAMESPACE, "shop"].spec.cells if c.name == name), None)
            if known is not None:
                candidate = replace(candidate, address=known.address)
            self._replace(lambda spec, candidate=candidate: placement.admit(spec, self._routing, candidate))

    @property
    def _routing(self) -> placement.Routing:
        return placement.Routing.of(self.routers[NAMESPACE, "shop"])

    def _replace(self, change: Callable[[PlacementSpec], PlacementSpec]) -> None:
        placed = self.placements[NAMESPACE, "shop"]
        spec = change(placed.spec)
        if spec != placed.spec:
            meta = placed.metadata.model_copy(update={"generation": placed.metadata.generation + 1})
            self.placements[NAMESPACE, "shop"] = placed.model_copy(update={"metadata": meta, "spec": spec})
            self.traffic.apply(self.placements[NAMESPACE, "shop"])

    def run(self, name: str, target: str, *, kind: str = "Cell", **spec: Any) -> Key:
        key = (NAMESPACE, name)
        self.runs[key] = RecoveryRun.model_validate(
            {"metadata": self._meta(name), "spec": {"targetRef": {"kind": kind, "name": target}, **spec}}
        )
        return key

    def control(self, key: Key, **control: Any) -> None:
        """A person edits spec.control."""
        run = self.runs[key]
        spec = run.spec.to_dict()
        spec["control"] = {**spec.get("control", {}), **control}
        self._store(RecoveryRun.model_validate({"metadata": run.metadata, "spec": spec, "status": run.status}))

    def _meta(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-{name}",
            "generation": 1,
            "resourceVersion": str(next(self._versions)),
            "creationTimestamp": self.clock.now().isoformat(),
        }

    # --- the passing of time ---------------------------------------------------------------------

    def tick(self, seconds: float = 1.0) -> None:
        """Time passes; workloads come up; health is looked at, as the Cell controller does."""
        left = seconds
        while left > 0:
            step = min(1.0, left)
            self.clock.advance(step)
            left -= step
            self._heal()
            if self.clock.monotonic() - self._looked_at >= LOOK_EVERY:
                self.look()

    def look(self) -> None:
        self._looked_at = self.clock.monotonic()
        self.router_side.look()
        policy = self.policies[NAMESPACE, "default"].spec
        seen = self.traffic.observed((NAMESPACE, "shop"), window=seconds(policy.detection.window))
        for (_, name), cell in self.cells.items():
            evidence = health.assess(cell, FakeObserver(self).seen(cell, seen), policy, self.clock.now())
            self.health_states[name] = health.advance(self.health_states.get(name), evidence, policy, self.clock.now())

    def _heal(self) -> None:
        for name, workloads in self.workloads.items():
            for workload in workloads:
                if workload.heals and workload.restarted_at and self._up(workload):
                    behaviour = self.traffic.cells[name]
                    if behaviour.error_rate or behaviour.hung or behaviour.down:
                        behaviour.error_rate, behaviour.hung, behaviour.down = 0.0, False, False

    def name_workloads(self, name: str, *refs: dict[str, str]) -> None:
        """The cell has these as well, before what it has already."""
        cell = self.cells[NAMESPACE, name]
        spec = cell.spec.to_dict()
        named = cell.model_validate(
            {"metadata": cell.metadata, "spec": spec | {"workloads": [*refs, *spec["workloads"]]}}
        )
        self.cells[cell.key] = named
        made = [FakeWorkload(ref) for ref in named.spec.workloads[: len(refs)]]
        self.workloads[name] = [*made, *self.workloads[name]]

    def _up(self, workload: FakeWorkload) -> bool:
        if workload.restarted_at is None:
            return True
        return not workload.broken and (self.clock.now() - workload.restarted_at).total_seconds() >= workload.takes

    def intact(self, name: str) -> bool | None:
        """What the check of a cell's data says."""
        known = self.integrities.get(name)
        return False if known and name in self.data.cells and self.data.cells[name].corrupted_at else known

    # --- writes ----------------------------------------------------------------------------------

    def wrote(self, kind: str, what: str) -> None:
        self.writes.append(Write(kind, what))
        if self.left is not None:
            self.left.append(self._as_left())
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after <= 0:
                self.crash_after = None
                raise Crash(f"after {kind} {what}")

    def _as_left(self) -> "World":
        others, self.left = self.left, None
        found = deepcopy(self)
        self.left = others
        return found

    def guard(self) -> None:
        if self.fenced:
            self.refusals += 1
            raise Fenced("not the leader any more")

    def version(self) -> str:
        return str(next(self._versions))

    def _store(self, run: RecoveryRun) -> RecoveryRun:
        meta = run.metadata.model_copy(update={"resource_version": self.version()})
        saved = run.model_copy(update={"metadata": meta})
        self.runs[saved.key] = saved
        return saved

    def effects(self) -> list[str]:
        """What was done to the world: moves of traffic, restarts and created runs, in order."""
        return [str(w) for w in self.writes if w.kind not in ("status", "metadata")]

    def ports(self) -> Ports:
        return Ports(
            clock=self.clock,
            store=FakeStore(self),
            records=FakeRecords(self),
            observer=FakeObserver(self),
            routers=self.router_side,
            switches=tuple(self.router_side.switches),
            traffic=self.traffic,
            switchboard=FakeSwitchboard(self),
            workloads=FakeWorkloads(self),
            provisioner=self.provisioner,
            isolation=self.isolation,
            data=self.data,
            access=FakeAccess(self),
            announcer=FakeAnnouncer(self),
            leadership=FakeLeadership(self),
        )


@dataclass
class FakeStore:
    world: World

    def cell(self, key: Key) -> Cell | None:
        return self.world.cells.get(key)

    def router(self, key: Key) -> Router | None:
        return self.world.routers.get(key)

    def cells_of(self, router: Key) -> Mapping[str, Cell]:
        return {
            name: cell
            for (namespace, name), cell in self.world.cells.items()
            if (namespace, cell.spec.router_ref.name) == router
        }

    def run(self, key: Key) -> RecoveryRun | None:
        return self.world.runs.get(key)

    def runs_in(self, namespace: str) -> tuple[RecoveryRun, ...]:
        return tuple(run for (where, _), run in self.world.runs.items() if where == namespace)

    def policy_for(self, cell: Cell) -> RecoveryPolicy:
        return self.policy_for_namespace(cell.metadata.namespace)

    def router_policy(self, router: Key) -> RecoveryPolicy:
        return self.policy_for_namespace(router[0])

    def policy_for_namespace(self, namespace: str) -> RecoveryPolicy:
        return self.world.policies[namespace, "default"]

    def template(self, key: Key) -> CellTemplate | None:
        return self.world.templates.get(key)

    def freezes_in(self, namespace: str) -> tuple[RecoveryFreeze, ...]:
        return tuple(self.world.freezes)


@dataclass
class FakeRecords:
    world: World

    def _fresh(self, run: RecoveryRun) -> RecoveryRun:
        self.world.guard()
        current = self.world.runs.get(run.key)
        if current is None:
            raise NotFound(f"RecoveryRun {run.metadata.name} is gone")
        if current.metadata.resource_version != run.metadata.resource_version:
            raise Conflict(f"RecoveryRun {run.metadata.name} was changed meanwhile")
        return current

    async def save(self, run: RecoveryRun, status: RecoveryRunStatus) -> RecoveryRun:
        current = self._fresh(run)
        saved = self.world._store(current.model_copy(update={"status": status}))
        self.world.wrote("status", f"{run.metadata.name} {status.phase} {status.step or ''}".strip())
        return saved

    async def start(self, run: RecoveryRun, status: RecoveryRunStatus) -> RecoveryRun:
        self._remember(run)
        return await self.save(run, status)

    async def claim(self, run: RecoveryRun) -> RecoveryRun:
        self._remember(run)
        if FINALIZER in run.metadata.finalizers:
            return run
        current = self._fresh(run)
        meta = current.metadata
        changed = meta.model_copy(
            update={
                "annotations": {**meta.annotations, ANNOTATION_STARTED_UID: meta.uid},
                "finalizers": sorted({*meta.finalizers, FINALIZER}),
            }
        )
        saved = self.world._store(current.model_copy(update={"metadata": changed}))
        self.world.wrote("metadata", f"{meta.name} claimed")
        return saved

    def _remember(self, run: RecoveryRun) -> None:
        kept: dict[Key, Any] = self.world.cells if run.spec.target_ref.kind is TargetKind.CELL else self.world.routers
        target = kept.get((run.metadata.namespace, run.spec.target_ref.name))
        if target is None:
            return
        history = runs.remembered(target, run)
        if history == target.metadata.annotations.get(ANNOTATION_RUN_HISTORY):
            return
        self.world.guard()
        annotations = {**target.metadata.annotations, ANNOTATION_RUN_HISTORY: history}
        kept[target.key] = target.model_copy(
            update={"metadata": target.metadata.model_copy(update={"annotations": annotations})}
        )
        self.world.wrote("metadata", f"{target.metadata.name} remembers {run.metadata.name}")

    async def release(self, run: RecoveryRun) -> None:
        self.world.guard()
        current = self.world.runs.get(run.key)
        if current is None or FINALIZER not in current.metadata.finalizers:
            return
        finalizers = [f for f in current.metadata.finalizers if f != FINALIZER]
        if current.metadata.deletion_timestamp is not None and not finalizers:
            del self.world.runs[run.key]
        else:
            meta = current.metadata.model_copy(update={"finalizers": finalizers})
            self.world._store(current.model_copy(update={"metadata": meta}))
        self.world.wrote("metadata", f"{run.metadata.name} released")

    async def abort(self, run: RecoveryRun) -> None:
        self.world.guard()
        current = self.world.runs[run.key]
        if current.phase.ended or (current.spec.control and current.spec.control.abort):
            return
        self.world.control(run.key, abort=True)
        self.world.wrote("control", f"{run.metadata.name} abort")

    async def retire(self, cell: Cell, retirement: Retirement) -> None:
        self.world.guard()
        current = self.world.cells[cell.key]
        annotations = {**current.metadata.annotations, ANNOTATION_RETIRED: retirement.text()}
        if annotations == current.metadata.annotations:
            return
        meta = current.metadata.model_copy(update={"annotations": annotations})
        self.world.cells[cell.key] = current.model_copy(update={"metadata": meta})
        self.world.wrote("retire", f"{cell.metadata.name} replaced by {retirement.successor}")

    async def create(self, run: RecoveryRun) -> RecoveryRun:
        self.world.guard()
        if known := self.world.runs.get(run.key):
            if known.spec.escalated_from != run.spec.escalated_from:
                raise Conflict(f"RecoveryRun {run.metadata.name} exists and is another one")
            return known
        own = run.metadata.model_dump(include={"labels", "annotations", "finalizers"})
        meta = ObjectMeta.model_validate({**self.world._meta(run.metadata.name), **own})
        created = self.world._store(run.model_copy(update={"metadata": meta}))
        self.world.wrote("create", f"{run.metadata.name} {run.spec.strategy}")
        return created


@dataclass
class FakeObserver:
    world: World

    def observe(self, cell: Cell, *, not_before: datetime | None = None) -> CellObservation:
        policy = FakeStore(self.world).policy_for(cell).spec
        router = (cell.metadata.namespace, cell.spec.router_ref.name)
        window = seconds(policy.detection.window)
        return self.seen(cell, self.world.traffic.observed(router, window=window, not_before=not_before))

    def seen(self, cell: Cell, seen: RouterTraffic | None) -> CellObservation:
        world, name, now = self.world, cell.metadata.name, self.world.clock.now()
        behaviour = world.traffic.cells[name]
        bad = behaviour.down or behaviour.hung or name in world.unprobed
        states = FakeWorkloads(world).states(cell)
        ready = Endpoints(service_found=True, port_found=True, ready=0 if behaviour.down else 1, total=1)
        lost = Reach(False, "Unreachable", "no answer") if name in world.unreachable else None
        return CellObservation(
            workloads=states,
            endpoints=None if lost else ready,
            cluster=lost,
            probe=ProbeResult(ok=not bad, message="HTTP 200" if not bad else "no answer", at=now, since=START),
            integrity=IntegrityResult(intact=world.intact(name), message="checked", at=now),
            traffic=seen.cells.get(name) if seen else None,
        )

    def health(self, cell: Key) -> health.HealthState | None:
        return self.world.health_states.get(cell[1])

    def failure(self, cell: Key) -> Failure | None:
        world = self.world
        found = world.cells.get(cell)
        if found is None:
            return None
        policy = FakeStore(world).policy_for(found).spec
        placed = world.placements.get((NAMESPACE, "shop"))
        return failures.derive(
            found,
            world.health_states,
            health.assess(found, self.observe(found), policy, world.clock.now()),
            placed.spec if placed else None,
            world.traffic.observed((NAMESPACE, "shop"), window=10),
            policy,
            world.clock.now(),
            broken=self.world.broken,
        )

    def broken(self, router: Key) -> tuple[str, ...]:
        return tuple(self.world.broken)

    def loads(self, router: Key) -> Mapping[str, Load]:
        return self.world.loads

    def evidence(self, cell: Cell) -> tuple[Evidence, ...]:
        policy = FakeStore(self.world).policy_for(cell).spec
        return health.assess(cell, self.observe(cell), policy, self.world.clock.now())

    def last_intact(self, cell: Cell) -> datetime | None:
        return self.world.intact_at.get(cell.metadata.name)

    def integrity(self, cell: Cell, *, not_before: datetime | None = None) -> DataIntegrity:
        asked = self.world.asked_at.get(cell.metadata.name)
        if not_before is not None and asked is not None and asked < not_before:
            return DataIntegrity.UNKNOWN
        intact = self.world.intact(cell.metadata.name)
        if intact is None:
            return DataIntegrity.UNKNOWN
        return DataIntegrity.INTACT if intact else DataIntegrity.CORRUPTED


@dataclass
class FakeSwitchboard:
    world: World

    def current(self, router: Key) -> Placement | None:
        return self.world.placements.get(router)

    async def change(self, router: Key, change: Callable[[PlacementSpec], PlacementSpec]) -> Placement:
        self.world.guard()
        current = self.world.placements.get(router)
        if current is None:
            raise NotFound(f"Placement {router[1]} is missing")
        if current.spec.epoch > self.world.epoch:
            raise Fenced(f"Placement {router[1]} has epoch {current.spec.epoch}")
        spec = change(current.spec)
        if spec == current.spec:
            return current
        meta = current.metadata.model_copy(update={"generation": current.metadata.generation + 1})
        changed = current.model_copy(update={"metadata": meta, "spec": spec})
        self.world.placements[router] = changed
        self.world.traffic.apply(changed)
        limits = ", ".join(f"{h.cell} {h.max_percent} %" for h in spec.holds) or "no holds"
        extra = f", {len(spec.reservations)} reservations" if spec.reservations else ""
        extra += "".join(f", shed {item.class_} {item.percent} %" for item in spec.shedding)
        extra += "".join(f", circuit {item.cell}" for item in spec.open_circuits)
        extra += ", quarantine" if spec.quarantine else ""
        extra += f", fallback over {' '.join(spec.fallback.order)}" if spec.fallback else ""
        self.world.wrote("placement", limits + extra)
        return changed


@dataclass
class FakeWorkloads:
    world: World

    def states(self, cell: Cell) -> tuple[WorkloadState, ...]:
        states = tuple(self._state(w) for w in self.world.workloads.get(cell.metadata.name, ()))
        if cell.metadata.name not in self.world.unreachable:
            return states
        return tuple(WorkloadState(s.ref, WorkloadPhase.UNKNOWN, "the API server does not answer") for s in states)

    def _state(self, workload: FakeWorkload) -> WorkloadState:
        if workload.missing:
            return WorkloadState(ref=workload.ref, phase=WorkloadPhase.NOT_FOUND, message="not found")
        up = self.world._up(workload)
        phase = WorkloadPhase.CURRENT if up else WorkloadPhase.FAILED if workload.broken else WorkloadPhase.IN_PROGRESS
        return WorkloadState(
            ref=workload.ref,
            phase=phase,
            message="2 of 2 pods ready" if up else "1 of 2 pods ready",
            desired=0 if workload.stop_token else 2,
            ready=0 if workload.stop_token else 2 if up else 1,
            updated=up,
            restart_token=workload.token,
            stop_token=workload.stop_token,
            pods=self._pods(workload),
        )

    def _pods(self, workload: FakeWorkload) -> int | None:
        """A stopped one's pods take ten seconds to end; those of one that runs are not watched."""
        since = workload.stopped_at
        if since is None:
            return None
        return 0 if workload.stops and (self.world.clock.now() - since).total_seconds() >= 10 else 2

    async def scale_to_zero(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        self.world.reach(cell)
        workload = next(w for w in self.world.workloads[cell.metadata.name] if w.ref == ref)
        if not workload.stoppable:
            raise BadInput(f"{ref} cannot be scaled")
        if workload.reverted_by:
            raise Reverted(f"{ref}: scaling to zero was reverted twice, last by {workload.reverted_by}")
        if workload.stop_token != token:
            workload.stop_token, workload.stopped_at = token, self.world.clock.now()
            if ref.kind is not WorkloadKind.CRON_JOB:
                self.world.traffic.cells[cell.metadata.name].down = True
            self.world.wrote("stop", str(ref))

    async def scale_back(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        self.world.reach(cell)
        workload = next(w for w in self.world.workloads[cell.metadata.name] if w.ref == ref)
        if workload.stop_token == token:
            workload.stop_token = workload.stopped_at = None
            if ref.kind is not WorkloadKind.CRON_JOB:
                self.world.traffic.cells[cell.metadata.name].down = False
            self.world.wrote("start", str(ref))

    async def restart(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        self.world.reach(cell)
        workload = next(w for w in self.world.workloads[cell.metadata.name] if w.ref == ref)
        if workload.missing:
            raise NotFound(f"{ref} does not exist")
        if workload.token == token:
            return
        if ref.kind is WorkloadKind.CRON_JOB:
            raise BadInput(f"{ref} cannot be restarted")
        if workload.reverted_by:
            raise Reverted(f"{ref}: the restart was reverted twice, last by {workload.reverted_by}")
        workload.token, workload.restarted_at = token, self.world.clock.now()
        workload.restarts += 1
        self.world.wrote("restart", str(ref))


@dataclass
class FakeAnnouncer:
    world: World

    def announce(self, run: RecoveryRun, reason: str, message: str, *, warning: bool = False) -> None:
        self.world.announced.append(f"{run.metadata.name} {reason}: {message}")


@dataclass
class FakeLeadership:
    world: World

    @property
    def epoch(self) -> int:
        return self.world.epoch

    def check(self) -> None:
        self.world.guard()

    def obstacle(self) -> str | None:
        return self.world.obstacle
