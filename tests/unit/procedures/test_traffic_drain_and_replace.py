"""TrafficDrainAndReplace in virtual time: the order of proofs, each way it can go, each effect once."""

from typing import Any

import pytest

from recell.api.meta import seconds
from recell.api.recovery_run import RecoveryRun, RunPhase
from recell.domain import data, placement
from recell.engine.engine import Engine
from recell.engine.errors import Forbidden
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, FakeWorkload, World
from tests.unit.procedures.play import killed_after_each_write, play, play_fenced, play_until_written

STEPS = [step.name for step in PROCEDURES["TrafficDrainAndReplace"].steps]
QUICK = {
    "steps": {"drainIncrements": 2, "incrementInterval": "4s", "applyTimeout": "20s", "stabilityDuration": "20s"},
    "validation": {"duration": "20s"},
}
IN_CELL = {"customerData": "InCell"}
CUSTOMERS = 12


def fleet(*, policy: dict[str, Any] | None = None, **router: Any) -> World:
    """Three cells; b answers nobody any more, but its data can be read."""
    world = World()
    world.fleet("a", "b", "c", router=router, policy={**QUICK, **(policy or {})})
    world.template("small")
    world.traffic.rps = 300
    if router:
        in_cell(world)
    world.tick(60)
    world.traffic.cells["b"].down = True
    world.tick(30)
    return world


def in_cell(world: World) -> None:
    for key, cell in world.cells.items():
        spec = cell.spec.to_dict()
        spec["data"] = {**spec["data"], "type": "Jobs", "jobs": {"migrate": "migrate"}}
        world.cells[key] = cell.model_validate({"metadata": cell.metadata, "spec": spec})
        name = cell.metadata.name
        world.data.populate(name, CUSTOMERS, placement.slots_of(spec_of(world), name))


def spec_of(world: World) -> Any:
    return world.placements[NAMESPACE, "shop"].spec


def replace(world: World, **spec: Any) -> Key:
    return world.run("r1", "b", strategy="TrafficDrainAndReplace", **spec)


def made(world: World) -> str:
    names = [name for (_, name) in world.cells if name not in ("a", "b", "c")]
    assert len(names) == 1, names
    return names[0]


async def asked(world: World, key: Key, gate: str) -> RecoveryRun:
    """Play until the run asks at this gate."""
    await play(world, key, until=RunPhase.AWAITING_APPROVAL)
    run = world.runs[key]
    assert run.status.awaiting is not None, run.status.to_dict()
    assert run.status.awaiting.gate == gate, run.status.awaiting
    return run


def approve(world: World, key: Key) -> None:
    awaiting = world.runs[key].status.awaiting
    assert awaiting is not None
    control = world.runs[key].spec.control
    known = [a.to_dict() for a in (control.approvals or ())] if control else []
    world.control(key, approvals=[*known, {"gate": awaiting.gate, "decisionID": awaiting.decision_id}])


def given_up(world: World, key: Key, why: str) -> None:
    """A person has to see to it, and the source has everybody as before."""
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert why in (run.status.summary or "")
    assert world.data.cells["b"].stopped == set(), "customers can write at the source"
    assert [name for (_, name) in world.cells] == ["a", "b", "c"]


async def approved_to_the_end(world: World, key: Key, gate: str) -> RecoveryRun:
    await asked(world, key, gate)
    approve(world, key)
    await play(world, key)
    return world.runs[key]


async def test_with_shared_data_the_replacement_takes_the_failed_cells_place() -> None:
    world = fleet()
    before = spec_of(world)
    key = replace(world)
    await play(world, key)
    run, spec, new = world.runs[key], spec_of(world), made(world)
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert placement.slots_of(spec, new) == placement.slots_of(before, "b")
    assert placement.share(spec, "b") == 0
    assert placement.successor(spec, "b") == new
    assert run.status.result is not None
    assert run.status.result.replacement == new
    assert world.workloads["b"][0].stop_token
    assert world.cells[NAMESPACE, new].spec.weight == 100


