"""What the procedures keep when something else happens right here: an edit, a deletion, a late word, a comeback."""

from datetime import timedelta
from typing import Any

import pytest

from recell.api import Cell, RecoveryFreeze
from recell.api.cell import WorkloadRef
from recell.api.failure import Verdict
from recell.api.meta import FINALIZER, LABEL_MADE_BY, LABEL_ORIGIN, timestamp
from recell.api.recovery_run import RunPhase
from recell.domain import placement, validation
from recell.domain.data import Answer, Customers, Operation, Progress
from recell.engine.engine import Engine
from recell.engine.errors import BadInput, Forbidden
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, FakeWorkload, FakeWorkloads, World
from tests.unit.procedures import test_restoring as restoring
from tests.unit.procedures import test_traffic_drain_and_replace as replacing
from tests.unit.procedures.play import play, play_until_written, take_over
from tests.unit.procedures.test_traffic_drain_and_replace import CUSTOMERS, IN_CELL, approve, asked, made, spec_of

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


async def test_a_source_whose_pods_never_end_needs_a_person_and_not_only_patience() -> None:
    world = replacing.fleet(policy={"steps": {**replacing.QUICK["steps"], "restartTimeout": "30s"}}, **IN_CELL)
    world.workloads["b"][0].stops = False
    key = replacing.replace(world)
    run = await asked(world, key, "unfenced-source")
    assert run.status.awaiting is not None
    assert "2 pods left" in run.status.awaiting.message
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


# Edited and deleted by people


async def test_a_template_that_was_edited_meanwhile_does_not_change_a_cell_that_has_customers() -> None:
    world = replacing.fleet(**IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="validate-replacement")
    del world.templates[NAMESPACE, "small"]
    world.provisioner.refuses = BadInput("nothing may be applied any more")
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    assert world.cells[NAMESPACE, made(world)].spec.weight == 100


async def test_a_replacement_that_is_deleted_during_the_move_is_given_up_and_what_cannot_be_undone_is_said() -> None:
    world = replacing.fleet(**IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="move-customers")
    await looks(world, key, 10)
    world.drop_cell(made(world))
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    summary = run.status.summary or ""
    assert "not there any more" in summary
    assert "cannot write" in summary, summary
    assert world.workloads["b"][0].stop_token is None


@pytest.mark.parametrize("anew", [False, True])
async def test_nobody_is_routed_to_an_environment_that_was_deleted_or_made_anew(anew: bool) -> None:
    world = restoring.fleet()
    restoring.corrupt(world)
    key = world.run("r1", "b", strategy=restoring.PITR)
    await asked(world, key, "promote")
    name = made(world)
    gone = world.cells[NAMESPACE, name]
    world.drop_cell(name)
    if anew:
        cell = world.add_cell(name, gone.spec.to_dict(), gone.metadata.labels)
        meta = cell.metadata.model_copy(update={"uid": "another"})
        world.cells[cell.key] = cell.model_copy(update={"metadata": meta})
    homes = spec_of(world).homes
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert spec_of(world).homes == homes


async def test_aborted_in_a_later_try_no_cell_of_any_try_stays() -> None:
    world = restoring.fleet(objectives={})
    world.data.backups[1] = world.data.backups[1].__class__(**{**vars(world.data.backups[1]), "corrupted": True})
    restoring.corrupt(world, down=True)
    key = world.run("r1", "b", strategy=restoring.ISOLATE)
    await asked(world, key, "accept-data-loss")
    approve(world, key)
    await play(world, key, until="check-integrity")
    await asked(world, key, "accept-data-loss")  # of the older one
    world.control(key, abort=True)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.ABORTED
    assert [name for (_, name) in world.cells] == ["a", "b", "c"]


async def test_an_abort_without_the_template_lists_the_cell_that_it_cannot_take_away() -> None:
    world = replacing.fleet(**IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="move-customers")
    new = made(world)
    del world.templates[NAMESPACE, "small"]
    world.control(key, abort=True)
    await play(world, key)
    result = world.runs[key].status.result
    assert result is not None
    assert any(new in text for text in result.remains)


