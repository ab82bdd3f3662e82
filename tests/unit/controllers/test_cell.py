"""The Cell controller: shows what it sees, writes only what changed, and starts a run only where it may."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from recell.api import Cell, CellTemplate, Placement, RecoveryPolicy, RecoveryRun, Router
from recell.api.cell import Failure
from recell.api.failure import DataIntegrity, Evidence, FailureType, Impact, Vantage, Verdict
from recell.api.meta import ANNOTATION_ACKNOWLEDGE, ANNOTATION_TARGET_UID, FINALIZER, LABEL_ORIGIN
from recell.api.placement import Hold, Holder, HoldState
from recell.controllers.cell import CellController
from recell.controllers.programming import Programming
from recell.controllers.protection import Protection
from recell.controllers.records import RunRecords
from recell.controllers.retirement import Retirements
from recell.controllers.storms import Storms
from recell.domain import placement
from recell.domain.health import HealthState, Level
from recell.domain.observation import Reach
from recell.domain.placement import Candidate, Routing
from recell.engine.errors import BadInput
from tests.unit.controllers.server import Server, Surroundings

KEY = ("fleet", "b")


class Scene(Surroundings):
    """A Router with two cells; what the observer sees is what the test says."""

    def __init__(self, mode: str = "Automatic", **limits: Any) -> None:
        server = Server()
        super().__init__(server)
        server.add(
            Router,
            "shop",
            {
                "type": "HAProxy",
                "customerData": "Shared",
                "haproxy": {"customerKey": {"type": "Header", "name": "x"}},
            },
        )
        server.add(RecoveryPolicy, "default", {"mode": mode, "limits": limits})
        for name in "ab":
            backend = {"type": "Service", "service": {"name": name, "port": 80}}
            server.add(Cell, name, {"routerRef": {"name": "shop"}, "backend": backend})
        router = server.router(("fleet", "shop"))
        assert router is not None
        spec = placement.initial(
            Routing.of(router), [Candidate(n, f"uid-{n}", "10.0.0.1", 80, 100) for n in "ab"], epoch=1
        )
        server.add(Placement, "shop", spec.to_dict())
        self.since = server.clock.now()
        self.level = Level.HEALTHY
        self.error_rate = 0.1
        self.is_settled = True
        self.type = FailureType.SINGLE_CELL
        self.unknown_data: set[str] = set()
        anything: Any = self
        store: Any = server
        retirements = Retirements(
            store.clock, store, store, anything, anything, Protection(anything), anything, anything, anything
        )
        storms = Storms(store.clock, store, anything, anything, anything, RunRecords(store, store))
        self.controller = CellController(
            store.clock, store, store, anything, anything, anything, Programming(store.clock, anything, anything),
            anything, RunRecords(store, store), retirements, storms, anything,
        )  # fmt: skip

    # Observer

    def look(self, cell: Cell) -> tuple[HealthState, float | None]:
        return HealthState(level=self.level, since=self.since, failing_since=self.since), None

    def health(self, cell: tuple[str, str]) -> HealthState | None:
        return HealthState(level=self.level, since=self.since, failing_since=self.since)

    def settled(self, cell: Cell) -> bool:
        return self.is_settled

    def failure(self, cell: tuple[str, str]) -> Failure | None:
        if self.level is Level.HEALTHY:
            return None
        told = Evidence(
            check="error-rate",
            vantage=Vantage.ROUTER,
            verdict=Verdict.FAILED,
            message=f"{self.error_rate:.1%} of requests failed",
        )
        return Failure(
            type=self.type,
            impact=Impact.LOW if self.type is FailureType.SINGLE_CELL else Impact.HIGH,
            data_integrity=DataIntegrity.UNKNOWN if cell[1] in self.unknown_data else DataIntegrity.INTACT,
            since=self.since,
            evidence=[told],
        )

    def broken(self, router: tuple[str, str]) -> tuple[str, ...]:
        return ()

    # Traffic, Switchboard, probes

    def observed(self, router: tuple[str, str], *, window: float, not_before: Any = None) -> None:
        return None

    def current(self, router: tuple[str, str]) -> Placement | None:
        return self.server.placement(router)

    def set_target(self, cell: Cell, address: Any) -> None:
        """Probed, or not."""

    def drop(self, cell: tuple[str, str]) -> None:
        """No longer probed."""

    def forget(self, cell: tuple[str, str]) -> None:
        """Gone."""

    def hold(self, percent: int, state: HoldState = HoldState.DRAINING) -> None:
        """The cell's limit in Placement."""
        placed, router = self.server.placement(("fleet", "shop")), self.server.router(("fleet", "shop"))
        assert placed is not None
        assert router is not None
        limit = Hold(
            cell="b", max_percent=percent, state=state, reason="",
            holder=Holder(kind="RecoveryRun", name="r", uid="uid-r"), since=self.server.clock.now(),
        )  # fmt: skip
        spec = placement.hold(placed.spec, Routing.of(router), limit)
        self.server.change(Placement, "shop", {"spec": spec.to_dict()})

    def ended_run(self, name: str, target: str, *, hours: float) -> None:
        """An automatic one, so long ago."""
        spec = {"targetRef": {"kind": "Cell", "name": target}, "trigger": "Automatic"}
        self.server.add(RecoveryRun, name, spec)
        self.end(name, "Succeeded", self.server.clock.now() - timedelta(hours=hours))

    def end(self, run: str, phase: str, at: datetime) -> None:
        ended = {"phase": phase, "startedAt": at.isoformat(), "finishedAt": at.isoformat()}
        self.server.change(RecoveryRun, run, {"status": ended})

    async def look_at_it(self, times: int = 1) -> Any:
        for _ in range(times):
            await self.controller.reconcile(KEY)
        cell = self.server.cell(KEY)
        assert cell is not None
        return cell.status

    def fail(self) -> None:
        self.level, self.since = Level.FAILED, self.server.clock.now()

    @staticmethod
    def condition(status: Any, type: str) -> tuple[str, str, str]:
        found = next(c for c in status.conditions if c.type == type)
        return (found.status, found.reason, found.message)

    @property
    def runs(self) -> list[RecoveryRun]:
        return list(self.server.runs_in("fleet"))


