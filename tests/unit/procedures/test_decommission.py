"""What a run says on the cell that it replaced: what was proven, from when on, and the same after every crash."""

from datetime import timedelta
from typing import Any

import pytest

from recell.api.meta import timestamp
from recell.api.recovery_run import RunPhase
from recell.domain import data
from recell.domain.decommission import Retirement, retirement_of
from recell.procedures.customers import moment
from tests.fakes.data import FakeStore
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures.play import play

QUICK = {
    "steps": {"drainIncrements": 2, "incrementInterval": "4s", "applyTimeout": "20s", "stabilityDuration": "20s"},
    "validation": {"duration": "20s"},
}


class Moved:
    """A data provider that moves customers at once, and says this about it."""

    def __init__(self, customers: data.Customers, conflicts: tuple[str, ...] = ()) -> None:
        self.cells: dict[str, FakeStore] = {}
        """No cell's data is corrupted."""
        self._answers = {
            data.Operation.ACCESSIBLE: data.Answer(data.Progress.DONE, accessible=True),
            data.Operation.MIGRATE: data.Answer(data.Progress.DONE, customers=customers, conflicts=conflicts),
        }

    async def ensure(self, request: data.Request) -> data.Answer:
        return self._answers[request.operation]

    async def cancel(self, request: data.Request) -> bool:
        return True


def fleet(moved: Moved | None = None, **replacement: Any) -> World:
    """Three cells; b answers nobody any more."""
    world = World()
    router = {"customerData": "InCell", "offHome": "Reject"} if moved else {}
    world.fleet("a", "b", "c", router=router, policy={**QUICK, "replacement": replacement})
    world.template("small")
    if moved is not None:
        fake: Any = moved
        world.data = fake
    world.traffic.rps = 300
    world.tick(60)
    world.traffic.cells["b"].down = True
    world.tick(30)
    return world


async def replaced(world: World) -> Retirement:
    key = world.run("r1", "b", strategy="TrafficDrainAndReplace")
    await play(world, key)
    ends = (RunPhase.SUCCEEDED, RunPhase.PARTIALLY_SUCCEEDED)
    assert world.runs[key].phase in ends, world.runs[key].status.to_dict()
    found = retirement_of(world.cells[NAMESPACE, "b"])
    assert found is not None
    return found


def made(world: World) -> str:
    return next(name for (_, name) in world.cells if name not in ("a", "b", "c"))


ALL = data.Customers(expected=7, done=7)


async def test_it_says_who_took_over_and_until_when_it_is_kept() -> None:
    world = fleet()
    found = await replaced(world)
    successor = world.cells[NAMESPACE, made(world)]
    assert (found.successor, found.successor_uid) == (successor.metadata.name, successor.metadata.uid)
    assert found.by == "r1"
    assert found.until is not None
    assert found.until - found.promoted_at == timedelta(hours=168)
    assert found.claims is None


@pytest.mark.parametrize(("mode", "kept"), [("Retain", timedelta(hours=2)), ("Delete", timedelta()), ("Keep", None)])
async def test_the_policy_says_how_long(mode: str, kept: timedelta | None) -> None:
    found = await replaced(fleet(decommission=mode, retainFor="2h"))
    assert (found.until - found.promoted_at if found.until else None) == kept


async def test_with_shared_data_nothing_had_to_be_moved() -> None:
    assert (await replaced(fleet())).complete


@pytest.mark.parametrize(
    ("customers", "replacement", "complete"),
    [
        (ALL, {}, True),
        (data.Customers(expected=7, done=6, failed=1, names=("x",), slots=()), {"partialSuccess": "Route"}, False),
    ],
)
async def test_a_move_is_complete_when_every_customer_was_counted(
    customers: data.Customers, replacement: dict[str, Any], complete: bool
) -> None:
    assert (await replaced(fleet(Moved(customers), **replacement))).complete is complete


@pytest.mark.parametrize("customers", [data.Customers(), data.Customers(done=7), data.Customers(expected=0, done=0)])
async def test_a_move_that_a_person_accepted_without_a_proof_stays_unproven(customers: data.Customers) -> None:
    world = fleet(Moved(customers))
    key = world.run("r1", "b", strategy="TrafficDrainAndReplace")
    await play(world, key, until=RunPhase.AWAITING_APPROVAL)
    awaiting = world.runs[key].status.awaiting
    assert awaiting is not None
    world.control(key, approvals=[{"gate": awaiting.gate, "decisionID": awaiting.decision_id}])
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED, world.runs[key].status.to_dict()
    found = retirement_of(world.cells[NAMESPACE, "b"])
    assert found is not None
    assert not found.complete


async def test_conflicts_are_counted() -> None:
    assert (await replaced(fleet(Moved(ALL, conflicts=("order 7", "order 9"))))).conflicts == 2


async def test_killed_after_each_write_it_says_the_same_and_says_it_once() -> None:
    undisturbed = fleet(Moved(ALL))
    await replaced(undisturbed)
    for position, write in enumerate(undisturbed.writes, start=1):
        if write.kind != "retire" and "decommission-failed-cell" not in write.what:
            continue
        world = fleet(Moved(ALL))
        world.crash_after = position
        found = await replaced(world)
        assert [str(w) for w in world.writes].count(f"retire b replaced by {made(world)}") == 1, str(write)
        step = next(s for s in world.runs[NAMESPACE, "r1"].status.steps if s.name == "decommission-failed-cell")
        assert step.data is not None
        assert (timestamp(found.promoted_at), found.until) == (step.data["promotedAt"], moment(step.data["until"]))
