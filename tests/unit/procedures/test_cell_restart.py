"""CellRestart, played in virtual time: what it does, in which order, and what it does when things go wrong."""

from dataclasses import replace
from datetime import datetime

import pytest

from recell.api import RecoveryFreeze
from recell.api.cell import Capacity
from recell.api.meta import ObjectMeta
from recell.api.placement import HoldState
from recell.api.recovery_run import RunPhase, StepState
from recell.domain import placement
from recell.domain.capacity import Load
from recell.domain.observation import RouterTraffic
from recell.engine.engine import Engine
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, Crash, World
from tests.unit.procedures.play import play, take_over

POLICY = {"mode": "Automatic"}
FALLING = [95, 90, 85, 80, 75, 70, 65, 60, 55, 50]


def failing_fleet(error_rate: float = 0.1, **more: object) -> World:
    world = World()
    world.fleet("a", "b", "c", policy={"mode": "Automatic", **more})
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].error_rate = error_rate
    world.tick(30)
    return world


def limits_of(world: World) -> list[int | None]:
    """The cell's limit after each write of Placement, as the log of writes has it."""
    found = []
    for write in world.writes:
        if write.kind == "placement":
            text = write.what.split(",")[0]
            found.append(int(text.split()[1]) if text.startswith("b ") else None)
    return found


async def run_restart(world: World, **spec: object) -> Key:
    key = world.run("r1", "b", strategy="CellRestart", **spec)
    await play(world, key)
    return key


async def test_it_drains_half_restarts_and_restores() -> None:
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    log = await play(world, key)
    run = world.runs[key]
    assert log == [
        "Draining drain-traffic",
        "Restoring restart-workloads",
        "Restoring check-health",
        "Promoting restore-traffic",
        "Validating watch-stability",
        "Succeeded watch-stability",
    ]
    assert limits_of(world) == [*FALLING, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100, None]
    assert world.workloads["b"][0].restarts == 1
    assert [s.state for s in run.status.steps] == [StepState.DONE] * 6
    assert placement.share(world.placements[NAMESPACE, "shop"].spec, "b") == pytest.approx(1 / 3, abs=0.01)
    assert world.placements[NAMESPACE, "shop"].spec.holds == []


NIGHTLY = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "b-nightly"}


async def test_cron_jobs_are_left_alone_and_that_is_said() -> None:
    world = failing_fleet()
    world.name_workloads("b", NIGHTLY)
    key = await run_restart(world)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert [workload.restarts for workload in world.workloads["b"]] == [0, 1]
    (step,) = (step for step in run.status.steps if step.name == "restart-workloads")
    assert "left alone: CronJob/b-nightly, whose next Job starts anew" in (step.message or "")


async def test_a_cell_of_cron_jobs_alone_cannot_be_restarted() -> None:
    world = failing_fleet()
    world.name_workloads("b", NIGHTLY)
    cell = world.cells[NAMESPACE, "b"]
    spec = cell.spec.to_dict() | {"workloads": [NIGHTLY]}
    world.cells[cell.key] = cell.model_validate({"metadata": cell.metadata, "spec": spec})
    world.workloads["b"] = world.workloads["b"][:1]
    world.template("small")
    key = await run_restart(world)
    run = world.runs[key]
    assert "names no workloads that can be restarted" in str(run.status.to_dict())
    assert all(workload.restarts == 0 for workload in world.workloads["b"])


async def test_each_step_costs_at_most_two_writes_beside_its_effects() -> None:
    world = failing_fleet()
    await run_restart(world)
    records = [w for w in world.writes if w.kind in ("status", "metadata")]
    assert len(records) <= 2 * 6 + 2, [str(w) for w in records]


async def test_the_waits_are_the_runbooks() -> None:
    world = failing_fleet()
    key = await run_restart(world)
    steps = {s.name: s for s in world.runs[key].status.steps}

    def took(name: str) -> float:
        step = steps[name]
        assert step.started_at
        assert step.finished_at
        return (step.finished_at - step.started_at).total_seconds()

    assert 300 <= took("drain-traffic") < 330
    assert 300 <= took("restore-traffic") < 330
    assert 900 <= took("watch-stability") < 920