async def test_with_data_in_the_cell_every_customer_moves_before_the_first_slot() -> None:
    world = fleet(**IN_CELL)
    key = replace(world)
    await play(world, key, until="route-replacement")
    new = made(world)
    assert set(world.data.cells[new].customers) == set(world.data.cells["b"].customers)
    assert placement.home_share(spec_of(world), new) == 0
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert placement.home_share(spec_of(world), "b") == 0
    assert run.status.result is not None
    assert run.status.result.customers is not None
    assert (run.status.result.customers.moved, run.status.result.customers.affected) == (CUSTOMERS, CUSTOMERS)
    assert run.status.result.data_loss is None
    effects = [effect.split()[0] for effect in world.effects()]
    assert effects.index("stop") > effects.index("data"), "the source is read before it is stopped"
    assert world.data.write("b", next(iter(world.data.cells["b"].customers))) is False, "nobody writes there any more"


async def test_a_customer_who_is_pinned_to_the_cell_moves_too() -> None:
    key_of = {"customerKey": {"type": "Header", "name": "x-customer-id"}, "initialCells": ["a", "b", "c"]}
    world = fleet(**IN_CELL, haproxy={**key_of, "pins": [{"customer": "globex", "cell": "b"}]})
    assert placement.slot_of("globex", 1024) not in placement.slots_of(spec_of(world), "b")
    world.data.cells["b"].customers["globex"] = [world.clock.now()]
    key = replace(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    assert "globex" in world.data.cells[made(world)].customers
    spec = spec_of(world)
    assert [pin.serving for pin in spec.pins] == [placement.index_of(spec, made(world))]


async def test_a_cell_that_is_well_is_replaced_if_the_run_says_so() -> None:
    world = fleet(**IN_CELL)
    world.traffic.cells["b"].down = False
    world.tick(60)
    before = world.clock.now().isoformat()
    key = replace(world, startWhen="Always", startBefore=before.replace("03:", "09:"))
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    assert placement.successor(spec_of(world), "b") == made(world)


async def test_how_far_a_move_is_stands_in_the_record() -> None:
    world = fleet(**IN_CELL)
    key = replace(world)
    await play(world, key, until="move-customers")
    engine, seen = Engine(world.ports(), PROCEDURES), set()
    while world.runs[key].status.step == "move-customers":
        world.tick(await engine.advance(key) or 1.0)
        seen |= {(s.data or {}).get("done") for s in world.runs[key].status.steps if s.name == "move-customers"}
    assert len(seen - {None}) > 3
    assert max(seen - {None}) <= CUSTOMERS


async def test_unreadable_data_is_restored_and_its_loss_accepted_by_a_person() -> None:
    world = World()
    world.fleet("a", "b", "c", router=IN_CELL, policy=QUICK)
    world.template("small")
    in_cell(world)
    world.tick(10)
    backup = world.data.back_up("b", "nightly", verified=True)
    world.traffic.rps = 300
    world.tick(60)
    for name in list(world.data.cells["b"].customers):
        assert world.data.write("b", name)
    world.traffic.cells["b"].down = True
    world.data.cells["b"].accessible = False
    world.tick(30)
    key = replace(world)
    run = await asked(world, key, "accept-data-loss")
    assert "nightly" in run.status.awaiting.message  # type: ignore[union-attr]
    assert [str(w) for w in world.writes if "Restore" in w.what] == [], "nothing is restored before"
    approve(world, key)
    await play(world, key)
    run, new = world.runs[key], made(world)
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    result = run.status.result
    assert result is not None
    assert result.data_loss is not None
    assert result.recovery_point is not None
    assert result.recovery_point.backup_id == "nightly"
    assert abs((result.data_loss.from_ - backup.at).total_seconds()) <= 1
    lost = [at for records in world.data.cells["b"].customers.values() for at in records if at > backup.at]
    assert len(lost) == CUSTOMERS
    assert all(result.data_loss.from_ <= at <= result.data_loss.to for at in lost), "the window covers what was lost"
    assert all(len(records) == 1 for records in world.data.cells[new].customers.values())


async def test_a_loss_within_the_objective_needs_nobody() -> None:
    world = World()
    world.fleet("a", "b", "c", router=IN_CELL, policy={**QUICK, "objectives": {"rpo": "1h"}})
    world.template("small")
    in_cell(world)
    world.data.back_up("b", "nightly")
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].down = True
    world.data.cells["b"].accessible = False
    world.tick(30)
    key = replace(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


async def test_without_a_backup_it_stops_and_promotes_nothing() -> None:
    world = fleet(**IN_CELL)
    world.data.cells["b"].accessible = False
    key = replace(world)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "There is no backup" in (run.status.summary or "")
    assert placement.home_share(spec_of(world), "b") > 0
    assert world.workloads["b"][0].stop_token is None


async def test_customers_that_cannot_be_moved_stop_it_before_routing() -> None:
    world = fleet(**IN_CELL)
    stuck = sorted(world.data.cells["b"].customers)[:2]
    world.data.failing.update(stuck)
    key = replace(world)
    run = await asked(world, key, "partial-move")
    assert all(name in run.status.awaiting.message for name in stuck)  # type: ignore[union-attr]
    assert placement.home_share(spec_of(world), made(world)) == 0
    approve(world, key)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.PARTIALLY_SUCCEEDED, run.status.to_dict()
    assert run.status.result is not None
    assert run.status.result.customers is not None
    assert run.status.result.customers.failed_names == stuck
    left = placement.slots_of(spec_of(world), "b")
    assert {placement.slot_of(name, 1024) for name in stuck} == set(left), "only their slots stay"


async def test_the_policy_may_route_those_that_could_be_moved() -> None:
    world = fleet(policy={"replacement": {"partialSuccess": "Route"}}, **IN_CELL)
    world.data.failing.add(min(world.data.cells["b"].customers))
    key = replace(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.PARTIALLY_SUCCEEDED


async def test_nobody_to_move_proves_nothing() -> None:
    world = fleet(**IN_CELL)
    world.data.cells["b"].customers.clear()
    await asked(world, replace(world), "unverified-move")


@pytest.mark.parametrize("step", ["check-capacity", "provision-replacement", "move-customers"])
async def test_a_source_that_is_well_again_before_its_customers_moved_gets_them_back(step: str) -> None:
    world = fleet(**IN_CELL)
    key = replace(world)
    await play_until_written(world, key, step)
    world.traffic.cells["b"].down = False
    world.tick(60)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert [name for (_, name) in world.cells] == ["a", "b", "c"], "the new cell is taken away again"
    assert spec_of(world).holds == []
    assert placement.share(spec_of(world), "b") == placement.home_share(spec_of(world), "b") > 0


@pytest.mark.parametrize("step", ["check-capacity", "provision-replacement"])
async def test_a_source_that_is_well_again_gets_its_traffic_back_in_increments(step: str) -> None:
    """Rule 4: with shared data everybody left it at once; nobody comes back at once."""
    world = fleet(policy={"steps": {**QUICK["steps"], "drainIncrements": 4}})
    key = replace(world)
    await play_until_written(world, key, step)
    assert placement.share(spec_of(world), "b") == 0
    drained = len(world.writes)
    world.traffic.cells["b"].down = False
    world.tick(60)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.to_dict()
    assert next(c.reason for c in run.status.conditions if c.type == "Succeeded") == "SelfRecovered"
    moves = [write.what.split(",")[0] for write in world.writes[drained:] if write.kind == "placement"]
    assert moves == ["b 25 %", "b 50 %", "b 75 %", "b 100 %", "no holds"]
    assert [name for (_, name) in world.cells] == ["a", "b", "c"]


async def test_a_drain_that_turns_away_as_many_as_the_fault_is_not_made_and_both_numbers_are_said() -> None:
    """Rule 14: with the data in the cells, whoever leaves b is served by nobody; nor is anybody at b."""
    world = fleet(**IN_CELL)
    key = replace(world)
    before = spec_of(world)
    await play(world, key, until="provision-replacement")
    told = next(s for s in world.runs[key].status.steps if s.name == "drain-traffic-now")
    assert told.message == (
        "Traffic left where it is for now: draining b to 0 % costs 33.3 % of the customers, its fault costs 33.3 % now"
    )
    assert (spec_of(world).holds, spec_of(world).serving) == ([], before.serving)


@pytest.mark.parametrize("step", ["provision-replacement", "move-customers"])
async def test_a_source_found_corrupted_is_never_copied(step: str) -> None:
    world = fleet(**IN_CELL)
    key = replace(world)
    await play(world, key, until=step)
    world.data.corrupt("b")
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.ESCALATED
    assert world.runs[NAMESPACE, "r1-next"].spec.strategy == "IsolateAndRestoreFromBackup"
    assert not any("Migrate" in effect for effect in world.effects())


async def test_what_may_not_be_made_is_said_and_waited_for() -> None:
    world = fleet(**IN_CELL)
    world.provisioner.refuses = Forbidden("may not create deployments.apps in fleet: grant it")
    key = replace(world)
    await play(world, key, until="provision-replacement")
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(3):
        world.tick(await engine.advance(key) or 1.0)
    reconciling = next(c for c in world.runs[key].status.conditions if c.type == "Reconciling")
    assert reconciling.reason == "Forbidden"
    assert "grant it" in reconciling.message
    world.provisioner.refuses = None
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


async def test_what_may_not_be_taken_away_is_listed_and_not_waited_for() -> None:
    world = fleet(**IN_CELL)
    world.provisioner.refuses = Forbidden("may not get secrets in fleet: grant it")
    world.provisioner.keeps = Forbidden("may not list secrets in fleet: grant it")
    began = world.clock.now()
    key = replace(world)
    await play(world, key)
    run, waited = world.runs[key], seconds(world.policies[NAMESPACE, "default"].spec.replacement.provision_timeout)
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "may not get secrets in fleet" in (run.status.summary or "")
    assert "Left behind: may not list secrets in fleet" in (run.status.summary or "")
    assert (world.clock.now() - began).total_seconds() < waited + 60


async def test_a_cell_that_cannot_be_made_is_taken_away_and_nobody_was_moved() -> None:
    world = fleet(**IN_CELL)
    world.provisioner.fails = "Deployment/x-web: ImagePullBackOff"
    before = spec_of(world)
    key = replace(world)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "ImagePullBackOff" in (run.status.summary or "")
    assert [name for (_, name) in world.cells] == ["a", "b", "c"]
    assert spec_of(world).homes == before.homes
    assert world.data.cells["b"].stopped == set()


async def test_a_source_that_cannot_be_stopped_needs_a_person() -> None:
    world = fleet(**IN_CELL)
    world.workloads["b"][0].stoppable = False
    key = replace(world)
    await asked(world, key, "unfenced-source")
    assert placement.home_share(spec_of(world), made(world)) == 0
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


async def test_a_replacement_that_does_not_validate_is_kept_and_with_shared_data_gets_nobody() -> None:
    world = fleet()
    key = replace(world)
    await play(world, key, until="validate-replacement")
    world.traffic.cells[made(world)].error_rate = 0.8
    await play(world, key)
    assert world.runs[key].phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert placement.share(spec_of(world), made(world)) == 0
    assert placement.served_share(spec_of(world)) == 1.0, "the others serve everybody"


def overloaded() -> World:
    """The other two cells cannot bear the third's load."""
    world = World()
    world.fleet("a", "b", "c", policy=QUICK)
    for key, cell in world.cells.items():
        spec = {**cell.spec.to_dict(), "capacity": {"requestsPerSecond": 150}}
        world.cells[key] = cell.model_validate({"metadata": cell.metadata, "spec": spec})
    world.template("small")
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].error_rate = 0.9
    world.tick(30)
    return world


async def test_what_the_others_cannot_bear_waits_for_emergency_cells() -> None:
    world = overloaded()
    key = replace(world)
    await play(world, key, until="provision-replacement")
    result = world.runs[key].status.result
    assert result is not None
    assert len(result.emergency_cells) == 2
    first = next(h for h in (str(w) for w in world.writes if w.kind == "placement") if "b " in h)
    assert "b 0 %" not in first, "first as much as the others can bear"
    assert placement.limit(spec_of(world), "b") == 0
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


async def test_emergency_cells_that_serve_nobody_yet_go_when_the_run_is_aborted() -> None:
    world = overloaded()
    key = replace(world)
    engine = Engine(world.ports(), PROCEDURES)
    while not world.provisioner.made:
        world.tick(await engine.advance(key) or 1.0)
    world.control(key, abort=True)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.ABORTED
    assert [name for (_, name) in world.cells] == ["a", "b", "c"]


async def test_killed_after_every_single_write_it_does_everything_once() -> None:
    whole = fleet(**IN_CELL)
    key, kills = replace(whole), 0
    async for world, killed_at in killed_after_each_write(whole, key):
        kills += 1
        assert world.runs[key].phase is RunPhase.SUCCEEDED, killed_at
        assert world.effects() == whole.effects(), killed_at
    assert kills > 20


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("router", [{}, IN_CELL])
async def test_a_fenced_leader_changes_nothing_more(step: str, router: dict[str, Any]) -> None:
    world = fleet(**router)
    key = replace(world)
    await play_until_written(world, key, step)
    known = set(world.cells)
    assert await play_fenced(world, key)
    assert set(world.cells) == known
    world.epoch += 1
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, "the new leader goes on from there"


@pytest.mark.parametrize("step", STEPS)
async def test_aborted_in_each_step_everybody_who_was_served_is_served(step: str) -> None:
    world = fleet(**IN_CELL)
    key = replace(world)
    await play_until_written(world, key, step)
    routed = placement.successor(spec_of(world), "b") != "b"
    home = made(world) if routed else "b"
    customers = set(world.data.cells[home].customers)
    world.control(key, abort=True)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.ABORTED, run.status.to_dict()
    assert customers <= set(world.data.cells[home].customers)
    assert world.data.cells[home].stopped == set(), "they can write"
    assert placement.share(spec_of(world), home) > 0
    if not routed:
        assert world.workloads["b"][0].stop_token is None
        assert [name for (_, name) in world.cells] == ["a", "b", "c"]
    assert spec_of(world).reservations == []


async def test_aborted_in_the_middle_of_routing_it_stops_and_lists_what_remains() -> None:
    world = fleet(**IN_CELL)
    key = replace(world)
    await play_until_written(world, key, "route-replacement")
    engine = Engine(world.ports(), PROCEDURES)
    while not placement.home_share(spec_of(world), made(world)):
        world.tick(await engine.advance(key) or 1.0)
    homes = spec_of(world).homes
    world.control(key, abort=True)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.ABORTED
    assert spec_of(world).homes == homes, "nobody is routed back, and nobody on"
    assert run.status.result is not None
    assert run.status.result.remains


async def test_a_dry_run_says_what_it_would_do_and_does_nothing() -> None:
    world = fleet(**IN_CELL)
    key = replace(world, dryRun=True)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED
    assert world.effects() == []
    told = " ".join(step.message for step in run.status.steps)
    assert "CellTemplate small" in told


async def test_the_operations_that_a_replacement_asks_for() -> None:
    world = fleet(**IN_CELL)
    await play(world, replace(world))
    asked_for = [effect.split()[1] for effect in world.effects() if effect.startswith("data")]
    assert asked_for == [data.Operation.ACCESSIBLE, data.Operation.MIGRATE]


async def test_a_move_that_fails_is_undone_before_the_run_ends() -> None:
    world = fleet(**IN_CELL)
    world.data.fails[data.Operation.MIGRATE] = "the disk of the target is full"
    key = replace(world)
    await play(world, key)
    given_up(world, key, "disk of the target")


async def test_a_source_that_still_serves_is_stopped_before_it_is_restored_over() -> None:
    world = fleet(**IN_CELL)
    world.data.cells["b"].accessible = False
    world.data.cells["b"].archiving = True
    world.traffic.cells["b"].down = False
    world.traffic.cells["b"].error_rate = 0.9
    world.data.back_up("b", "nightly")
    world.tick(30)
    await play(world, replace(world))
    effects = [effect.partition(" fleet")[0] for effect in world.effects()]
    restored = next(number for number, effect in enumerate(effects) if effect.startswith("data Restore"))
    assert any(effect.startswith("stop ") for effect in effects[:restored]), effects


async def test_one_workload_that_cannot_be_stopped_keeps_no_other_from_it() -> None:
    world = fleet(**IN_CELL)
    cell = world.cells[NAMESPACE, "b"]
    agent = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "b-agent"}
    spec = {**cell.spec.to_dict(), "workloads": [agent, *cell.spec.to_dict()["workloads"]]}
    world.cells[cell.key] = cell.model_validate({"metadata": cell.metadata, "spec": spec})
    first, second = world.cells[cell.key].spec.workloads
    world.workloads["b"] = [FakeWorkload(first, stoppable=False), FakeWorkload(second)]
    key = replace(world)
    await asked(world, key, "unfenced-source")
    assert world.workloads["b"][1].stop_token
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


