"""TrafficDrainAndReplace in virtual time: the order of proofs, each way it can go, each effect once."""

from typing import Any

from recell.api.recovery_run import RunPhase
from recell.domain import placement
from recell.engine.ports import Key
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures.play import play

QUICK = {
    "steps": {"drainIncrements": 2, "incrementInterval": "4s", "applyTimeout": "20s", "stabilityDuration": "20s"},
    "validation": {"duration": "20s"},
}


def fleet(**router: Any) -> World:
    """Three cells; b answers nobody any more."""
    world = World()
    world.fleet("a", "b", "c", router=router, policy=QUICK)
    world.template("small")
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].down = True
    world.tick(30)
    return world


def replace(world: World, **spec: Any) -> Key:
    return world.run("r1", "b", strategy="TrafficDrainAndReplace", **spec)


def made(world: World) -> str:
    names = [name for (_, name) in world.cells if name not in ("a", "b", "c")]
    assert len(names) == 1, names
    return names[0]


async def test_with_shared_data_the_replacement_takes_the_failed_cells_place() -> None:
    world = fleet()
    before = world.placements[NAMESPACE, "shop"].spec
    key = replace(world)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    spec = world.placements[NAMESPACE, "shop"].spec
    new = made(world)
    assert placement.slots_of(spec, new) == placement.slots_of(before, "b")
    assert placement.share(spec, "b") == 0
    assert placement.successor(spec, "b") == new
    assert run.status.result is not None
    assert run.status.result.replacement == new
    assert world.workloads["b"][0].stop_token
    assert world.cells[NAMESPACE, new].spec.weight == 100