async def test_a_healthy_cell_is_shown_with_its_share() -> None:
    status = await Scene().look_at_it()
    assert status.phase == "Healthy"
    assert status.share.asked == status.share.applied == "50%"


async def test_a_share_that_is_in_force_within_a_moment_is_written_once() -> None:
    scene = Scene()
    await scene.look_at_it()
    scene.in_force = False
    scene.hold(50)
    before = len(scene.server.writes)
    share = (await scene.look_at_it()).share
    assert (share.asked, share.applied) == ("50%", "50%")
    assert len(scene.server.writes) == before
    scene.in_force = True
    share = (await scene.look_at_it(times=2)).share
    assert (share.asked, share.applied) == ("25%", "25%")
    assert len(scene.server.writes) == before + 1


async def test_a_share_that_the_pods_do_not_apply_is_shown_as_asked() -> None:
    scene = Scene()
    await scene.look_at_it()
    scene.in_force = False
    scene.hold(50)
    again = await scene.controller.reconcile(KEY)
    assert again is not None
    scene.server.clock.advance(again)
    share = (await scene.look_at_it()).share
    assert (share.asked, share.applied) == ("25%", "50%")


async def test_figures_alone_cause_no_write() -> None:
    scene = Scene(mode="Observe")
    scene.fail()
    await scene.look_at_it()
    before = len(scene.server.writes)
    for rate in (0.11, 0.12, 0.2):
        scene.error_rate = rate
        scene.server.clock.advance(1)
        await scene.look_at_it()
    assert len(scene.server.writes) == before


async def test_a_failed_cell_gets_one_run_however_often_it_is_looked_at() -> None:
    scene = Scene()
    scene.fail()
    await scene.look_at_it(times=5)
    assert len(scene.runs) == 1
    assert scene.runs[0].spec.trigger == "Automatic"
    assert scene.runs[0].metadata.labels["recell.dev/target"] == "b"
    assert scene.runs[0].metadata.finalizers == [FINALIZER], "born with it, so that a start costs one write less"
    assert scene.runs[0].metadata.annotations[ANNOTATION_TARGET_UID] == "uid-b"