# What a person takes counts towards nothing


async def test_a_person_may_think_for_longer_than_a_move_may_take() -> None:
    world = replacing.fleet(policy={"replacement": {"dataTimeout": "2m"}}, **IN_CELL)
    world.data.failing.add(min(world.data.cells["b"].customers))
    key = replacing.replace(world)
    await asked(world, key, "partial-move")
    await looks(world, key, 600)
    assert world.runs[key].phase is RunPhase.AWAITING_APPROVAL
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.PARTIALLY_SUCCEEDED, world.runs[key].status.to_dict()


# Nobody is left with a home that is stopped


async def test_what_fails_before_the_first_slot_is_routed_is_undone() -> None:
    world = replacing.fleet(policy={"steps": {**replacing.QUICK["steps"], "healthCheckTimeout": "20s"}}, **IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="route-replacement")
    world.traffic.cells[made(world)].down = True
    world.tick(30)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert world.workloads["b"][0].stop_token is None
    assert world.data.cells["b"].stopped == set(), "they can write at the source"
    assert [name for (_, name) in world.cells] == ["a", "b", "c"]


async def test_a_source_that_may_not_be_stopped_gets_its_writes_back_when_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(self: FakeWorkloads, cell: Cell, ref: WorkloadRef, token: str) -> None:
        raise Forbidden("may not patch deployments.apps/scale in fleet: grant it")

    monkeypatch.setattr(FakeWorkloads, "scale_to_zero", refuse)
    world = replacing.fleet(**IN_CELL)
    key = replacing.replace(world)
    await play(world, key)
    replacing.given_up(world, key, "No slot of b could be routed")


