"""Long connections to a cell that is drained wholly: waited for until the router has closed them, and no longer."""

from dataclasses import replace
from datetime import datetime

import pytest

from recell.api.recovery_run import RunPhase, StepState
from recell.domain import placement
from recell.domain.observation import RouterTraffic
from recell.engine.ports import Key
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures.play import play

WHOLLY = {
    "steps": {
        "drainPercent": "100%",
        "drainIncrements": 1,
        "incrementInterval": "4s",
        "applyTimeout": "20s",
        "inconclusiveTimeout": "20s",
        "stabilityDuration": "20s",
    },
    "validation": {"duration": "20s"},
}
SLOW = 600.0
"""drainTimeout, far beyond what the policy gives its steps by itself."""


def fleet(strategy: str) -> tuple[World, Key]:
    world = World()
    haproxy = {
        "customerKey": {"type": "Header", "name": "x-customer-id"},
        "initialCells": ["a", "b", "c"],
        "drainTimeout": f"{SLOW:.0f}s",
    }
    world.fleet("a", "b", "c", router={"haproxy": haproxy}, policy=WHOLLY)
    world.template("small")
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].error_rate = 0.6
    world.tick(30)
    return world, world.run("r1", "b", strategy=strategy)


def stay(world: World, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A hundred WebSockets stay so long at the cell once it serves nobody; those that are closed then have ended."""
    real, drained_at = world.traffic.observed, list[datetime]()

    def told(router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        seen = real(router, window=window, not_before=not_before)
        if seen is None or placement.share(world.placements[NAMESPACE, "shop"].spec, "b"):
            return seen
        drained_at.append(world.clock.now())
        passed, cell = (world.clock.now() - drained_at[0]).total_seconds(), seen.cells["b"]
        if passed < seconds:
            cell = replace(cell, in_flight=100)
        elif passed < seconds + window:
            cell = replace(cell, requests=100, requests_per_second=100 / window)
        return replace(seen, cells={**seen.cells, "b": cell})

    monkeypatch.setattr(world.traffic, "observed", told)


both_ways = pytest.mark.parametrize(
    ("strategy", "step"), [("CellRestart", "drain-traffic"), ("TrafficDrainAndReplace", "drain-traffic-now")]
)


@both_ways
async def test_a_whole_drain_waits_until_the_router_has_closed_them(
    strategy: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, key = fleet(strategy)
    stay(world, monkeypatch, SLOW + 2)
    await play(world, key)
    run = world.runs[key]
    drained = next(s for s in run.status.steps if s.name == step)
    assert drained.state is StepState.DONE, run.status.summary
    assert drained.started_at is not None
    assert drained.finished_at is not None
    assert (drained.finished_at - drained.started_at).total_seconds() > SLOW


@both_ways
async def test_a_drain_that_the_router_does_not_finish_fails_and_says_what_is_still_there(
    strategy: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, key = fleet(strategy)
    stay(world, monkeypatch, 4 * SLOW)
    begun = world.clock.now()
    await play(world, key)
    run = world.runs[key]
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert (run.status.summary or "").startswith(f"{step}: ")
    assert "100 requests are still in flight at b, which should get none" in (run.status.summary or "")
    assert SLOW < (world.clock.now() - begun).total_seconds() < SLOW + 120