async def test_a_cell_that_failed_with_others_is_left_to_the_run_of_their_router() -> None:
    scene = Scene()
    scene.fail()
    scene.type = FailureType.MULTIPLE_CELL
    await scene.look_at_it(times=3)
    assert scene.runs == []


async def test_a_cell_that_its_router_has_not_recovered_together_with_the_others_has_a_run_of_its_own() -> None:
    """What is known of the data of all of them is not enough for the Router's rules: a person is asked, not nobody."""
    scene = Scene()
    scene.fail()
    scene.type, scene.unknown_data = FailureType.MULTIPLE_CELL, {"a"}
    await scene.look_at_it(times=3)
    (run,) = scene.runs
    assert run.spec.target_ref.name == "b"


async def test_observe_starts_nothing_and_shows_what_it_would_do() -> None:
    scene = Scene(mode="Observe")
    scene.fail()
    status = await scene.look_at_it(times=3)
    assert scene.runs == []
    assert status.recovery.blocked.reason == "Observe"
    assert "CellRestart would be started" in status.recovery.blocked.message


async def test_after_a_take_over_nothing_is_started_before_a_full_detection_period() -> None:
    scene = Scene()
    scene.fail()
    scene.is_settled = False
    await scene.look_at_it()
    assert scene.runs == []


async def test_a_degraded_cell_starts_nothing() -> None:
    scene = Scene()
    scene.fail()
    scene.level = Level.DEGRADED
    status = await scene.look_at_it()
    assert status.phase == "Degraded"
    assert scene.runs == []


async def test_a_paused_cell_starts_nothing_and_says_so() -> None:
    scene = Scene()
    scene.server.change(Cell, "b", {"spec": {"paused": True}})
    scene.fail()
    status = await scene.look_at_it()
    assert scene.runs == []
    assert status.recovery.blocked.reason == "Paused"


async def test_the_cooldown_holds_the_next_run_back_and_says_until_when() -> None:
    scene = Scene(cooldown="15m")
    scene.fail()
    await scene.look_at_it()
    name = scene.runs[0].metadata.name
    scene.end(name, "Succeeded", scene.since)
    status = await scene.look_at_it(times=2)
    assert len(scene.runs) == 1
    assert status.recovery.blocked.reason == "Cooldown"
    assert status.recovery.next_allowed_at == scene.since + timedelta(minutes=15)
    scene.server.clock.advance(16 * 60)
    await scene.look_at_it()
    assert len(scene.runs) == 2


@pytest.mark.parametrize(("origin", "held_back"), [("a", True), (None, False), ("z", False)])
async def test_runs_of_the_cell_that_this_one_replaced_count_as_its_own(origin: str | None, held_back: bool) -> None:
    scene = Scene(maxAttempts=2)
    labels = {LABEL_ORIGIN: origin} if origin else {}
    scene.server.change(Cell, "b", {"metadata": {"labels": labels}})
    for number in (1, 2):
        scene.ended_run(f"a-{number}", "a", hours=2 * number)
    scene.fail()
    status = await scene.look_at_it(times=2)
    if held_back:
        assert (status.recovery.attempts, status.recovery.blocked.reason) == (2, "AttemptsExhausted")
    assert len(scene.runs) == (2 if held_back else 3)


async def test_runs_of_a_replacement_in_between_count_too_and_not_against_the_first_of_the_line() -> None:
    scene = Scene(maxAttempts=1)
    backend = {"type": "Service", "service": {"name": "c", "port": 80}}
    scene.server.add(Cell, "c", {"routerRef": {"name": "shop"}, "backend": backend}, labels={LABEL_ORIGIN: "b"})
    scene.server.change(Cell, "a", {"metadata": {"labels": {LABEL_ORIGIN: "b"}}})
    scene.ended_run("c-1", "c", hours=2)
    scene.fail()
    await scene.controller.reconcile(("fleet", "a"))
    replacement = scene.server.cell(("fleet", "a"))
    assert replacement is not None
    assert replacement.status.recovery is not None
    assert replacement.status.recovery.blocked is not None
    assert replacement.status.recovery.blocked.reason == "AttemptsExhausted"
    await scene.look_at_it()
    assert [run.spec.target_ref.name for run in scene.runs if run.metadata.name != "c-1"] == ["b"]


