"""CascadeRecovery in virtual time: several cells of one router fail while the others bear more than their own."""

from datetime import timedelta
from typing import Any

import pytest

from recell.api import RecoveryFreeze, RecoveryRun, Router
from recell.api.placement import REJECT, decode_table
from recell.api.recovery_run import RunPhase, StepState
from recell.domain import placement
from recell.engine.errors import Retryable
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures.fleet_play import cascade, change, fail, play, play_until_written, storm
from tests.unit.procedures.play import play_fenced, take_over

SMALL: dict[str, Any] = {
    "cascade": {"stabilityBetween": "10s", "liftIncrements": 2, "maxEmergencyCells": 1},
    "steps": {"incrementInterval": "2s", "drainIncrements": 1, "stabilityDuration": "10s"},
    "validation": {"duration": "15s"},
}
"""Numbers that leave little to play."""


def run_of(world: World, name: str = "storm") -> RecoveryRun:
    return world.runs[NAMESPACE, name]


def step(world: World, name: str) -> Any:
    return next(s for s in run_of(world).status.steps if s.name == name)


def children(world: World) -> list[RecoveryRun]:
    return [run for run in world.runs.values() if run.spec.escalated_from == "storm"]


def spec_of(world: World) -> placement.PlacementSpec:
    return world.placements[NAMESPACE, "shop"].spec


def first(effects: list[str], part: str) -> int:
    return next(at for at, effect in enumerate(effects) if part in effect)


async def test_the_whole_course() -> None:
    """420 requests/s for six cells of which each bears 80: two fail, and the other four cannot bear it all."""
    world = storm("cell-a", "cell-b", rps=420)
    change(world, "cell-b", priority=200)
    cascade(world)
    log = await play(world)
    run = run_of(world)
    assert run.phase is RunPhase.SUCCEEDED
    assert (
        run.status.summary
        == "2 of 2 cells of Router shop were recovered in " + str(run.status.summary).split(" in ")[1]
    )
    result = run.status.result
    assert result is not None
    assert result.cascade is not None
    assert (result.cascade.total, result.cascade.recovered, result.cascade.quarantined_slots) == (2, 2, 0)
    assert len(result.emergency_cells) == 4
    assert [s.name for s in run.status.steps if s.state is StepState.DONE] == [
        "assess-damage", "shed-load", "provision-emergency-capacity", "open-circuit-breakers", "recover-cells",
        "lift-load-shedding", "validate-fleet",
    ]  # fmt: skip
    assert "recovered in this order: cell-b and cell-a" in step(world, "assess-damage").message
    effects = world.effects()
    assert effects[0] == "placement cell-b 0 %, cell-a 0 %, 4 reservations, shed bulk 71 %", (
        "one change, nothing before"
    )
    order = [entry.split()[0].split("-cell-")[1][0] for entry in log if entry.startswith("storm-cell-")]
    assert order == sorted(order, reverse=True), "the more important cell first, one after the other"
    assert first(effects, "provision cell-b-") < first(effects, "circuit cell-b") < first(effects, "create storm-")
    shed = [int(part.split()[-2]) for effect in effects for part in effect.split(", ") if part.startswith("shed bulk")]
    assert shed == sorted(shed, reverse=True), "eased by and by once there are emergency cells"
    assert not any("shed checkout" in effect or "shed default" in effect for effect in effects)
    spec = spec_of(world)
    assert (spec.shedding, spec.open_circuits, spec.reservations) == ([], [], [])
    assert {h.state.value for h in spec.holds} == {"Retired"}
    assert placement.served_share(spec) == 1.0


async def test_a_cell_that_is_well_again_gets_its_customers_back_without_a_run() -> None:
    world = storm("cell-a", "cell-b", rps=120, policy=SMALL)
    cascade(world)

    def heal(world: World) -> None:
        if run_of(world).status.step == "provision-emergency-capacity":
            world.traffic.cells["cell-a"].down = False

    await play(world, then=heal)
    assert run_of(world).phase is RunPhase.SUCCEEDED
    assert [run.spec.target_ref.name for run in children(world)] == ["cell-b"]
    assert placement.limit(spec_of(world), "cell-a") == 100


