"""A router's own failure starts one run by itself, by the policy, and is shown as a cell's is."""

from datetime import timedelta
from typing import Any

import pytest

from recell.api import Cell, RecoveryPolicy, RecoveryRun, Router
from recell.api.meta import ANNOTATION_ACKNOWLEDGE, FINALIZER, timestamp
from recell.api.placement import PlacementMode
from recell.controllers.records import RunRecords
from recell.controllers.router_observer import RouterObserver
from recell.controllers.router_recovery import RouterRecoveries, Told
from recell.controllers.storms import Storms
from recell.domain.health import HealthState, Level
from recell.domain.observation import Asked, FallbackState, Pods, Processes, RouterTraffic
from recell.providers.routing.asking import WayIn
from tests.unit.controllers.server import Server

KEY = ("fleet", "shop")


class Seen:
    """The pods, agents and probes of the router."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.ready = 2
        self.stands_by = True
        self.ways: dict[PlacementMode | None, WayIn | None] = {}
        self.way: WayIn | None = None

    def pods(self, router: tuple[str, str]) -> Pods:
        return Pods(2, self.ready)

    def way_in(self, router: tuple[str, str], side: PlacementMode | None = None) -> tuple[str, int]:
        return ("10.0.0.9", 80)

    def fallback(self, router: tuple[str, str]) -> FallbackState | None:
        return FallbackState(("a",), "id", Pods(2, 2), current=True) if self.stands_by else None

    def processes(self, router: tuple[str, str]) -> Processes | None:
        return Processes(2, self.ready) if self.ready else None

    def observed(self, router: tuple[str, str], **_: Any) -> RouterTraffic | None:
        return None

    def asked(self, router: tuple[str, str], window: float, *, side: PlacementMode | None = None) -> Asked:
        now = self.server.clock.now()
        return Asked(
            20, 0 if self.ready or side is PlacementMode.FALLBACK else 20, "no connection within 2 s", now, now
        )

    def set_way(self, router: tuple[str, str], way: WayIn | None, *, side: PlacementMode | None = None) -> None:
        self.ways[side] = way
        if side is None:
            self.way = way


class Scene:
    def __init__(self, mode: str = "Automatic") -> None:
        self.server = Server()
        haproxy = {"customerKey": {"type": "Header", "name": "x"}}
        spec = {"type": "HAProxy", "customerData": "Shared", "haproxy": haproxy, "fallback": {}}
        self.server.add(Router, "shop", spec)
        self.server.add(RecoveryPolicy, "default", {"mode": mode})
        self.seen = Seen(self.server)
        self.side: PlacementMode | None = PlacementMode.PRIMARY
        self.cut_off = False
        anything: Any = self.server
        seen: Any = self.seen
        self.observer = RouterObserver(
            self.server.clock, anything, seen, seen, seen, cut_off=lambda: self.cut_off, at=lambda _: self.side
        )
        records = RunRecords(anything, anything)
        board: Any = type("Board", (), {"current": lambda _, key: self.server.placement(key)})()
        self.cells: dict[str, HealthState] = {}
        looks: Any = type("Looks", (), {"health": lambda _, key: self.cells.get(key[1])})()
        storms = Storms(self.server.clock, anything, looks, seen, board, records)
        self.recoveries = RouterRecoveries(self.server.clock, anything, self.observer, board, records, storms)

    def add_cells(self, **levels: Level) -> None:
        for name, level in levels.items():
            backend = {"type": "Service", "service": {"name": name, "port": 80}}
            self.server.add(Cell, name, {"routerRef": {"name": "shop"}, "backend": backend})
            self.turn(name, level)

    def turn(self, name: str, level: Level) -> None:
        self.cells[name] = HealthState(level=level, since=self.server.clock.now())

    async def pass_time(self, seconds: int) -> Told:
        for _ in range(seconds):
            told = await self.look()
            self.server.clock.advance(1)
        return told

    async def look(self) -> Told:
        router = self.server.router(KEY)
        assert router is not None
        return await self.recoveries.look(router)

    @property
    def runs(self) -> tuple[RecoveryRun, ...]:
        return self.server.runs_in("fleet")


async def failed(mode: str = "Automatic") -> tuple[Scene, Told]:
    scene = Scene(mode)
    await scene.pass_time(15)
    scene.seen.ready = 0
    return scene, await scene.pass_time(12)


async def test_a_failure_that_lasts_starts_one_run() -> None:
    scene, told = await failed()
    assert told.failure is not None
    assert (told.failure.type, told.failure.impact) == ("Router", "Critical")
    (run,) = scene.runs
    assert (run.spec.target_ref.kind, run.spec.target_ref.name, run.spec.trigger) == ("Router", "shop", "Automatic")
    assert run.metadata.finalizers == [FINALIZER]
    assert "0 of 2 router pods are ready" in (run.spec.reason or "")
    await scene.pass_time(30)
    assert len(scene.runs) == 1
    assert scene.seen.way == WayIn("10.0.0.9", 80, scene.server.router(KEY).spec.haproxy.customer_key)  # type: ignore[union-attr]


async def test_the_router_itself_is_asked_apart_only_while_its_customers_are_elsewhere() -> None:
    scene = Scene()
    await scene.look()
    asked = {side for side, way in scene.seen.ways.items() if way is not None}
    assert asked == {None, PlacementMode.FALLBACK}, "any more would be counted as the cells' traffic"
    scene.side = PlacementMode.FALLBACK
    await scene.look()
    assert all(way is not None for way in scene.seen.ways.values())
    assert len(scene.seen.ways) == 3


async def test_a_short_interruption_starts_nothing() -> None:
    scene = Scene()
    await scene.pass_time(15)
    scene.seen.ready = 0
    await scene.pass_time(8)
    scene.seen.ready = 2
    told = await scene.pass_time(40)
    assert scene.runs == ()
    assert told.failure is None


async def test_an_operator_that_reaches_nobody_starts_nothing() -> None:
    """Rule 12: what it cannot reach may be well, whatever an API that it hardly reaches says of the pods."""
    scene = Scene()
    await scene.pass_time(15)
    scene.seen.ready, scene.cut_off = 0, True
    await scene.pass_time(60)
    assert scene.runs == ()


async def test_after_a_take_over_one_detection_period_passes_first() -> None:
    scene = Scene()
    scene.seen.ready = 0
    await scene.pass_time(9)
    assert scene.runs == ()


async def test_observe_says_what_would_be_done_and_does_nothing() -> None:
    scene, told = await failed("Observe")
    assert scene.runs == ()
    assert told.recovery is not None
    assert told.recovery.blocked is not None
    assert told.recovery.blocked.reason == "Observe"
    assert "ActivateFallbackRouting would be started" in told.recovery.blocked.message
    assert "kubectl recell recover router/shop" in told.recovery.blocked.message


async def test_what_cannot_be_done_is_not_said_to_be_done() -> None:
    scene = Scene("Observe")
    scene.seen.stands_by = False
    await scene.pass_time(15)
    scene.seen.ready = 0
    told = await scene.pass_time(12)
    assert told.recovery is not None
    assert told.recovery.blocked is not None
    assert "ManualIntervention would be started" in told.recovery.blocked.message
    assert "has no fallback to use: it was not made yet" in told.recovery.blocked.message


@pytest.mark.parametrize("strategy", ["CellRestart", "EmergencyScaling"])
async def test_a_rule_that_answers_everything_gives_the_router_nothing_that_is_for_cells(strategy: str) -> None:
    scene = Scene("Observe")
    rules = [{"name": "everything", "strategy": strategy}]
    scene.server.change(RecoveryPolicy, "default", {"spec": {"rules": rules, "builtinRules": "None"}})
    await scene.pass_time(15)
    scene.seen.ready = 0
    told = await scene.pass_time(12)
    assert told.recovery is not None
    assert told.recovery.blocked is not None
    assert "ManualIntervention would be started" in told.recovery.blocked.message
    assert f"everything says {strategy}, which is for cells" in told.recovery.blocked.message


async def end(scene: Scene, phase: str) -> RecoveryRun:
    (run,) = scene.runs
    at = scene.server.clock.now()
    status = {"phase": phase, "startedAt": timestamp(at - timedelta(seconds=5)), "finishedAt": timestamp(at)}
    scene.server.change(RecoveryRun, run.metadata.name, {"status": status})
    return run


async def test_what_was_left_to_people_is_not_tried_again_until_somebody_says_so() -> None:
    scene, _ = await failed()
    run = await end(scene, "ManualInterventionRequired")
    told = await scene.pass_time(3)
    assert told.recovery is not None
    assert told.recovery.last_run == run.metadata.name
    assert told.recovery.blocked is not None
    assert told.recovery.blocked.reason == "ManualIntervention"
    assert "acknowledge router/shop" in told.recovery.blocked.message
    scene.server.change(Router, "shop", {"metadata": {"annotations": {ANNOTATION_ACKNOWLEDGE: run.metadata.name}}})
    told = await scene.pass_time(3)
    assert told.recovery is not None
    assert told.recovery.blocked is not None
    assert told.recovery.blocked.reason == "Cooldown"
    scene.server.clock.advance(16 * 60)
    await scene.pass_time(15)
    assert len(scene.runs) == 2
    assert told.recovery.attempts == 1


async def test_after_a_person_aborted_no_run_starts_by_itself_until_they_acknowledge_that() -> None:
    scene, _ = await failed()
    run = await end(scene, "Aborted")
    scene.server.clock.advance(24 * 3600)
    told = await scene.pass_time(15)
    assert len(scene.runs) == 1
    assert blocked_by(told) == "AbortedByPerson"
    scene.server.change(Router, "shop", {"metadata": {"annotations": {ANNOTATION_ACKNOWLEDGE: run.metadata.name}}})
    await scene.pass_time(15)
    assert len(scene.runs) == 2


def blocked_by(told: Told) -> str:
    return told.recovery.blocked.reason if told.recovery is not None and told.recovery.blocked is not None else ""


def aborted_cascade(scene: Scene, name: str) -> None:
    ended_cascade(scene, name, "Aborted")


def ended_cascade(scene: Scene, name: str, phase: str) -> None:
    at = timestamp(scene.server.clock.now())
    spec = {"targetRef": {"kind": "Router", "name": "shop"}, "strategy": "EmergencyScaling"}
    scene.server.add(RecoveryRun, name, spec)
    status = {"phase": phase, "startedAt": at, "finishedAt": at}
    scene.server.change(RecoveryRun, name, {"status": status})


async def test_an_aborted_run_for_the_cells_is_shown_on_a_router_that_is_well_and_can_be_acknowledged() -> None:
    scene = Scene()
    await scene.pass_time(15)
    aborted_cascade(scene, "storm")
    told = await scene.pass_time(2)
    assert blocked_by(told) == "AbortedByPerson"
    assert told.recovery is not None
    assert told.recovery.last_run == "storm", "that is what is acknowledged"
    assert "run storm for several of its cells was aborted" in told.recovery.blocked.message  # type: ignore[union-attr]
    scene.seen.ready = 0
    await scene.pass_time(12)
    assert len(scene.runs) == 2, "it holds nothing back of what is done for the router itself"
    await end_named(scene, "Succeeded")
    scene.server.change(Router, "shop", {"metadata": {"annotations": {ANNOTATION_ACKNOWLEDGE: "storm"}}})
    scene.seen.ready = 2
    assert blocked_by(await scene.pass_time(60)) == ""


async def test_an_abort_for_the_cells_is_shown_until_they_were_well_together_for_an_hour() -> None:
    scene = Scene()
    scene.add_cells(a=Level.HEALTHY, b=Level.FAILED)
    await scene.pass_time(15)
    aborted_cascade(scene, "storm")
    told = await scene.look()
    assert told.recovery is not None
    assert (blocked_by(told), told.recovery.next_allowed_at) == ("AbortedByPerson", None), "b has to be well first"
    assert "all cells of the router were Healthy together for an hour" in told.recovery.blocked.message  # type: ignore[union-attr]
    scene.server.clock.advance(600)
    scene.turn("b", Level.HEALTHY)
    over = scene.server.clock.now() + timedelta(hours=1)
    scene.server.clock.advance(3000)
    await scene.pass_time(15)  # the router itself is not seen meanwhile
    told = await scene.look()
    assert told.recovery is not None
    assert (blocked_by(told), told.recovery.next_allowed_at) == ("AbortedByPerson", over)
    assert told.again is not None
    assert told.again <= (over - scene.server.clock.now()).total_seconds()
    scene.server.clock.advance(told.again)
    while scene.server.clock.now() < over:  # nothing wakes it but the time that it asked for
        told = await scene.look()
        assert blocked_by(told) == "AbortedByPerson"
        assert told.again is not None
        scene.server.clock.advance(told.again)
    told = await scene.look()
    assert scene.server.clock.now() == over
    assert blocked_by(told) == ""
    assert told.recovery is not None
    assert told.recovery.next_allowed_at is None


async def test_what_a_run_for_the_cells_left_to_people_is_shown_while_it_goes_on_and_can_be_acknowledged() -> None:
    scene = Scene()
    scene.add_cells(a=Level.HEALTHY, b=Level.FAILED)
    await scene.pass_time(15)
    ended_cascade(scene, "storm", "ManualInterventionRequired")
    told = await scene.pass_time(2)
    assert blocked_by(told) == "ManualIntervention"
    assert told.recovery is not None
    assert (told.recovery.last_run, told.recovery.next_allowed_at) == ("storm", None)
    assert "acknowledge router/shop" in told.recovery.blocked.message  # type: ignore[union-attr]
    scene.turn("b", Level.HEALTHY)
    assert blocked_by(await scene.pass_time(2)) == ""
    scene.turn("b", Level.FAILED)
    assert blocked_by(await scene.pass_time(2)) == "", "another failure"
    ended_cascade(scene, "storm-2", "ManualInterventionRequired")
    assert blocked_by(await scene.pass_time(2)) == "ManualIntervention"
    scene.seen.ready = 0
    await scene.pass_time(12)
    assert len(scene.runs) == 3, "it holds nothing back of what is done for the router itself"
    scene.seen.ready = 2
    scene.server.change(Router, "shop", {"metadata": {"annotations": {ANNOTATION_ACKNOWLEDGE: "storm-2"}}})
    assert blocked_by(await scene.pass_time(60)) == ""


async def end_named(scene: Scene, phase: str) -> None:
    """Of the router itself."""
    run = next(run for run in scene.runs if run.metadata.name != "storm")
    at = timestamp(scene.server.clock.now())
    scene.server.change(RecoveryRun, run.metadata.name, {"status": {"phase": phase, "startedAt": at, "finishedAt": at}})


async def test_who_acknowledges_the_last_run_has_seen_those_before_it() -> None:
    """The command line acknowledges the run that ended last, be it about the router or about its cells."""
    scene, _ = await failed()
    await end(scene, "Aborted")
    scene.server.clock.advance(60)
    aborted_cascade(scene, "storm")
    scene.server.clock.advance(3600)
    told = await scene.pass_time(15)
    assert (blocked_by(told), told.recovery and told.recovery.last_run) == ("AbortedByPerson", "storm")
    scene.server.change(Router, "shop", {"metadata": {"annotations": {ANNOTATION_ACKNOWLEDGE: "storm"}}})
    await scene.pass_time(15)
    assert len(scene.runs) == 3


async def test_the_active_run_is_shown() -> None:
    scene, _ = await failed()
    (run,) = scene.runs
    started = {"phase": "Draining", "startedAt": timestamp(scene.server.clock.now())}
    scene.server.change(RecoveryRun, run.metadata.name, {"status": started})
    told = await scene.look()
    assert told.recovery is not None
    assert told.recovery.active_run == run.metadata.name
    assert told.recovery.blocked is None


async def test_figures_that_come_and_go_change_nothing_of_what_is_shown() -> None:
    scene, told = await failed()
    assert told.failure is not None
    shown = told.failure.to_dict()
    scene.server.change(Router, "shop", {"status": {"failure": shown}})
    later = await scene.pass_time(5)
    assert later.failure is not None
    assert later.failure.to_dict() == shown
