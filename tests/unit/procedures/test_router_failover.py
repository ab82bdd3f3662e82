"""RouterFailover in virtual time: who serves, in which order things are done, and what customers miss."""

from datetime import timedelta
from typing import Any

import pytest

from recell.api import RecoveryFreeze, RecoveryRun
from recell.api.fallback import Fallback, SwitchType
from recell.api.placement import Hold, Holder, HoldState, PlacementMode
from recell.api.recovery_run import RunPhase
from recell.domain import fallback, placement
from recell.engine.engine import Engine
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.routers import FakeSwitch
from tests.fakes.world import NAMESPACE, START, World
from tests.unit.procedures.play import killed_after_each_write, play, play_fenced, play_until_written

STEPS = (
    "assess-router",
    "activate-fallback",
    "validate-fallback",
    "recover-primary",
    "provision-new-primary",
    "switch-back",
)
EFFECTS = [
    "placement no holds, fallback over a b c d",
    "switch Fallback",
    "restart router",
    "placement no holds",
    "switch Primary",
]
KEY = (NAMESPACE, "shop")
QUICK = {"applyTimeout": "20s", "restartTimeout": "60s", "incrementInterval": "10s"}
FALLBACK, PRIMARY = PlacementMode.FALLBACK, PlacementMode.PRIMARY


def fleet(customer_data: str = "Shared", mode: str = "Automatic", **router: Any) -> World:
    world = World()
    names = ("a", "b", "c", "d")
    spec = {"customerData": customer_data, "fallback": {}, **router}
    world.fleet(*names, router=spec, policy={"mode": mode, "steps": QUICK})
    world.traffic.rps = 300
    world.tick(60)
    return world


def failed(**how: Any) -> World:
    world = fleet(**how)
    world.router_side.fail(gone=2)
    world.tick(12)
    return world


def hanging() -> World:
    """Its processes do nothing, so that they cannot be told anything either."""
    world = fleet()
    world.router_side.fail(hung=2)
    world.tick(12)
    return world


def failed_so_that_it_comes_to(step: str) -> World:
    world = failed() if step != "activate-fallback" else hanging()
    if step == "provision-new-primary":
        world.router_side.heals_on_restart = False
    return world


def make(world: World, **spec: Any) -> Key:
    return world.run("r1", "shop", kind="Router", **spec)


def mode(world: World) -> PlacementMode:
    return world.placements[KEY].spec.mode


def steps(run: RecoveryRun) -> dict[str, str]:
    return {step.name: step.message for step in run.status.steps}


def why(run: RecoveryRun) -> str:
    return next(c.reason for c in run.status.conditions if c.type in ("Failed", "Succeeded") and c.status == "True")


async def test_a_router_whose_pods_are_gone_is_relieved_recovered_and_takes_over_again() -> None:
    world = failed()
    lost = world.router_side.without_service
    key = make(world)
    log = await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.summary
    assert world.effects() == EFFECTS
    assert [line.split()[1] for line in log if line.split()[0] not in ("Succeeded",)] == [
        "validate-fallback",
        "recover-primary",
        "switch-back",
    ], "the steps before wait for nothing"
    assert world.router_side.without_service - lost <= 1
    assert (mode(world), world.router_side.switch.side, world.placements[KEY].spec.fallback) == (PRIMARY, PRIMARY, None)
    assert "8 sample customers landed where MD5 modulo 4 says" in steps(run)["validate-fallback"]
    assert "was restarted and is well" in steps(run)["recover-primary"]
    assert steps(run)["provision-new-primary"] == "Not needed: the router came back"
    assert run.status.summary is not None
    assert run.status.summary.startswith("Router shop was recovered in")


async def test_one_that_hangs_is_switched_away_from_and_dual_routing_is_recorded_first() -> None:
    world = hanging()
    key = make(world)
    await play(world, key, until="validate-fallback")
    active = world.placements[KEY].spec.fallback
    assert active is not None
    assert active.dual_routing
    assert "DualRouting is recorded" in steps(world.runs[key])["activate-fallback"]
    assert world.effects()[-1] == "switch Fallback", "what is known of the primary is recorded before the switch"
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


async def test_one_that_comes_back_by_itself_is_not_restarted() -> None:
    world = failed()
    key = make(world)
    await play(world, key, until="recover-primary")
    world.router_side.fail()
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert world.router_side.restarts == 0
    assert "is well again by itself" in steps(world.runs[key])["recover-primary"]