async def test_a_third_cell_that_fails_meanwhile_is_taken_in() -> None:
    numbers = {**SMALL["cascade"], "poisonWindow": "1s"}
    world = storm("cell-a", "cell-b", cells=8, rps=240, policy={**SMALL, "cascade": numbers})
    change(world, "cell-h", priority=900)
    cascade(world)
    begun = []

    def spread(world: World) -> None:
        if not begun and children(world):
            begun.append(True)
            world.traffic.cells["cell-h"].down = True

    await play(world, then=spread)
    result = run_of(world).status.result
    assert result is not None
    assert result.cascade is not None
    assert (result.cascade.total, result.cascade.recovered) == (3, 3)
    assert result.cascade.quarantined_slots > 0, "what it had taken over is not reassigned once more"
    assert [run.spec.target_ref.name for run in children(world)] == ["cell-a", "cell-h", "cell-b"], (
        "who has begun ends first, then by priority"
    )
    drained = first(world.effects(), "cell-h 0 %")
    assert drained < first(world.effects(), f"create {children(world)[1].metadata.name}")


def what_remains_of_two(world: World) -> str:
    """One of the two cells was recovered; what is said of the other."""
    run = run_of(world)
    assert run.phase is RunPhase.PARTIALLY_SUCCEEDED
    assert str(run.status.summary).startswith("1 of 2 cells of Router shop were recovered")
    assert run.status.result is not None
    (remains,) = run.status.result.remains
    return remains


async def test_a_child_that_fails_does_not_stop_the_rest() -> None:
    world = storm("cell-a", "cell-b", rps=120, policy=SMALL)
    world.integrities["cell-a"] = None
    cascade(world)
    await play(world)
    remains = what_remains_of_two(world)
    assert remains.startswith("Recover Cell cell-a: storm-cell-a-")
    assert [h.cell for h in spec_of(world).holds if h.max_percent == 0 and h.state == "Draining"] == ["cell-a"], (
        "a cell that is not well gets no traffic by this"
    )
    assert spec_of(world).shedding == []


async def test_a_child_that_isolates_its_cell_and_leaves_it_to_a_person_does_not_stop_the_rest() -> None:
    by_hand = {"name": "by-hand", "dataIntegrity": "Corrupted", "strategy": "ManualIntervention"}
    permitted = {"rules": [by_hand], "manualIntervention": {"corruptedCell": "Isolate"}}
    world = storm("cell-a", "cell-b", rps=120, policy={**SMALL, **permitted})
    world.integrities["cell-a"] = False
    cascade(world)
    await play(world)
    remains = what_remains_of_two(world)
    assert "ended as ManualInterventionRequired: Cell cell-a gets no traffic and no connections" in remains
    assert world.isolation.isolated == {"cell-a"}
    assert [h.cell for h in spec_of(world).holds if h.state == "Isolated"] == ["cell-a"]
    assert placement.share(spec_of(world), "cell-a") == 0
    assert (spec_of(world).shedding, spec_of(world).open_circuits) == ([], [])


async def test_a_child_that_waits_for_a_person_does_not_keep_the_others_waiting() -> None:
    policy = {**SMALL, "rules": [{"name": "restart", "failure": "SingleCell", "strategy": "CellRestart"}]}
    world = storm("cell-a", "cell-b", rps=120, policy=policy)
    world.integrities["cell-a"] = None
    cascade(world)
    ended = "storm-cell-b"
    await play(world, until=lambda w: any(r.phase.ended for r in children(w) if r.metadata.name.startswith(ended)))
    waiting = next(run for run in children(world) if run.spec.target_ref.name == "cell-a")
    assert waiting.phase is RunPhase.AWAITING_APPROVAL


async def test_all_cells_down_at_once_moves_makes_and_restarts_nothing_and_tells_people() -> None:
    world = storm(*(f"cell-{letter}" for letter in "abcdef"))
    key = cascade(world)
    await play(world, until=lambda w: w.clock.monotonic() > 1500)
    run = world.runs[key]
    assert run.phase is RunPhase.AWAITING_APPROVAL
    assert run.status.awaiting is not None
    assert run.status.awaiting.gate == "systemic"
    assert "6 of 6 cells failed at once" in run.status.awaiting.message
    assert any("AwaitingApproval" in said and "likely shared" in said for said in world.announced)
    assert world.effects() == []


async def test_a_process_that_takes_over_asks_on_before_it_knows_the_cells_anew() -> None:
    world = storm(*(f"cell-{letter}" for letter in "abcdef"))
    key = cascade(world)
    await play(world, until=lambda w: w.runs[key].phase is RunPhase.AWAITING_APPROVAL)
    world.health_states.clear()
    world.epoch += 1
    world.look()
    at = world.clock.monotonic()
    await play(world, until=lambda w: w.clock.monotonic() > at + 120)
    assert world.runs[key].phase is RunPhase.AWAITING_APPROVAL, world.runs[key].status.to_dict()