async def test_after_a_person_aborted_no_run_starts_by_itself_until_they_acknowledge_that() -> None:
    scene = Scene(cooldown="15m")
    scene.fail()
    await scene.look_at_it()
    name = scene.runs[0].metadata.name
    scene.end(name, "Aborted", scene.since)
    for _ in range(3):
        scene.server.clock.advance(8 * 3600)
        status = await scene.look_at_it(times=3)
    assert len(scene.runs) == 1
    assert status.recovery.blocked.reason == "AbortedByPerson"
    assert status.recovery.last_run == name
    assert "kubectl recell acknowledge b" in status.recovery.blocked.message
    scene.server.change(Cell, "b", {"metadata": {"annotations": {ANNOTATION_ACKNOWLEDGE: name}}})
    await scene.look_at_it(times=3)
    assert len(scene.runs) == 2


async def test_a_cell_whose_turn_had_not_come_when_a_person_aborted_the_cascade_is_left_alone_too() -> None:
    scene = Scene()
    scene.fail()
    cascade = {"targetRef": {"kind": "Router", "name": "shop"}, "strategy": "EmergencyScaling", "trigger": "Automatic"}
    scene.server.add(RecoveryRun, "storm", cascade)
    scene.end("storm", "Aborted", scene.since)
    for _ in range(3):
        scene.server.clock.advance(8 * 3600)
        status = await scene.look_at_it(times=3)
    assert [run.metadata.name for run in scene.runs] == ["storm"]
    assert status.recovery.blocked.reason == "CascadeAborted"
    assert "kubectl recell acknowledge router/shop" in status.recovery.blocked.message
    scene.server.change(Router, "shop", {"metadata": {"annotations": {ANNOTATION_ACKNOWLEDGE: "storm"}}})
    await scene.look_at_it(times=3)
    assert len(scene.runs) == 2


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (BadInput("spec.backend.service.port: Service fleet/b has no port 81"), "has no port 81"),
        (BadInput("spec.backend.service.name: a headless Service has no address"), "headless"),
    ],
)
async def test_a_wrong_cell_says_what_to_change(error: Exception, part: str) -> None:
    scene = Scene()
    scene.unreachable["b"] = error
    status = await scene.look_at_it()
    stalled = next(c for c in status.conditions if c.type == "Stalled")
    assert stalled.status == "True"
    assert part in stalled.message


async def test_a_cell_without_a_router_says_so() -> None:
    scene = Scene()
    del scene.server.objects["routers", "fleet", "shop"]
    status = await scene.look_at_it()
    accepted = next(c for c in status.conditions if c.type == "Accepted")
    assert accepted.reason == "RouterNotFound"


async def test_a_cell_that_cannot_be_replaced_says_why() -> None:
    scene = Scene()

    async def accepted() -> tuple[str, str]:
        condition = next(c for c in (await scene.look_at_it()).conditions if c.type == "Accepted")
        return condition.status, condition.message

    assert await accepted() == ("True", "Reached at 10.0.0.98:80")
    scene.server.change(Cell, "b", {"spec": {"templateRef": {"name": "shop-cell"}}})
    missing = "it cannot be replaced: there is no CellTemplate shop-cell (spec.templateRef)"
    assert await accepted() == ("True", f"Reached at 10.0.0.98:80; {missing}")
    backend = {"type": "Service", "service": {"name": "$(CELL)", "port": "$(PORT)"}}
    scene.server.add(CellTemplate, "shop-cell", {"cell": {"backend": backend}, "parameters": [{"name": "PORT"}]})
    status, message = await accepted()
    assert (status, message.partition("; ")[2]) == (
        "True",
        "it cannot be replaced: CellTemplate shop-cell: parameter PORT has no value: set it in"
        " spec.templateRef.parameters of Cell b",
    )
    values = [{"name": "PORT", "value": "80"}]
    scene.server.change(Cell, "b", {"spec": {"templateRef": {"name": "shop-cell", "parameters": values}}})
    assert await accepted() == ("True", "Reached at 10.0.0.98:80")
    scene.server.writes.clear()
    await accepted()
    assert scene.server.writes == []


