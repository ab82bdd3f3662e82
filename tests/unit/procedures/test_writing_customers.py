"""Customers who go on writing: no acknowledged write is lost by any procedure without being said (rule 1)."""

from datetime import datetime
from typing import Any

import pytest

from recell.api.placement import READ_ONLY, REJECT, decode_table
from recell.domain import placement
from recell.engine.engine import Engine
from recell.engine.errors import Conflict, Retryable
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, Crash, World
from tests.unit.procedures import test_restoring as restoring
from tests.unit.procedures import test_traffic_drain_and_replace as replacing
from tests.unit.procedures.test_traffic_drain_and_replace import IN_CELL, spec_of

REPLACE = "TrafficDrainAndReplace"
STRATEGIES = (REPLACE, restoring.ISOLATE, restoring.PITR)
STEPS = [(strategy, step.name) for strategy in STRATEGIES for step in PROCEDURES[strategy].steps]


def scene(strategy: str) -> World:
    """Cell b answers, but badly: some of what is written there is acknowledged until it is taken out."""
    if strategy == REPLACE:
        world = replacing.fleet(**IN_CELL)
        world.traffic.cells["b"].down = False
        world.traffic.cells["b"].error_rate = 0.9
        world.tick(30)
        return world
    world = restoring.fleet(objectives={"rpo": "24h"}, replacement={"promotionApproval": "NotRequired"})
    world.data.cells["b"].archiving = True
    restoring.corrupt(world)
    return world


class Writers:
    """Each customer of b writes once a second to whoever serves that customer, and remembers what was acknowledged."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.names = sorted(world.data.cells["b"].customers)
        self.acknowledged: list[tuple[str, datetime]] = []
        for _ in range(20):  # before anybody does anything about it
            self.write()
            world.tick(1)

    def write(self) -> None:
        world, spec = self._world, spec_of(self._world)
        serving, names = decode_table(spec.serving), {cell.index: cell.name for cell in spec.cells}
        for customer in self.names:
            to = serving[placement.slot_of(customer, spec.slots)]
            if to == REJECT or to & READ_ONLY:
                continue
            cell = names[to]
            stopped = any(workload.stop_token for workload in world.workloads[cell])
            if stopped or cell in world.isolation.isolated:
                continue
            if world.data.write(cell, customer):
                self.acknowledged.append((customer, world.clock.now()))

    def lost(self) -> list[tuple[str, datetime]]:
        """What the customer's home does not have."""
        spec = spec_of(self._world)
        homes, names = decode_table(spec.homes), {cell.index: cell.name for cell in spec.cells}
        home = {name: names[homes[placement.slot_of(name, spec.slots)]] for name in self.names}
        stores = {name: self._world.data.cells[cell].customers.get(name, []) for name, cell in home.items()}
        return [(name, at) for name, at in self.acknowledged if at not in stores[name]]


async def work(world: World, key: Key, writers: Writers, *, step: str | None = None, **control: Any) -> None:
    """To the end of the run, the customers writing all the while; in this step a person says this."""
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(3000):
        try:
            await engine.advance(key)
        except (Conflict, Retryable):
            pass
        except Crash:
            engine = Engine(world.ports(), PROCEDURES)
            world.epoch += 1
        if world.runs[key].phase.ended:
            return
        if control and world.runs[key].status.step == step:
            world.control(key, **control)
            control = {}
        writers.write()
        world.tick(1)
    raise AssertionError(f"stuck: {world.runs[key].status.to_dict()}")


def said(world: World, key: Key, at: datetime) -> bool:
    result = world.runs[key].status.result
    window = result.data_loss if result else None
    return window is not None and window.from_ <= at <= window.to


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_no_acknowledged_write_is_lost_unsaid(strategy: str) -> None:
    world = scene(strategy)
    writers, key = Writers(world), world.run("r1", "b", strategy=strategy)
    await work(world, key, writers)
    run = world.runs[key]
    assert run.phase == "Succeeded", run.status.to_dict()
    assert len(writers.acknowledged) > len(writers.names), "there was something to lose"
    for _ in range(5):
        writers.write()
    assert bool(writers.lost()) is (strategy != REPLACE), "a restore loses something, a move nothing"
    assert [at for _, at in writers.lost() if not said(world, key, at)] == []
    assert placement.home_share(spec_of(world), "b") == 0


@pytest.mark.parametrize(("strategy", "step"), STEPS)
async def test_nor_when_the_run_is_aborted_in_any_step(strategy: str, step: str) -> None:
    world = scene(strategy)
    writers, key = Writers(world), world.run("r1", "b", strategy=strategy)
    await work(world, key, writers, step=step, abort=True)
    writers.write()
    if strategy == REPLACE:
        assert writers.lost() == []
    assert [at for _, at in writers.lost() if not said(world, key, at)] == []


@pytest.mark.parametrize("every", [3, 7])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_nor_when_the_operator_is_killed_again_and_again(strategy: str, every: int) -> None:
    world = scene(strategy)
    writers, key = Writers(world), world.run("r1", "b", strategy=strategy)
    wrote = world.wrote

    def killed(kind: str, what: str) -> None:
        wrote(kind, what)
        if len(world.writes) % every == 0:
            raise Crash(what)

    world.wrote = killed  # type: ignore[method-assign]
    world.data._wrote = killed
    await work(world, key, writers)
    assert world.runs[key].phase == "Succeeded", world.runs[key].status.to_dict()
    assert [at for _, at in writers.lost() if not said(world, key, at)] == []
    assert [name for (_, name) in world.cells if name not in "abc"] == [placement.successor(spec_of(world), "b")]
    assert world.runs[NAMESPACE, "r1"].status.plan is not None