async def test_a_cascade_that_starts_by_itself_on_a_shared_cause_waits_for_approval() -> None:
    world = storm("cell-a", "cell-b", policy={"mode": "Automatic"})
    world.broken = ["database"]
    world.tick(1)
    stated = {"type": "Systemic", "impact": "High", "dataIntegrity": "Intact"}
    key = cascade(world, trigger="Automatic", failure=stated)
    await play(world, until=lambda w: w.clock.monotonic() > 1300)
    run = world.runs[key]
    assert (run.phase, run.status.started_at) == (RunPhase.AWAITING_APPROVAL, None)
    assert any("CRITICAL" in said for said in world.announced)
    assert world.effects() == []
    assert run.status.awaiting is not None
    world.control(key, approvals=[{"gate": "start", "decisionID": run.status.awaiting.decision_id}])
    await play(world, until=lambda w: bool(children(w)))
    assert run_of(world).phase is RunPhase.RESTORING, "who starts it knows; it is not asked twice"


@pytest.mark.parametrize(("trigger", "others_recover"), [("Automatic", False), ("Automatic", True), ("Manual", False)])
async def test_a_run_that_started_for_the_first_cell_stops_while_a_shared_cause_is_asked_about(
    trigger: str, others_recover: bool
) -> None:
    """All cells fail, one of them a moment before the others (rule 10). A person's own run goes on."""
    world = storm("cell-a", rps=120, policy={**SMALL, "mode": "Automatic"})
    single = world.run("single", "cell-a", trigger=trigger)
    await play(world, until=lambda w: w.runs[single].status.step == "provision-replacement")
    fail(world, *(f"cell-{letter}" for letter in "bcdef"))
    stated = {"type": "Systemic", "impact": "Critical", "dataIntegrity": "Intact"}
    key = cascade(world, trigger="Automatic", failure=stated)
    await play(world, until=lambda w: w.runs[key].phase is RunPhase.AWAITING_APPROVAL)
    before, at = len(world.effects()), world.clock.monotonic()
    await play(world, until=lambda w: w.clock.monotonic() > at + 300)
    paused = [c for c in world.runs[single].status.conditions if c.type == "Paused" and c.status == "True"]
    if trigger == "Manual":
        assert not any(c.reason == "SharedCause" for c in paused)
        return
    assert [c.reason for c in paused] == ["SharedCause"]
    assert "storm asks whether all cells share a cause" in paused[0].message
    assert world.effects()[before:] == []
    if others_recover:
        for letter in "bcdef":
            world.traffic.cells[f"cell-{letter}"].down = False
        await play(world, until=lambda w: w.runs[single].phase.ended)
        assert world.runs[single].phase is RunPhase.SUCCEEDED, "nobody needs to answer what is over"
        return
    asked = world.runs[key].status.awaiting
    assert asked is not None
    world.control(key, approvals=[{"gate": "start", "decisionID": asked.decision_id}])
    await play(world, until=lambda w: w.runs[single].phase is RunPhase.SUPERSEDED)


async def test_when_it_becomes_systemic_meanwhile_nothing_more_is_done_and_shedding_stays() -> None:
    world = storm("cell-a", "cell-b", rps=420, policy={**SMALL, "cascade": {"maxEmergencyCells": 0, "expires": "2m"}})
    key = cascade(world)
    await play(world, until=lambda w: bool(children(w)))
    fail(world, "cell-c", "cell-d", "cell-e")
    before = len(children(world))
    await play(world, until=lambda w: w.runs[key].phase is RunPhase.AWAITING_APPROVAL)
    at = world.clock.monotonic()
    await play(world, until=lambda w: w.clock.monotonic() > at + 600)
    assert len(children(world)) == before
    assert not any("cell-c 0 %" in effect for effect in world.effects())
    assert all(item.expires_at > world.clock.now() for item in spec_of(world).shedding), "renewed while people think"
    assert spec_of(world).shedding


