"""What becomes of a run that has not started: each answer with the reason that a person reads."""

import contextlib
import itertools
from datetime import timedelta
from typing import Any

import pytest

from recell.api import RecoveryFreeze, RecoveryRun
from recell.api.meta import ANNOTATION_STARTED_UID, Condition
from recell.api.recovery_run import RunPhase
from recell.engine.engine import Engine
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, START, Crash, World
from tests.unit.procedures.play import play


def failing_fleet(error_rate: float = 0.1, mode: str = "Automatic", **policy: Any) -> World:
    world = World()
    world.fleet("a", "b", "c", policy={"mode": mode, **policy})
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].error_rate = error_rate
    world.tick(30)
    return world


async def look(world: World, key: Key) -> RecoveryRun:
    await Engine(world.ports(), PROCEDURES).advance(key)
    return world.runs[key]


async def asking_to_start() -> tuple[World, Key]:
    """A run that waits for a person's word before it starts."""
    world = failing_fleet(mode="Approve")
    key = world.run("r", "b", trigger="Automatic")
    await look(world, key)
    return world, key


def condition(run: RecoveryRun, type: str) -> Condition:
    return next(c for c in run.status.conditions if c.type == type)


async def test_without_a_strategy_the_matrix_decides_and_says_by_which_row() -> None:
    world = failing_fleet()
    run = await look(world, world.run("r", "b"))
    assert run.status.decision is not None
    assert (run.status.decision.strategy, run.status.decision.row) == ("CellRestart", "single-cell-low-intact")
    assert "single-cell-low-intact" in run.status.decision.message


async def test_a_failure_without_a_procedure_ends_with_what_to_do_by_hand() -> None:
    world = failing_fleet(error_rate=0.9)
    stated = {"type": "MultipleCell", "impact": "High", "dataIntegrity": "Intact"}
    run = await look(world, world.run("r", "b", failure=stated))
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "EmergencyScaling" in (run.status.summary or "")
    assert condition(run, "Failed").status == "True"
    assert world.effects() == []


async def test_a_healthy_target_is_skipped() -> None:
    world = failing_fleet()
    run = await look(world, world.run("r", "a", strategy="CellRestart"))
    assert run.phase is RunPhase.SKIPPED
    assert "startWhen: Always" in (run.status.summary or "")


async def test_a_healthy_target_is_restarted_if_the_run_says_so() -> None:
    world = failing_fleet()
    before = (START + timedelta(days=1)).isoformat()
    key = world.run("r", "a", strategy="CellRestart", startWhen="Always", startBefore=before)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert world.workloads["a"][0].restarts == 1


async def test_a_run_that_is_too_late_is_skipped() -> None:
    world = failing_fleet()
    key = world.run("r", "b", strategy="CellRestart", startBefore=START.isoformat())
    assert condition(await look(world, key), "Succeeded").reason == "TooLate"


async def test_a_run_that_could_not_start_for_a_day_is_skipped() -> None:
    world = failing_fleet()
    key = world.run("r", "nowhere", strategy="CellRestart")
    run = await look(world, key)
    assert run.phase is RunPhase.PENDING
    assert condition(run, "Stalled").reason == "TargetNotFound"
    assert "nowhere" in condition(run, "Stalled").message
    world.tick(1)
    world.clock.advance(25 * 3600)
    assert condition(await look(world, key), "Succeeded").reason == "Expired"


async def test_a_copy_of_a_run_that_was_started_is_not_executed() -> None:
    world = failing_fleet()
    key = world.run("r", "b", strategy="CellRestart")
    meta = world.runs[key].metadata.model_copy(update={"annotations": {ANNOTATION_STARTED_UID: "uid-of-another"}})
    world.runs[key] = world.runs[key].model_copy(update={"metadata": meta})
    assert condition(await look(world, key), "Succeeded").reason == "RecordLost"
    assert world.effects() == []


async def test_a_run_that_lost_its_record_is_not_executed_again() -> None:
    world = failing_fleet()
    key = world.run("r", "b", strategy="CellRestart")
    await play(world, key, until="restart-workloads")
    before = world.effects()
    lost = world.runs[key].model_copy(update={"status": type(world.runs[key].status)()})
    world.runs[key] = lost
    run = await look(world, key)
    assert run.phase is RunPhase.SKIPPED
    assert world.effects() == before


