"""The one writer of Placements: batches, compares and swaps, fences, and never loses a change."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from recell.api import Placement
from recell.api.placement import Hold, Holder, HoldState, PlacementSpec
from recell.controllers.switchboard import PlacementSwitchboard
from recell.domain import placement
from recell.domain.placement import Candidate, Routing
from recell.engine.errors import BadInput, Conflict, Fenced, NotFound
from tests.fakes.world import World

KEY = ("fleet", "shop")


class OneObject:
    """Store and API of a single Placement: replaces by resourceVersion, may be slow or overtaken."""

    def __init__(self) -> None:
        world = World()
        world.fleet("a", "b", "c")
        self.routing = Routing.of(world.routers[KEY])
        spec = placement.initial(
            self.routing, [Candidate(n, f"uid-{n}", f"10.0.0.{i}", 80, 100) for i, n in enumerate("abc")], epoch=1
        )
        self.raw: dict[str, Any] | None = {
            "metadata": {"name": "shop", "namespace": "fleet", "uid": "u", "generation": 1, "resourceVersion": "1"},
            "spec": spec.to_dict(),
        }
        self.known = self.raw
        self.writes = 0
        self.before_write: Callable[[], None] | None = None

    def placement(self, key: tuple[str, str]) -> Placement | None:
        return Placement.model_validate(self.known) if self.known else None

    def raw_of(self, kind: Any, key: tuple[str, str]) -> dict[str, Any] | None:
        return self.known

    def put(self, kind: Any, obj: dict[str, Any]) -> None:
        self.known = obj

    async def get(self, path: str) -> dict[str, Any]:
        assert self.raw is not None
        return self.raw

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.before_write:
            hook, self.before_write = self.before_write, None
            hook()
        assert self.raw is not None
        if body["metadata"]["resourceVersion"] != self.raw["metadata"]["resourceVersion"]:
            raise Conflict("changed")
        self.write(body["spec"])
        return self.raw

    def write(self, spec: dict[str, Any]) -> None:
        assert self.raw is not None
        meta = self.raw["metadata"]
        version = str(int(meta["resourceVersion"]) + 1)
        meta = {**meta, "resourceVersion": version, "generation": meta["generation"] + 1}
        self.raw = {"metadata": meta, "spec": spec}
        self.writes += 1


class Leader:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


def board(one: OneObject, epoch: int = 1) -> PlacementSwitchboard:
    class Store:
        placement = staticmethod(one.placement)
        raw = staticmethod(one.raw_of)
        put = staticmethod(one.put)

    return PlacementSwitchboard(one, Store, Leader(epoch))  # type: ignore[arg-type]


def held(one: OneObject, cell: str, percent: int) -> Callable[[PlacementSpec], PlacementSpec]:
    hold = Hold(
        cell=cell,
        max_percent=percent,
        state=HoldState.DRAINING,
        holder=Holder(kind="RecoveryRun", name=f"run-{cell}", uid=f"uid-{cell}"),
        reason="test",
        since=datetime(2026, 11, 25, tzinfo=UTC),
    )
    return lambda spec: placement.hold(spec, one.routing, hold)


async def test_changes_that_wait_together_are_one_write() -> None:
    one = OneObject()
    switch = board(one)
    answers = await asyncio.gather(*(switch.change(KEY, held(one, cell, 50)) for cell in "abc"))
    assert one.writes <= 2
    assert {h.cell for h in answers[-1].spec.holds} == {"a", "b", "c"}


async def test_a_change_that_is_asked_the_moment_another_ends_is_not_forgotten() -> None:
    one = OneObject()
    switch = board(one)
    async with asyncio.timeout(60):
        for percent in range(90, 10, -10):
            await switch.change(KEY, held(one, "a", percent))
            await asyncio.gather(switch.change(KEY, held(one, "b", percent)), switch.change(KEY, lambda spec: spec))
    assert one.placement(KEY).spec.holds[0].max_percent == 20  # type: ignore[union-attr]


async def test_a_change_that_changes_nothing_writes_nothing() -> None:
    one = OneObject()
    await board(one).change(KEY, lambda spec: spec)
    assert one.writes == 0


async def test_somebody_elses_write_is_kept() -> None:
    one = OneObject()
    switch = board(one)

    def faster() -> None:
        assert one.raw is not None
        spec = held(one, "c", 0)(PlacementSpec.model_validate(one.raw["spec"]))
        one.write(spec.to_dict())

    one.before_write = faster
    answer = await switch.change(KEY, held(one, "a", 50))
    assert {h.cell for h in answer.spec.holds} == {"a", "c"}


async def test_a_placement_of_a_newer_leader_is_not_touched() -> None:
    one = OneObject()
    assert one.raw is not None
    one.raw["spec"]["epoch"] = 7
    with pytest.raises(Fenced):
        await board(one, epoch=6).change(KEY, held(one, "a", 50))
    assert one.writes == 0


async def test_a_write_carries_the_leaders_epoch() -> None:
    one = OneObject()
    assert (await board(one, epoch=5).change(KEY, held(one, "a", 50))).spec.epoch == 5


async def test_one_bad_change_does_not_spoil_the_others() -> None:
    one = OneObject()
    switch = board(one)

    def bad(spec: PlacementSpec) -> PlacementSpec:
        raise ValueError("no such cell")

    results = await asyncio.gather(
        switch.change(KEY, bad), switch.change(KEY, held(one, "a", 50)), return_exceptions=True
    )
    assert isinstance(results[0], BadInput)
    assert isinstance(results[1], Placement)


async def test_a_missing_placement_is_said() -> None:
    one = OneObject()
    one.known = None
    with pytest.raises(NotFound, match="conditions of its Router"):
        await board(one).change(KEY, held(one, "a", 50))