async def test_a_fresh_cell_that_fails_the_same_check_says_that_the_cause_is_shared() -> None:
    world = storm("cell-a", "cell-b", rps=120, policy=SMALL)
    key = cascade(world)

    def sick(world: World) -> None:
        for name in world.provisioner.made:
            world.traffic.cells[name].down = True

    await play(world, then=sick, until=lambda w: w.runs[key].phase is RunPhase.AWAITING_APPROVAL)
    assert world.runs[key].status.awaiting is not None
    assert "fails the same check" in world.runs[key].status.awaiting.message  # type: ignore[union-attr]
    assert children(world) == []


def keep_data_in_cells(world: World) -> None:
    router = {
        "customerData": "InCell",
        "haproxy": {"customerKey": {"type": "Header", "name": "x"}, "initialCells": ["cell-a"]},
    }
    shop = world.routers[NAMESPACE, "shop"]
    changed = {**shop.spec.to_dict(), **router}
    world.routers[NAMESPACE, "shop"] = type(shop).model_validate({"metadata": shop.metadata, "spec": changed})


async def test_with_data_in_the_cells_nobody_is_moved_and_no_emergency_cell_is_made() -> None:
    world = storm("cell-a", "cell-b", rps=120, policy=SMALL)
    keep_data_in_cells(world)
    cascade(world)
    await play(world, until=lambda w: bool(children(w)))
    assert "data is in their cells" in step(world, "provision-emergency-capacity").message
    assert not any(effect.startswith("provision") for effect in world.effects())
    assert [item.cell for item in spec_of(world).open_circuits] == ["cell-a", "cell-b"]


async def test_drains_that_turn_away_more_than_the_faults_are_not_made_and_both_numbers_are_said() -> None:
    """Rule 14, of each failed cell: seven of ten requests are still answered there, and nobody else could."""
    world = storm(rps=120, policy=SMALL)
    keep_data_in_cells(world)
    world.traffic.cells["cell-a"].error_rate = world.traffic.cells["cell-b"].error_rate = 0.3
    world.tick(30)
    cascade(world)
    await play(world, until=lambda w: bool(children(w)))
    told = step(world, "shed-load").message
    for name in ("cell-a", "cell-b"):
        assert f"draining {name} to 0 % costs 16.7 % of the customers, its fault costs 5 % now" in told
    assert spec_of(world).holds == []
    assert spec_of(world).open_circuits == [], "nine of ten requests turned away are no better"


async def test_without_capacities_nothing_is_shed_and_the_customers_move() -> None:
    world = storm("cell-a", "cell-b", rps=420, capacity=None, policy=SMALL)
    cascade(world)
    await play(world, until=lambda w: bool(children(w)))
    assert "spec.capacity.requestsPerSecond" in step(world, "shed-load").message
    assert "cell-a 0 %" in world.effects()[0]
    assert not any("shed " in effect for effect in world.effects())


READY = {"type": "SheddingReady", "lastTransitionTime": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("condition", "sheds", "said"),
    [
        ({**READY, "status": "True", "reason": "Ready"}, True, ""),
        (
            {**READY, "status": "False", "reason": "NoFigures", "message": "without spec.gateway.metrics nobody knows"},
            False,
            "nothing can be shed: without spec.gateway.metrics nobody knows",
        ),
        (None, False, "nothing can be shed: the Router's condition SheddingReady is not known yet"),
    ],
)
async def test_behind_a_gateway_it_sheds_once_that_can_be_done_and_else_says_why_not(
    condition: dict[str, str] | None, sheds: bool, said: str
) -> None:
    world = storm("cell-a", "cell-b", rps=420, policy=SMALL)
    shop = world.routers[NAMESPACE, "shop"]
    spec = {**shop.spec.to_dict(), "type": "Gateway", "gateway": {"parentRefs": [{"name": "public"}]}}
    del spec["haproxy"]
    status = {"conditions": [condition]} if condition is not None else {}
    world.routers[NAMESPACE, "shop"] = Router.model_validate(
        {"metadata": shop.metadata, "spec": spec, "status": status}
    )
    cascade(world)
    await play(world, until=lambda w: bool(children(w)))
    assert any("shed " in effect for effect in world.effects()) is sheds
    assert any("circuit " in effect for effect in world.effects()) is sheds
    message = step(world, "shed-load").message
    assert said in message
    assert ("nothing can be shed" in message) is not sheds


