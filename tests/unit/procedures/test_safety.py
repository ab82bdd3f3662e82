"""What the procedures keep when something else happens right here: an edit, a deletion, a late word, a comeback."""

from datetime import timedelta
from typing import Any

import pytest

from recell.api.meta import timestamp
from recell.api.recovery_run import RunPhase
from recell.domain import placement
from recell.engine.engine import Engine
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures import test_restoring as restoring
from tests.unit.procedures import test_traffic_drain_and_replace as replacing
from tests.unit.procedures.play import play
from tests.unit.procedures.test_traffic_drain_and_replace import IN_CELL, approve, asked, made, spec_of

GAP = timedelta(seconds=50)
"""In the archive: so much earlier ends what can be restored than was told."""


async def looks(world: World, key: Key, seconds: float) -> None:
    engine, until = Engine(world.ports(), PROCEDURES), world.clock.monotonic() + seconds
    while world.clock.monotonic() < until:
        world.tick(await engine.advance(key) or 1.0)


def unreadable(**policy: Any) -> World:
    """The data of b cannot be read; there is one backup, and everything since is archived."""
    world = replacing.fleet(policy=policy, **IN_CELL)
    world.data.cells["b"].accessible = False
    world.data.cells["b"].archiving = True
    world.data.back_up("b", "nightly")
    world.tick(30)
    return world


# Rule 3: data loss is accepted by a person


@pytest.mark.parametrize(
    ("strategy", "rpo"), [("TrafficDrainAndReplace", "30s"), (restoring.ISOLATE, "80s"), (restoring.PITR, "80s")]
)
async def test_a_restore_that_reaches_less_far_than_was_expected_is_asked_about(
    strategy: str, rpo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if strategy == "TrafficDrainAndReplace":
        world = unreadable(objectives={"rpo": rpo})
    else:
        world = restoring.fleet(objectives={"rpo": rpo}, replacement={"promotionApproval": "NotRequired"})
        world.data.cells["b"].archiving = True
        restoring.corrupt(world, down=strategy == restoring.ISOLATE)
    told = world.data._point
    monkeypatch.setattr(world.data, "_point", lambda request, began: told(request, began) - GAP)
    key = world.run("r1", "b", strategy=strategy)
    run = await asked(world, key, "accept-data-loss")
    assert any("Restore" in str(w) for w in world.writes), "it was within the objective as far as anybody knew"
    assert placement.home_share(spec_of(world), made(world)) == 0
    assert run.status.awaiting is not None
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()


async def test_the_loss_from_one_backup_is_not_accepted_for_another_one() -> None:
    world = restoring.fleet(objectives={})
    restoring.corrupt(world, down=True)
    key = world.run("r1", "b", strategy=restoring.ISOLATE)
    first = await asked(world, key, "accept-data-loss")
    world.data.backups = [b for b in world.data.backups if b.id != "newer"]  # pruned while the person thinks
    world.data._effects.clear()  # the provider forgot what it was asked, as Jobs are after a day
    await looks(world, key, 30)
    second = world.runs[key]
    assert first.status.awaiting is not None
    assert second.status.awaiting is not None
    assert "newer" in first.status.awaiting.message
    assert "older" in second.status.awaiting.message
    world.control(key, approvals=[{"gate": "accept-data-loss", "decisionID": first.status.awaiting.decision_id}])
    await looks(world, key, 30)
    assert restoring.restored(world) == []
    approve(world, key)
    await play(world, key)
    assert restoring.restored(world) == ["older"]


async def test_what_a_source_takes_when_it_comes_back_before_it_is_stopped_counts_as_lost() -> None:
    world = unreadable(objectives={"rpo": "24h"})
    key = replacing.replace(world)
    await play(world, key, until="move-customers")
    engine = Engine(world.ports(), PROCEDURES)
    while not any((s.data or {}).get("stopping") for s in world.runs[key].status.steps):
        world.crash_after = None
        await engine._turn(world.runs[key], PROCEDURES["TrafficDrainAndReplace"], policy_of(world))
        world.tick(1)
    world.traffic.cells["b"].down = False
    world.tick(4)
    back = world.clock.now()
    await play(world, key)
    result = world.runs[key].status.result
    assert result is not None
    step = next(s for s in world.runs[key].status.steps if s.name == "move-customers")
    assert step.data is not None
    assert step.data["stoppedAt"] >= timestamp(back)


def policy_of(world: World) -> Any:
    return world.policies[NAMESPACE, "default"].spec


# Rule 5: the source is fenced


@pytest.mark.parametrize("strategy", ["TrafficDrainAndReplace", restoring.ISOLATE])
async def test_a_source_that_names_no_workloads_cannot_be_stopped_and_needs_a_person(strategy: str) -> None:
    if strategy == "TrafficDrainAndReplace":
        world = replacing.fleet(**IN_CELL)
    else:
        world = restoring.fleet()
        restoring.corrupt(world, down=True)
    cell = world.cells[NAMESPACE, "b"]
    world.cells[cell.key] = cell.model_copy(update={"spec": cell.spec.model_copy(update={"workloads": []})})
    world.workloads["b"] = []
    key = world.run("r1", "b", strategy=strategy)
    run = await asked(world, key, "unfenced-source")
    assert run.status.awaiting is not None
    assert "spec.workloads" in run.status.awaiting.message
    assert placement.home_share(spec_of(world), made(world)) == 0
