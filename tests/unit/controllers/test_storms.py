"""Several failures of one router become one run for them all; a shared cause becomes a question."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from recell.api import Cell, RecoveryPolicy, RecoveryRun, Router
from recell.api.cell import Failure
from recell.api.failure import DataIntegrity, FailureType, Impact, Strategy
from recell.api.meta import ANNOTATION_ACKNOWLEDGE
from recell.api.recovery_run import RunPhase, Trigger
from recell.controllers.records import RunRecords
from recell.controllers.storms import Storms
from recell.domain.health import HealthState, Level
from tests.unit.controllers.server import Server

KEY = ("fleet", "shop")


class Scene:
    """A Router with six cells of the same size; which have failed, and since when, is what the test says."""

    def __init__(self, mode: str = "Automatic") -> None:
        self.server = Server()
        haproxy = {"customerKey": {"type": "Header", "name": "x"}}
        self.server.add(Router, "shop", {"type": "HAProxy", "customerData": "Shared", "haproxy": haproxy})
        self.server.add(RecoveryPolicy, "default", {"mode": mode})
        for name in "abcdef":
            backend = {"type": "Service", "service": {"name": name, "port": 80}}
            self.server.add(Cell, name, {"routerRef": {"name": "shop"}, "backend": backend})
        self.now = self.server.clock.now()
        self.failed: dict[str, float] = {}
        self.steady: tuple[datetime, datetime] | None = None
        """Of the failed cells."""
        self.integrity = DataIntegrity.INTACT
        self.shared: tuple[str, ...] = ()
        self.is_settled = True
        anything: Any = self
        server: Any = self.server
        self.storms = Storms(server.clock, server, anything, anything, anything, RunRecords(server, server))

    # Observer, Traffic, Switchboard

    def health(self, cell: tuple[str, str]) -> HealthState:
        if cell[1] not in self.failed:
            return HealthState(level=Level.HEALTHY, since=self.now)
        since = self.now + timedelta(seconds=self.failed[cell[1]])
        return HealthState(level=Level.FAILED, since=since, steady=self.steady)

    def failure(self, cell: tuple[str, str]) -> Failure | None:
        if cell[1] not in self.failed:
            return None
        return Failure(
            type=FailureType.MULTIPLE_CELL,
            impact=Impact.HIGH,
            data_integrity=self.integrity,
            since=self.now + timedelta(seconds=self.failed[cell[1]]),
        )

    def settled(self, cell: Cell) -> bool:
        return self.is_settled

    def broken(self, router: tuple[str, str]) -> tuple[str, ...]:
        return self.shared

    def observed(self, router: tuple[str, str], *, window: float, not_before: Any = None) -> None:
        return None

    def current(self, router: tuple[str, str]) -> None:
        return None

    async def runs(self, **failed: float) -> list[RecoveryRun]:
        self.failed = failed
        router = self.server.router(KEY)
        assert router is not None
        for _ in range(2):
            await self.storms.detect(router, self.server.cells_of(KEY))
        return list(self.server.runs_in("fleet"))


async def test_two_failures_within_the_window_are_one_run_for_the_router() -> None:
    (run,) = await Scene().runs(a=-30, b=0)
    assert (run.spec.target_ref.kind, run.spec.target_ref.name) == ("Router", "shop")
    assert (run.spec.strategy, run.spec.trigger) == (Strategy.EMERGENCY_SCALING, Trigger.AUTOMATIC)
    assert run.spec.failure is not None
    assert (run.spec.failure.type, run.spec.failure.impact) == (FailureType.MULTIPLE_CELL, Impact.HIGH)
    assert run.metadata.name.startswith("shop-cascade-")


@pytest.mark.parametrize("failed", [{}, {"a": 0}, {"a": -301, "b": 0}])
async def test_what_is_no_storm_is_left_to_the_cells(failed: dict[str, float]) -> None:
    assert await Scene().runs(**failed) == []


async def test_nothing_starts_in_mode_observe_before_a_detection_period_or_on_unknown_data() -> None:
    assert await Scene("Observe").runs(a=0, b=0) == []
    young = Scene()
    young.is_settled = False
    assert await young.runs(a=0, b=0) == []
    unknown = Scene()
    unknown.integrity = DataIntegrity.UNKNOWN
    assert await unknown.runs(a=0, b=0) == []


@pytest.mark.parametrize(("failed", "shared"), [("abcd", ()), ("a", ("database",))])
async def test_a_shared_cause_is_asked_about_as_such(failed: str, shared: tuple[str, ...]) -> None:
    scene = Scene()
    scene.shared = shared
    (run,) = await scene.runs(**dict.fromkeys(failed, 0.0))
    assert run.spec.failure is not None
    assert run.spec.failure.type is FailureType.SYSTEMIC


async def test_a_shared_cause_alone_may_be_what_the_policy_names() -> None:
    scene = Scene()
    rules = [
        {"name": "several", "failure": "MultipleCell", "strategy": "ManualIntervention"},
        {"name": "shared", "failure": "Systemic", "strategy": "EmergencyScaling"},
    ]
    scene.server.change(RecoveryPolicy, "default", {"spec": {"rules": rules}})
    assert await scene.runs(a=0, b=0) == []
    (run,) = await scene.runs(a=0, b=0, c=0, d=0)
    assert run.spec.strategy is Strategy.EMERGENCY_SCALING


def leaves_to_cells(scene: Scene) -> bool:
    router = scene.server.router(KEY)
    assert router is not None
    return scene.storms.leaves_to_cells(router, scene.server.cells_of(KEY))


async def test_it_is_known_whether_the_router_has_its_cells_recovered_together() -> None:
    scene = Scene()
    scene.failed = {"a": 0, "b": 0}
    assert not leaves_to_cells(scene)
    scene.integrity = DataIntegrity.UNKNOWN
    assert leaves_to_cells(scene), "no row covers that: the cells are asked about one by one"
    scene.is_settled = False
    assert not leaves_to_cells(scene), "nobody knows that yet"
    scene.is_settled, scene.failed = True, {"a": 0}
    assert leaves_to_cells(scene), "no storm"


async def test_after_a_person_aborted_no_run_starts_by_itself_until_they_acknowledge_that() -> None:
    scene = Scene()
    (run,) = await scene.runs(a=-30, b=0)
    status = {"phase": RunPhase.ABORTED, "finishedAt": scene.now.isoformat()}
    scene.server.change(RecoveryRun, run.metadata.name, {"status": status})
    scene.server.clock.advance(24 * 3600)
    assert len(await scene.runs(a=86000, b=86000)) == 1
    annotations = {ANNOTATION_ACKNOWLEDGE: run.metadata.name}
    scene.server.change(Router, "shop", {"metadata": {"annotations": annotations}})
    assert len(await scene.runs(a=86000, b=86000)) == 2


@pytest.mark.parametrize(("well", "runs"), [(3599, 1), (3600, 2)])
async def test_an_abort_no_longer_counts_once_all_cells_were_well_together_for_an_hour(well: int, runs: int) -> None:
    """Also when the next storm begins right then."""
    scene = Scene()
    (run,) = await scene.runs(a=-30, b=0)
    ended(scene, run, RunPhase.ABORTED)
    scene.server.clock.advance(well + 60)
    scene.steady = (scene.now - timedelta(hours=9), scene.now + timedelta(seconds=well))
    assert len(await scene.runs(c=well, d=well)) == runs


def ended(scene: Scene, run: RecoveryRun, phase: RunPhase) -> None:
    status = {"phase": phase, "finishedAt": scene.server.clock.now().isoformat()}
    scene.server.change(RecoveryRun, run.metadata.name, {"status": status})


async def test_what_was_left_to_people_is_not_tried_again_until_they_acknowledge_that() -> None:
    scene = Scene()
    (run,) = await scene.runs(a=-30, b=0)
    scene.server.clock.advance(600)
    ended(scene, run, RunPhase.MANUAL_INTERVENTION_REQUIRED)
    scene.server.clock.advance(24 * 3600)
    assert len(await scene.runs(a=-30, b=0)) == 1
    assert len(await scene.runs(a=-30, c=80000, d=80000)) == 1, "the first of them never was well again"
    annotations = {ANNOTATION_ACKNOWLEDGE: run.metadata.name}
    scene.server.change(Router, "shop", {"metadata": {"annotations": annotations}})
    assert len(await scene.runs(a=-30, b=0)) == 2


async def test_a_take_over_makes_no_new_failure_of_an_old_one() -> None:
    scene = Scene()
    (run,) = await scene.runs(a=-30, b=0)
    scene.server.clock.advance(600)
    ended(scene, run, RunPhase.MANUAL_INTERVENTION_REQUIRED)
    shown = scene.failure(("fleet", "b"))
    assert shown is not None
    scene.server.change(Cell, "b", {"status": {"failure": shown.to_dict()}})
    scene.server.clock.advance(24 * 3600)
    assert len(await scene.runs(a=86000, b=86000)) == 1
    scene.server.change(Cell, "b", {"status": {"failure": None}})
    assert len(await scene.runs(a=86000, b=86000)) == 2, "all were well in between"


async def test_what_happened_to_the_router_itself_holds_nothing_back_for_its_cells() -> None:
    scene = Scene()
    spec = {"targetRef": {"kind": "Router", "name": "shop"}, "strategy": "ActivateFallbackRouting"}
    scene.server.add(RecoveryRun, "shop-1", spec)
    for phase in (RunPhase.ABORTED, RunPhase.MANUAL_INTERVENTION_REQUIRED):
        scene.server.change(RecoveryRun, "shop-1", {"status": {"phase": phase, "finishedAt": scene.now.isoformat()}})
        assert len(await scene.runs(a=-30, b=0)) == 2


async def test_one_storm_has_one_run_however_it_grows_and_none_soon_after_it_ended() -> None:
    scene = Scene()
    (run,) = await scene.runs(a=-30, b=0)
    assert await scene.runs(a=-30, b=0, c=10) == [run]
    await scene.server.merge_patch(
        f"/apis/recell.dev/v1alpha1/namespaces/fleet/recoveryruns/{run.metadata.name}/status",
        {"status": {"phase": RunPhase.FAILED, "finishedAt": scene.now.isoformat()}},
    )
    assert len(await scene.runs(a=-30, b=0)) == 1, "cooldown"
