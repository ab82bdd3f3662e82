"""What the records leave on the API server: a run that goes on from another one is made once, and one that was started
leaves marks by which it is known again and which keep it until it is undone."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from recell.api import Cell, RecoveryRun, Resource
from recell.api.meta import ANNOTATION_RUN_HISTORY, ANNOTATION_STARTED_UID, FINALIZER
from recell.api.recovery_run import RecoveryRunStatus, RunPhase
from recell.controllers.records import RunRecords
from recell.domain import runs
from recell.engine.engine import Engine
from recell.engine.errors import Conflict
from recell.engine.ports import Key, Ports
from recell.procedures import PROCEDURES
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CELLS, OWN, RUNS
from recell.providers.kube.store import KubeStore
from recell.runtime.clock import SystemClock
from tests.fakes.merging import merged
from tests.fakes.world import World
from tests.unit.kube.fake_server import FakeApi, FakeServer


def records() -> RunRecords:
    api = cast(Api, FakeApi(FakeServer()))
    return RunRecords(api, KubeStore(api, SystemClock(), ("fleet",)))


def run(reason: str, *, strategy: str = "TrafficDrainAndReplace", parent: str = "r", cell: str = "b") -> RecoveryRun:
    spec = {
        "targetRef": {"kind": "Cell", "name": cell},
        "strategy": strategy,
        "trigger": "Child",
        "escalatedFrom": parent,
        "reason": reason,
    }
    return RecoveryRun.model_validate({"metadata": {"name": "r-next", "namespace": "fleet"}, "spec": spec})


async def test_other_words_or_another_strategy_make_no_second_one() -> None:
    made = records()
    first = await made.create(run("r escalated: failed for 12 s"))
    again = await made.create(run("r escalated: failed for 14 s", strategy="IsolateAndRestoreFromBackup"))
    assert again.metadata.uid == first.metadata.uid
    assert again.spec.strategy == "TrafficDrainAndReplace"


@pytest.mark.parametrize("other", [run("x", parent="another"), run("x", cell="c")])
async def test_somebody_elses_run_of_that_name_is_left_alone(other: RecoveryRun) -> None:
    made = records()
    await made.create(run("r escalated"))
    with pytest.raises(Conflict, match="made for something else"):
        await made.create(other)


async def test_a_run_is_told_once_that_it_is_to_be_aborted() -> None:
    made = records()
    child = await made.create(run("works for r"))
    await made.abort(child)
    told = made._store.run(("fleet", "r-next"))
    assert told is not None
    assert told.spec.control is not None
    assert told.spec.control.abort is True
    version = told.metadata.resource_version
    await made.abort(told)
    again = made._store.run(("fleet", "r-next"))
    assert again is not None
    assert again.metadata.resource_version == version, "nothing is written twice"


# --- what is left behind for whoever comes later (rules 22 and 25)

CELL = CELLS.path("fleet", "b")
RUN = RUNS.path("fleet", "r")
SPEC = {"targetRef": {"kind": "Cell", "name": "b"}, "strategy": "CellRestart"}
OTHERS = "example.com/keep"


class Scene:
    """A Cell and a run for it on the server, and in the store; what others do there the store does not see."""

    def __init__(self, *finalizers: str, **annotations: str) -> None:
        self.server = FakeServer()
        self.api = cast(Api, FakeApi(self.server))
        self.store = KubeStore(self.api, SystemClock(), ("fleet",))
        self.records = RunRecords(self.api, self.store)
        backend = {"type": "Service", "service": {"name": "b", "port": 80}}
        self.put(Cell, CELL, {"uid": "uid-b"}, {"routerRef": {"name": "shop"}, "backend": backend})
        self.put(RecoveryRun, RUN, {"uid": "uid-1", "finalizers": list(finalizers), "annotations": annotations}, SPEC)

    def put(self, kind: type[Cell | RecoveryRun], path: str, metadata: Object, spec: Object) -> None:
        """Somebody makes it (anew), and the watch tells."""
        if path in self.server.objects:
            self.store.gone(kind, self.server.objects[path])
            self.server.remove(path)
        meta = {"name": path.rpartition("/")[2], "namespace": "fleet", **metadata}
        self.store.put(kind, self.server.put(path, {"metadata": meta, "spec": spec}))

    def edited(self, path: str) -> None:
        """Somebody changes it, and the watch has not told yet."""
        changed = merged(self.server.objects[path], {"metadata": {"labels": {"edited": "yes"}}})
        self.server.put(path, changed)

    @property
    def run(self) -> RecoveryRun:
        """As the store has it."""
        found = self.store.run(("fleet", "r"))
        assert found is not None
        return found

    @property
    def there(self) -> RecoveryRun:
        return RecoveryRun.model_validate(self.server.objects[RUN])

    @property
    def cell(self) -> Cell:
        """As it is on the server."""
        return Cell.model_validate(self.server.objects[CELL])

    def delete(self) -> None:
        gone = merged(self.server.objects[RUN], {"metadata": {"deletionTimestamp": "2026-11-25T03:00:00Z"}})
        self.store.put(RecoveryRun, self.server.put(RUN, gone))

    async def begin(self) -> RecoveryRun:
        """As the engine begins a run."""
        return await self.records.claim(await self.records.start(self.run, BEGUN))


BEGUN = RecoveryRunStatus(phase=RunPhase.DRAINING, started_at=datetime(2026, 11, 25, 3, tzinfo=UTC))


def playing(world: World) -> tuple[FakeServer, Ports]:
    """The fleet's objects on a server, with the real records and the real store in front of it."""
    server = FakeServer()
    api = cast(Api, FakeApi(server))
    store = KubeStore(api, world.clock, ("fleet",))
    kept: tuple[Mapping[Key, Resource], ...] = (world.routers, world.cells, world.policies, world.runs)
    for objects in kept:
        for found in objects.values():
            path = OWN[type(found)].path(*found.key)
            store.put(type(found), server.put(path, found.to_dict()))
    return server, replace(world.ports(), store=store, records=RunRecords(api, store))


