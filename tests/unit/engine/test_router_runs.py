"""Runs whose target is a Router: admission, claim, pause, freeze, approval, abort, deadline, crash."""

from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest

from recell.api import RecoveryFreeze, RecoveryRun
from recell.api.failure import Strategy
from recell.api.meta import ANNOTATION_RUN_HISTORY
from recell.api.recovery_run import RunPhase
from recell.engine.engine import Engine
from recell.engine.errors import Conflict, Retryable
from recell.engine.outcome import Done, Fail, Outcome, Wait
from recell.engine.ports import Key
from recell.engine.procedure import Procedure, Step, StepContext
from tests.fakes.world import NAMESPACE, START, Crash, World


async def note(ctx: StepContext) -> Outcome:
    """An effect that can be counted, and that may be repeated: the Placement's epoch stays what it is."""
    if ctx.elapsed("noted") < 3:
        return Wait(1.0, "noting")
    return Done(f"Router {ctx.router.metadata.name} noted")


async def needs_a_cell(ctx: StepContext) -> Outcome:
    return Done(ctx.cell.metadata.name)


async def give_up(ctx: StepContext) -> Outcome:
    return Fail("Hopeless", "nothing helps")


def procedure(act: Any = note, within: float = 60.0) -> Procedure:
    step = Step("note", RunPhase.RESTORING, "Note it", act, lambda _: within, rehearse=lambda ctx: "Would note it")
    look = Step(
        "look", RunPhase.DRAINING, "Look", note, lambda _: 60.0, rehearse=lambda ctx: "Would look", effects=False
    )
    undo = Step("undo", RunPhase.ABORTING, "Undo it", note, lambda _: 60.0, rehearse=lambda ctx: "Would undo it")
    return Procedure(Strategy.ACTIVATE_FALLBACK_ROUTING, 1, (look, step), (undo,))


def failing(mode: str = "Automatic", **policy: Any) -> World:
    world = World()
    # A cell that is called as the Router is.
    world.fleet("a", "b", "shop", router={"fallback": {}}, policy={"mode": mode, **policy})
    world.traffic.rps = 300
    world.tick(60)
    world.router_side.fail(gone=2)
    world.tick(15)
    return world


def engine(world: World, act: Any = note, within: float = 60.0) -> Engine:
    made = procedure(act, within)
    return Engine(world.ports(), {made.name: made})


async def play(world: World, key: Key, act: Any = note, within: float = 60.0, limit: int = 400) -> RecoveryRun:
    working = engine(world, act, within)
    for _ in range(limit):
        if world.runs[key].phase.ended:
            break
        try:
            again = await working.advance(key)
        except (Conflict, Retryable):
            again = 0.1
        except Crash:
            working, again = engine(world, act, within), 15.0
            world.epoch += 1
        world.tick(again if again is not None else 1.0)
    return world.runs[key]


def router_run(world: World, name: str = "r", **spec: Any) -> Key:
    return world.run(name, "shop", kind="Router", **spec)


def reason(run: RecoveryRun, type: str) -> str:
    return next((c.reason for c in run.status.conditions if c.type == type), "")


async def test_the_matrix_decides_on_the_routers_own_failure_and_the_run_ends_well() -> None:
    world = failing()
    run = await play(world, router_run(world))
    assert run.phase is RunPhase.SUCCEEDED, run.status.summary
    assert run.status.decision is not None
    assert (run.status.decision.strategy, run.status.decision.row) == ("ActivateFallbackRouting", "router-high")
    assert run.status.decision.inputs is not None
    assert (run.status.decision.inputs.type, run.status.decision.inputs.impact) == ("Router", "Critical")
    assert (run.status.summary or "").startswith("Router shop was recovered")


@pytest.mark.parametrize("strategy", ["CellRestart", "EmergencyScaling"])
async def test_a_rule_that_answers_everything_leaves_the_router_to_a_person(strategy: str) -> None:
    """What is for cells can do nothing for a Router, and a procedure whose steps need a Cell would go on failing."""
    rules = [{"name": "everything", "strategy": strategy}]
    world = failing(rules=rules, builtinRules="None")
    run = await play(world, router_run(world, trigger="Automatic"))
    assert (run.phase, reason(run, "Failed")) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "ManualIntervention")
    assert f"everything says {strategy}, which is for cells" in (run.status.summary or "")
    assert run.status.steps == []


async def test_the_router_remembers_its_runs_and_a_copy_is_skipped() -> None:
    world = failing()
    key = router_run(world)
    await play(world, key)
    assert "r/" in world.routers[NAMESPACE, "shop"].metadata.annotations[ANNOTATION_RUN_HISTORY]
    assert ANNOTATION_RUN_HISTORY not in world.cells[NAMESPACE, "shop"].metadata.annotations
    again = router_run(world)
    copy = world.runs[again]
    meta = copy.metadata.model_copy(update={"uid": "another"})
    world.runs[again] = copy.model_copy(update={"metadata": meta})
    run = await play(world, again)
    assert (run.phase, reason(run, "Succeeded")) == (RunPhase.SKIPPED, "Replayed")


