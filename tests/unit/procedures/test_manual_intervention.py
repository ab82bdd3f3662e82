"""ManualIntervention in virtual time: a corrupted cell is isolated where the policy permits, and a person goes on."""

from typing import Any

import pytest

from recell.api import RecoveryRun
from recell.api.placement import HoldState
from recell.api.recovery_run import RunPhase, StepState
from recell.domain import limits, placement
from recell.engine.engine import Engine
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures.play import killed_after_each_write, play, play_fenced, play_until_written
from tests.unit.procedures.test_traffic_drain_and_replace import QUICK, approve, asked, spec_of

PERMITTED = {"manualIntervention": {"corruptedCell": "Isolate"}}


def fleet(**policy: Any) -> World:
    """Five cells, of which two failed together: the data of b is corrupted, and no row of the matrix covers that."""
    world = World()
    world.fleet("a", "b", "c", "d", "e", policy={"mode": "Automatic", **QUICK, **PERMITTED, **policy})
    world.traffic.rps = 300
    world.tick(60)
    world.integrities["b"] = False
    for name in ("b", "d"):
        world.traffic.cells[name].down = True
    world.tick(30)
    return world


def start(world: World, **spec: Any) -> Key:
    return world.run("r1", "b", **{"trigger": "Automatic", **spec})


def why(run: RecoveryRun) -> str:
    return next(c.reason for c in run.status.conditions if c.type == "Failed")


def isolated(world: World) -> bool:
    """From its customers, and from every connection; no other cell is touched."""
    held = [(hold.cell, hold.state, hold.max_percent) for hold in spec_of(world).holds]
    return world.isolation.isolated == {"b"} and held == [("b", HoldState.ISOLATED, 0)]


def blocked(world: World, key: Key) -> str:
    """Why no run starts by itself for the cell any more."""
    cell, observer = world.cells[NAMESPACE, "b"], world.ports().observer
    found = limits.blocked(
        cell,
        world.policies[NAMESPACE, "default"].spec,
        world.clock.now(),
        lineage=[world.runs[key]],
        state=observer.health(cell.key),
        failure=observer.failure(cell.key),
        spec=spec_of(world),
    )
    return found.blocked.reason if found.blocked else ""


async def test_a_corrupted_cell_that_is_left_to_a_person_is_isolated_where_the_policy_permits() -> None:
    world = fleet()
    key = start(world)
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "ManualIntervention")
    assert [(s.name, s.state) for s in run.status.steps] == [("isolate-cell", StepState.DONE)]
    assert isolated(world)
    assert placement.share(spec_of(world), "b") == 0
    assert not world.workloads["b"][0].stop_token, "nothing could connect to it, so it may be looked at as it is"
    told = run.status.summary or ""
    assert "Cell b gets no traffic and no connections" in told
    assert "give it its traffic back with: recell return b" in told
    assert "MultipleCell failure" in told
    assert "no row covers it" in told


async def test_no_further_run_starts_until_a_person_returned_the_cell_and_acknowledged_the_run() -> None:
    world = fleet()
    key = start(world)
    await play(world, key)
    assert blocked(world, key) == "Isolated"
    (hold,) = spec_of(world).holds
    routing = placement.Routing.of(world.routers[NAMESPACE, "shop"])
    returned = placement.release(spec_of(world), routing, holder=hold.holder, cell="b")
    assert placement.share(returned, "b") > 0, "what `recell return` does"
    placed = world.placements[NAMESPACE, "shop"]
    world.placements[NAMESPACE, "shop"] = placed.model_copy(update={"spec": returned})
    assert blocked(world, key) == "ManualIntervention"


@pytest.mark.parametrize("said", [{}, {"corruptedCell": "Leave"}])
async def test_without_permission_it_ends_at_once_and_nothing_is_done(said: dict[str, str]) -> None:
    world = fleet(manualIntervention=said)
    key = start(world)
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "ManualIntervention")
    assert run.status.started_at is None
    assert world.effects() == []


async def test_a_row_of_the_policys_own_may_leave_a_single_corrupted_cell_to_a_person() -> None:
    world = fleet(rules=[{"name": "by-hand", "dataIntegrity": "Corrupted", "strategy": "ManualIntervention"}])
    world.traffic.cells["d"].down = False
    world.tick(60)
    key = start(world)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "SingleCell failure" in (run.status.summary or "")
    assert isolated(world)


async def test_in_mode_approve_a_person_is_asked_before_it_and_told_what_will_be_done() -> None:
    world = fleet(mode="Approve")
    key = start(world)
    run = await asked(world, key, "start")
    assert run.status.awaiting is not None
    assert "The cell is isolated, then left to a person" in run.status.awaiting.message
    assert world.effects() == []
    approve(world, key)
    await play(world, key)
    assert isolated(world)


async def test_a_dry_run_tells_and_does_nothing() -> None:
    world = fleet()
    key = start(world, trigger="Manual", dryRun=True)
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.SUCCEEDED, "DryRun")
    assert run.status.steps[0].message.startswith("Would take cell b out of the router")
    assert world.effects() == []


async def test_where_the_network_does_not_isolate_the_cell_is_stopped() -> None:
    world = fleet()
    world.isolation.enforced = False
    key = start(world)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert world.workloads["b"][0].stop_token
    assert "was stopped, for its isolation could not be proven" in (run.status.summary or "")


async def test_an_isolation_that_fails_is_said_with_what_is_held() -> None:
    world = fleet()
    world.traffic.delay = 3600
    key = start(world)
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "NotApplied")
    assert (run.status.summary or "").startswith("isolate-cell: The router did not take cell b out")
    assert "recell return b" in (run.status.summary or "")


async def test_killed_after_every_single_write_it_does_everything_once() -> None:
    before, kills = fleet(), 0
    before.isolation.enforced = False  # so that it is stopped too
    key = start(before)
    async for world, killed_at in killed_after_each_write(before, key):
        kills += 1
        assert why(world.runs[key]) == "ManualIntervention", killed_at
        assert world.effects() == before.effects(), killed_at
    assert kills > 5


async def test_a_fenced_leader_changes_nothing_more() -> None:
    world = fleet()
    key = start(world)
    await play_until_written(world, key, "isolate-cell")
    assert await play_fenced(world, key)
    assert world.isolation.isolated == set()
    world.epoch += 1
    await play(world, key)
    assert isolated(world), "the new leader goes on from there"


async def under_way(world: World, key: Key) -> None:
    """It is isolated, and that is not proven yet."""
    world.isolation.enforced = False
    await play(world, key, until="isolate-cell")
    world.tick(await Engine(world.ports(), PROCEDURES).advance(key) or 1.0)
    assert isolated(world)


async def test_aborted_a_corrupted_cell_stays_isolated_and_that_is_said() -> None:
    world = fleet()
    key = start(world)
    await under_way(world, key)
    world.control(key, abort=True)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.ABORTED
    assert isolated(world)
    assert run.status.result is not None
    assert "Cell b stays isolated: its data is corrupted" in run.status.result.remains[0]


async def test_aborted_a_cell_that_proves_intact_and_well_gets_everything_back() -> None:
    world = fleet()
    key = start(world)
    await under_way(world, key)
    world.integrities["b"] = True
    world.traffic.cells["b"].down = False
    world.tick(60)
    world.control(key, abort=True)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.ABORTED
    assert (world.isolation.isolated, spec_of(world).holds) == (set(), [])
    assert placement.limit(spec_of(world), "b") == 100