async def test_a_run_that_was_deleted_and_made_anew_is_not_executed_again() -> None:
    world = failing_fleet()
    key = world.run("r", "b", strategy="CellRestart")
    await play(world, key)
    restarts = world.workloads["b"][0].restarts
    world.traffic.cells["b"].error_rate = 0.1
    world.tick(60)
    del world.runs[key]
    world.run("r", "b", strategy="CellRestart")
    again = world.runs[key].model_copy(
        update={"metadata": world.runs[key].metadata.model_copy(update={"uid": "another-uid"})}
    )
    world.runs[key] = again
    run = await look(world, key)
    assert run.phase is RunPhase.SKIPPED
    assert world.workloads["b"][0].restarts == restarts


async def test_a_second_run_for_the_cell_waits_and_names_the_first() -> None:
    world = failing_fleet()
    first = world.run("first", "b", strategy="CellRestart")
    await play(world, first, until="drain-traffic")
    second = world.run("second", "b", strategy="CellRestart")
    run = await look(world, second)
    assert run.phase is RunPhase.PENDING
    assert condition(run, "Reconciling").reason == "TargetBusy"
    assert "first" in condition(run, "Reconciling").message


async def test_concurrency_holds_back_automatic_runs_and_not_a_persons() -> None:
    world = failing_fleet()
    world.traffic.cells["c"].error_rate = 0.1
    world.tick(30)
    await play(world, world.run("first", "b", strategy="CellRestart"), until="drain-traffic")
    automatic = await look(world, world.run("second", "c", strategy="CellRestart", trigger="Automatic"))
    assert condition(automatic, "Reconciling").reason == "ConcurrencyLimit"
    manual = await look(world, world.run("third", "c", strategy="CellRestart"))
    assert manual.status.started_at is not None


@pytest.mark.parametrize("scope", ["NewRuns", "AllRuns"])
async def test_a_freeze_keeps_a_run_from_starting(scope: str) -> None:
    world = failing_fleet()
    world.freezes.append(
        RecoveryFreeze.model_validate({"metadata": {"name": "sale"}, "spec": {"reason": "sale", "scope": scope}})
    )
    key = world.run("r", "b", strategy="CellRestart")
    run = await look(world, key)
    assert run.phase is RunPhase.PENDING
    assert condition(run, "Paused").reason == "Frozen"
    world.freezes.clear()
    assert (await look(world, key)).status.started_at is not None


async def test_paused_and_aborted_before_the_start() -> None:
    world = failing_fleet()
    key = world.run("r", "b", strategy="CellRestart", control={"paused": True})
    assert condition(await look(world, key), "Paused").status == "True"
    world.control(key, abort=True)
    assert (await look(world, key)).phase is RunPhase.ABORTED
    assert world.effects() == []


async def test_in_mode_approve_an_automatic_run_waits_for_a_person() -> None:
    world = failing_fleet(mode="Approve")
    key = world.run("r", "b", trigger="Automatic")
    run = await look(world, key)
    assert run.phase is RunPhase.AWAITING_APPROVAL
    awaiting = run.status.awaiting
    assert awaiting is not None
    assert awaiting.gate == "start"
    world.tick(30)
    assert (await look(world, key)).status.started_at is None
    world.control(key, approvals=[{"gate": "start", "decisionID": awaiting.decision_id}])
    assert (await look(world, key)).status.started_at is not None


async def test_an_approval_is_for_the_decision_that_was_shown() -> None:
    world = failing_fleet(mode="Approve")
    key = world.run("r", "b", trigger="Automatic")
    awaiting = (await look(world, key)).status.awaiting
    assert awaiting is not None
    world.traffic.cells["b"].error_rate = 0.9
    world.tick(30)
    world.control(key, approvals=[{"gate": "start", "decisionID": awaiting.decision_id}])
    run = await look(world, key)
    assert run.status.started_at is None
    assert world.effects() == []


BY_HAND = {"name": "by-hand", "strategy": "ManualIntervention"}
TO_BE_ISOLATED: Any = {"type": "SingleCell", "impact": "High", "dataIntegrity": "Corrupted"}


