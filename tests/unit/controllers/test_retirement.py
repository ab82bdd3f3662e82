"""A retired cell is deleted, in order and each thing once, only with every proof: shown by tests that try without."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from recell.api import Cell, Placement, RecoveryFreeze, RecoveryRun, Resource, Router
from recell.api.cell import WorkloadRef
from recell.api.meta import ANNOTATION_RETIRED, FINALIZER, LABEL_CELL, LABEL_FLEET, LABEL_MADE_BY, timestamp
from recell.api.placement import Hold, Holder, HoldState, PlacementSpec
from recell.controllers.cell import CellController
from recell.controllers.programming import Programming
from recell.controllers.protection import Protection
from recell.controllers.records import RunRecords
from recell.controllers.retirement import Retirements
from recell.controllers.storms import Storms
from recell.domain import data, placement
from recell.domain.data import Answer, Backup, Operation, Progress
from recell.domain.decommission import Retirement, retirement_of
from recell.domain.health import HealthState, Level
from recell.domain.observation import WorkloadPhase, WorkloadState
from recell.domain.placement import Candidate, Routing
from recell.engine.errors import Conflict, Fenced, Forbidden, NotFound
from recell.providers.kube import kstatus
from recell.providers.kube.ownership import owner_of
from recell.providers.kube.paths import OWN
from recell.providers.kube.remains import CellRemains
from tests.unit.controllers.server import Object, Server, Surroundings

KEY = ("fleet", "b")
RETAINED = timedelta(hours=168)
HOLDER = Holder(kind="RecoveryRun", name="r1", uid="uid-r1")
RETIRED_LABELS = {LABEL_CELL: "b", LABEL_MADE_BY: "recell"}
REF = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "b"}


class Crash(BaseException):
    """The process was killed."""


class Mortal(Server):
    """An API server whose client dies right after its n-th write has landed."""

    def __init__(self) -> None:
        super().__init__()
        self.crash_after: int | None = None
        self.fenced = False
        self.memory: dict[tuple[str, str, str], Object] | None = None
        self.after_write: Callable[[int], None] = lambda number: None

    # Its copy in memory, where that is behind

    def fall_behind(self) -> None:
        self.memory = copy.deepcopy(self.objects)

    def raw(self, kind: type[Resource], key: tuple[str, str]) -> Object | None:
        if self.memory is None:
            return super().raw(kind, key)
        return copy.deepcopy(self.memory.get((OWN[kind].plural, *key)))

    def put(self, kind: type[Resource], obj: Object) -> None:
        if self.memory is not None:
            meta = obj["metadata"]
            self.memory[OWN[kind].plural, meta["namespace"], meta["name"]] = copy.deepcopy(obj)

    # Writing

    async def _then(self, answer: Object) -> Object:
        self.after_write(len(self.writes))
        if self.crash_after is not None and len(self.writes) >= self.crash_after:
            self.crash_after = None
            raise Crash
        return answer

    def _guard(self) -> None:
        if self.fenced:
            raise Fenced("not the leader any more")

    async def merge_patch(self, path: str, body: Object) -> Object:
        self._guard()
        return await self._then(await super().merge_patch(path, body))

    async def apply(self, path: str, body: Object) -> Object:
        self._guard()
        return await self._then(await super().apply(path, body))

    async def delete(self, path: str, **preconditions: Any) -> Object:
        self._guard()
        return await self._then(await super().delete(path, **preconditions))


@dataclass
class Provider:
    """Backups as the test says; a request takes one look to be done."""

    server: Server
    promoted: Any
    lists: dict[str, list[Backup]] = field(default_factory=dict)
    answers: dict[tuple[Operation, str], Answer] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    calls: Counter[Operation] = field(default_factory=Counter)
    refuses: Exception | None = None

    async def ensure(self, request: data.Request) -> Answer:
        self.calls[request.operation] += 1
        if self.refuses is not None:
            raise self.refuses
        slot = (request.operation.value, request.cell.metadata.name, request.key)
        if slot not in self.asked:
            self.asked.append(slot)
            return Answer(Progress.RUNNING)
        name = request.cell.metadata.name
        if (answer := self.answers.get((request.operation, name))) is not None:
            return answer
        if request.operation is Operation.INVENTORY:
            return Answer(Progress.DONE, backups=tuple(self.lists[name]))
        return Answer(Progress.DONE)

    async def cancel(self, request: data.Request) -> bool:
        return True


class Scene(Surroundings):
    """b was replaced by b2 and its time is up; every proof is there unless the test takes one away."""

    def __init__(self) -> None:
        self.mortal = server = Mortal()
        super().__init__(server)
        self.promoted = server.clock.now()
        self.health_of = {"b2": Level.HEALTHY}
        self.obstacles: str | None = None
        self.consent: Exception | None = None
        server.add(
            Router, "shop",
            {"type": "HAProxy", "customerData": "InCell", "offHome": "Reject",
             "haproxy": {"customerKey": {"type": "Header", "name": "x"}, "pins": [{"customer": "big", "cell": "b"}]}},
        )  # fmt: skip
        for name in ("a", "b", "b2"):
            spec = {
                "routerRef": {"name": "shop"},
                "backend": {"type": "Service", "service": {"name": name, "port": 80}},
                "workloads": [{**REF, "name": name}],
            }
            server.add(Cell, name, spec)
        self.place(slots_left=0)
        self.record()
        for name in ("a", "b", "b2"):
            self.stateful_set(name, 0 if name == "b" else 2)
        self.claim("data-b-10", uid="ordinal-10")
        self.claim("data-b-7", uid="other-selector", app="else")
        self.claim("backup-b-0", uid="no-template")
        self.claim("data-b-x", uid="no-ordinal")
        self.claim("data-b-9", uid="of-another-cell", cell="a")
        self.put("services", "b", "Service", {}, labels=RETIRED_LABELS)
        self.put("services", "b-admin", "Service", {}, labels={LABEL_CELL: "b"})
        self.put("services", "b2", "Service", {}, labels={LABEL_CELL: "b2", LABEL_MADE_BY: "recell"})
        self.put("configmaps", "b", "ConfigMap", {}, labels=RETIRED_LABELS)
        self.put("networkpolicies", "b", "NetworkPolicy", {}, labels={**RETIRED_LABELS, LABEL_FLEET: "fleet"})
        self.put("networkpolicies", "b-else", "NetworkPolicy", {}, labels={**RETIRED_LABELS, LABEL_FLEET: "other"})
        self.put("deployments", "b-cache", "Deployment", {"replicas": 0}, labels=RETIRED_LABELS)
        self.put("persistentvolumeclaims", "b-cache", "PersistentVolumeClaim", {}, labels=RETIRED_LABELS)
        server.clock.advance(RETAINED.total_seconds() + 60)
        after = self.promoted + RETAINED
        self.provider = Provider(server, self.promoted)
        self.provider.lists = {
            "b": [Backup("b/1", self.promoted - timedelta(hours=1), verified=True)],
            "b2": [Backup("b2/1", after, verified=True)],
        }
        self.start()

    # What is there

    def put(self, plural: str, name: str, kind: str, spec: Object, *, uid: str = "", labels: dict[str, str]) -> None:
        meta = {
            "name": name, "namespace": "fleet", "uid": uid or f"uid-{plural}-{name}", "resourceVersion": "1",
            "generation": 1, "labels": {**labels},
        }  # fmt: skip
        self.server.objects[plural, "fleet", name] = {"kind": kind, "metadata": meta, "spec": spec}

    def stateful_set(self, name: str, replicas: int) -> None:
        templates = [{"metadata": {"name": template}} for template in ("data", "wal")]
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "volumeClaimTemplates": templates}
        self.put("statefulsets", name, "StatefulSet", spec, labels={LABEL_CELL: name})
        self.server.objects["statefulsets", "fleet", name]["status"] = {
            "observedGeneration": 1, "replicas": replicas, "readyReplicas": replicas,
        }  # fmt: skip
        for template in ("data", "wal"):
            for ordinal in (0, 1):
                self.claim(f"{template}-{name}-{ordinal}", uid=f"{template}-{name}-{ordinal}", app=name)

    def claim(self, name: str, *, uid: str, app: str = "b", cell: str = "") -> None:
        labels = {"app": app, **({LABEL_CELL: cell} if cell else {})}
        self.put("persistentvolumeclaims", name, "PersistentVolumeClaim", {}, uid=uid, labels=labels)

    def place(self, *, slots_left: int, retired: bool = True, run: str = "r1") -> None:
        routing = self.routing()
        candidates = [Candidate(n, f"uid-{n}", "10.0.0.1", 80, 100) for n in ("a", "b", "b2")]
        spec = placement.initial(routing, candidates, epoch=1)
        spec = placement.rehome(spec, routing, "b", "b2", placement.slots_of(spec, "b")[slots_left:])
        spec = placement.succeed(spec, routing, "b", "b2")
        if retired:
            holder = HOLDER.model_copy(update={"name": run})
            hold = Hold(
                cell="b", max_percent=0, state=HoldState.RETIRED, holder=holder, reason="", since=self.promoted
            )  # fmt: skip
            spec = placement.hold(spec, routing, hold)
        self.server.add(Placement, "shop", spec.to_dict())

    def routing(self) -> Routing:
        router = self.server.router(("fleet", "shop"))
        assert router is not None
        return Routing.of(router)

    def record(self, **changes: Any) -> None:
        facts = {
            "successor": "b2", "successor_uid": "uid-b2", "until": self.promoted + RETAINED, "complete": True,
            "conflicts": 0, "promoted_at": self.promoted, "by": "r1", **changes,
        }  # fmt: skip
        text = Retirement(**facts).text()
        self.server.change(Cell, "b", {"metadata": {"annotations": {ANNOTATION_RETIRED: text}}})

    def run_on(self, name: str, phase: str = "Draining") -> None:
        spec = {"targetRef": {"kind": "Cell", "name": name}}
        self.server.add(RecoveryRun, f"r-{name}", spec)
        self.server.change(RecoveryRun, f"r-{name}", {"status": {"phase": phase}})

    # What the controllers see

    def start(self) -> None:
        """A new process."""
        anything: Any = self
        server: Any = self.server
        remains = CellRemains(server, server, anything)
        retirements = Retirements(
            server.clock, server, server, anything, anything, Protection(self.provider), lambda cell: remains,
            anything, anything,
        )  # fmt: skip
        storms = Storms(server.clock, server, anything, anything, anything, RunRecords(server, server))
        self.controller = CellController(
            server.clock, server, server, anything, anything, anything, Programming(server.clock, anything, anything),
            anything, RunRecords(server, server), retirements, storms, anything,
        )  # fmt: skip

    def obstacle(self) -> str | None:
        return self.obstacles

    async def ensure(self, obj: Any) -> None:
        if isinstance(obj, Cell) and self.consent is not None:
            raise self.consent

    def states(self, cell: Cell) -> tuple[WorkloadState, ...]:
        return tuple(self._state(ref) for ref in cell.spec.workloads)

    def _state(self, ref: WorkloadRef) -> WorkloadState:
        found = self.server.objects.get((f"{ref.kind.lower()}s", "fleet", ref.name))
        if found is None:
            return WorkloadState(ref, WorkloadPhase.NOT_FOUND)
        state = kstatus.assess(ref, found)
        return WorkloadState(**{**vars(state), "owned_by": owner_of(found)})

    def look(self, cell: Cell) -> tuple[HealthState, float | None]:
        return HealthState(level=Level.FAILED, since=self.promoted), None

    def health(self, cell: tuple[str, str]) -> HealthState | None:
        level = self.health_of.get(cell[1])
        return HealthState(level=level, since=self.promoted) if level else None

    def failure(self, cell: tuple[str, str]) -> None:
        return None

    def settled(self, cell: Cell) -> bool:
        return False

    def current(self, router: tuple[str, str]) -> Placement | None:
        return self.server.placement(router)

    def set_target(self, cell: Cell, address: Any) -> None:
        """Probed, or not."""

    def drop(self, cell: tuple[str, str]) -> None:
        """No longer probed."""

    def forget(self, cell: tuple[str, str]) -> None:
        """Gone."""

    # Going on

    async def go(self, looks: int = 20, *, pace: float = 0.0) -> None:
        """The controller looks at b again and again, as time passes, at least `pace` seconds between two looks;
        whatever dies is started anew."""
        for _ in range(looks):
            again: float | None
            try:
                again = await self.controller.reconcile(KEY)
            except Crash:
                self.start()
                again = 15.0
            except (Conflict, NotFound):
                again = 1.0
            if again is None:
                return
            self.server.clock.advance(max(again, pace))

    @property
    def deleted(self) -> list[str]:
        return [write.removeprefix("delete ") for write in self.server.writes if write.startswith("delete ")]

    def condition(self, type_: str) -> Any:
        cell = self.server.cell(KEY)
        assert cell is not None
        return next((c for c in cell.status.conditions if c.type == type_), None)


IN_ORDER = [
    "statefulsets/b",
    "deployments/b-cache",
    "persistentvolumeclaims/data-b-0",
    "persistentvolumeclaims/data-b-1",
    "persistentvolumeclaims/data-b-10",
    "persistentvolumeclaims/wal-b-0",
    "persistentvolumeclaims/wal-b-1",
    "persistentvolumeclaims/b-cache",
    "services/b",
    "configmaps/b",
    "networkpolicies/b",
    "cells/b",
]


def kept(objects: dict[tuple[str, str, str], Object]) -> set[str]:
    return {f"{plural}/{name}" for plural, _, name in objects}


async def test_with_every_proof_it_goes_in_order_and_nothing_else_does() -> None:
    scene = Scene()
    before = kept(scene.server.objects)
    await scene.go()
    assert scene.deleted == IN_ORDER
    assert kept(scene.server.objects) == before - set(IN_ORDER)
    assert "Normal Decommissioned" in scene.events
    assert not [event for event in scene.events if "DeletionBlocked" in event], "nothing here was for people"


async def test_placement_keeps_who_followed_and_that_it_is_retired() -> None:
    scene = Scene()
    scene.server.change(Cell, "b", {"metadata": {"finalizers": [FINALIZER]}})
    await scene.go()
    assert scene.server.read(Cell, "b")["metadata"]["deletionTimestamp"], "its Router lets it go"
    placed = scene.server.placement(("fleet", "shop"))
    assert placed is not None
    spec = placement.remove(placed.spec, scene.routing(), "b")
    assert [h.state for h in spec.holds] == [HoldState.RETIRED]
    assert placement.successor(spec, "b") == "b2"
    assert [pin.home for pin in spec.pins] == [placement.index_of(spec, "b2")]
    assert placement.provenance_unknown(spec, "b", "made-anew")


async def test_before_its_time_nobody_is_asked_and_nothing_is_written_again() -> None:
    scene = Scene()
    scene.server.clock.advance(-3600)
    await scene.go(looks=1)
    writes = list(scene.server.writes)
    due = timestamp(scene.promoted + RETAINED)
    assert (scene.condition("DeletionBlocked").reason, scene.condition("DeletionBlocked").message) == (
        "Retained",
        f"Kept until {due}",
    )
    await scene.go(looks=20)
    assert scene.server.writes == writes
    assert scene.provider.asked == []
    assert scene.events == ["Normal Retired"]


async def test_it_is_looked_at_when_its_time_is_up() -> None:
    scene = Scene()
    scene.server.clock.advance(-61)
    assert await scene.controller.reconcile(KEY) == 1.0
    scene.server.clock.advance(1)
    await scene.go()
    assert scene.deleted == IN_ORDER


def taken(scene: Scene) -> None:
    """Another Cell names the workload too."""
    scene.server.change(Cell, "a", {"spec": {"workloads": [{**REF, "name": "a"}, REF]}})


def shared_service(scene: Scene) -> None:
    scene.server.change(Cell, "a", {"spec": {"backend": {"type": "Service", "service": {"name": "b", "port": 80}}}})


def git(plural: str, name: str) -> Callable[[Scene], None]:
    def mark(scene: Scene) -> None:
        marks = {"argocd.argoproj.io/instance": "shop"}
        scene.server.objects[plural, "fleet", name]["metadata"].setdefault("labels", {}).update(marks)

    return mark


def placing(change: Callable[[PlacementSpec], PlacementSpec]) -> Callable[[Scene], None]:
    def changed(scene: Scene) -> None:
        placed = scene.server.placement(("fleet", "shop"))
        assert placed is not None
        scene.server.change(Placement, "shop", {"spec": change(placed.spec).to_dict()})

    return changed


def pinned_at_b(spec: PlacementSpec) -> PlacementSpec:
    pins = [pin.model_copy(update={"home": placement.index_of(spec, "b")}) for pin in spec.pins]
    assert pins
    return spec.model_copy(update={"pins": pins})


def listing(**changes: Any) -> Callable[[Scene], None]:
    def changed(scene: Scene) -> None:
        known = {"id": "b2/1", "at": scene.promoted + RETAINED, "complete": True, "verified": True}
        scene.provider.lists["b2"] = [Backup(**{**known, **changes})]

    return changed


def answering(operation: Operation, cell: str, progress: Progress) -> Callable[[Scene], None]:
    def changed(scene: Scene) -> None:
        scene.provider.answers[operation, cell] = Answer(progress, "no space left")

    return changed


def both_in_one_place(scene: Scene) -> None:
    scene.provider.lists["b"] = [*scene.provider.lists["b"], *scene.provider.lists["b2"]]


def too_old(scene: Scene) -> None:
    listing(at=scene.promoted - timedelta(seconds=1))(scene)


def frozen(scene: Scene) -> None:
    scene.server.add(RecoveryFreeze, "stop", {"reason": "sale day", "scope": "NewRuns"})


def started(scene: Scene) -> None:
    scene.server.objects["statefulsets", "fleet", "b"]["spec"]["replicas"] = 1


def unseen_start(scene: Scene) -> None:
    """The copy in memory has not heard of it yet."""
    seen = scene.states
    states = {name: seen(cell) for name in ("a", "b", "b2") if (cell := scene.server.cell(("fleet", name)))}
    started(scene)
    scene.states = lambda cell: states[cell.metadata.name]  # type: ignore[method-assign]


def setting(**changes: Any) -> Callable[[Scene], None]:
    return lambda scene: vars(scene).update(changes)


def recording(**changes: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.record(**changes)


def without(plural: str, name: str) -> Callable[[Scene], None]:
    def gone(scene: Scene) -> None:
        del scene.server.objects[plural, "fleet", name]

    return gone


def made_anew(name: str) -> Callable[[Scene], None]:
    return lambda scene: scene.server.change(Cell, name, {"metadata": {"uid": "another"}})


MISSING: dict[str, tuple[str, Callable[[Scene], None]]] = {
    "Keep": ("Kept", recording(until=None)),
    "paused": ("Paused", lambda scene: scene.server.change(Cell, "b", {"spec": {"paused": True}})),
    "frozen": ("Frozen", frozen),
    "a run on it": ("RunActive", lambda scene: scene.run_on("b")),
    "a run on its successor": ("RunActive", lambda scene: scene.run_on("b2")),
    "a run that waits": ("RunActive", lambda scene: scene.run_on("b2", "AwaitingApproval")),
    "home slots": ("StillHome", lambda scene: scene.place(slots_left=1)),
    "a pin": ("StillHome", placing(pinned_at_b)),
    "another run's hold": ("NotRetired", lambda scene: scene.place(slots_left=0, run="r7")),
    "another cell of that name": ("UnknownProvenance", made_anew("b")),
    "no Router": ("PlacementMissing", without("routers", "shop")),
    "an incomplete move": ("MoveIncomplete", recording(complete=False)),
    "conflicts": ("Conflicts", recording(conflicts=2)),
    "a record that nobody can read": (
        "Unreadable",
        lambda scene: scene.server.change(Cell, "b", {"metadata": {"annotations": {ANNOTATION_RETIRED: "{}"}}}),
    ),
    "no successor": ("SuccessorMissing", without("cells", "b2")),
    "a successor made anew": ("SuccessorMissing", made_anew("b2")),
    "a sick successor": ("SuccessorUnwell", setting(health_of={"b2": Level.DEGRADED})),
    "a successor nobody has looked at": ("SuccessorUnknown", setting(health_of={})),
    "it runs": ("StillRunning", started),
    "another Cell's workload": ("BadInput", taken),
    "another Cell's Service": ("BadInput", shared_service),
    "Git's workload": ("RemoveFromGit", git("statefulsets", "b")),
    "Git's workload that no Cell names": ("RemoveFromGit", git("deployments", "b-cache")),
    "no consent": ("Forbidden", setting(consent=Forbidden("namespace work does not consent"))),
    "an unverified backup": ("NoBackup", listing(verified=False)),
    "an incomplete backup": ("NoBackup", listing(complete=False)),
    "an old backup": ("NoBackup", too_old),
    "no backup": ("NoBackup", lambda scene: scene.provider.lists.update(b2=[])),
    "one place for both cells' backups": ("NoBackup", both_in_one_place),
    "a list that fails": ("NoBackup", answering(Operation.INVENTORY, "b2", Progress.FAILED)),
    "no means to list": ("NoBackup", answering(Operation.INVENTORY, "b2", Progress.UNSUPPORTED)),
    "an own list that fails": ("NoBackup", answering(Operation.INVENTORY, "b", Progress.FAILED)),
    "a provider that refuses": (
        "NoBackup",
        lambda scene: vars(scene.provider).update(refuses=Forbidden("create jobs: permission missing")),
    ),
    "a backup that takes long": ("BackupPending", answering(Operation.BACKUP, "b2", Progress.RUNNING)),
    "a list that takes long": ("BackupPending", answering(Operation.INVENTORY, "b2", Progress.RUNNING)),
    "a skewed clock": ("Obstacle", setting(obstacles="the clock is 9 s ahead")),
    "a newer leader's Placement": ("Obstacle", placing(lambda spec: placement.raise_epoch(spec, 2))),
}


@pytest.mark.parametrize(("reason", "change"), MISSING.values(), ids=MISSING)
async def test_without_one_proof_nothing_is_deleted(reason: str, change: Callable[[Scene], None]) -> None:
    scene = Scene()
    change(scene)
    before = kept(scene.server.objects)
    await scene.go(looks=15, pace=900)
    assert scene.deleted == []
    assert kept(scene.server.objects) == before
    shown = scene.condition("DeletionBlocked")
    assert (shown.status, shown.reason) == ("True", reason)
    assert shown.message


@pytest.mark.parametrize(("reason", "change"), MISSING.values(), ids=MISSING)
async def test_what_is_missing_is_written_and_told_once(reason: str, change: Callable[[Scene], None]) -> None:
    scene = Scene()
    change(scene)
    await scene.go(looks=12)
    writes = list(scene.server.writes)
    await scene.go(looks=15, pace=900)
    assert scene.server.writes == writes
    patient = reason in ("Kept", "SuccessorUnknown", "BackupPending")
    assert scene.events.count("Warning DeletionBlocked") == (0 if patient else 1)


async def test_a_cell_that_runs_unseen_is_not_deleted_either() -> None:
    scene = Scene()
    unseen_start(scene)
    await scene.go(looks=50)
    assert scene.deleted == []


async def test_a_cell_that_nobody_retired_is_left_alone_whatever_stands_on_it() -> None:
    scene = Scene()
    scene.place(slots_left=0, retired=False)
    await scene.go(looks=50)
    assert scene.deleted == []
    assert scene.provider.asked == []
    assert scene.condition("DeletionBlocked") is None


async def test_a_former_leader_deletes_nothing() -> None:
    scene = Scene()
    await scene.go(looks=3)  # as far as the provider's answers
    scene.mortal.fenced = True
    for _ in range(10):
        with pytest.raises(Fenced):
            await scene.controller.reconcile(KEY)
    assert scene.deleted == []


async def test_with_shared_data_no_backup_is_asked_for() -> None:
    scene = Scene()
    scene.server.change(Router, "shop", {"spec": {"customerData": "Shared", "offHome": None}})
    await scene.go()
    assert scene.deleted == IN_ORDER
    assert scene.provider.asked == []


async def test_a_missing_backup_is_asked_for_once_and_looked_for_each_hour() -> None:
    scene = Scene()
    listing(verified=False)(scene)
    began = scene.server.clock.now()
    while scene.server.clock.now() - began < timedelta(hours=5):
        await scene.go(looks=1, pace=300)
    asked = [(operation, cell) for operation, cell, _ in scene.provider.asked]
    assert asked.count(("Backup", "b2")) == 1
    assert scene.provider.calls[Operation.BACKUP] == 2, "begun, and asked how it ended"
    assert 5 <= asked.count(("Inventory", "b2")) <= 6
    assert 5 <= asked.count(("Inventory", "b")) <= 6
    assert scene.deleted == []
    listing()(scene)
    await scene.go(looks=15, pace=900)
    assert scene.deleted == IN_ORDER


async def test_a_backup_that_fails_is_asked_for_again_under_the_same_name() -> None:
    scene = Scene()
    scene.provider.lists["b2"] = []
    answering(Operation.BACKUP, "b2", Progress.FAILED)(scene)
    await scene.go(looks=15, pace=900)
    assert len({key for operation, _, key in scene.provider.asked if operation == "Backup"}) == 1
    assert "Another one could not be made: no space left" in scene.condition("DeletionBlocked").message
    scene.provider.answers.clear()
    listing()(scene)
    await scene.go(looks=15, pace=900)
    assert scene.deleted == IN_ORDER


async def test_a_provider_that_fails_is_not_asked_at_every_look() -> None:
    scene = Scene()
    answering(Operation.BACKUP, "b2", Progress.FAILED)(scene)
    answering(Operation.INVENTORY, "b2", Progress.FAILED)(scene)
    await scene.go(looks=30)
    assert scene.server.clock.now() - scene.promoted - RETAINED < timedelta(hours=1)
    assert scene.provider.calls == {Operation.BACKUP: 2, Operation.INVENTORY: 2}, "begun, and asked how it ended"


async def test_the_successors_backups_are_listed_before_the_cells_own() -> None:
    scene = Scene()
    await scene.go()
    assert [(operation, cell) for operation, cell, _ in scene.provider.asked] == [
        ("Backup", "b2"),
        ("Inventory", "b2"),
        ("Inventory", "b"),
    ]


# Crashes and changes in the middle


async def undisturbed() -> list[str]:
    scene = Scene()
    await scene.go()
    return scene.server.writes


async def test_killed_after_each_write_it_goes_on_and_deletes_each_thing_once() -> None:
    writes = await undisturbed()
    assert len(writes) > len(IN_ORDER)
    for position, write in enumerate(writes, start=1):
        scene = Scene()
        before = kept(scene.server.objects)
        scene.mortal.crash_after = position
        await scene.go(looks=60)
        assert scene.deleted == IN_ORDER, f"killed after {write}"
        assert kept(scene.server.objects) == before - set(IN_ORDER), f"killed after {write}"


@pytest.mark.parametrize(
    "name",
    ["home slots", "a pin", "another run's hold", "a successor made anew", "no successor", "conflicts", "paused"],
)
async def test_what_memory_has_not_heard_of_yet_is_read_before_the_first_deletion(name: str) -> None:
    _, change = MISSING[name]
    scene = Scene()
    scene.mortal.fall_behind()
    change(scene)
    await scene.go()
    assert scene.deleted == []


@pytest.mark.parametrize("name", ["frozen", "a sick successor", "home slots", "no successor", "a run on it", "paused"])
async def test_a_proof_that_is_lost_in_the_middle_stops_the_rest(name: str) -> None:
    reason, lose = MISSING[name]
    writes = await undisturbed()
    for position, write in enumerate(writes, start=1):
        if write == "delete cells/b":
            break
        scene = Scene()
        so_far: list[str] = []

        def lost(number: int, scene: Scene = scene, position: int = position, so_far: list[str] = so_far) -> None:
            if number == position:
                lose(scene)
                so_far.extend(scene.deleted)

        scene.mortal.after_write = lost
        await scene.go(looks=10)
        assert scene.deleted == so_far, f"after {write}"
        assert scene.condition("DeletionBlocked").reason == reason, f"after {write}"


async def test_what_was_recorded_is_deleted_by_its_uid_alone() -> None:
    scene = Scene()
    scene.mortal.crash_after = 1 + (await undisturbed()).index("delete statefulsets/b")
    while scene.mortal.crash_after is not None:
        await scene.go(looks=1)
    recorded = retirement_of(Cell.model_validate(scene.server.read(Cell, "b")))
    assert recorded is not None
    assert [claim.name for claim in recorded.claims or ()] == [
        "data-b-0", "data-b-1", "data-b-10", "wal-b-0", "wal-b-1",
    ]  # fmt: skip
    # Somebody makes the StatefulSet again, with new volumes, while nobody works.
    del scene.server.objects["persistentvolumeclaims", "fleet", "data-b-0"]
    scene.claim("data-b-0", uid="new")
    await scene.go()
    assert ("persistentvolumeclaims", "fleet", "data-b-0") in scene.server.objects
    assert "persistentvolumeclaims/data-b-1" in scene.deleted


async def test_who_may_write_annotations_may_not_delete_others_claims_by_that() -> None:
    scene = Scene()
    claims = [{"name": "data-a-0", "uid": "data-a-0"}, {"name": "wal-b2-1", "uid": "wal-b2-1"}]
    scene.record(claims=claims)
    await scene.go()
    assert not {"persistentvolumeclaims/data-a-0", "persistentvolumeclaims/wal-b2-1"} & set(scene.deleted)


async def test_a_workload_that_changed_since_it_was_looked_at_is_looked_at_again() -> None:
    scene = Scene()
    api: Any = scene.server
    reading, times = api.get, [0]

    async def get(path: str) -> Object:
        found: Object = copy.deepcopy(await reading(path))
        if path.endswith("statefulsets/b"):
            times[0] += 1
            if times[0] == 1:  # somebody scales it up between the look and the deletion
                scene.server.objects["statefulsets", "fleet", "b"]["metadata"]["resourceVersion"] = "2"
                started(scene)
        return found

    api.get = get
    await scene.go(looks=30)
    assert scene.deleted == []
    assert scene.condition("DeletionBlocked").reason == "StillRunning"


async def test_volumes_stay_as_long_as_a_pod_of_their_workload_may_be_there() -> None:
    scene = Scene()
    stateful_set = scene.server.objects["statefulsets", "fleet", "b"]
    stateful_set["metadata"]["finalizers"] = ["foregroundDeletion"]
    await scene.go(looks=10)
    assert scene.deleted == ["statefulsets/b", "deployments/b-cache"]
    del scene.server.objects["statefulsets", "fleet", "b"]
    await scene.go()
    assert scene.deleted == IN_ORDER


# Git


async def test_what_git_owns_is_shown_from_the_beginning() -> None:
    scene = Scene()
    scene.server.clock.advance(-3600)
    git("statefulsets", "b")(scene)
    git("cells", "b")(scene)
    await scene.go(looks=1)
    shown = scene.condition("RemoveFromGit")
    assert (shown.status, shown.reason) == ("True", "OwnedByGit")
    assert "StatefulSet/b (Argo CD Application shop) and Cell/b (Argo CD Application shop)" in shown.message


async def test_once_git_has_let_go_of_the_workload_the_rest_goes_but_not_volumes_that_nobody_can_tell() -> None:
    scene = Scene()
    git("statefulsets", "b")(scene)
    await scene.go(looks=30)
    assert scene.deleted == []
    del scene.server.objects["statefulsets", "fleet", "b"]
    await scene.go()
    assert scene.deleted == [name for name in IN_ORDER if name.startswith(("deployments", "services", "configmaps"))
                             or name in ("persistentvolumeclaims/b-cache", "networkpolicies/b", "cells/b")]  # fmt: skip


async def test_a_cell_in_git_is_the_last_that_is_left() -> None:
    scene = Scene()
    git("cells", "b")(scene)
    await scene.go(looks=30)
    assert scene.deleted == IN_ORDER[:-1]
    assert scene.condition("DeletionBlocked").reason == "RemoveFromGit"
    assert "nothing else is left of it" in scene.condition("DeletionBlocked").message
    api: Any = scene.server
    reads: list[str] = []
    api.get = reads.append  # nothing is read, so that what it gives does not matter
    writes = len(scene.server.writes)
    await scene.go(looks=10)
    assert (len(scene.server.writes), reads) == (writes, [])


def test_the_record_is_one_annotation() -> None:
    scene = Scene()
    annotations = scene.server.read(Cell, "b")["metadata"]["annotations"]
    assert json.loads(annotations["recell.dev/retired"])["successor"] == "b2"