async def test_one_run_at_a_time_works_on_a_router_and_waits_for_no_cell() -> None:
    world = failing()
    cells = world.run("cell-run", "shop", strategy="CellRestart")
    started = world.runs[cells].status.model_copy(update={"started_at": world.clock.now(), "phase": RunPhase.DRAINING})
    world.runs[cells] = world.runs[cells].model_copy(update={"status": started})
    first, second = router_run(world, "r1"), router_run(world, "r2")
    working = engine(world)
    await working.advance(first)
    await working.advance(second)
    assert world.runs[first].status.started_at is not None
    assert reason(world.runs[second], "Reconciling") == "TargetBusy"
    assert "r1" in next(c.message for c in world.runs[second].status.conditions if c.type == "Reconciling")


async def test_a_run_of_a_router_takes_no_place_of_a_cells_run() -> None:
    world = failing()
    await engine(world).advance(router_run(world))
    world.traffic.cells["b"].down = True
    world.tick(30)
    key = world.run("cell-run", "b", strategy="CellRestart", trigger="Automatic")
    await engine(world).advance(key)
    assert reason(world.runs[key], "Reconciling") != "ConcurrencyLimit"


async def test_a_router_that_is_well_or_not_there() -> None:
    world = World()
    world.fleet("a", "b")
    world.tick(60)
    run = await play(world, router_run(world))
    assert (run.phase, reason(run, "Succeeded")) == (RunPhase.SKIPPED, "TargetHealthy")
    nowhere = world.run("r2", "nowhere", kind="Router")
    await engine(world).advance(nowhere)
    assert reason(world.runs[nowhere], "Stalled") == "TargetNotFound"
    assert "Router nowhere" in (world.runs[nowhere].status.conditions[0].message)


async def test_a_healthy_router_is_worked_on_if_the_run_says_so() -> None:
    world = World()
    world.fleet("a", "b")
    world.tick(60)
    before = (START + timedelta(days=1)).isoformat()
    strategy = "ActivateFallbackRouting"
    run = await play(world, router_run(world, strategy=strategy, startWhen="Always", startBefore=before))
    assert run.phase is RunPhase.SUCCEEDED


async def test_it_asks_where_the_policy_says_so() -> None:
    world = failing(mode="Approve")
    key = router_run(world, trigger="Automatic")
    await engine(world).advance(key)
    awaiting = world.runs[key].status.awaiting
    assert awaiting is not None
    assert awaiting.gate == "start"
    world.control(key, approvals=[{"gate": "start", "decisionID": awaiting.decision_id}])
    assert (await play(world, key)).phase is RunPhase.SUCCEEDED


async def test_freeze_and_pause_stop_it_and_undo_nothing() -> None:
    world = failing()
    key = router_run(world)
    await engine(world).advance(key)
    freeze = {"metadata": {"name": "stop", "namespace": NAMESPACE}, "spec": {"scope": "AllRuns", "reason": "audit"}}
    world.freezes.append(RecoveryFreeze.model_validate(freeze))
    await engine(world).advance(key)
    assert reason(world.runs[key], "Paused") == "Frozen"
    world.freezes.clear()
    world.control(key, paused=True)
    await engine(world).advance(key)
    assert reason(world.runs[key], "Paused") == "PausedByPerson"
    world.control(key, paused=False)
    assert (await play(world, key)).phase is RunPhase.SUCCEEDED


async def test_an_abort_runs_the_way_back() -> None:
    world = failing()
    key = router_run(world)
    await engine(world).advance(key)
    world.control(key, abort=True)
    run = await play(world, key)
    assert run.phase is RunPhase.ABORTED
    assert [s.name for s in run.status.steps if s.state == "Done"] == ["undo"]


async def test_a_step_that_fails_says_where_the_customers_are() -> None:
    world = failing()
    run = await play(world, router_run(world), act=give_up)
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "Customers go through Router shop itself" in (run.status.summary or "")


async def test_a_step_that_takes_too_long_fails() -> None:
    world = failing()
    run = await play(world, router_run(world), within=1.0)
    assert (run.phase, reason(run, "Failed")) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "DeadlineExceeded")


async def test_a_step_for_cells_says_so() -> None:
    world = failing()
    key = router_run(world)
    working = engine(world, needs_a_cell)
    for _ in range(8):
        world.tick(await working.advance(key) or 1.0)
    assert "needs a Cell" in next(s.message for s in world.runs[key].status.steps if s.name == "note")


async def test_a_router_that_is_deleted_ends_its_run() -> None:
    world = failing()
    key = router_run(world)
    await engine(world).advance(key)
    del world.routers[NAMESPACE, "shop"]
    await engine(world).advance(key)
    assert reason(world.runs[key], "Failed") == "TargetGone"
    assert world.runs[key].status.summary == "Router shop was deleted"


async def test_killed_after_every_single_write_it_ends_the_same() -> None:
    before = failing()
    whole = deepcopy(before)
    await play(whole, router_run(whole))
    assert len(whole.writes) > 3
    for position in range(1, len(whole.writes) + 1):
        world = deepcopy(before)
        world.crash_after = position
        run = await play(world, router_run(world))
        assert run.phase is RunPhase.SUCCEEDED, str(whole.writes[position - 1])
        assert world.effects() == whole.effects()


async def test_without_a_procedure_it_says_what_to_do_by_hand() -> None:
    world = failing()
    key = router_run(world)
    await Engine(world.ports(), {}).advance(key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "recell return" not in (run.status.summary or "")