NIGHTLY = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "b-nightly"}


@pytest.mark.parametrize("router", [{}, IN_CELL])
async def test_nobody_is_routed_away_before_the_sources_cron_jobs_are_seen_at_zero(router: dict[str, Any]) -> None:
    world = fleet(**router)
    world.name_workloads("b", NIGHTLY)
    nightly, _ = world.workloads["b"]
    nightly.stops = False  # a Job's pod that does not end
    key = replace(world)
    run = await asked(world, key, "unfenced-source")
    assert "CronJob/b-nightly" in run.status.awaiting.message  # type: ignore[union-attr]
    assert placement.home_share(spec_of(world), made(world)) == 0
    nightly.stops = True
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    assert placement.home_share(spec_of(world), "b") == 0
    assert nightly.stop_token


async def test_a_source_that_keeps_its_customers_has_its_cron_jobs_back() -> None:
    world = fleet(**IN_CELL)
    world.name_workloads("b", NIGHTLY)
    nightly, web = world.workloads["b"]
    nightly.stops = False
    key = replace(world)
    await asked(world, key, "unfenced-source")
    assert nightly.stop_token
    world.control(key, abort=True)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.ABORTED, world.runs[key].status.to_dict()
    assert (nightly.stop_token, web.stop_token) == (None, None)