async def test_one_that_a_restart_does_not_help_is_made_anew() -> None:
    world = failed()
    world.router_side.heals_on_restart = False
    key = make(world)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, run.status.summary
    assert (world.router_side.restarts, world.router_side.renewals) == (1, 1)
    assert "did not come back within 1m" in steps(run)["recover-primary"]


async def test_one_that_never_comes_back_leaves_its_customers_with_the_fallback() -> None:
    world = failed()
    world.router_side.heals_on_restart = world.router_side.heals_when_new = False
    key = make(world)
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "DeadlineExceeded")
    assert "Customers of Router shop go through its fallback" in (run.status.summary or "")
    assert (mode(world), world.router_side.switch.side) == (FALLBACK, FALLBACK)


# --- not at all


async def test_a_router_that_answers_again_before_the_leap_is_left_alone() -> None:
    world = failed()
    key = make(world)
    world.router_side.fail()
    world.tick(1)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED
    assert "by itself" in (run.status.summary or "")
    assert world.effects() == []


async def test_without_a_fallback_the_row_is_skipped() -> None:
    world = failed(fallback=None)
    key = make(world)
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "ManualIntervention")
    assert "router-high needs a fallback: set spec.fallback of Router shop" in (run.status.summary or "")


async def test_a_fallback_that_is_down_itself_is_skipped_too_and_said() -> None:
    world = fleet()
    world.router_side.fallback_pods = 0
    world.router_side.fail(gone=2)
    world.tick(12)
    key = make(world)
    await play(world, key)
    assert "none of its 2 pods is ready" in (world.runs[key].status.summary or "")
    assert world.effects() == []


async def test_a_person_who_states_it_is_told_why_it_cannot_be() -> None:
    world = failed(fallback=None)
    key = make(world, strategy="ActivateFallbackRouting")
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "FallbackUnavailable")
    assert world.effects() == []


async def test_without_a_switch_it_is_unavailable() -> None:
    world = failed()
    world.router_side.switch.stuck = "Service shop is not there"
    key = make(world)
    await play(world, key)
    assert why(world.runs[key]) == "FallbackUnavailable"
    assert "Service shop is not there" in (world.runs[key].status.summary or "")
    assert world.effects() == []


async def test_with_data_in_the_cells_it_is_for_critical_impact_only_and_everybody_is_at_home() -> None:
    world = failed(customer_data="InCell")
    stated = {"type": "Router", "impact": "High", "dataIntegrity": "Unknown"}
    assert "Critical impact only" in fallback.reserved(world.routers[KEY], "High")  # type: ignore[arg-type]
    key = make(world)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED, (run.status.summary, stated)
    assert "landed at home" in steps(run)["validate-fallback"]


# --- the fallback does not serve


async def test_a_switch_that_moves_nobody_ends_with_a_person() -> None:
    world = failed()
    world.router_side.switch.deaf = True
    key = make(world)
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "FallbackNotServing")
    assert "sample customers got no good answer" in (run.status.summary or "")


def by(world: World, *types: SwitchType) -> tuple[FakeSwitch, ...]:
    """The Router names these switches, in this order."""
    blocks: dict[SwitchType, dict[str, Any]] = {
        SwitchType.SERVICE: {},
        SwitchType.GATEWAY: {"gateway": {"parentRefs": [{"name": "public"}]}},
        SwitchType.DNS: {"dns": {"hostname": "shop.example.com", "routerTargets": ["1"], "fallbackTargets": ["2"]}},
    }
    named = [{"type": str(type_), **blocks[type_]} for type_ in types]
    router = world.routers[KEY]
    wanted = Fallback.model_validate({"switches": named})
    world.routers[KEY] = router.model_copy(update={"spec": router.spec.model_copy(update={"fallback": wanted})})
    side = world.router_side
    others = [FakeSwitch(side, type_) for type_ in types if type_ is not SwitchType.SERVICE]
    side.switches = [side.switch, *others]
    found = {switch.type: switch for switch in side.switches}
    return tuple(found[type_] for type_ in types)


def moves(world: World) -> list[str]:
    return [effect.removeprefix("switch ") for effect in world.effects() if effect.startswith("switch")]


