"""The operator is killed after each single write, aborted in each step, fenced before each write.

Whatever happens, the effects are those of an undisturbed run, each once: counted by the world that
received them, not by the run's own record.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest

from recell.api.recovery_run import RunPhase
from recell.domain import placement
from recell.engine.engine import Engine
from recell.engine.errors import Conflict, Retryable
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures.play import killed_after_each_write, play, play_fenced

QUICK = {
    "drainIncrements": 3,
    "incrementInterval": "4s",
    "stabilityDuration": "20s",
    "applyTimeout": "20s",
}
STEPS = ("drain-traffic", "restart-workloads", "check-health", "restore-traffic", "watch-stability")


def quick_fleet() -> World:
    world = World()
    world.fleet("a", "b", "c", policy={"mode": "Automatic", "steps": QUICK})
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].error_rate = 0.1
    world.tick(30)
    return world


def spec_of(world: World) -> placement.PlacementSpec:
    return world.placements[NAMESPACE, "shop"].spec


async def undisturbed() -> World:
    world = quick_fleet()
    await play(world, world.run("r1", "b", strategy="CellRestart"))
    assert world.runs[NAMESPACE, "r1"].phase is RunPhase.SUCCEEDED
    return world


async def test_killed_after_every_single_write_it_does_everything_once() -> None:
    whole = quick_fleet()
    key, kills = whole.run("r1", "b", strategy="CellRestart"), 0
    async for world, killed_at in killed_after_each_write(whole, key):
        kills += 1
        assert world.runs[key].phase is RunPhase.SUCCEEDED, killed_at
        assert world.effects() == whole.effects(), killed_at
        assert world.workloads["b"][0].restarts == 1, killed_at
    assert kills > 15


async def test_killed_again_and_again_it_still_does_everything_once() -> None:
    whole = await undisturbed()
    world = quick_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(3000):
        if world.runs[key].phase.ended:
            break
        if world.clock.monotonic() % 47 < 1:
            engine = Engine(world.ports(), PROCEDURES)
            world.epoch += 1
        try:
            again = await engine.advance(key)
        except (Conflict, Retryable):
            again = 0.1
        world.tick(again or 1.0)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert world.effects() == whole.effects()


async def abort_at(world: World, key: Key, step: str) -> None:
    await play(world, key, until=step)
    world.control(key, abort=True)
    await play(world, key)


@pytest.mark.parametrize("step", STEPS)
async def test_aborted_in_each_step_an_unhealthy_cell_gets_no_traffic_back(step: str) -> None:
    world = quick_fleet()
    world.workloads["b"][0].heals = False
    key = world.run("r1", "b", strategy="CellRestart")
    if step in ("restore-traffic", "watch-stability"):
        world.workloads["b"][0].heals = True
        await play(world, key, until=step)
        world.workloads["b"][0].heals = False
        world.traffic.cells["b"].error_rate = 0.4
        world.tick(30)
    elif step == "check-health":
        await play(world, key, until=step)
    else:
        await play(world, key, until=step)
    spec = world.placements[NAMESPACE, "shop"].spec
    before = placement.share(spec, "b")
    world.control(key, abort=True)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.ABORTED
    assert placement.share(world.placements[NAMESPACE, "shop"].spec, "b") <= before
    assert world.placements[NAMESPACE, "shop"].spec.reservations == []


@pytest.mark.parametrize(
    ("step", "drained_to", "back"),
    [
        ("drain-traffic", 83, [89, 94, 100]),
        ("drain-traffic", 50, [67, 83, 100]),
        ("restart-workloads", 50, [67, 83, 100]),
        ("restore-traffic", 67, [78, 89, 100]),
        ("watch-stability", 100, []),
    ],
)
async def test_aborted_while_the_cell_is_healthy_its_traffic_returns_in_increments(
    step: str, drained_to: int, back: list[int]
) -> None:
    world = quick_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until=step)
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(50):
        if limit_of_b(world) == drained_to:
            break
        world.tick(await engine.advance(key) or 1.0)
    world.traffic.cells["b"].error_rate = 0.0
    world.tick(60)
    world.control(key, abort=True)
    raised, at = await raises_of_b(world, key)
    assert world.runs[key].phase is RunPhase.ABORTED
    assert raised == back
    assert all(later - earlier >= 4 for earlier, later in pairwise(at)), "each is watched for one interval"
    assert world.placements[NAMESPACE, "shop"].spec.holds == []


async def test_aborted_an_increment_that_the_cell_does_not_bear_is_taken_back_to_where_it_was() -> None:
    world = quick_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="restart-workloads")
    world.traffic.cells["b"].error_rate = 0.0
    world.tick(60)
    world.control(key, abort=True)
    limits, _ = await raises_of_b(world, key, then=lambda limit: limit == 83)
    assert (limits[:2], limits[-1]) == ([67, 83], 50)
    assert "50 %" in (world.runs[key].status.summary or "")


def limit_of_b(world: World) -> int:
    return placement.limit(world.placements[NAMESPACE, "shop"].spec, "b")


async def raises_of_b(
    world: World, key: Key, *, then: Callable[[int], bool] = lambda _: False
) -> tuple[list[int], list[float]]:
    """Each limit that the cell had until the run ended, and when it got it; from `then` on it fails."""
    engine, limits, at = Engine(world.ports(), PROCEDURES), [limit_of_b(world)], []
    for _ in range(200):
        if world.runs[key].phase.ended:
            break
        again = await engine.advance(key)
        if limit_of_b(world) != limits[-1]:
            limits.append(limit_of_b(world))
            at.append(world.clock.monotonic())
            if then(limits[-1]):
                world.workloads["b"][0].heals = False
                world.traffic.cells["b"].error_rate = 0.4
        world.tick(again or 1.0)
    return limits[1:], at


async def test_an_aborted_run_keeps_saying_so_and_does_not_go_on() -> None:
    world = quick_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await abort_at(world, key, "drain-traffic")
    before = world.effects()
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(50):
        world.tick(await engine.advance(key) or 5)
    assert world.effects() == before
    assert world.runs[key].status.abort_requested


@pytest.mark.parametrize("step", STEPS)
async def test_a_fenced_leader_changes_nothing_more(step: str) -> None:
    world = quick_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until=step)
    assert await play_fenced(world, key)
    world.epoch += 1
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, "the new leader goes on from there"


async def test_a_deleted_run_is_aborted_before_it_goes() -> None:
    world = quick_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="drain-traffic")
    run = world.runs[key]
    meta = run.metadata.model_copy(update={"deletion_timestamp": world.clock.now()})
    world.runs[key] = run.model_copy(update={"metadata": meta})
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(400):
        if key not in world.runs:
            break
        world.tick(await engine.advance(key) or 1.0)
    assert key not in world.runs


@pytest.mark.parametrize("obstacle", ["the clock is 9 s ahead of the API server's"])
async def test_no_effect_begins_while_there_is_an_obstacle(obstacle: str) -> None:
    world = quick_fleet()
    world.obstacle = obstacle
    key = world.run("r1", "b", strategy="CellRestart")
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(30):
        world.tick(await engine.advance(key) or 1.0)
    assert world.effects() == []
    reconciling = next(c for c in world.runs[key].status.conditions if c.type == "Reconciling")
    assert obstacle in reconciling.message
    world.obstacle = None
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