async def test_a_cell_that_serves_less_than_half_drains_at_once() -> None:
    world = failing_fleet(error_rate=0.8)
    await run_restart(world)
    assert limits_of(world)[0] == 50


async def test_immediate_urgency_drains_at_once() -> None:
    world = failing_fleet()
    await run_restart(world, urgency="Immediate")
    assert limits_of(world)[:2] == [50, 55]


UNCOUNTED = {
    "type": "Gateway", "customerData": "Shared", "haproxy": None, "gateway": {"parentRefs": [{"name": "public"}]},
}  # fmt: skip
"""Nobody counts what passes through it."""


async def test_a_router_that_counts_nothing_keeps_nobody_waiting() -> None:
    world = World()
    world.fleet("a", "b", "c", router=UNCOUNTED, policy={"mode": "Automatic"})
    world.traffic.silent = True
    world.tick(60)
    key = world.run("r1", "b", strategy="CellRestart", startWhen="Always", startBefore="2027-01-01T00:00:00Z")
    log = await play(world, key)
    assert log[-1] == "Succeeded watch-stability", world.runs[key].status.summary
    assert not [entry for entry in log if "Awaiting" in entry]
    drained = next(s for s in world.runs[key].status.steps if s.name == "drain-traffic")
    assert "this router counts no traffic" in drained.message
    assert limits_of(world)[:10] == FALLING


BY_NAME = {
    "type": "DNS", "customerData": "Shared", "haproxy": None,
    "dns": {"hostname": "shop.example.com", "ttl": "90s", "publishTimeout": "5m"},
}  # fmt: skip


async def test_with_dns_no_increment_is_shorter_than_the_ttl_and_publishing_has_its_time() -> None:
    """Each change takes two minutes until it is in force, which is more than `applyTimeout` of the policy."""
    world = World()
    world.fleet("a", "b", "c", router=BY_NAME, policy={"mode": "Automatic"})
    world.traffic.silent = True
    world.traffic.delay = 120
    world.tick(300)
    key = world.run("r1", "b", strategy="CellRestart", startWhen="Always", startBefore="2027-01-01T00:00:00Z")
    log = await play(world, key, limit=8 * 3600)
    run = world.runs[key]
    assert log[-1] == "Succeeded watch-stability", run.status.summary
    assert run.status.plan is not None
    assert run.status.plan.numbers["steps.incrementInterval"] == "1m30s"
    assert run.status.plan.numbers["steps.applyTimeout"] == "6m30s"
    drained = next(s for s in run.status.steps if s.name == "drain-traffic")
    assert drained.started_at is not None
    assert drained.finished_at is not None
    assert (drained.finished_at - drained.started_at).total_seconds() >= 10 * (120 + 90)
    assert "has had its time" in drained.message


async def test_the_plan_of_a_dry_run_with_dns_says_what_it_waits_for() -> None:
    world = World()
    world.fleet("a", "b", "c", router=BY_NAME, policy={"mode": "Automatic"})
    world.tick(60)
    always = {"startWhen": "Always", "startBefore": "2027-01-01T00:00:00Z"}
    key = world.run("r1", "b", strategy="CellRestart", dryRun=True, **always)
    await play(world, key)
    planned = next(s for s in world.runs[key].status.steps if s.name == "drain-traffic")
    assert "1m30s apart, each in force only once every name server answers it and the TTL of 90s" in planned.message


async def test_traffic_that_does_not_leave_stops_the_run_with_both_numbers() -> None:
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="drain-traffic")
    world.traffic.frozen = True
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "did not apply" in (run.status.summary or "")
    assert world.workloads["b"][0].restarts == 0


