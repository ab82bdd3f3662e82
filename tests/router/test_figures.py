"""What a pod tells of its cells: requests, failures, latency, checks; and how one bad cell is contained."""

import asyncio
import time

from prometheus_client.parser import text_string_to_metric_families

from recell.api.placement import REJECT
from tests.router.rig import Cells, PlacementApi, RouterPod, ask, eventually, placement, spread
from tests.router.rig.load import slot_of


def customers_of(index: int, table: list[int]) -> list[bytes]:
    return [key for key in (f"c{n}".encode() for n in range(200)) if table[slot_of(key, len(table))] == index]


async def test_requests_failures_and_latency_are_counted_per_cell() -> None:
    async with Cells("good", "bad", "slow") as cells, PlacementApi() as api, RouterPod(api) as pod:
        table = spread(1024, 0, 1, 2)
        table[slot_of(b"nobody", 1024)] = REJECT
        api.put(placement(cells.placed(good=0, bad=1, slow=2), table, generation=1))
        await pod.applied(1)
        cells["bad"].failing = True
        cells["slow"].latency = 0.3
        longest = 0.0
        for index, count in ((0, 20), (1, 10), (2, 4)):
            for customer in (customers_of(index, table) * 20)[:count]:
                asked = time.monotonic()
                await ask(pod.port, ("x-customer-id", customer))
                longest = max(longest, time.monotonic() - asked)
        for _ in range(3):
            await ask(pod.port, ("x-customer-id", b"nobody"))
        report = await pod.counted()
        told = {
            index: (cell["requests"], cell["failures"], cell["inFlight"]) for index, cell in report["cells"].items()
        }
        assert told == {"0": (20, 0, 0), "1": (10, 10, 0), "2": (4, 0, 0)}
        assert report["rejected"] == 3
        bounds = [*report["bounds"], float("inf")]
        slow = dict(zip(bounds, report["cells"]["2"]["latency"], strict=True))
        assert (slow[0.25], slow[float("inf")]) == (0, 4)
        assert {slow[bound] for bound in bounds if bound > longest} == {4}
        assert report["cells"]["0"]["latency"][-1] == 20
        # The same on the other door.
        status, text = await pod.get(pod.agent_port, "/metrics")
        assert status == 200
        samples = {
            (sample.name, sample.labels.get("cell"), sample.labels.get("le")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["recell_router_cell_requests_total", "good", None] == 20
        assert samples["recell_router_cell_failures_total", "bad", None] == 10
        assert samples["recell_router_rejected_total", None, None] == 3
        assert samples["recell_router_placement_generation", None, None] == 1
        assert samples["recell_router_cell_answer_seconds_bucket", "slow", "0.25"] == 0
        assert samples["recell_router_cell_answer_seconds_count", "slow", None] == 4


async def test_a_hung_cell_holds_so_many_requests_and_hurts_no_other() -> None:
    async with Cells("hung", "well") as cells, PlacementApi() as api, RouterPod(api, in_flight_max=15) as pod:
        table = spread(1024, 0, 1)
        api.put(placement(cells.placed(hung=0, well=1), table, generation=1))
        await pod.applied(1)
        cells["hung"].hung = True
        victims, others = customers_of(0, table), customers_of(1, table)
        waiting = [asyncio.create_task(ask(pod.port, ("x-customer-id", victims[0]))) for _ in range(15)]
        await eventually(lambda: cells["hung"].total == 15)
        turned_away = await asyncio.gather(*(ask(pod.port, ("x-customer-id", victims[0])) for _ in range(25)))
        assert {(a.status, a.reason) for a in turned_away} == {(503, "cell-busy")}
        report = await pod.later_report()
        assert report["cells"]["0"]["inFlight"] == 15
        assert report["cells"]["0"]["requests"] == 0, "a request that hangs has not ended"
        assert report["rejected"] == 25
        for customer in others[:20]:
            assert (await ask(pod.port, ("x-customer-id", customer))).cell == "well"
        cells["hung"].hung = False
        answers = await asyncio.gather(*waiting)
        assert {answer.status for answer in answers} == {200}
        report = await pod.counted()
        assert (report["cells"]["0"]["requests"], report["cells"]["0"]["inFlight"]) == (15, 0)
        assert report["cells"]["0"]["failures"] == 0


async def test_a_customer_who_gives_up_is_not_a_failure_of_the_cell() -> None:
    """Otherwise customers could make a cell look failed."""
    async with Cells("slow") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(slow=0), spread(1024, 0), generation=1))
        await pod.applied(1)
        cells["slow"].hung = True
        asked = asyncio.create_task(ask(pod.port, ("x-customer-id", b"alice")))
        upload = [("x-customer-id", b"alice"), ("Content-Length", b"100")]
        uploading = asyncio.create_task(ask(pod.port, *upload, method="POST"))
        await eventually(lambda: cells["slow"].total == 2)
        for task in (asked, uploading):
            task.cancel()
        await asyncio.wait({asked, uploading})
        cells["slow"].hung = False
        await eventually(lambda: pod.told(0, "requests") == 2)
        report = await pod.counted()
        assert (report["cells"]["0"]["failures"], report["cells"]["0"]["inFlight"]) == (0, 0)


async def test_a_dead_cell_is_seen_down_and_its_customers_are_told() -> None:
    async with Cells("dead", "well") as cells, PlacementApi() as api, RouterPod(api) as pod:
        table = spread(1024, 0, 1)
        api.put(placement(cells.placed(dead=0, well=1), table, generation=1))
        await pod.applied(1)
        await eventually(lambda: pod.told(0, "check") == pod.told(1, "check") == "up")
        await cells["dead"].stop()
        victim = customers_of(0, table)[0]
        answer = await ask(pod.port, ("x-customer-id", victim))
        assert (answer.status, answer.reason) == (503, "cell-unavailable")
        await eventually(lambda: pod.told(0, "check") == "down")
        assert pod.told(1, "check") == "up"
        answer = await ask(pod.port, ("x-customer-id", victim))
        assert (answer.status, answer.reason) == (503, "cell-unavailable")
        report = await pod.counted()
        assert (report["cells"]["0"]["requests"], report["cells"]["0"]["failures"]) == (2, 2)
        assert cells["well"].total == 0, "never another cell"
        await cells["dead"].start()
        await eventually(lambda: pod.told(0, "check") == "up")
        assert (await ask(pod.port, ("x-customer-id", victim))).cell == "dead"


async def test_a_cell_in_the_place_of_a_dead_one_serves_at_once() -> None:
    """The backend of a cell that was down must not be down for the address that it gets now."""
    async with Cells("dead", "new") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(dead=0), spread(1024, 0), generation=1))
        await pod.applied(1)
        await cells["dead"].stop()
        await eventually(lambda: pod.told(0, "check") == "down")
        moved = {"dead": (0, cells["new"].address, cells["new"].port)}
        api.put(placement(moved, spread(1024, 0), generation=2))
        await pod.applied(2)
        assert (await ask(pod.port, ("x-customer-id", b"alice"))).cell == "new"