async def test_emergency_cells_go_when_the_policy_says_so() -> None:
    cascade_numbers = {**SMALL["cascade"], "emergencyCellsAfter": "Retire"}
    world = storm("cell-a", "cell-b", rps=240, policy={**SMALL, "cascade": cascade_numbers})
    cascade(world)
    await play(world)
    run = run_of(world)
    assert run.phase is RunPhase.SUCCEEDED
    assert run.status.result is not None
    (made,) = run.status.result.emergency_cells
    assert (NAMESPACE, made) not in world.cells
    assert placement.index_of(spec_of(world), made) == -1
    assert placement.served_share(spec_of(world)) == 1.0


async def test_without_emergency_cells_the_children_make_none_either() -> None:
    """What the others cannot bear stays at the failed cells and is turned away until their replacements serve."""
    numbers = {**SMALL["cascade"], "maxEmergencyCells": 0}
    world = storm("cell-a", "cell-b", cells=4, rps=300, policy={**SMALL, "cascade": numbers})
    world.traffic.classes = {"checkout": 0.95, "bulk": 0.05}
    world.tick(20)
    for name in ("cell-a", "cell-b"):
        world.workloads[name][0].heals = False
    cascade(world)
    await play(world)
    assert run_of(world).phase is RunPhase.SUCCEEDED, run_of(world).status
    told = []
    for child in children(world):
        assert child.status.decision is not None
        assert child.status.decision.strategy == "TrafficDrainAndReplace"
        told.append(next(step.message for step in child.status.steps if step.name == "check-capacity"))
        assert child.status.result is not None
        assert child.status.result.emergency_cells == []
    assert "storm turns away what is too much, and sees to capacity" in told[0]
    made = {name for _, name in world.cells if name.count("-") == 2}
    assert made == {child.status.result.replacement for child in children(world) if child.status.result}


async def test_a_receiver_that_fails_soon_is_not_drained_and_what_it_took_over_goes_to_nobody() -> None:
    world = storm("cell-a", "cell-b", cells=8, rps=240, policy={**SMALL, "cascade": {"maxEmergencyCells": 0}})
    cascade(world)
    await play(world, until=lambda w: bool(children(w)))
    spec = spec_of(world)
    homes, serving = decode_table(spec.homes), decode_table(spec.serving)
    index = placement.index_of(spec, "cell-c")
    taken = {slot for slot in range(1024) if serving[slot] == index and homes[slot] != index}
    assert taken
    world.traffic.cells["cell-c"].down = True
    await play(world, until=lambda w: bool(spec_of(w).quarantine))
    spec = spec_of(world)
    assert placement.quarantined(spec) == taken
    assert all(decode_table(spec.serving)[slot] == REJECT for slot in taken)
    assert placement.limit(spec, "cell-c") == 100
    await play(world)
    result = run_of(world).status.result
    assert result is not None
    assert result.cascade is not None
    assert result.cascade.quarantined_slots == len(taken)
    assert any("served by nobody" in remains for remains in result.remains)
    assert placement.quarantined(spec_of(world)) == taken, "a person gives them back"


# --- runs in flight ----------------------------------------------------------------------------------


async def test_a_single_run_makes_way_and_what_it_held_is_taken_over() -> None:
    world = storm("cell-a", rps=120, policy=SMALL)
    single = world.run("single", "cell-a")
    await play(world, until=lambda w: w.runs[single].status.step == "provision-replacement")
    fail(world, "cell-b")
    cascade(world)
    log = await play(world)
    order = [entry.split()[0].split("-cell-")[1][0] for entry in log if entry.startswith("storm-cell-")]
    assert order == sorted(order), "making way takes seconds, for which the order is kept"
    assert world.runs[single].phase is RunPhase.SUPERSEDED
    assert world.runs[single].status.superseded_by == "storm"
    assert run_of(world).phase is RunPhase.SUCCEEDED
    assert sum(effect.startswith("retire cell-a ") for effect in world.effects()) == 1
    made = [cell for (_, cell) in world.cells if cell.startswith("cell-a-")]
    idle = placement.idle({name: world.cells[NAMESPACE, name] for name in made}, spec_of(world))
    assert not idle, "what the single run had made is gone"