async def test_the_next_switch_is_tried_beside_the_first_and_both_lead_back() -> None:
    world = failed()
    service, _, dns = by(world, SwitchType.SERVICE, SwitchType.GATEWAY, SwitchType.DNS)
    world.router_side.switches[1].stuck = "no Gateway has accepted HTTPRoute fleet/shop"
    service.deaf, dns.takes = True, 20.0
    key = make(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.summary
    assert moves(world) == ["Fallback", "DNS Fallback", "Primary", "DNS Primary"]
    assert {switch.side for switch in world.router_side.switches} == {PRIMARY}


@pytest.mark.parametrize("first", [SwitchType.GATEWAY, SwitchType.DNS])
async def test_the_switch_that_the_router_names_first_is_used(first: SwitchType) -> None:
    world = failed()
    switch, _ = by(world, first, SwitchType.SERVICE)
    switch.takes = 15.0
    key = make(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.summary
    assert moves(world) == [f"{first} Fallback", f"{first} Primary"]


async def test_a_service_that_a_person_switched_leads_back_too_though_no_run_would_use_it() -> None:
    world = failed()
    (gateway,) = by(world, SwitchType.GATEWAY)
    world.router_side.switch.side = FALLBACK
    key = make(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.summary
    assert (gateway.side, world.router_side.switch.side) == (PRIMARY, PRIMARY)
    assert moves(world) == ["Primary"]


async def test_a_way_back_that_name_servers_do_not_take_up_ends_at_the_fallback_again() -> None:
    world = failed()
    (dns,) = by(world, SwitchType.DNS)
    key = make(world)
    await play(world, key, until="switch-back")
    dns.takes = 10_000.0
    dns.within = lambda router: 30.0  # type: ignore[method-assign]
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "SwitchBackFailed")
    assert "takes its time" in (run.status.summary or "")
    assert dns.side is FALLBACK


async def test_a_cell_that_is_down_is_no_fault_of_the_fallback() -> None:
    world = failed()
    world.traffic.cells["b"].down = True
    world.tick(15)
    key = make(world)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, "it waits for no cell, whose run waits for it"
    assert "6 sample customers landed where MD5 modulo 4 says" in steps(world.runs[key])["validate-fallback"]


async def test_with_no_cell_that_is_well_nothing_is_proven() -> None:
    world = failed()
    for name in "abcd":
        world.traffic.cells[name].down = True
    world.tick(15)
    key = make(world)
    await play(world, key)
    assert why(world.runs[key]) == "FallbackNotServing"
    assert "no cell behind it is well" in (world.runs[key].status.summary or "")


async def test_a_cell_that_is_isolated_while_the_fallback_serves_gets_nothing_and_no_count_changes() -> None:
    world = failed()
    key = make(world)
    await play(world, key, until="recover-primary")
    before = world.router_side.fallback_table
    assert before is not None
    hold = Hold(
        cell="b",
        max_percent=0,
        state=HoldState.ISOLATED,
        holder=Holder(kind="Person", name="ann"),
        reason="",
        since=START,
    )
    world._replace(lambda spec: placement.hold(spec, placement.Routing.of(world.routers[KEY]), hold))
    world.tick(4)
    after = world.router_side.fallback_table
    assert after is not None
    assert after.order == before.order
    moved = {c for c in (f"customer-{n}" for n in range(300)) if before.cell_of(c) != after.cell_of(c)}
    assert moved
    assert {before.cell_of(customer) for customer in moved} == {"b"}
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


# --- the way back


async def test_a_router_that_fails_again_within_the_guard_sends_everybody_to_the_fallback() -> None:
    world = failed()
    key = make(world)
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(2000):
        world.tick(await engine.advance(key) or 1.0)
        if world.effects()[-1:] == ["switch Primary"]:
            break
    world.router_side.fail(gone=2)
    lost = world.router_side.without_service
    await play(world, key)
    run = world.runs[key]
    assert (run.phase, why(run)) == (RunPhase.MANUAL_INTERVENTION_REQUIRED, "SwitchBackFailed")
    assert (mode(world), world.router_side.switch.side) == (FALLBACK, FALLBACK)
    assert world.router_side.without_service - lost <= 6


async def test_somebody_who_switches_back_by_hand_is_respected() -> None:
    world = failed()
    key = make(world)
    await play(world, key, until="validate-fallback")
    world.router_side.fail()
    world.router_side.switch.side = PRIMARY
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert (mode(world), world.router_side.switch.side) == (PRIMARY, PRIMARY)
    assert world.effects().count("switch Fallback") == 1


async def test_what_a_person_switched_is_brought_back_by_a_run_that_says_so() -> None:
    world = fleet()
    order = world.router_side.fallback_table.order  # type: ignore[union-attr]
    world._replace(lambda spec: fallback.activate(spec, order, Holder(kind="Person", name="by-hand"), START))
    world.router_side.switch.side = FALLBACK
    world.tick(60)
    before = (START + timedelta(days=1)).isoformat()
    key = make(world, strategy="ActivateFallbackRouting", startWhen="Always", startBefore=before)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert world.effects() == ["placement no holds", "switch Primary"]


async def test_the_runs_of_cells_wait_while_the_fallback_serves() -> None:
    world = fleet()
    world.traffic.cells["b"].error_rate = 0.1
    world.tick(30)
    cells = world.run("cell-run", "b", strategy="CellRestart")
    await play(world, cells, until="drain-traffic")
    world.router_side.fail(gone=2)
    world.tick(12)
    key = make(world)
    await play(world, key, until="recover-primary")
    engine = Engine(world.ports(), PROCEDURES)
    await engine.advance(cells)
    paused = next(c for c in world.runs[cells].status.conditions if c.type == "Paused")
    assert (paused.status, paused.reason) == ("True", "FallbackActive")
    fresh = world.run("another", "c", strategy="CellRestart", startWhen="Always", startBefore="2030-01-01T00:00:00Z")
    await engine.advance(fresh)
    waits = next(c for c in world.runs[fresh].status.conditions if c.type == "Reconciling")
    assert waits.reason == "FallbackActive"
    assert "recell isolate" in waits.message
    await play(world, key)
    await play(world, cells)
    assert world.runs[cells].phase.ended


# --- killed, aborted, fenced, rehearsed


@pytest.mark.parametrize("restart_helps", [True, False])
async def test_killed_after_every_single_write_it_does_everything_once(restart_helps: bool) -> None:
    world = failed()
    world.router_side.heals_on_restart = restart_helps
    seen = 0
    async for left, killed_at in killed_after_each_write(world, make(world)):
        run = left.runs[NAMESPACE, "r1"]
        assert run.phase is RunPhase.SUCCEEDED, f"{killed_at}: {run.status.summary}"
        assert left.effects() == world.effects(), killed_at
        assert left.router_side.restarts == 1, killed_at
        seen += 1
    assert seen > 10
    assert world.router_side.renewals == (0 if restart_helps else 1)


@pytest.mark.parametrize("step", STEPS[1:])
async def test_aborted_in_each_step_customers_are_left_where_they_are_served(step: str) -> None:
    world = failed_so_that_it_comes_to(step)
    key = make(world)
    await play(world, key, until=step)
    well = step == "switch-back"
    world.control(key, abort=True)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.ABORTED
    where = world.router_side.switch.side
    assert mode(world) is where
    if step == "activate-fallback":
        assert where is PRIMARY
    else:
        assert where is (PRIMARY if well else FALLBACK)
    if where is FALLBACK:
        assert "recell recover router/shop --always" in (run.status.summary or "")
        assert run.status.result is not None
        assert run.status.result.remains
    before = world.effects()
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(20):
        world.tick(await engine.advance(key) or 5)
    assert world.effects() == before


@pytest.mark.parametrize("step", STEPS[1:4])
async def test_a_fenced_leader_changes_nothing_more(step: str) -> None:
    world = failed_so_that_it_comes_to(step)
    key = make(world)
    await play(world, key, until=step)
    assert await play_fenced(world, key)


@pytest.mark.parametrize("step", STEPS[1:])
async def test_a_freeze_in_each_step_begins_nothing_and_undoes_nothing_and_it_goes_on_afterwards(step: str) -> None:
    world = failed_so_that_it_comes_to(step)
    key = make(world)
    await play_until_written(world, key, step)
    before, side, placed = world.effects(), world.router_side.switch.side, world.placements[KEY].spec
    world.freezes.append(RecoveryFreeze.model_validate({"metadata": {"name": "stop"}, "spec": {"reason": "sale"}}))
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(100):
        await engine.advance(key)
        world.tick(2.0)
    assert world.effects() == before
    assert (world.router_side.switch.side, world.placements[KEY].spec) == (side, placed)
    paused = next(c for c in world.runs[key].status.conditions if c.type == "Paused")
    assert (paused.status, paused.reason) == ("True", "Frozen")
    world.freezes.clear()
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert (mode(world), world.router_side.switch.side) == (PRIMARY, PRIMARY)


async def test_a_rehearsal_says_everything_and_does_nothing() -> None:
    world = failed()
    key = make(world, dryRun=True)
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.SUCCEEDED
    assert world.effects() == []
    assert "over 4 cells: a, b, c and d" in steps(run)["activate-fallback"]