def misread(world: World, monkeypatch: pytest.MonkeyPatch, *, looks: int) -> None:
    """For so many looks after a change the router tells that the cell gets twice of what it really gets."""
    real, left = world.traffic.observed, [looks]

    def told(router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        seen = real(router, window=window, not_before=not_before)
        if seen is None or not_before is None or not left[0]:
            return seen
        left[0] -= 1
        cell = seen.cells["b"]
        more = replace(cell, requests=2 * cell.requests, requests_per_second=2 * cell.requests_per_second)
        return replace(seen, cells={**seen.cells, "b": more})

    monkeypatch.setattr(world.traffic, "observed", told)


async def test_traffic_that_stays_stops_the_run_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    world = failing_fleet()
    misread(world, monkeypatch, looks=1000)
    run = world.runs[await run_restart(world)]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "Increment 1 of 10 (95 %): b gets" in (run.status.summary or "")
    assert "(1.2 x)" in (run.status.summary or "")
    assert world.workloads["b"][0].restarts == 0


async def test_one_odd_reading_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = failing_fleet()
    misread(world, monkeypatch, looks=1)
    run = world.runs[await run_restart(world)]
    assert run.phase is RunPhase.SUCCEEDED


async def test_a_restart_that_does_not_help_ends_in_a_replacement_and_nothing_is_left_behind() -> None:
    world = failing_fleet()
    world.template("small")
    world.workloads["b"][0].broken = True
    key = await run_restart(world)
    child = world.runs[NAMESPACE, "r1-next"]
    await play(world, child.key)
    assert world.runs[child.key].phase is RunPhase.SUCCEEDED, world.runs[child.key].status.to_dict()
    await play_once(world, key)
    conditions = {c.type: c.status for c in world.runs[key].status.conditions}
    assert conditions["Succeeded"] == "True", "who waits for the first run is told how the second ended"
    holds = world.placements[NAMESPACE, "shop"].spec.holds
    assert [(h.cell, h.state, h.holder.name) for h in holds] == [("b", HoldState.RETIRED, "r1-next")]


async def test_workloads_that_do_not_come_up_escalate() -> None:
    world = failing_fleet()
    world.workloads["b"][0].broken = True
    key = await run_restart(world)
    assert world.runs[key].phase is RunPhase.ESCALATED
    child = world.runs[NAMESPACE, "r1-next"]
    assert child.spec.escalated_from == "r1"
    assert child.spec.strategy == "TrafficDrainAndReplace"
    await play(world, child.key)
    assert world.runs[child.key].phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    await play_once(world, key)
    conditions = {c.type: c.status for c in world.runs[key].status.conditions}
    assert conditions["Failed"] == "True"
    assert "templateRef" in (world.runs[child.key].status.summary or ""), "there is nothing to replace it by"
    assert limits_of(world)[-1] == 0, "what is drained stays drained for whoever takes over"


async def test_a_restart_that_somebody_reverts_says_by_whom_and_goes_on_once_they_leave_it_alone() -> None:
    world = failing_fleet()
    world.workloads["b"][0].reverted_by = "argocd-controller"
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="restart-workloads")
    await play_for(world, key, 60)
    run = world.runs[key]
    stalled = next(c for c in run.status.conditions if c.type == "Stalled")
    assert (stalled.status, stalled.reason) == ("True", "Reverted")
    assert "argocd-controller" in stalled.message
    world.workloads["b"][0].reverted_by = None
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert world.workloads["b"][0].restarts == 1


async def test_a_restart_that_stays_reverted_ends_in_a_replacement_and_says_by_whom() -> None:
    world = failing_fleet()
    world.workloads["b"][0].reverted_by = "argocd-controller"
    key = await run_restart(world)
    run = world.runs[key]
    assert run.phase is RunPhase.ESCALATED
    assert "last by argocd-controller" in (run.status.summary or "")


async def play_once(world: World, key: Key) -> None:
    from recell.engine.engine import Engine
    from recell.procedures import PROCEDURES

    await Engine(world.ports(), PROCEDURES).advance(key)


