"""Cells join, leave, drain and move while customers send requests: none is lost, none goes astray."""

import time
from random import Random

from recell.api.placement import REJECT
from router.agent.runtime_socket import RuntimeSocket
from router.agent.table import parse_map
from tests.router.rig import Cells, Load, PlacementApi, RouterPod, ask, eventually, placement, spread
from tests.router.rig.load import slot_of
from tests.router.rig.pod import pods


async def test_no_request_is_lost_while_cells_join_drain_leave_and_return() -> None:
    async with (
        Cells("a", "b") as cells,
        PlacementApi() as api,
        pods(RouterPod(api, name="router-0"), RouterPod(api, name="router-1")) as (one, two),
    ):

        async def change(generation: int, table: list[int], **placed: int) -> float:
            api.put(placement(cells.placed(**placed), table, generation=generation))
            for pod in (one, two):
                await pod.applied(generation)
            return time.monotonic()

        async def some_requests(load: Load, since: float) -> None:
            await eventually(lambda: sum(load.cells_since(since).values()) >= 200)

        await change(1, spread(1024, 0, 1), a=0, b=1)
        async with Load((one.port, two.port), clients=8) as load:
            await some_requests(load, time.monotonic())
            await cells.add("c")
            joined = await change(2, spread(1024, 0, 1, 2), a=0, b=1, c=2)
            await eventually(lambda: load.cells_since(joined)["c"] > 20)
            drained = await change(3, spread(1024, 1, 2), a=0, b=1, c=2)
            await some_requests(load, drained)
            assert load.cells_since(drained)["a"] == 0
            for pod in (one, two):
                await pod.later_report()
                await eventually(lambda pod=pod: pod.told(0, "inFlight") == 0)  # type: ignore[misc]
            left = await change(4, spread(1024, 1, 2), b=1, c=2)
            await cells["a"].stop()
            await some_requests(load, left)
            # Back under the same name, elsewhere: the operator gives it a new index.
            cells["a"].port = 0
            await cells["a"].start()
            returned = await change(5, spread(1024, 1, 2, 3), b=1, c=2, a=3)
            await eventually(lambda: load.cells_since(returned)["a"] > 20)
        assert load.errors == []
        assert set(load.statuses) == {200}
        for pod in (one, two):
            assert "error" not in {line.split('"event": "')[1][:12] for line in pod.log("agent").splitlines()}


async def test_a_cell_that_moves_to_another_address_is_followed() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=1))
        await pod.applied(1)
        async with Load((pod.port,), clients=4) as load:
            await eventually(lambda: load.cells_since(0)["a"] > 20)
            before = await cells.add("new")
            before.name = "a-moved"
            placed = cells.placed(b=1) | {"a": (0, before.address, before.port)}
            api.put(placement(placed, spread(1024, 0, 1), generation=2))
            await pod.applied(2)
            moved = time.monotonic()
            await eventually(lambda: load.cells_since(moved)["a-moved"] > 20)
        assert load.cells_since(moved)["a"] == 0
        assert load.errors == []
        assert set(load.statuses) == {200}


async def test_doubling_the_slots_moves_nobody() -> None:
    async with Cells("a", "b", "c") as cells, PlacementApi() as api, RouterPod(api) as pod:
        table = spread(1024, 0, 1, 2)
        api.put(placement(cells.placed(a=0, b=1, c=2), table, generation=1))
        await pod.applied(1)
        async with Load((pod.port,), clients=4, customers=200) as load:
            await eventually(lambda: len(load.answers) > 300)
            for generation in (2, 3, 4, 5):
                table = table + table
                api.put(placement(cells.placed(a=0, b=1, c=2), table, generation=generation))
                await pod.applied(generation)
            doubled = time.monotonic()
            await eventually(lambda: sum(load.cells_since(doubled).values()) > 300)
        assert len(table) == 16384
        assert load.errors == []
        homes: dict[str, set[str]] = {}
        for _, customer, status, cell in load.answers:
            assert status == 200
            homes.setdefault(customer, set()).add(cell)
        assert all(len(seen) == 1 for seen in homes.values())


async def test_a_full_fleet_is_replaced_whole_without_a_reload() -> None:
    """819 cells leave and 819 others come in one change, twice: there is always room, and no process restarts."""
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        instances = set()
        for generation, (first, server) in enumerate([(0, "a"), (819, "b"), (1638, "a")], start=1):
            where = (cells[server].address, cells[server].port)
            placed = {f"cell-{index}": (index, *where) for index in range(first, first + 819)}
            api.put(placement(placed, spread(16384, *range(first, first + 819)), generation=generation))
            report = await pod.applied(generation, within=120)
            instances.add(report["haproxy"]["instance"])
            for customer in (b"alice", b"bob", b"carol"):
                assert (await ask(pod.port, ("x-customer-id", customer))).cell == server
            checked = await pod.later_report()
            assert len(checked["cells"]) == 819
            assert {cell["check"] for cell in checked["cells"].values()} <= {"up", "unknown"}
        assert len(instances) == 1


async def test_the_report_of_an_apply_comes_without_being_asked_for() -> None:
    async with Cells("a") as cells, PlacementApi() as api, RouterPod(api) as pod:
        table = spread(1024, 0)
        for generation in range(1, 21):
            table[generation] = REJECT
            api.put(placement(cells.placed(a=0), table, generation=generation))
            await pod.applied(generation)
        told = [r["placement"]["generation"] for r in pod.reports if r["placement"]]
        assert told == sorted(told)


async def test_what_reaches_a_cell_after_the_report_follows_the_new_table() -> None:
    """The report is sent after the commit, so from then on no request reaches the drained cell."""
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        slot = slot_of(b"alice", 1024)
        for generation in range(1, 31):
            table = spread(1024, generation % 2)
            api.put(placement(cells.placed(a=0, b=1), table, generation=generation))
            await pod.applied(generation)
            answer = await ask(pod.port, ("x-customer-id", b"alice"))
            assert answer.cell == ("a", "b")[table[slot]]


async def test_small_and_large_changes_leave_the_very_table() -> None:
    """A few slots are changed in place and many in a transaction; what HAProxy holds afterwards is the same."""
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        table, random = spread(1024, 0, 1), Random(7)
        placed, map_file = cells.placed(a=0, b=1), pod.run / "placement.map"
        api.put(placement(placed, table, generation=1))
        await pod.applied(1)
        async with Load((pod.port,), clients=4) as load:
            for generation, moves in enumerate((1, 3, 400, 2, 28, 64, 1), start=2):
                for slot in random.sample(range(1024), moves):
                    table[slot] = 1 - table[slot]
                api.put(placement(placed, table, generation=generation))
                await pod.applied(generation)
                held = dict(parse_map(await RuntimeSocket(pod.run / "haproxy.sock").map_entries(map_file)))
                assert [int(held[str(slot)].split(":")[1]) for slot in range(1024)] == table
                assert held["generation"] == str(generation)
                on_disk = dict(parse_map(map_file.read_text()))
                assert {key: value for key, value in held.items() if key != "instance"} == on_disk
        assert load.errors == []
        assert set(load.statuses) == {200}
