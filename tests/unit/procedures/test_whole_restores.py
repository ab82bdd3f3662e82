"""Replacing a cell whose data can only be restored as one: stopped, backed up, restored, each once."""

from typing import Any

import pytest

from recell.api.recovery_run import RunPhase
from recell.domain import data
from recell.domain.decommission import retirement_of
from recell.procedures.customers import LAST_BACKUP
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures.play import killed_after_each_write, play
from tests.unit.procedures.test_traffic_drain_and_replace import (
    CUSTOMERS,
    IN_CELL,
    QUICK,
    approve,
    asked,
    in_cell,
    made,
    replace,
)


def fleet(**policy: Any) -> World:
    """Three cells with their customers; a backup of b, then more writes, then b answers nobody any more."""
    world = World()
    world.fleet("a", "b", "c", router=IN_CELL, policy={**QUICK, **policy})
    world.template("small")
    in_cell(world)
    world.data.whole = True
    world.traffic.rps = 300
    world.tick(30)
    world.data.back_up("b", "nightly")
    world.tick(30)
    for name in list(world.data.cells["b"].customers):
        assert world.data.write("b", name)
    world.traffic.cells["b"].down = True
    world.data.cells["b"].accessible = False
    world.tick(30)
    return world


def effects(world: World) -> list[str]:
    return [effect.partition(" fleet")[0] for effect in world.effects()]


def data_effects(world: World) -> list[str]:
    return [effect.removeprefix("data ").split()[0] for effect in world.effects() if effect.startswith("data")]


def restored_from(world: World) -> str:
    result = world.runs[NAMESPACE, "r1"].status.result
    assert result is not None
    assert result.recovery_point is not None
    return str(result.recovery_point.backup_id)


async def test_what_the_stopped_cell_left_behind_is_restored_and_nothing_is_lost() -> None:
    world = fleet()
    key = replace(world)
    await play(world, key)
    run, new = world.runs[key], made(world)
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert world.data.cells[new].customers == world.data.cells["b"].customers
    assert data_effects(world) == [data.Operation.BACKUP, data.Operation.INVENTORY, data.Operation.RESTORE]
    found = effects(world)
    stopped = next(number for number, effect in enumerate(found) if effect.startswith("stop "))
    backed_up = next(number for number, effect in enumerate(found) if effect.startswith("data Backup"))
    assert stopped < backed_up, "what it takes meanwhile would be in no backup"
    assert restored_from(world) != "nightly"
    assert run.status.result is not None
    assert run.status.result.data_loss is None


async def test_everything_restored_as_one_counts_as_proven() -> None:
    world = fleet()
    await play(world, replace(world))
    found = retirement_of(world.cells[NAMESPACE, "b"])
    assert found is not None
    assert found.complete


async def test_a_cell_that_is_corrupted_is_not_backed_up() -> None:
    world = fleet()
    await play(world, replace(world), until="move-customers")
    world.data.corrupt("b")
    await play(world, (NAMESPACE, "r1"))
    assert data.Operation.BACKUP not in data_effects(world)


@pytest.mark.parametrize("how", ["fails", "unsupported"])
async def test_a_last_backup_that_does_not_work_out_is_no_obstacle(how: str) -> None:
    world = fleet()
    if how == "fails":
        world.data.fails[data.Operation.BACKUP] = "the pool is full"
    else:
        world.data.unsupported = {data.Operation.BACKUP}
    run = await asked(world, replace(world), "accept-data-loss")
    assert "nightly" in run.status.awaiting.message  # type: ignore[union-attr]
    told = " ".join(step.message for step in run.status.steps)
    assert "nightly" in told
    approve(world, run.key)
    await play(world, run.key)
    assert world.runs[run.key].phase is RunPhase.SUCCEEDED
    assert restored_from(world) == "nightly"
    assert all(len(records) == 1 for records in world.data.cells[made(world)].customers.values())
    assert len(world.data.cells[made(world)].customers) == CUSTOMERS


async def test_a_last_backup_that_does_not_end_is_stopped_and_an_earlier_one_taken() -> None:
    world = fleet()
    world.data.takes[data.Operation.BACKUP] = 100 * LAST_BACKUP
    began = world.clock.now()
    run = await asked(world, replace(world), "accept-data-loss")
    assert (world.clock.now() - began).total_seconds() < 2 * LAST_BACKUP
    assert any(effect.startswith("data cancel Backup b") for effect in world.effects())
    approve(world, run.key)
    await play(world, run.key)
    assert restored_from(world) == "nightly"


async def test_killed_after_every_single_write_it_does_everything_once() -> None:
    whole = fleet()
    key, kills = replace(whole), 0
    async for world, killed_at in killed_after_each_write(whole, key):
        kills += 1
        assert world.runs[key].phase is RunPhase.SUCCEEDED, killed_at
        assert world.effects() == whole.effects(), killed_at
    assert data.Operation.BACKUP in data_effects(whole)
    assert kills > 20