async def test_the_next_cell_waits_a_minute_for_a_run_that_makes_way_and_not_longer() -> None:
    world = storm("cell-a", rps=120, policy=SMALL)
    single = world.run("single", "cell-a")
    await play(world, until=lambda w: w.runs[single].status.step == "provision-replacement")
    fail(world, "cell-b")
    world.provisioner.keeps = Retryable("the webhook does not answer")
    cascade(world)
    await play(world, until=lambda w: bool(children(w)))
    assert [run.spec.target_ref.name for run in children(world)] == ["cell-b"]
    began = step(world, "recover-cells").started_at
    assert began is not None
    assert world.clock.now() - began >= timedelta(seconds=60)
    world.provisioner.keeps = None
    await play(world)
    assert run_of(world).phase is RunPhase.SUCCEEDED
    assert {run.spec.target_ref.name for run in children(world)} == {"cell-a", "cell-b"}


async def test_from_the_moving_of_customers_on_a_single_run_finishes_first() -> None:
    world = storm("cell-a", rps=120, policy=SMALL)
    single = world.run("single", "cell-a")
    await play(world, until=lambda w: w.runs[single].status.step in ("route-replacement", "validate-replacement"))
    fail(world, "cell-b", seconds=12)
    cascade(world)
    await play(world)
    assert world.runs[single].phase is RunPhase.SUCCEEDED
    assert [run.spec.target_ref.name for run in children(world)] == ["cell-b"]
    assert run_of(world).phase is RunPhase.SUCCEEDED


# --- abort -------------------------------------------------------------------------------------------

STEPS = (
    "shed-load", "provision-emergency-capacity", "open-circuit-breakers", "recover-cells", "lift-load-shedding",
    "validate-fleet",
)  # fmt: skip


@pytest.mark.parametrize("where", STEPS)
async def test_abort_in_every_step_ends_the_children_and_keeps_shedding_while_it_is_needed(where: str) -> None:
    policy = {**SMALL, "cascade": {**SMALL["cascade"], "maxEmergencyCells": 0}}
    world = storm("cell-a", "cell-b", rps=420, policy=policy)
    key = cascade(world)

    await play_until_written(world, "storm", where)
    if where == "recover-cells":
        await play(world, until=lambda w: bool(children(w)))
    shed_before = bool(spec_of(world).shedding)
    world.control(key, abort=True)
    waited = world.clock.monotonic() + 400
    await play(world, until=lambda w: w.clock.monotonic() > waited or w.runs[key].phase.ended)
    assert all(run.phase.ended for run in children(world))
    if shed_before and where in STEPS[:4]:
        assert world.runs[key].status.step == "keep-shedding", "the cells cannot bear it yet"
        assert all(item.expires_at > world.clock.now() for item in spec_of(world).shedding)
        assert spec_of(world).shedding
        held = {h.cell for h in spec_of(world).holds if h.max_percent < 100}
        assert held >= {"cell-a", "cell-b"}, "nobody is sent back to cells that are not well"
        for name in ("cell-a", "cell-b"):
            world.traffic.cells[name].down = False
        world.traffic.rps = 100
    await play(world)
    run = world.runs[key]
    assert run.phase is RunPhase.ABORTED
    assert (spec_of(world).shedding, spec_of(world).open_circuits, spec_of(world).reservations) == ([], [], [])


def limits_of(world: World, name: str, since: int) -> list[int]:
    """The cell's limits in the order in which they were written, since so many writes."""
    found: list[int] = []
    for write in world.writes[since:]:
        if write.kind == "placement":
            words = write.what.replace(",", "").split()
            limit = int(words[words.index(name) + 1]) if name in words else 100
            found += [limit] if found[-1:] != [limit] else []
    return found


FOUR = {**SMALL, "steps": {**SMALL["steps"], "drainIncrements": 4}}


async def test_aborted_a_cell_that_is_well_gets_its_customers_back_in_increments() -> None:
    world = storm("cell-a", "cell-b", rps=120, policy={**FOUR, "cascade": {**SMALL["cascade"], "maxEmergencyCells": 0}})
    key = cascade(world)
    await play_until_written(world, "storm", "open-circuit-breakers")
    world.traffic.cells["cell-a"].down = False
    world.tick(60)
    since, began = len(world.writes), world.clock.monotonic()
    world.control(key, abort=True)
    await play(world)
    assert run_of(world).phase is RunPhase.ABORTED
    assert limits_of(world, "cell-a", since) == [25, 50, 75, 100]
    assert world.clock.monotonic() - began >= 4 * 2
    assert placement.limit(spec_of(world), "cell-b") == 0