async def test_a_cell_that_fails_again_while_its_traffic_returns_is_put_back() -> None:
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="restore-traffic")
    world.workloads["b"][0].heals = False
    world.tick(30)
    world.traffic.cells["b"].error_rate = 0.3
    await play(world, key)
    assert world.runs[key].phase is RunPhase.ESCALATED
    assert limits_of(world)[-1] == 50


@pytest.mark.parametrize(("lost_for", "phase"), [(6, RunPhase.SUCCEEDED), (20, RunPhase.ESCALATED)])
async def test_a_probe_alone_has_to_fail_twice_before_a_cell_loses_its_traffic_again(
    lost_for: float, phase: RunPhase
) -> None:
    """One lost packet, while the router sees customers answered, is no reason to replace a cell at night (rule 12)."""
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="restore-traffic")
    await play_for(world, key, 20)
    raised = limits_of(world)[-1]
    world.unprobed.add("b")
    await play_for(world, key, lost_for)
    if phase is RunPhase.SUCCEEDED:
        assert limits_of(world)[-1] == raised, "nothing is raised on it either"
        world.unprobed.clear()
    await play(world, key)
    assert world.runs[key].phase is phase
    assert (limits_of(world)[-1] == 50) == (phase is RunPhase.ESCALATED)


async def test_a_cell_that_heals_by_itself_is_not_restarted() -> None:
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="drain-traffic")
    world.traffic.cells["b"].error_rate = 0.0
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED
    assert world.workloads["b"][0].restarts == 0
    assert reason_of(world, key) == "SelfRecovered"
    limits = limits_of(world)
    assert limits[: len(FALLING)] == FALLING
    assert limits[len(FALLING) :] == [55, 60, 65, 70, 75, 80, 85, 90, 95, 100, None], "not all at once"


async def test_data_that_becomes_corrupted_before_the_restart_is_isolated_instead() -> None:
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="drain-traffic")
    world.integrities["b"] = False
    await play(world, key)
    assert world.workloads["b"][0].restarts == 0
    assert world.runs[NAMESPACE, "r1-next"].spec.strategy == "IsolateAndRestoreFromBackup"


async def test_unknown_data_asks_a_person_and_an_approval_lets_it_go_on() -> None:
    world = failing_fleet()
    world.integrities["b"] = None
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until=RunPhase.AWAITING_APPROVAL)
    awaiting = world.runs[key].status.awaiting
    assert awaiting is not None
    assert awaiting.gate == "unknown-integrity"
    world.control(key, approvals=[{"gate": awaiting.gate, "decisionID": "another"}])
    await play(world, key, until=RunPhase.AWAITING_APPROVAL)
    world.control(
        key,
        approvals=[
            {"gate": awaiting.gate, "decisionID": "another"},
            {"gate": awaiting.gate, "decisionID": awaiting.decision_id},
        ],
    )
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


async def test_an_approval_lapses_after_an_hour() -> None:
    world = failing_fleet()
    world.integrities["b"] = None
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until=RunPhase.AWAITING_APPROVAL)
    first = world.runs[key].status.awaiting
    assert first is not None
    world.control(key, paused=True)
    await play_once(world, key)
    world.tick(3700)
    world.control(key, paused=False, approvals=[{"gate": first.gate, "decisionID": first.decision_id}])
    await play_once(world, key)
    second = world.runs[key].status.awaiting
    assert second is not None
    assert second.decision_id != first.decision_id


async def play_for(world: World, key: Key, seconds: float) -> None:
    engine, until = Engine(world.ports(), PROCEDURES), world.clock.monotonic() + seconds
    while world.clock.monotonic() < until and not world.runs[key].phase.ended:
        world.tick(await engine.advance(key) or 1.0)