async def test_a_failure_stays_until_it_is_known_to_be_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends before it knows leaves it to the next."""
    scene = Scene(mode="Observe")
    scene.fail()
    failed = await scene.look_at_it()
    assert failed.failure is not None
    unknown = HealthState(level=Level.UNKNOWN, since=scene.since, known=Level.DEGRADED)
    with monkeypatch.context() as taken_over:
        taken_over.setattr(scene, "look", lambda cell: (unknown, None))
        taken_over.setattr(scene, "failure", lambda cell: None)
        status = await scene.look_at_it()
    assert (status.phase, status.failure) == ("Unknown", failed.failure)
    assert scene.condition(status, "Ready")[:2] == ("False", "Unknown")
    scene.level = Level.HEALTHY
    assert (await scene.look_at_it()).failure is None


async def test_each_change_of_phase_is_an_event() -> None:
    scene = Scene(mode="Observe")
    await scene.look_at_it()
    scene.fail()
    await scene.look_at_it(times=2)
    assert scene.events == ["Normal Healthy", "Warning Failed"]


async def test_a_cell_whose_cluster_is_lost_is_unknown_and_says_why_once() -> None:
    scene = Scene()
    scene.reaches["b"] = Reach(True, "Reachable", "Kubernetes v1.36.3, by Secret fleet/b")
    status = await scene.look_at_it()
    assert scene.condition(status, "ClusterReachable") == ("True", "Reachable", "Kubernetes v1.36.3, by Secret fleet/b")
    why = "Secret fleet/b: the API server has not answered since 2026-11-25T03:00:00Z: no answer in time"
    scene.reaches["b"] = Reach(False, "Unreachable", why)
    scene.level = Level.UNKNOWN
    scene.since = scene.server.clock.now()
    scene.failure = lambda cell: None  # type: ignore[method-assign]
    status = await scene.look_at_it(times=3)
    assert (status.phase, status.failure) == ("Unknown", None)
    assert scene.condition(status, "ClusterReachable") == ("False", "Unreachable", why)
    assert scene.condition(status, "Ready") == ("False", "Unknown", why)
    assert scene.condition(status, "Accepted")[0] == "True", "the router goes on sending it what is its"
    assert scene.events.count("Warning Unknown") == 1
    assert scene.runs == []


async def test_a_cell_in_the_cluster_of_the_operator_has_no_such_condition() -> None:
    status = await Scene().look_at_it()
    assert not [c for c in status.conditions if c.type == "ClusterReachable"]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("level", [Level.HEALTHY, Level.FAILED])
@pytest.mark.parametrize("state", [HoldState.ISOLATED, HoldState.RETIRED])
async def test_a_cell_that_comes_back_under_a_name_that_was_taken_out_says_that_nobody_knows_whose_it_is(
    state: HoldState, level: Level, listed: bool
) -> None:
    scene = Scene()
    scene.hold(0, state)
    assert (await scene.look_at_it()).recovery.blocked.reason == state.value
    if not listed:
        placed, router = scene.server.placement(("fleet", "shop")), scene.server.router(("fleet", "shop"))
        assert placed is not None
        assert router is not None
        gone = placement.remove(placed.spec, Routing.of(router), "b")
        scene.server.change(Placement, "shop", {"spec": gone.to_dict()})
    scene.server.change(Cell, "b", {"metadata": {"uid": "from-a-backup"}, "status": None})
    scene.level = level
    blocked = (await scene.look_at_it(times=2)).recovery.blocked
    assert blocked.reason == "UnknownProvenance"
    assert "kubectl recell return b" in blocked.message
    assert scene.runs == []


async def test_a_deleted_cell_whose_router_is_gone_goes() -> None:
    scene = Scene()
    scene.server.change(Cell, "b", {"metadata": {"finalizers": [FINALIZER]}})
    scene.server.delete_softly(Cell, "b")
    await scene.look_at_it()
    assert ("cells", "fleet", "b") in scene.server.objects, "its Router has to move its customers first"
    del scene.server.objects["routers", "fleet", "shop"]
    await scene.controller.reconcile(KEY)
    assert ("cells", "fleet", "b") not in scene.server.objects