@pytest.mark.parametrize(
    ("kind", "corrupted_cell", "failure", "isolated"),
    [
        ("Cell", "Isolate", {}, True),
        ("Cell", "Isolate", {"type": "MultipleCell"}, True),
        ("Cell", "Isolate", {"type": "Systemic"}, False),
        ("Cell", "Isolate", {"dataIntegrity": "Unknown"}, False),
        ("Cell", "Isolate", {"dataIntegrity": "Intact"}, False),
        ("Cell", "Leave", {}, False),
        ("Router", "Isolate", {"type": "Router"}, False),
    ],
)
async def test_only_a_corrupted_cell_of_no_shared_cause_is_isolated_before_a_person_goes_on(
    kind: str, corrupted_cell: str, failure: dict[str, str], isolated: bool
) -> None:
    world = failing_fleet(rules=[BY_HAND], manualIntervention={"corruptedCell": corrupted_cell})
    always = {"startWhen": "Always", "startBefore": (START + timedelta(days=1)).isoformat()}
    target = "b" if kind == "Cell" else "shop"
    key = world.run("r", target, kind=kind, failure={**TO_BE_ISOLATED, **failure}, **always)
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, condition(run, "Failed").reason) == (
        RunPhase.MANUAL_INTERVENTION_REQUIRED,
        "ManualIntervention",
    )
    assert (run.status.started_at is not None) is isolated
    assert world.isolation.isolated == ({"b"} if isolated else set())
    assert bool(world.effects()) is isolated


FREEZE = {"metadata": {"name": "sale"}, "spec": {"reason": "sale", "scope": "NewRuns"}}


async def held_back_by(world: World, key: Key, what: str) -> None:
    """A person approves while something else keeps the run from starting."""
    if what == "Frozen":
        world.freezes.append(RecoveryFreeze.model_validate(FREEZE))
    elif what == "PausedByPerson":
        world.control(key, paused=True)
    else:
        await play(world, world.run("first", "b", strategy="CellRestart"), until="drain-traffic")
    approve(world, key)
    assert condition(await look(world, key), "Reconciling").reason == what


def let_go(world: World, key: Key) -> None:
    world.freezes.clear()
    if world.runs[key].spec.control is not None:
        world.control(key, paused=False)
    world.runs.pop((NAMESPACE, "first"), None)


def approve(world: World, key: Key, **other: str) -> None:
    awaiting = world.runs[key].status.awaiting
    assert awaiting is not None
    world.control(key, approvals=[{"gate": awaiting.gate, "decisionID": awaiting.decision_id, **other}])


HOLDS = ["Frozen", "PausedByPerson", "TargetBusy"]


@pytest.mark.parametrize("what", HOLDS)
async def test_an_approval_of_a_start_lapses_after_an_hour_in_which_the_run_was_held_back(what: str) -> None:
    world = failing_fleet(mode="Approve")
    key = world.run("r", "b", trigger="Automatic")
    first = (await look(world, key)).status.awaiting
    assert first is not None
    await held_back_by(world, key, what)
    world.clock.advance(3600)
    world.tick(60)
    let_go(world, key)
    run = await look(world, key)
    assert run.status.started_at is None
    second = run.status.awaiting
    assert second is not None
    assert second.decision_id != first.decision_id
    approve(world, key)
    assert (await look(world, key)).status.started_at is not None, "asked anew, and approved anew"


@pytest.mark.parametrize("what", HOLDS)
async def test_an_approval_that_has_not_lapsed_starts_the_run_once_nothing_holds_it_back(what: str) -> None:
    world, key = await asking_to_start()
    await held_back_by(world, key, what)
    world.clock.advance(3000)
    world.tick(60)
    let_go(world, key)
    assert (await look(world, key)).status.started_at is not None


async def test_the_right_decision_at_another_gate_approves_nothing() -> None:
    world, key = await asking_to_start()
    approve(world, key, gate="unknown-integrity")
    world.tick(10)
    run = await look(world, key)
    assert run.status.started_at is None
    assert run.phase is RunPhase.AWAITING_APPROVAL
    approve(world, key)
    assert (await look(world, key)).status.started_at is not None


async def test_a_run_that_waits_for_a_person_does_not_go_on_saying_what_held_it_back_before() -> None:
    world, key = await asking_to_start()
    world.freezes.append(RecoveryFreeze.model_validate(FREEZE))
    assert condition(await look(world, key), "Paused").status == "True"
    world.freezes.clear()
    run = await look(world, key)
    assert condition(run, "Paused").status == "False"
    assert condition(run, "Reconciling").reason == "AwaitingApproval"


async def test_a_run_that_waited_for_its_target_is_not_stalled_once_it_is_there() -> None:
    world = failing_fleet()
    key, cell = (NAMESPACE, "b"), world.cells.pop((NAMESPACE, "b"))
    run = world.run("r", "b", strategy="CellRestart")
    assert condition(await look(world, run), "Stalled").status == "True"
    world.cells[key] = cell
    started = await look(world, run)
    assert started.status.started_at is not None
    assert condition(started, "Stalled").status == "False"