@pytest.mark.parametrize("strategy", ["CellRestart", "TrafficDrainAndReplace", "IsolateAndRestoreFromBackup"])
async def test_the_finalizer_and_the_memory_are_there_before_the_first_effect(strategy: str) -> None:
    world = World()
    world.fleet("a", "b", "c")
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].down = True
    world.tick(30)
    key = world.run("r", "b", strategy=strategy)
    server, ports = playing(world)
    run, cell = RUNS.path(*key), CELLS.path("fleet", "b")
    seen: list[tuple[str, Object, str]] = []

    def wrote(kind: str, what: str) -> None:
        """Nothing but effects comes here: the records are on the server."""
        annotations = server.objects[cell]["metadata"].get("annotations", {})
        seen.append((f"{kind} {what}", server.objects[run]["metadata"], annotations.get(ANNOTATION_RUN_HISTORY, "")))

    world.wrote = wrote  # type: ignore[method-assign]
    engine = Engine(ports, PROCEDURES)
    for _ in range(100):
        if seen:
            break
        world.tick(await engine.advance(key) or 1.0)
    effect, metadata, history = seen[0]
    assert FINALIZER in metadata["finalizers"], effect
    assert metadata["annotations"][ANNOTATION_STARTED_UID] == metadata["uid"], effect
    assert history.startswith("r/"), effect


async def test_a_run_that_a_hook_deletes_and_makes_anew_is_known_to_its_target() -> None:
    scene = Scene()
    begun = await scene.begin()
    assert runs.is_replay(begun, scene.cell) is None, "itself"
    scene.put(RecoveryRun, RUN, {"uid": "uid-2"}, SPEC)
    replay = runs.is_replay(scene.run, scene.cell)
    assert replay is not None
    assert replay.reason == "Replayed"
    assert "deleted and made anew" in replay.message
    scene.put(RecoveryRun, RUN, {"uid": "uid-3"}, {**SPEC, "strategy": "TrafficDrainAndReplace"})
    assert runs.is_replay(scene.run, scene.cell) is None, "means something else"


async def test_the_memory_is_there_when_the_process_dies_right_after_the_first_record() -> None:
    scene = Scene()
    await scene.records.start(scene.run, BEGUN)
    scene.put(RecoveryRun, RUN, {"uid": "uid-2"}, SPEC)
    assert (replay := runs.is_replay(scene.run, scene.cell)) is not None
    assert replay.reason == "Replayed"