@pytest.mark.parametrize(
    ("down", "phase", "told"),
    [
        ([(60, 61)], RunPhase.SUCCEEDED, "Stable for 15m after 1 short interruption"),
        ([(60, 68)], RunPhase.SUCCEEDED, "Stable for 15m after 1 short interruption"),
        ([(60, 75)], RunPhase.ESCALATED, "Not stable after the restart"),
        ([(60, 64), (200, 204)], RunPhase.ESCALATED, "Not stable after the restart"),
    ],
)
async def test_one_short_interruption_restarts_the_clock_and_a_second_or_a_long_one_escalates(
    down: list[tuple[float, float]], phase: RunPhase, told: str
) -> None:
    """`down`: from when to when, in seconds of the watch. The policy tolerates ten."""
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="watch-stability")
    world.workloads["b"][0].heals = False
    engine, began = Engine(world.ports(), PROCEDURES), world.clock.monotonic()
    while not world.runs[key].phase.ended:
        until = world.clock.monotonic() + (await engine.advance(key) or 1.0)
        while (left := until - world.clock.monotonic()) > 0:
            world.tick(min(1.0, left))
            passed = world.clock.monotonic() - began
            world.traffic.cells["b"].down = any(begin <= passed < end for begin, end in down)
    run = world.runs[key]
    assert run.phase is phase
    assert told in run.status.steps[-1].message


async def test_a_dry_run_changes_nothing_and_says_what_it_would_do() -> None:
    world = failing_fleet()
    key = await run_restart(world, dryRun=True)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED
    assert world.effects() == []
    assert [s.state for s in run.status.steps] == [StepState.DONE] * 6
    assert "from 100 % to 50 % of its customers in 10 increments" in run.status.steps[1].message


@pytest.mark.parametrize("step", ["drain-traffic", "restart-workloads", "check-health", "restore-traffic"])
async def test_a_freeze_stops_every_step_and_undoes_nothing(step: str) -> None:
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until=step)
    before = world.effects()
    world.freezes.append(
        RecoveryFreeze.model_validate({"metadata": ObjectMeta(name="stop"), "spec": {"reason": "sale"}})
    )
    await play_for(world, key, 200)
    assert world.effects() == before
    run = world.runs[key]
    assert next(c.reason for c in run.status.conditions if c.type == "Paused" and c.status == "True") == "Frozen"
    world.freezes.clear()
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


def reason_of(world: World, key: Key) -> str | None:
    return next(c.reason for c in world.runs[key].status.conditions if c.type == "Succeeded")


async def test_a_drain_that_turns_away_more_customers_than_the_fault_is_not_made_and_both_numbers_are_said() -> None:
    """Rule 14: with the data in the cells, whoever leaves b is served by nobody."""
    world = World()
    world.fleet("a", "b", "c", router={"customerData": "InCell"}, policy={"mode": "Automatic"})
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].error_rate = 0.1
    world.tick(30)
    before = world.placements[NAMESPACE, "shop"].spec
    key = await run_restart(world)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    told = next(s.message for s in run.status.steps if s.name == "drain-traffic")
    assert told.startswith("Traffic left where it is: draining b to 50 % costs 16.6 % of the customers")
    assert told.endswith("its fault costs 3.3 % now")
    assert not [write for write in world.writes if write.kind == "placement"]
    assert world.placements[NAMESPACE, "shop"].spec == before
    assert world.workloads["b"][0].restarts == 1


async def test_a_process_that_takes_over_watches_stability_from_the_start() -> None:
    """Rule 30: nobody looked while no process lived, and the new one has not seen what the dead one saw."""
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="watch-stability")
    await play_for(world, key, 600)
    take_over(world)
    world.tick(600)  # until another process leads
    began = world.clock.monotonic()
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert 900 <= world.clock.monotonic() - began < 930


@pytest.mark.parametrize("silent_for", [0, 60])
async def test_time_in_which_nothing_was_seen_is_no_time_of_stability(silent_for: float) -> None:
    """Rule 30: of a cell that is not probed only the router tells, and it is silent for a while."""
    world = failing_fleet()
    cell = world.cells[NAMESPACE, "b"]
    world.cells[cell.key] = cell.model_validate(
        {"metadata": cell.metadata, "spec": {**cell.spec.to_dict(), "health": {}}}
    )
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="watch-stability")
    engine, began, took = Engine(world.ports(), PROCEDURES), world.clock.monotonic(), 0.0
    while not world.runs[key].phase.ended:
        world.tick(min(1.0, await engine.advance(key) or 1.0))
        took = world.clock.monotonic() - began
        world.traffic.silent = 100 <= took < 100 + silent_for
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    assert 895 + silent_for <= took < 920 + silent_for