async def test_a_person_may_start_a_run_in_mode_observe() -> None:
    world = failing_fleet(mode="Observe")
    assert (await look(world, world.run("r", "b", strategy="CellRestart"))).status.started_at is not None


async def test_waiting_writes_once() -> None:
    world = failing_fleet()
    key = world.run("r", "nowhere", strategy="CellRestart")
    for _ in range(5):
        await look(world, key)
        world.tick(5)
    assert len(world.writes) == 1


async def test_a_plan_of_another_version_is_left_alone_and_said() -> None:
    world = failing_fleet()
    key = world.run("r", "b", strategy="CellRestart")
    await play(world, key, until="drain-traffic")
    before = world.effects()
    run = world.runs[key]
    assert run.status.plan is not None
    plan = run.status.plan.model_copy(update={"version": 99})
    world.runs[key] = run.model_copy(update={"status": run.status.model_copy(update={"plan": plan})})
    for _ in range(5):
        await look(world, key)
        world.tick(10)
    assert condition(world.runs[key], "Stalled").reason == "UnknownProcedure"
    assert world.effects() == before


async def test_numbers_of_the_policy_are_frozen_at_the_start() -> None:
    world = failing_fleet()
    key = world.run("r", "b", strategy="CellRestart")
    await play(world, key, until="drain-traffic")
    policy = world.policies[NAMESPACE, "default"]
    steps = policy.spec.steps.model_copy(update={"stability_duration": "1s", "increment_interval": "1s"})
    world.policies[NAMESPACE, "default"] = policy.model_copy(
        update={"spec": policy.spec.model_copy(update={"steps": steps})}
    )
    began = world.clock.monotonic()
    await play(world, key)
    assert world.clock.monotonic() - began > 900 + 300


async def test_a_third_escalation_is_a_persons() -> None:
    world = failing_fleet()
    names = ["r", "r-next", "r-next-next", "r-next-next-next"]
    for parent, child in itertools.pairwise(names):
        world.run(child, "b", strategy="CellRestart", trigger="Child", escalatedFrom=parent)
    world.run("r", "b", strategy="CellRestart")
    run = await look(world, (NAMESPACE, names[-1]))
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert condition(run, "Failed").reason == "EscalatedTooOften"


async def test_what_a_killed_run_made_is_not_executed_once_that_run_went_on_by_itself() -> None:
    world = failing_fleet()
    world.template("small")
    parent = world.run("r", "b", strategy="TrafficDrainAndReplace")
    await play(world, parent, until="provision-replacement")
    world.integrities["b"] = False
    while (NAMESPACE, "r-next") not in world.runs:
        world.crash_after = 1  # right after the child was made, and before that is recorded
        with contextlib.suppress(Crash):
            await Engine(world.ports(), PROCEDURES).advance(parent)
        world.tick(1)
    assert not world.runs[parent].phase.ended
    world.crash_after = None
    world.integrities["b"] = True
    await play(world, parent)
    assert world.runs[parent].phase is RunPhase.SUCCEEDED, world.runs[parent].status.to_dict()
    before = world.effects()
    child = await look(world, (NAMESPACE, "r-next"))
    assert child.phase is RunPhase.SKIPPED, child.status.to_dict()
    assert world.effects() == before


async def test_a_name_that_somebody_else_took_ends_the_escalation_and_says_so() -> None:
    world = failing_fleet()
    world.template("small")
    parent = world.run("r", "b", strategy="TrafficDrainAndReplace")
    world.run("r-next", "a", strategy="CellRestart")
    await play(world, parent, until="provision-replacement")
    world.integrities["b"] = False
    await play(world, parent)
    run = world.runs[parent]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "r-next" in (run.status.summary or "")


async def test_a_run_of_an_unknown_procedure_can_be_aborted_and_says_that_nothing_was_undone() -> None:
    world = failing_fleet()
    key = world.run("r", "b", strategy="CellRestart")
    await play(world, key, until="drain-traffic")
    run = world.runs[key]
    assert run.status.plan is not None
    plan = run.status.plan.model_copy(update={"version": 99})
    world.runs[key] = run.model_copy(update={"status": run.status.model_copy(update={"plan": plan})})
    world.control(key, abort=True)
    run = await look(world, key)
    assert run.phase is RunPhase.ABORTED
    assert "recell return b" in (run.status.summary or "")
    assert run.metadata.finalizers == []