async def test_a_cell_that_fails_again_while_it_gets_its_customers_back_loses_them_again() -> None:
    world = storm("cell-a", "cell-b", rps=120, policy=FOUR)
    cascade(world)
    await play_until_written(world, "storm", "recover-cells")
    world.traffic.cells["cell-a"].down = False
    world.tick(60)
    await play(world, until=lambda w: placement.limit(spec_of(w), "cell-a") == 50)
    since = len(world.writes)
    world.traffic.cells["cell-a"].down = True
    await play(world, until=lambda w: placement.limit(spec_of(w), "cell-a") == 0, limit=120)
    assert limits_of(world, "cell-a", since) == [0]


# --- fenced, frozen ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", STEPS)
async def test_a_fenced_leader_changes_nothing_more_and_neither_do_the_children(where: str) -> None:
    world = storm("cell-a", "cell-b", cells=5, rps=330, policy=SMALL)
    cascade(world)
    await play_until_written(world, "storm", where)
    if where == "recover-cells":
        await play(world, until=lambda w: bool(children(w)))
    known = set(world.cells), set(world.runs)
    assert await play_fenced(world, *world.runs)
    assert (set(world.cells), set(world.runs)) == known
    world.epoch += 1
    await play(world)
    assert run_of(world).phase is RunPhase.SUCCEEDED, "the new leader goes on from there"


async def frozen_for(world: World, seconds: float) -> None:
    """Nothing begins and nothing is undone while the freeze is in force; each run says so."""
    placed, before = spec_of(world), world.effects()
    world.freezes.append(RecoveryFreeze.model_validate({"metadata": {"name": "stop"}, "spec": {"reason": "sale"}}))
    until = world.clock.monotonic() + seconds
    await play(world, until=lambda w: w.clock.monotonic() > until)
    assert world.effects() == before
    assert spec_of(world) == placed
    for run in world.runs.values():
        paused = next((c for c in run.status.conditions if c.type == "Paused"), None)
        assert run.phase.ended or (paused is not None and (paused.status, paused.reason) == ("True", "Frozen"))
    world.freezes.clear()


@pytest.mark.parametrize("where", STEPS)
async def test_a_freeze_in_each_step_begins_nothing_and_undoes_nothing_and_it_goes_on_afterwards(where: str) -> None:
    world = storm("cell-a", "cell-b", cells=5, rps=330, policy=SMALL)
    cascade(world)
    await play_until_written(world, "storm", where)
    await frozen_for(world, 200)
    await play(world)
    assert run_of(world).phase is RunPhase.SUCCEEDED, run_of(world).status.summary
    assert (spec_of(world).shedding, spec_of(world).open_circuits) == ([], [])
    assert placement.served_share(spec_of(world)) == 1.0


@pytest.mark.parametrize("where", [s.name for s in PROCEDURES["TrafficDrainAndReplace"].steps])
async def test_a_freeze_in_each_step_of_a_child_stops_it_and_the_cascade(where: str) -> None:
    world = storm("cell-a", "cell-b", cells=5, rps=330, policy=SMALL)
    cascade(world)
    await play(world, until=lambda w: bool(children(w)))
    (child,) = children(world)
    await play_until_written(world, child.metadata.name, where)
    await frozen_for(world, 200)
    await play(world)
    assert run_of(world).phase is RunPhase.SUCCEEDED, run_of(world).status.summary
    assert set(_done(world).values()) == {1}


# --- killed ------------------------------------------------------------------------------------------


def _done(world: World) -> dict[str, int]:
    """Effects that must happen once, by what they are."""
    effects = [e for e in world.effects() if e.split()[0] in ("create", "provision", "retire", "restart", "stop")]
    return {effect: effects.count(effect) for effect in effects}


@pytest.mark.parametrize("part", range(4))
async def test_killed_after_every_write_it_ends_the_same_and_does_nothing_twice(part: int) -> None:
    world = storm("cell-a", "cell-b", cells=5, rps=330, policy=SMALL)
    cascade(world)
    world.left = []
    await play(world)
    assert run_of(world).phase is RunPhase.SUCCEEDED
    wanted = _done(world)
    assert set(wanted.values()) == {1}
    writes = world.writes[-len(world.left) :]
    for write, left in list(zip(writes, world.left, strict=True))[part::4]:
        take_over(left)
        await play(left)
        run = run_of(left)
        assert run.phase is RunPhase.SUCCEEDED, (write, run.status.summary)
        assert _done(left) == wanted, write
        assert (spec_of(left).shedding, spec_of(left).open_circuits) == ([], []), write
        assert placement.served_share(spec_of(left)) == 1.0, write
