"""IsolateAndRestoreFromBackup and PointInTimeRecovery in virtual time: nothing is promoted before it is proven."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from recell.api.meta import timestamp
from recell.api.recovery_run import RunPhase
from recell.domain import data, placement
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from recell.providers.kube.leadership import MAX_SKEW
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures.play import killed_after_each_write, play, play_fenced, play_until_written
from tests.unit.procedures.test_traffic_drain_and_replace import (
    CUSTOMERS,
    IN_CELL,
    QUICK,
    approve,
    asked,
    in_cell,
    made,
    spec_of,
)

POLICY = {
    **QUICK,
    "validation": {"duration": "20s", "consistencyDuration": "30s"},
    "objectives": {"rpo": "1h"},
}
ISOLATE, PITR = "IsolateAndRestoreFromBackup", "PointInTimeRecovery"
CHOICES = ("choose-backup", "choose-recovery-point")


def fleet(**policy: Any) -> World:
    """Three cells with their customers, two backups of b, and then corruption of its data."""
    world = World()
    world.fleet("a", "b", "c", router=IN_CELL, policy={**POLICY, **policy})
    world.template("small")
    in_cell(world)
    world.traffic.rps = 300
    world.tick(30)
    world.data.back_up("b", "older", verified=True)
    world.tick(30)
    world.data.back_up("b", "newer", verified=True)
    world.tick(30)
    world.intact_at["b"] = world.clock.now()
    world.tick(10)
    return world


def corrupt(world: World, *, down: bool = False) -> None:
    world.data.corrupt("b")
    world.traffic.cells["b"].down = down
    world.tick(30)


def start(world: World, strategy: str, **spec: Any) -> Key:
    return world.run("r1", "b", strategy=strategy, **spec)


def restored(world: World) -> list[str]:
    return [w.what.rpartition(" ")[2] for w in world.writes if "Restore" in w.what]


async def test_the_newest_backup_from_before_the_corruption_is_restored_and_routed() -> None:
    world = fleet()
    corrupt(world, down=True)
    key = start(world, ISOLATE)
    await play(world, key)
    run, new = world.runs[key], made(world)
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert restored(world) == ["newer"]
    assert placement.home_share(spec_of(world), "b") == 0
    assert len(world.data.cells[new].customers) == CUSTOMERS
    assert world.data.cells[new].corrupted_at is None
    assert "b" in world.isolation.isolated, "the corrupted cell is kept for inspection, and from everything"
    result = run.status.result
    assert result is not None
    assert result.customers is not None
    assert result.customers.restored == CUSTOMERS
    assert result.recovery_point is not None
    assert result.recovery_point.backup_id == "newer"
    assert result.data_loss is not None


async def test_a_backup_that_proves_corrupted_is_followed_by_an_older_one_in_a_fresh_cell() -> None:
    world = fleet()
    world.data.backups[1] = world.data.backups[1].__class__(**{**vars(world.data.backups[1]), "corrupted": True})
    corrupt(world, down=True)
    key = start(world, ISOLATE)
    await play(world, key)
    run, new = world.runs[key], made(world)
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert restored(world) == ["newer", "older"]
    provisioned = [w.what.split()[0] for w in world.writes if w.kind == "provision"]
    assert len(set(provisioned)) == 2, "each try has a cell of its own"
    assert world.data.cells[new].corrupted_at is None


async def test_an_older_backup_is_not_replayed_into_the_corruption() -> None:
    """Its archive reaches as far as the newer backup, in which the corruption was already."""
    world = fleet()
    world.data.cells["b"].archiving = True
    world.tick(0.3)
    world.data.back_up("b", "fine", verified=True)
    world.tick(30)
    corrupt(world, down=True)
    world.data.back_up("b", "bad", verified=True)
    world.tick(30)
    asked_for = timestamp(world.clock.now())
    key = start(world, ISOLATE, recoveryTarget={"time": asked_for})
    await play(world, key)
    run, new = world.runs[key], made(world)
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert restored(world) == ["bad", "fine"]
    assert world.data.cells[new].corrupted_at is None
    result = run.status.result
    assert result is not None
    assert result.recovery_point is not None
    assert result.recovery_point.time == next(b.at for b in world.data.backups if b.id == "fine").replace(microsecond=0)


async def test_with_no_backup_left_it_stops_says_so_and_promotes_nothing() -> None:
    world = fleet()
    world.data.backups = [b.__class__(**{**vars(b), "corrupted": True}) for b in world.data.backups]
    corrupt(world, down=True)
    before = spec_of(world).homes
    key = start(world, ISOLATE)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "Nothing was promoted" in (run.status.summary or "")
    assert spec_of(world).homes == before
    assert restored(world) == ["newer", "older"]


async def test_at_most_so_many_backups_are_tried_as_the_policy_says() -> None:
    world = fleet(replacement={"restoreAttempts": 1})
    world.data.backups = [b.__class__(**{**vars(b), "corrupted": True}) for b in world.data.backups]
    corrupt(world, down=True)
    key = start(world, ISOLATE)
    await play(world, key)
    assert restored(world) == ["newer"]
    assert "restoreAttempts" in (world.runs[key].status.summary or "")


async def test_a_person_may_name_the_backup() -> None:
    world = fleet()
    corrupt(world, down=True)
    key = start(world, ISOLATE, recoveryTarget={"backupID": "older"})
    await play(world, key)
    assert restored(world) == ["older"]


async def test_where_the_network_does_not_isolate_the_cell_is_stopped() -> None:
    world = fleet()
    world.isolation.enforced = False
    corrupt(world, down=True)
    key = start(world, ISOLATE)
    await play_until_written(world, key, "choose-backup")
    assert world.workloads["b"][0].stop_token


async def test_shared_data_cannot_be_restored_for_one_cell() -> None:
    world = World()
    world.fleet("a", "b", "c", policy=POLICY)
    world.template("small")
    world.traffic.rps = 300
    world.tick(60)
    world.integrities["b"] = False
    world.tick(30)
    key = start(world, PITR)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "customerData: Shared" in (world.runs[key].status.summary or "")
    assert world.effects() == []


async def test_point_in_time_recovery_goes_back_to_before_the_corruption_once_a_person_approves() -> None:
    world = fleet()
    world.data.cells["b"].archiving = True
    written = next(iter(world.data.cells["b"].customers))
    assert world.data.write("b", written), "after the last backup"
    world.tick(20)
    world.intact_at["b"] = world.clock.now()
    world.tick(20)
    corrupt(world)
    key = start(world, PITR)
    run = await asked(world, key, "promote")
    assert run.status.awaiting is not None
    assert "is lost" in run.status.awaiting.message
    new = made(world)
    assert placement.home_share(spec_of(world), new) == 0, "nobody is served from it yet"
    approve(world, key)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert world.data.cells[new].customers[written] == world.data.cells["b"].customers[written]
    assert world.data.cells[new].corrupted_at is None
    result = run.status.result
    assert result is not None
    assert result.recovery_point is not None
    assert result.recovery_point.time is not None
    assert result.recovery_point.time <= world.intact_at["b"], "rule 9: not later than the last passed check"
    assert result.data_loss is not None


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize("strategy", [ISOLATE, PITR])
async def test_the_point_keeps_clear_of_what_is_known_by_as_much_as_two_clocks_may_differ(
    strategy: str, passed: bool
) -> None:
    """The operator's may be ahead of the API server's, and that of who checked the data behind it."""
    world = fleet(replacement={"promotionApproval": "NotRequired"}, objectives={"rpo": "24h"})
    world.data.cells["b"].archiving = True
    known = world.intact_at["b"]
    corrupt(world)
    if not passed:
        world.intact_at.clear()
        failure = world.ports().observer.failure((NAMESPACE, "b"))
        assert failure is not None
        known = failure.since
    key = start(world, strategy)
    await play(world, key, until="check-integrity")
    (restore,) = [s.data for s in world.runs[key].status.steps if s.name in CHOICES]
    assert restore is not None
    point = datetime.fromisoformat(restore["notAfter"])
    assert known - timedelta(seconds=60) < point <= known - timedelta(seconds=2 * MAX_SKEW)


async def test_a_person_may_name_the_second() -> None:
    world = fleet(replacement={"promotionApproval": "NotRequired"})
    world.data.cells["b"].archiving = True
    asked_for = world.clock.now().replace(microsecond=0)
    world.tick(30)
    corrupt(world)
    key = start(world, PITR, recoveryTarget={"time": timestamp(asked_for)})
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert run.status.result is not None
    assert run.status.result.recovery_point is not None
    assert run.status.result.recovery_point.time == asked_for


async def test_an_unreachable_time_says_which_points_exist() -> None:
    world = fleet()
    corrupt(world)
    long_ago = world.clock.now() - timedelta(days=7)
    key = start(world, PITR, recoveryTarget={"time": timestamp(long_ago)})
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert all(name in (run.status.summary or "") for name in ("older", "newer"))


@pytest.mark.parametrize("strategy", [ISOLATE, PITR])
async def test_killed_after_every_single_write_it_does_everything_once(strategy: str) -> None:
    before = fleet(replacement={"promotionApproval": "NotRequired"})
    before.data.cells["b"].archiving = True
    corrupt(before, down=strategy == ISOLATE)
    key, kills = start(before, strategy), 0
    async for world, killed_at in killed_after_each_write(before, key):
        kills += 1
        assert world.runs[key].phase is RunPhase.SUCCEEDED, killed_at
        assert world.effects() == before.effects(), killed_at
    assert kills > 20


async def test_killed_after_every_single_write_each_backup_is_tried_once_and_in_a_cell_of_its_own() -> None:
    """The newest one proves corrupted, so that the next older one is tried."""
    before = fleet()
    before.data.backups[1] = replace(before.data.backups[1], corrupted=True)
    corrupt(before, down=True)
    key, kills = start(before, ISOLATE), 0
    async for world, killed_at in killed_after_each_write(before, key):
        kills += 1
        assert world.runs[key].phase is RunPhase.SUCCEEDED, killed_at
        assert world.effects() == before.effects(), killed_at
        assert restored(world) == ["newer", "older"], killed_at
        cells = list(dict.fromkeys(write.what.split()[0] for write in world.writes if write.kind == "provision"))
        assert (len(cells), made(world)) == (2, cells[1]), killed_at
        assert world.data.cells[made(world)].corrupted_at is None, killed_at
    assert kills > 30


EACH = [(strategy, step.name) for strategy in (ISOLATE, PITR) for step in PROCEDURES[strategy].steps]


@pytest.mark.parametrize(("strategy", "step"), EACH)
async def test_a_fenced_leader_changes_nothing_more(strategy: str, step: str) -> None:
    world = fleet(replacement={"promotionApproval": "NotRequired"})
    corrupt(world, down=strategy == ISOLATE)
    key = start(world, strategy)
    await play_until_written(world, key, step)
    known, isolated = set(world.cells), set(world.isolation.isolated)
    assert await play_fenced(world, key)
    assert (set(world.cells), set(world.isolation.isolated)) == (known, isolated)
    world.epoch += 1
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, "the new leader goes on from there"


@pytest.mark.parametrize(("strategy", "step"), EACH)
async def test_aborted_in_each_step_a_corrupted_cell_gets_nobody_and_routed_customers_stay(
    strategy: str, step: str
) -> None:
    world = fleet(replacement={"promotionApproval": "NotRequired"})
    corrupt(world, down=strategy == ISOLATE)
    key = start(world, strategy)
    await play_until_written(world, key, step)
    routed = placement.successor(spec_of(world), "b") != "b"
    homes = spec_of(world).homes
    world.control(key, abort=True)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.ABORTED, run.status.to_dict()
    assert spec_of(world).homes == homes
    if routed:
        assert placement.share(spec_of(world), made(world)) > 0
    else:
        assert [name for (_, name) in world.cells] == ["a", "b", "c"]
        assert placement.share(spec_of(world), "b") in (0, placement.home_share(spec_of(world), "b"))
    if step != "isolate-cell":
        assert placement.share(spec_of(world), "b") == 0
    assert world.runs[NAMESPACE, "r1"].status.abort_requested


async def test_what_a_corrupted_cell_took_until_it_was_isolated_counts_as_lost() -> None:
    world = fleet(objectives={"rpo": "10m"})
    world.data.cells["b"].archiving = True
    corrupt(world)
    world.tick(3600)
    key = start(world, PITR)
    run = await asked(world, key, "accept-data-loss")
    assert run.status.awaiting is not None
    assert "1h" in run.status.awaiting.message, "an hour was served after the corruption"


async def test_known_corruption_is_not_forgotten_when_the_check_cannot_be_asked_any_more() -> None:
    world = fleet(objectives={"rpo": "24h"})
    corrupt(world, down=True)
    world.data.back_up("b", "after")
    key = start(world, ISOLATE)
    await play_until_written(world, key, "choose-backup")
    world.data.cells["b"].corrupted_at = None
    world.integrities["b"] = None
    await play(world, key)
    assert restored(world) == ["newer"]


async def test_each_try_keeps_what_the_tries_before_it_found() -> None:
    world = fleet(replacement={"restoreAttempts": 4, "promotionApproval": "NotRequired"})
    world.data.backups = [b.__class__(**{**vars(b), "corrupted": True}) for b in world.data.backups]
    corrupt(world)
    key = start(world, PITR)
    await play(world, key)
    tried = restored(world)
    assert len(tried) == len(set(tried)), tried


async def test_what_the_cells_own_check_said_of_the_empty_cell_proves_nothing() -> None:
    world = fleet()
    world.data.unsupported = {data.Operation.CHECK}
    corrupt(world, down=True)
    key = start(world, ISOLATE)
    await play_until_written(world, key, "check-integrity")
    new = made(world)
    world.asked_at[new] = world.clock.now() - timedelta(seconds=1)
    run = await asked(world, key, "unverified-integrity")
    assert placement.home_share(spec_of(world), "b") > 0
    assert "Nothing says whether the restored data" in run.status.awaiting.message  # type: ignore[union-attr]


async def test_the_cells_own_check_of_the_restored_data_is_waited_for() -> None:
    world = fleet()
    world.data.unsupported = {data.Operation.CHECK}
    corrupt(world, down=True)
    key = start(world, ISOLATE)
    await play_until_written(world, key, "check-integrity")
    new, begun = made(world), world.clock.now()
    world.asked_at[new] = begun - timedelta(seconds=1)
    with pytest.raises(AssertionError, match="stuck"):
        await play(world, key, limit=60)
    assert world.runs[key].status.step == "check-integrity"
    assert world.runs[key].status.awaiting is None
    world.asked_at[new] = world.clock.now() + timedelta(seconds=1)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
