"""What only a Router of type DNS promises, on two real BIND servers: no resolver has an answer that is out of force."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.conftest import NAMED, ROUTER, NamesPlane
from tests.contract.test_traffic import ALL_B, EVEN, applied
from tests.dns import bind
from tests.dns.bind import Bind
from tests.dns.customers import Customers
from tests.fakes.eventually import eventually

A, B = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[tuple[Bind, Bind]]:
    with bind.servers(tmp_path) as made:
        yield made


@pytest.fixture
async def plane(zone: tuple[Bind, Bind]) -> AsyncIterator[NamesPlane]:
    made = NamesPlane(zone)
    yield made
    await made.stop()


async def test_a_drained_cell_is_in_no_cache_once_that_is_in_force(plane: NamesPlane, zone: tuple[Bind, Bind]) -> None:
    async with Customers(NAMED, *(server.port for server in zone)) as customers:
        for generation, table, left in ((1, EVEN, {A, B}), (2, ALL_B, {B}), (3, EVEN, {A, B}), (4, [0] * 1024, {A})):
            await applied(plane, plane.write(table, generation=generation))
            assert await customers.ask() == left


async def test_a_server_that_hangs_is_waited_for_and_named(plane: NamesPlane, zone: tuple[Bind, Bind]) -> None:
    primary, secondary = zone
    await applied(plane, plane.write(EVEN, generation=1))
    secondary.freeze()
    drained = plane.write(ALL_B, generation=2)

    async def gone() -> bool:
        return await Customers(NAMED, primary.port).ask() == {B}

    await eventually(gone, "the primary has the change")
    silent = f"127.0.0.1:{secondary.port} does not tell A {NAMED}: no answer within 2 s"
    await eventually(lambda: silent in plane.names.progress(ROUTER), silent)
    still = plane.traffic.applied(ROUTER)
    assert still is not None
    assert still.generation == 1
    secondary.thaw()
    await applied(plane, drained)
    assert await Customers(NAMED, primary.port, secondary.port).ask() == {B}