@pytest.mark.parametrize("router", [{}, IN_CELL])
async def test_a_source_that_somebody_scales_back_is_asked_about_and_named_and_stopped_once_they_leave_it(
    router: dict[str, Any],
) -> None:
    world = fleet(**router)
    world.workloads["b"][0].reverted_by = "keda"
    key = replace(world)
    run = await asked(world, key, "unfenced-source")
    assert "scaling to zero was reverted twice, last by keda" in run.status.awaiting.message  # type: ignore[union-attr]
    world.tick(3600)
    world.workloads["b"][0].reverted_by = None
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    assert world.workloads["b"][0].stop_token


async def test_pins_stay_where_a_pinned_customer_could_not_be_moved() -> None:
    key_of = {"customerKey": {"type": "Header", "name": "x-customer-id"}, "initialCells": ["a", "b", "c"]}
    world = fleet(
        policy={"replacement": {"partialSuccess": "Route"}},
        **IN_CELL,
        haproxy={**key_of, "pins": [{"customer": "globex", "cell": "b"}]},
    )
    world.data.cells["b"].customers["globex"] = [world.clock.now()]
    world.data.failing.add("globex")
    key = replace(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.PARTIALLY_SUCCEEDED
    (pin,) = spec_of(world).pins
    assert pin.home == placement.index_of(spec_of(world), "b"), "the new cell does not have globex's data"


async def test_aborted_while_the_source_is_well_its_traffic_returns_in_increments() -> None:
    world = fleet()
    key = replace(world)
    await play_until_written(world, key, "provision-replacement")
    drained = placement.limit(spec_of(world), "b")
    world.traffic.cells["b"].down = False
    world.tick(60)
    world.control(key, abort=True)
    engine, limits = Engine(world.ports(), PROCEDURES), [drained]
    for _ in range(200):
        if world.runs[key].phase.ended:
            break
        again = await engine.advance(key)
        if placement.limit(spec_of(world), "b") != limits[-1]:
            limits.append(placement.limit(spec_of(world), "b"))
        world.tick(again or 1.0)
    assert world.runs[key].phase is RunPhase.ABORTED
    assert limits == [0, 50, 100], "in as many increments as the policy says"