async def test_who_stays_behind_can_write_there_once_the_source_is_started_again() -> None:
    world = replacing.fleet(policy={"replacement": {"partialSuccess": "Route"}}, **IN_CELL)
    stuck = min(world.data.cells["b"].customers)
    world.data.failing.add(stuck)
    key = replacing.replace(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.PARTIALLY_SUCCEEDED, world.runs[key].status.to_dict()
    left = set(placement.slots_of(spec_of(world), "b"))
    behind = {name for name in world.data.cells["b"].customers if placement.slot_of(name, 1024) in left}
    assert stuck in behind
    assert not behind & world.data.cells["b"].stopped
    assert not behind & set(world.data.cells[made(world)].customers)
    assert world.data.cells["b"].stopped, "who was routed cannot write at the source"


async def test_what_cannot_be_given_back_is_listed_and_routes_the_others() -> None:
    world = replacing.fleet(policy={"replacement": {"partialSuccess": "Route"}}, **IN_CELL)
    world.data.failing.add(min(world.data.cells["b"].customers))
    world.data.unsupported = {Operation.ABANDON}
    key = replacing.replace(world)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.PARTIALLY_SUCCEEDED, run.status.to_dict()
    assert run.status.result is not None
    assert any("that were copied cannot write" in text for text in run.status.result.remains)


async def test_data_of_a_cell_that_an_earlier_run_stopped_is_not_given_up_unasked() -> None:
    world = unreadable(objectives={"rpo": "1h"})
    workload = world.workloads["b"][0]
    workload.stop_token, workload.stopped_at = "of-an-earlier-run", world.clock.now()
    world.tick(30)
    key = replacing.replace(world)
    run = await asked(world, key, "data-not-readable")
    assert run.status.awaiting is not None
    assert f"An earlier run stopped {workload.ref} of b" in run.status.awaiting.message
    assert not any("Restore" in effect for effect in world.effects())
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()


async def test_a_source_found_corrupted_before_the_first_slot_leaves_no_corrupted_copy_behind() -> None:
    world = replacing.fleet(**IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="route-replacement")
    world.data.corrupt("b")
    await play(world, key)
    assert world.runs[key].phase is RunPhase.ESCALATED
    assert [name for (_, name) in world.cells] == ["a", "b", "c"]


# Rule 8: only slots whose customers all passed


async def test_slots_that_are_doubled_during_the_run_route_nobody_who_was_not_moved() -> None:
    world = replacing.fleet(policy={"replacement": {"partialSuccess": "Route"}}, **IN_CELL)
    stuck = next(n for n in world.data.cells["b"].customers if placement.slot_of(n, 2048) >= 1024)
    world.data.failing.add(stuck)
    key = replacing.replace(world)
    await play(world, key, until="route-replacement")
    router = world.routers[NAMESPACE, "shop"].model_dump(by_alias=True, exclude_none=True)
    router["spec"]["haproxy"]["slots"] = 2048
    world.routers[NAMESPACE, "shop"] = world.routers[NAMESPACE, "shop"].model_validate(router)
    world._replace(lambda spec: placement.resize(spec, world._routing))
    await play(world, key)
    assert world.runs[key].phase is RunPhase.PARTIALLY_SUCCEEDED, world.runs[key].status.to_dict()
    assert placement.slot_of(stuck, 2048) in placement.slots_of(spec_of(world), "b")


@pytest.mark.parametrize("told", [Customers(), Customers(expected=0, done=0), Customers(done=CUSTOMERS)])
@pytest.mark.parametrize("strategy", ["TrafficDrainAndReplace", restoring.ISOLATE, restoring.PITR])
async def test_a_count_that_proves_nothing_routes_nobody(
    strategy: str, told: Customers, monkeypatch: pytest.MonkeyPatch
) -> None:
    if strategy == "TrafficDrainAndReplace":
        world = replacing.fleet(**IN_CELL)
    else:
        world = restoring.fleet()
        restoring.corrupt(world, down=strategy == restoring.ISOLATE)
    monkeypatch.setattr(world.data, "_moved", lambda effect: Answer(Progress.DONE, customers=told))
    key = world.run("r1", "b", strategy=strategy)
    await asked(world, key, "unverified-move")
    assert placement.home_share(spec_of(world), made(world)) == 0


# Rules 4 and 9: what was known of the corruption goes with the run that goes on


async def test_a_run_that_goes_on_knows_of_the_corruption_whatever_can_be_seen_by_then() -> None:
    world = restoring.fleet(objectives={"rpo": "24h"})
    world.data.cells["b"].archiving = True
    world.traffic.cells["b"].down = True
    world.tick(30)
    key = replacing.replace(world)
    await play(world, key, until="provision-replacement")
    intact = world.clock.now()
    world.data.corrupt("b")
    await play(world, key)
    assert world.runs[key].phase is RunPhase.ESCALATED
    # Another process goes on, which has seen nothing of it, and nothing can be seen any more.
    world.integrities["b"] = None
    world.intact_at.clear()
    child = (NAMESPACE, "r1-next")
    await play(world, child, until="provision-replacement")
    choice = next(s.data for s in world.runs[child].status.steps if s.name == "choose-backup")
    assert choice is not None
    assert choice["notAfter"] <= timestamp(intact)


@pytest.mark.parametrize("ahead", [timedelta(days=365), timedelta(seconds=-5)])
async def test_a_time_after_the_corruption_is_not_promoted_when_its_data_is_corrupted(ahead: timedelta) -> None:
    world = restoring.fleet(objectives={"rpo": "24h"}, replacement={"promotionApproval": "NotRequired"})
    world.data.cells["b"].archiving = True
    restoring.corrupt(world)
    key = world.run("r1", "b", strategy=restoring.PITR, recoveryTarget={"time": timestamp(world.clock.now() + ahead)})
    homes = spec_of(world).homes
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED, run.status.to_dict()
    assert all(backup in (run.status.summary or "") for backup in ("older", "newer"))
    assert spec_of(world).homes == homes


async def test_the_time_that_was_asked_for_is_kept_by_a_replacement_that_restores() -> None:
    world = unreadable(objectives={"rpo": "24h"})
    limit = world.clock.now().replace(microsecond=0)
    world.tick(60)
    key = replacing.replace(world, recoveryTarget={"time": timestamp(limit)})
    await play(world, key)
    result = world.runs[key].status.result
    assert result is not None
    assert result.recovery_point is not None
    assert result.recovery_point.time == limit


# Nothing is left behind unsaid, nothing waits without saying for what


async def test_a_run_that_fails_names_the_cell_that_it_leaves_behind() -> None:
    world = restoring.fleet(replacement={"restoreAttempts": 1})
    world.data.backups = [b.__class__(**{**vars(b), "corrupted": True}) for b in world.data.backups]
    restoring.corrupt(world, down=True)
    key = world.run("r1", "b", strategy=restoring.ISOLATE)
    await play(world, key)
    summary = world.runs[key].status.summary or ""
    assert f"serving nobody: Cell {made(world)}" in summary


async def test_a_target_that_is_deleted_names_what_was_made_in_its_place() -> None:
    world = replacing.fleet(**IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="validate-replacement")
    del world.cells[NAMESPACE, "b"]
    await play(world, key)
    assert world.runs[key].phase is RunPhase.FAILED
    assert made(world) in (world.runs[key].status.summary or "")


async def test_a_step_that_runs_out_of_time_says_what_it_waited_for() -> None:
    world = restoring.fleet(replacement={"dataTimeout": "2m"})
    world.data.takes[Operation.RESTORE] = 3600
    restoring.corrupt(world, down=True)
    key = world.run("r1", "b", strategy=restoring.ISOLATE)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert f"Restoring the customers of b to {made(world)}" in (run.status.summary or "")


async def test_a_source_that_was_started_again_is_named() -> None:
    world = replacing.fleet(**IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="validate-replacement")
    world.workloads["b"][0].stops = False  # somebody scaled it up
    await play(world, key)
    result = world.runs[key].status.result
    assert result is not None
    assert any("Stop Deployment" in text for text in result.remains), result.remains


@pytest.mark.parametrize(
    ("strategy", "step"),
    [
        ("TrafficDrainAndReplace", "validate-replacement"),
        (restoring.ISOLATE, "validate-replacement"),
        (restoring.PITR, "watch-consistency"),
    ],
)
async def test_a_replacement_whose_data_proves_corrupted_serves_nobody_any_more(strategy: str, step: str) -> None:
    """Although nobody else has the data: what is written onto it would be lost with it."""
    world = restoring.fleet(replacement={"promotionApproval": "NotRequired"}, objectives={"rpo": "24h"})
    if strategy == "TrafficDrainAndReplace":
        world.traffic.cells["b"].down = True
        world.tick(30)
    else:
        restoring.corrupt(world, down=True)
    key = world.run("r1", "b", strategy=strategy)
    await play(world, key, until=step)
    world.integrities[made(world)] = False
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED, run.status.to_dict()
    assert placement.share(spec_of(world), made(world)) == 0
    assert f"recell return {made(world)}" in (run.status.summary or "")


# A policy with zeroes


async def test_no_time_to_validate_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    world = replacing.fleet(policy={"validation": {"duration": "0s"}}, **IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="route-replacement")
    monkeypatch.setattr(validation, "verdict", lambda found: Verdict.INCONCLUSIVE)
    await play(world, key, until="validate-replacement")
    await looks(world, key, 30)
    assert world.runs[key].status.step == "validate-replacement"


async def test_an_approval_can_be_given_however_soon_it_expires() -> None:
    world = replacing.fleet(policy={"limits": {"approvalExpires": "0s"}}, **IN_CELL)
    world.workloads["b"][0].stoppable = False
    key = replacing.replace(world)
    before = await asked(world, key, "unfenced-source")
    await looks(world, key, 20)
    after = world.runs[key].status.awaiting
    assert before.status.awaiting == after
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


# Whatever step it is in


STRATEGIES = ("TrafficDrainAndReplace", restoring.ISOLATE, restoring.PITR)
EACH = [(strategy, step.name) for strategy in STRATEGIES for step in PROCEDURES[strategy].steps]


def scene(strategy: str) -> World:
    if strategy == "TrafficDrainAndReplace":
        return replacing.fleet(**IN_CELL)
    world = restoring.fleet(replacement={"promotionApproval": "NotRequired"})
    world.data.cells["b"].archiving = True
    restoring.corrupt(world, down=strategy == restoring.ISOLATE)
    return world


# Rule 2: nobody is sent to a cell that was only just made


@pytest.mark.parametrize(
    ("strategy", "router"), [("TrafficDrainAndReplace", {}), *((strategy, IN_CELL) for strategy in STRATEGIES)]
)
async def test_killed_right_after_a_cell_was_made_nobody_reaches_it(strategy: str, router: dict[str, Any]) -> None:
    key_of = {"customerKey": {"type": "Header", "name": "x-customer-id"}, "initialCells": ["a", "b", "c"]}
    pins = {"haproxy": {**key_of, "pins": [{"customer": "globex", "cell": "b"}]}}
    policy = {"objectives": {"rpo": "24h"}, "replacement": {"promotionApproval": "NotRequired"}}
    world = replacing.fleet(policy=policy, **router, **pins)
    if strategy != "TrafficDrainAndReplace":
        world.data.back_up("b", "nightly")
        world.tick(30)
        world.intact_at["b"] = world.clock.now()
        restoring.corrupt(world, down=True)
    world.traffic.customers = {"globex": 5.0}
    key, world.left = world.run("r1", "b", strategy=strategy), []
    await play(world, key, until=RunPhase.PROMOTING)
    written = zip(world.writes[-len(world.left) :], world.left, strict=True)
    left = [after for write, after in written if write.kind == "provision" and write.what.endswith(" weight 0")]
    assert left, "a cell was made"
    for dead in left:
        new, name = placement.index_of(spec_of(dead), made(dead)), made(dead)
        assert new >= 0, "the Router has admitted it"
        for _ in range(2):
            spec = spec_of(dead)
            assert new not in placement.decode_table(spec.serving)
            assert new not in placement.decode_table(spec.homes)
            assert new not in {index for pin in spec.pins for index in (pin.home, pin.serving)}
            assert placement.share(spec, name) == 0
            dead.tick(120)  # nobody leads, and the cell becomes well
            seen = dead.traffic.observed((NAMESPACE, "shop"), window=120)
            assert seen is not None
            assert seen.requests > 0
            assert name not in seen.cells or seen.cells[name].requests == 0


# Rule 7: no value goes with a run that has ended


@pytest.mark.parametrize("kept", [True, False], ids=["with our finalizer", "released"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_run_that_has_ended_takes_nothing_along_when_it_is_deleted(strategy: str, kept: bool) -> None:
    world = to_restore(strategy)
    key = world.run("r1", "b", strategy=strategy)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    spec, cells, effects = spec_of(world), dict(world.cells), world.effects()
    customers = {name: dict(store.customers) for name, store in world.data.cells.items()}
    finalizers = [FINALIZER] if kept else ["example.com/keep"]
    gone = {"deletion_timestamp": world.clock.now(), "finalizers": finalizers}
    run = world.runs[key]
    world.runs[key] = run.model_copy(update={"metadata": run.metadata.model_copy(update=gone)})
    await looks(world, key, 60)
    assert (key in world.runs) is not kept
    world.runs.pop(key, None)
    await looks(world, key, 60)
    assert placement.share(spec, made(world)) > 0
    assert placement.share(spec, "b") == 0
    assert any(hold.cell == "b" for hold in spec.holds)
    assert spec_of(world) == spec
    assert (world.cells, world.effects()) == (cells, effects)
    assert {name: dict(store.customers) for name, store in world.data.cells.items()} == customers


# Rule 8: who was not restored stays where he is


def to_restore(strategy: str, **policy: Any) -> World:
    """Each procedure as it restores: what replaces a cell, because that cell cannot be read."""
    policy = {"promotionApproval": "NotRequired", **policy}
    if strategy == "TrafficDrainAndReplace":
        return unreadable(objectives={"rpo": "24h"}, replacement=policy)
    world = restoring.fleet(replacement=policy)
    restoring.corrupt(world, down=strategy == restoring.ISOLATE)
    return world


@pytest.mark.parametrize("by", ["person", "policy"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_slots_of_customers_that_could_not_be_restored_are_not_routed(strategy: str, by: str) -> None:
    world = to_restore(strategy, partialSuccess="Route" if by == "policy" else "Stop")
    stuck = sorted(world.data.cells["b"].customers)[:2]
    world.data.failing.update(stuck)
    kept = {placement.slot_of(name, 1024) for name in stuck}
    home = set(placement.slots_of(spec_of(world), "b"))
    key = world.run("r1", "b", strategy=strategy)
    if by == "person":
        run = await asked(world, key, "partial-move")
        assert all(name in run.status.awaiting.message for name in stuck)  # type: ignore[union-attr]
        assert placement.home_share(spec_of(world), made(world)) == 0
        approve(world, key)
    await play(world, key)
    run, spec, new = world.runs[key], spec_of(world), made(world)
    assert [w.what for w in world.writes if w.kind == "data" and "Migrate" in w.what] == []
    assert run.phase is RunPhase.PARTIALLY_SUCCEEDED, run.status.to_dict()
    assert run.status.result is not None
    assert run.status.result.customers is not None
    assert run.status.result.customers.failed_names == stuck
    assert (set(placement.slots_of(spec, "b")), set(placement.slots_of(spec, new))) == (kept, home - kept)
    served = placement.decode_table(spec.serving)
    assert {served[slot] for slot in home - kept} == {placement.index_of(spec, new)}
    assert placement.index_of(spec, new) not in {served[slot] for slot in kept}, "their data is not there"


# Rule 26: cells that the operator made are capped


def at_most(world: World, made_cells: int) -> None:
    policy = world.policies[NAMESPACE, "default"]
    limits = policy.spec.limits.model_copy(update={"max_made_cells": made_cells})
    world.policies[policy.key] = policy.model_copy(update={"spec": policy.spec.model_copy(update={"limits": limits})})


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_no_further_cell_is_made_where_as_many_as_may_be_serve_nobody(strategy: str) -> None:
    world = to_restore(strategy)
    for number in (1, 2):
        spec = world.cells[NAMESPACE, "a"].spec.to_dict() | {"weight": 0}
        world.add_cell(f"idle-{number}", spec, {LABEL_MADE_BY: "recell", LABEL_ORIGIN: "a"})
    at_most(world, 2)
    homes = spec_of(world).homes
    key = world.run("r1", "b", strategy=strategy)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED, run.status.to_dict()
    assert "TooManyMadeCells" in {condition.reason for condition in run.status.conditions}
    assert "idle-1 and idle-2" in (run.status.summary or "")
    assert [w.what for w in world.writes if w.kind == "provision"] == []
    assert spec_of(world).homes == homes


async def test_a_made_cell_that_has_customers_of_its_own_counts_no_more() -> None:
    world = to_restore("TrafficDrainAndReplace")
    found = world.cells[NAMESPACE, "c"]
    labels = {LABEL_MADE_BY: "recell", LABEL_ORIGIN: "x"}
    meta = found.metadata.model_copy(update={"labels": labels})
    world.cells[found.key] = found.model_copy(update={"metadata": meta})
    at_most(world, 1)
    key = world.run("r1", "b", strategy="TrafficDrainAndReplace")
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()


@pytest.mark.parametrize("how", ["freeze", "pause"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_frozen_or_paused_in_each_step_nothing_begins_and_it_goes_on_afterwards(strategy: str, how: str) -> None:
    world = scene(strategy)
    key = world.run("r1", "b", strategy=strategy)
    for step in PROCEDURES[strategy].steps:
        await play_until_written(world, key, step.name)
        before = world.effects()
        if how == "freeze":
            freeze = {"metadata": {"name": "sale"}, "spec": {"reason": "sale", "scope": "AllRuns"}}
            world.freezes.append(RecoveryFreeze.model_validate(freeze))
        else:
            world.control(key, paused=True)
        await looks(world, key, 120)
        assert world.runs[key].status.step == step.name
        assert world.effects() == before
        assert any(c.type == "Paused" and c.status == "True" for c in world.runs[key].status.conditions)
        world.freezes.clear()
        if how == "pause":
            world.control(key, paused=False)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()


BEFORE_ROUTING = [(s, "route-replacement") for s in STRATEGIES[:2]] + [(restoring.PITR, "promote-environment")]


@pytest.mark.parametrize("how", ["corrupted", "down"])
@pytest.mark.parametrize(("strategy", "step"), BEFORE_ROUTING)
async def test_nobody_is_routed_to_a_cell_that_fails_or_proves_corrupted_right_before(
    strategy: str, step: str, how: str
) -> None:
    world = scene(strategy)
    key = world.run("r1", "b", strategy=strategy)
    await play_until_written(world, key, step)
    homes, new = spec_of(world).homes, made(world)
    if how == "corrupted":
        world.data.corrupt(new)
    else:
        world.traffic.cells[new].down = True
    await play(world, key)
    assert world.runs[key].phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert spec_of(world).homes == homes


@pytest.mark.parametrize(("strategy", "step"), EACH)
async def test_deleted_in_each_step_it_is_undone_before_it_goes(strategy: str, step: str) -> None:
    world = scene(strategy)
    key = world.run("r1", "b", strategy=strategy)
    await play_until_written(world, key, step)
    homes = spec_of(world).homes
    run = world.runs[key]
    meta = run.metadata.model_copy(update={"deletion_timestamp": world.clock.now()})
    world.runs[key] = run.model_copy(update={"metadata": meta})
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(2000):
        if key not in world.runs:
            break
        world.tick(await engine.advance(key) or 1.0)
    assert key not in world.runs
    assert spec_of(world).homes == homes
    if placement.home_share(spec_of(world), "b"):
        assert [name for (_, name) in world.cells] == ["a", "b", "c"]
        assert world.data.cells["b"].stopped == set()


# Rule 23: a run that goes on from another one


async def both(world: World) -> None:
    """A replacement finds the data corrupted in the middle of the move, and another run goes on."""
    parent, child = (NAMESPACE, "r1"), (NAMESPACE, "r1-next")
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(4000):
        key = child if child in world.runs and world.runs[parent].phase.ended else parent
        again = await engine.advance(key) or 1.0
        if world.runs[parent].status.step == "move-customers" and not world.data.cells["b"].corrupted_at:
            world.data.corrupt("b")
        if child in world.runs and world.runs[child].phase.ended:
            return
        world.tick(again)
    raise AssertionError(f"stuck: {world.runs[parent].status.to_dict()}")


def escalating() -> World:
    world = restoring.fleet(objectives={"rpo": "24h"})
    world.traffic.cells["b"].down = True
    world.tick(30)
    return world


async def test_killed_after_every_write_of_an_escalation_there_is_one_restore_and_one_replacement() -> None:
    whole = escalating()
    replacing.replace(whole)
    whole.left = []
    await both(whole)
    assert whole.runs[NAMESPACE, "r1-next"].phase is RunPhase.SUCCEEDED, whole.runs[NAMESPACE, "r1-next"].status
    assert len(whole.left) > 20
    for write, world in zip(whole.writes[-len(whole.left) :], whole.left, strict=True):
        take_over(world)
        await both(world)
        killed_at = f"killed after {write}"
        assert world.runs[NAMESPACE, "r1-next"].phase is RunPhase.SUCCEEDED, killed_at
        restores = [w.what for w in world.writes if w.kind == "data" and w.what.startswith("Restore")]
        assert len(restores) == 1, killed_at
        assert [name for (_, name) in world.cells if name not in "abc"] == [placement.successor(spec_of(world), "b")]
        assert (NAMESPACE, "r1-next-next") not in world.runs


# One cell, nobody


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_only_cell_of_a_router_can_be_replaced(strategy: str) -> None:
    world = World()
    world.fleet("b", router=IN_CELL, policy={**restoring.POLICY, "replacement": {"promotionApproval": "NotRequired"}})
    world.template("small")
    replacing.in_cell(world)
    world.traffic.rps = 100
    world.tick(30)
    world.data.back_up("b", "newer", verified=True)
    world.tick(30)
    world.intact_at["b"] = world.clock.now()
    world.tick(10)
    if strategy != "TrafficDrainAndReplace":
        world.data.corrupt("b")
    world.traffic.cells["b"].down = strategy != restoring.PITR
    world.tick(30)
    key = world.run("r1", "b", strategy=strategy)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    (new,) = [name for (_, name) in world.cells if name != "b"]
    assert placement.share(spec_of(world), new) == 1.0


async def test_a_second_run_for_a_replaced_cell_takes_no_pinned_customer_along() -> None:
    key_of = {"customerKey": {"type": "Header", "name": "x-customer-id"}, "initialCells": ["a", "b", "c"]}
    world = replacing.fleet(**IN_CELL, haproxy={**key_of, "pins": [{"customer": "globex", "cell": "b"}]})
    world.data.cells["b"].customers["globex"] = [world.clock.now()]
    first = replacing.replace(world)
    await play(world, first)
    home = made(world)
    assert "globex" in world.data.cells[home].customers
    second = world.run("r2", "b", strategy="TrafficDrainAndReplace")
    for _ in range(6):
        await play(world, second, until=RunPhase.AWAITING_APPROVAL)
        if world.runs[second].phase.ended:
            break
        approve(world, second)
        await looks(world, second, 5)
    assert world.runs[second].phase.ended
    spec = spec_of(world)
    assert [pin.serving for pin in spec.pins] == [placement.index_of(spec, home)]


async def test_one_approval_for_what_cannot_be_stopped_does_not_cover_another_workload() -> None:
    world = replacing.fleet(policy={"steps": {**replacing.QUICK["steps"], "restartTimeout": "30s"}}, **IN_CELL)
    cell = world.cells[NAMESPACE, "b"]
    agent = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "b-agent"}
    spec = {**cell.spec.to_dict(), "workloads": [agent, *cell.spec.to_dict()["workloads"]]}
    world.cells[cell.key] = cell.model_validate({"metadata": cell.metadata, "spec": spec})
    first, second = world.cells[cell.key].spec.workloads
    world.workloads["b"] = [FakeWorkload(first, stoppable=False), FakeWorkload(second)]
    key = replacing.replace(world)
    await asked(world, key, "unfenced-source")
    world.workloads["b"][1].stops = False  # it was at zero, and comes back
    approve(world, key)
    run = await approve_once(world, key)
    assert run.status.awaiting is not None
    assert "b-web" in run.status.awaiting.message


async def approve_once(world: World, key: Key) -> Any:
    await looks(world, key, 5)
    assert world.runs[key].phase is not RunPhase.AWAITING_APPROVAL
    return await asked(world, key, "unfenced-source")


async def test_a_question_that_is_settled_by_hand_is_not_asked_any_more() -> None:
    world = replacing.fleet(**IN_CELL)
    world.workloads["b"][0].stoppable = False
    key = replacing.replace(world)
    await asked(world, key, "unfenced-source")
    world.workloads["b"][0].stoppable = True
    await looks(world, key, 15)
    run = world.runs[key]
    assert run.status.awaiting is None
    assert run.phase is RunPhase.PROMOTING
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