def limited_to(world: World, capacity: int) -> None:
    for key, cell in world.cells.items():
        spec = cell.spec.model_copy(update={"capacity": Capacity(requests_per_second=capacity)})
        world.cells[key] = cell.model_copy(update={"spec": spec})


@pytest.mark.parametrize(("known", "phase"), [(False, RunPhase.DRAINING), (True, RunPhase.ESCALATED)])
async def test_a_cell_that_hangs_is_drained_only_if_the_others_can_bear_what_it_got_before(
    known: bool, phase: RunPhase
) -> None:
    """Rule 17: it ends no request now, so its present load is nothing; its customers come all the same."""
    world = World()
    world.fleet("a", "b", "c", policy={"mode": "Automatic", "limits": {"capacityHeadroom": "0%"}})
    limited_to(world, 110)
    world.traffic.rps = 300
    world.tick(60)
    seen = world.traffic.observed((NAMESPACE, "shop"), window=60)
    assert seen is not None
    slots = placement.served_slots(world.placements[NAMESPACE, "shop"].spec)[1]
    if known:
        world.loads["b"] = Load(seen.cells["b"].requests_per_second, slots)
    world.traffic.cells["b"].hung = True
    world.tick(20)
    key = world.run("r1", "b", strategy="CellRestart")
    await play_once(world, key)
    run = world.runs[key]
    assert run.phase is phase, run.status.to_dict()
    assert bool(world.placements[NAMESPACE, "shop"].spec.holds) is (phase is RunPhase.DRAINING)
    if known:
        assert "b counted with the 100 requests/s from before it failed" in (run.status.summary or "")


def two_failing_cells(capacity: int) -> World:
    """300 requests/s over a, b and c; half of b is 25 more for each other, half of c then all goes to a."""
    world = World()
    world.fleet("a", "b", "c", policy={"mode": "Automatic", "limits": {"capacityHeadroom": "0%"}})
    limited_to(world, capacity)
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].error_rate = world.traffic.cells["c"].error_rate = 0.1
    world.tick(30)
    return world


async def begun_only(world: World, name: str, cell: str) -> Key:
    """A run whose check of capacity is behind it and whose drain is not begun: its leader was killed in between."""
    key = world.run(name, cell, strategy="CellRestart", failure={"dataIntegrity": "Intact"})
    world.crash_after = len(world.writes) + 2
    with pytest.raises(Crash):
        await Engine(world.ports(), PROCEDURES).advance(key)
    world.crash_after, world.epoch = None, world.epoch + 1
    assert world.runs[key].status.step == "drain-traffic"
    return key


async def two_runs(capacity: int) -> tuple[World, Key]:
    """Both have checked; b's drains first. Returns the key of c's, too."""
    world = two_failing_cells(capacity)
    second = await begun_only(world, "r2", "c")
    first = world.run("r1", "b", strategy="CellRestart")
    engine = Engine(world.ports(), PROCEDURES)
    await engine.advance(first)
    await engine.advance(second)
    return world, second


async def test_of_two_runs_with_room_for_one_only_one_drains() -> None:
    world, second = await two_runs(capacity=160)
    assert world.runs[second].status.phase == RunPhase.ESCALATED
    assert "too little room" in (world.runs[second].status.summary or "")
    spec = world.placements[NAMESPACE, "shop"].spec
    assert {hold.cell for hold in spec.holds} == {"b"}
    assert {item.holder.name for item in spec.reservations} == {"r1"}


async def test_of_two_runs_with_room_for_both_each_drains() -> None:
    world, second = await two_runs(capacity=200)
    assert world.runs[second].phase is RunPhase.DRAINING
    assert {hold.cell for hold in world.placements[NAMESPACE, "shop"].spec.holds} == {"b", "c"}