@pytest.mark.parametrize("born_with_it", [False, True])
async def test_a_copy_that_was_restored_names_the_one_that_was_started(born_with_it: bool) -> None:
    """The target was restored too, and remembers nothing. The operator's own runs name theirs once they have ended."""
    scene = Scene(*([FINALIZER] if born_with_it else []))
    await scene.begin()
    if born_with_it:
        await scene.records.release(scene.run)
    annotations = scene.there.metadata.annotations
    assert annotations == {ANNOTATION_STARTED_UID: "uid-1"}
    backend = {"type": "Service", "service": {"name": "b", "port": 80}}
    scene.put(Cell, CELL, {"uid": "uid-b2"}, {"routerRef": {"name": "shop"}, "backend": backend})
    scene.put(RecoveryRun, RUN, {"uid": "uid-2", "annotations": annotations}, SPEC)
    replay = runs.is_replay(scene.run, scene.cell)
    assert replay is not None
    assert replay.reason == "RecordLost"
    assert "uid-1" in replay.message


async def test_begun_again_nothing_is_written_twice() -> None:
    scene = Scene()
    await scene.begin()
    assert scene.there.metadata.finalizers == [FINALIZER]
    before = list(scene.server.writes)
    again = await scene.records.claim(scene.run)
    assert scene.server.writes == before
    assert again.metadata.resource_version == scene.there.metadata.resource_version
    assert scene.cell.metadata.annotations[ANNOTATION_RUN_HISTORY].count("r/") == 1


async def test_finalizers_of_others_stay_when_ours_comes_and_goes() -> None:
    scene = Scene(OTHERS)
    await scene.begin()
    assert set(scene.there.metadata.finalizers) == {OTHERS, FINALIZER}
    await scene.records.release(scene.run)
    assert scene.there.metadata.finalizers == [OTHERS]
    before = list(scene.server.writes)
    await scene.records.release(scene.run)
    assert scene.server.writes == before, "nothing is left to take"


async def test_a_deleted_run_is_gone_with_our_finalizer_and_that_may_be_said_twice() -> None:
    scene = Scene()
    begun = await scene.begin()
    scene.delete()
    told = scene.run
    await scene.records.release(told)
    assert RUN not in scene.server.objects
    await scene.records.release(told)
    await scene.records.release(begun)
    assert RUN not in scene.server.objects


async def test_a_run_that_is_changed_meanwhile_conflicts_once_and_is_begun_the_next_time() -> None:
    scene = Scene()
    scene.edited(RUN)
    with pytest.raises(Conflict):
        await scene.records.start(scene.run, BEGUN)
    assert scene.there.phase is RunPhase.PENDING, "nothing was recorded on top of what nobody had read"
    started = await scene.records.start(scene.run, BEGUN)
    scene.edited(RUN)
    with pytest.raises(Conflict):
        await scene.records.claim(started)
    assert scene.there.metadata.finalizers == []
    await scene.records.claim(scene.run)
    assert scene.there.metadata.finalizers == [FINALIZER]
    assert scene.there.metadata.labels == {"edited": "yes"}
    assert scene.cell.metadata.annotations[ANNOTATION_RUN_HISTORY].count("r/") == 1
    scene.edited(RUN)
    with pytest.raises(Conflict):
        await scene.records.release(scene.run)
    await scene.records.release(scene.run)
    assert scene.there.metadata.finalizers == []


async def test_a_target_that_is_made_anew_does_not_get_the_memory_of_the_one_before() -> None:
    scene = Scene()
    scene.server.objects[CELL]["metadata"]["uid"] = "uid-b2"
    with pytest.raises(Conflict):
        await scene.begin()
    assert ANNOTATION_RUN_HISTORY not in scene.cell.metadata.annotations


async def test_a_run_that_is_on_its_way_out_gets_no_finalizer_any_more() -> None:
    """It was killed before it was claimed, and somebody else's finalizer keeps it: the server would refuse."""
    scene = Scene(OTHERS)
    await scene.records.start(scene.run, BEGUN)
    scene.delete()
    claimed = await scene.records.claim(scene.run)
    assert claimed.metadata.finalizers == [OTHERS]
