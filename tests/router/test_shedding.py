"""Overload is shed by class, the same customers all the time, until it expires by itself; a failing cell is spared."""

import asyncio
import hashlib
import json
import time
from datetime import UTC, datetime, timedelta

from prometheus_client.parser import text_string_to_metric_families

from tests.router.rig import Answer, Cells, Load, PlacementApi, RouterPod, ask, eventually, placement, spread
from tests.router.rig.load import slot_of
from tests.router.test_figures import customers_of

CLASSES = [
    {
        "name": "checkout",
        "matches": [
            {"header": {"name": "x-priority", "value": "high"}},
            {"pathPrefix": "/checkout", "methods": ["POST", "PUT"]},
        ],
    },
    {"name": "bulk", "matches": [{"header": {"name": "x-priority", "value": "low"}}, {"pathPrefix": "/export"}]},
]
SHEDS = {"REQUEST_CLASSES": json.dumps(CLASSES)}
WINDOW = 2.0
BREAKS = {
    "BREAKER_ERROR_RATE": "5000",
    "BREAKER_WINDOW": str(round(WINDOW * 1000)),
    "BREAKER_MINIMUM_REQUESTS": "20",
}
FAR = "2100-01-01T00:00:00Z"


def dice(customer: str) -> int:
    """Of the customers in a hundred, which one is shed at which percentage; the definition that HAProxy has to meet."""
    return int.from_bytes(hashlib.md5(customer.encode(), usedforsecurity=False).digest()[4:8], "big") % 100


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def low(pod: RouterPod, customer: str, priority: bytes = b"low") -> Answer:
    return await ask(pod.port, ("x-customer-id", customer.encode()), ("x-priority", priority))


async def test_which_class_a_request_is_of() -> None:
    """Everything is shed but by class, so the answer says which class it was."""
    async with Cells("a") as cells, PlacementApi() as api, RouterPod(api, environment=SHEDS) as pod:
        cases = [
            ("/", "GET", None, "default"),
            ("/checkout/1", "POST", None, "checkout"),
            ("/checkout", "PUT", None, "checkout"),
            ("/checkout", "GET", None, "default"),
            ("/checkouts", "POST", None, "default"),
            ("/export", "GET", None, "bulk"),
            ("/export/all?page=2", "GET", None, "bulk"),
            ("/exported", "GET", None, "default"),
            ("/export", "GET", b"high", "checkout"),
            ("/", "GET", b"low", "bulk"),
            ("/", "GET", b"LOW", "default"),
            ("/", "GET", b"lowest", "default"),
        ]
        for generation, only in enumerate(("checkout", "bulk", "default"), start=1):
            limits = {only: (100, FAR)}
            api.put(placement(cells.placed(a=0), spread(1024, 0), generation=generation, shed=limits))
            await pod.applied(generation)
            for path, method, priority, expected in cases:
                headers = [("x-customer-id", b"alice"), *([("x-priority", priority)] if priority else [])]
                answer = await ask(pod.port, *headers, ("Content-Length", b"0"), method=method, path=path)
                shed = (answer.status, answer.reason) == (503, "shed")
                assert shed == (expected == only), (path, method, priority, only)
        told = (await pod.later_report())["classes"]
        assert {name: (c["requests"], c["shed"], c["failures"]) for name, c in told.items()} == {
            name: (3 * count, count, 0) for name, count in (("checkout", 3), ("bulk", 3), ("default", 6))
        }


async def test_the_same_customers_are_shed_whoever_asks_and_no_others() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=SHEDS) as pod:
        customers = [f"customer-{number}" for number in range(300)]
        before: set[str] = set()
        for generation, percent in enumerate((0, 10, 35, 100), start=1):
            limits = {"bulk": (percent, FAR)}
            api.put(placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=generation, shed=limits))
            await pod.applied(generation)
            for _ in range(2):
                answers = dict(zip(customers, await asyncio.gather(*(low(pod, c) for c in customers)), strict=True))
                shed = {customer for customer, answer in answers.items() if answer.reason == "shed"}
                assert shed == {customer for customer in customers if dice(customer) < percent}
                assert all(answer.status == 200 for customer, answer in answers.items() if customer not in shed)
            assert shed >= before, "who was shed at less is shed at more"
            before = shed
            others = await asyncio.gather(*(low(pod, c, b"high") for c in customers[:50]))
            assert {answer.status for answer in others} == {200}, "another class is not touched"
        refused = answers["customer-1"]
        assert 5 <= int(refused.headers["retry-after"]) <= 14
        assert refused.body.startswith(b"shed: there is more to do than the service can bear")
        assert refused.headers["x-router"] == pod.name


async def test_shedding_takes_its_part_of_real_load_and_ends_without_operator_agent_or_api() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=SHEDS) as pod:
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=1))
        await pod.applied(1)
        async with Load((pod.port,), clients=8, customers=500, path="/export/") as load:
            await eventually(lambda: len(load.answers) > 300)
            limits = {"bulk": (40, FAR), "default": (100, FAR)}
            api.put(placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=2, shed=limits))
            report = await pod.applied(2)
            assert report["shedding"] == {"bulk": 40, "default": 100}
            begun = time.monotonic()
            await eventually(lambda: sum(load.cells_since(begun).values()) > 1000)
            told = load.cells_since(begun)
            assert 0.34 < told["shed"] / sum(told.values()) < 0.46
            ending = {name: (percent, soon(6)) for name, (percent, _) in limits.items()}
            api.put(placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=3, shed=ending))
            await pod.applied(3)
            # Nobody is left who could end it.
            await api.away()
            await pod.stop_agent()
            await eventually(lambda: _served_again(load))
            # What is sent from now on comes after what was served, if not what was sent after it.
            moment = time.monotonic()
            await eventually(lambda: sum(load.cells_since(moment).values()) > 500)
            assert load.cells_since(moment)["shed"] == 0
        assert load.errors == []
        assert set(load.statuses) == {200, 503}
        # The agent that comes back without an API server knows that it is over.
        await pod.start_agent()
        later = await pod.later_report()
        assert (later["placement"]["generation"], later["shedding"]) == (3, {})


def _served_again(load: Load) -> bool:
    """Somebody who is shed at 40 % was served."""
    return any(status == 200 and dice(customer) < 40 for _, customer, status, _ in load.answers[-50:])


async def test_a_restarted_haproxy_goes_on_shedding() -> None:
    async with Cells("a") as cells, PlacementApi() as api, RouterPod(api, environment=SHEDS) as pod:
        circuits = {"a": (100, FAR)}
        api.put(
            placement(cells.placed(a=0), spread(1024, 0), generation=1, shed={"bulk": (100, FAR)}, circuits=circuits)
        )
        await pod.applied(1)
        await api.away()
        await pod.stop_haproxy()
        await pod.stop_agent()
        await pod.start_haproxy()
        await pod.ready()
        assert (await low(pod, "alice")).reason == "circuit-open"
        await pod.start_agent()
        report = await pod.applied(1)
        assert (report["shedding"], report["openCircuits"]) == ({"bulk": 100}, {"0": 100})


async def test_an_open_circuit_spares_the_cell_until_it_expires() -> None:
    async with Cells("sick", "well") as cells, PlacementApi() as api, RouterPod(api) as pod:
        table = spread(1024, 0, 1)
        placed = cells.placed(sick=0, well=1)
        api.put(placement(placed, table, generation=1))
        await pod.applied(1)
        api.put(placement(placed, table, generation=2, circuits={"sick": (100, soon(15)), "gone": (100, FAR)}))
        assert (await pod.applied(2))["openCircuits"] == {"0": 100}
        for customer in customers_of(0, table)[:20]:
            answer = await ask(pod.port, ("x-customer-id", customer))
            assert (answer.status, answer.reason) == (503, "circuit-open")
            assert "retry-after" in answer.headers
        for customer in customers_of(1, table)[:20]:
            assert (await ask(pod.port, ("x-customer-id", customer))).cell == "well"
        assert cells["sick"].total == 0
        await eventually(lambda: pod.last["openCircuits"] == {}, 40)
        assert (await ask(pod.port, ("x-customer-id", customers_of(0, table)[0]))).cell == "sick"
        # In part: nine in ten are turned away.
        api.put(placement(placed, table, generation=3, circuits={"sick": (90, FAR)}))
        await pod.applied(3)
        before = cells["sick"].total
        customers = (customers_of(0, table) * 10)[:400]
        answers = [await ask(pod.port, ("x-customer-id", customer)) for customer in customers]
        passed = cells["sick"].total - before
        assert 10 < passed < 90
        assert sum(answer.reason == "circuit-open" for answer in answers) == 400 - passed


async def test_the_breaker_trips_and_closes_by_itself_and_touches_no_other_cell() -> None:
    async with Cells("sick", "well") as cells, PlacementApi() as api, RouterPod(api, environment=BREAKS) as pod:
        table = spread(1024, 0, 1)
        api.put(placement(cells.placed(sick=0, well=1), table, generation=1))
        await pod.applied(1)
        async with Load((pod.port,), clients=12, customers=400, pause=0.005) as load:
            await eventually(lambda: len(load.answers) > 200)
            assert pod.told(0, "breaker") == "Closed"
            cells["sick"].failing = True
            await eventually(lambda: pod.told(0, "breaker") == "Tripped")
            tripped, reached = time.monotonic(), cells["sick"].total
            await eventually(lambda: load.cells_since(tripped)["circuit-breaker"] > 200)
            assert cells["sick"].total - reached < load.cells_since(tripped)["circuit-breaker"], (
                "spared, and still tried"
            )
            assert cells["sick"].total > reached
            assert pod.told(1, "breaker") == "Closed"
            cells["sick"].failing = False
            # What is let through while tripped is few, so it may close and trip once more on what it remembers: of a
            # window and of the one before it, which is how HAProxy slides; and of requests that were under way.
            await asyncio.sleep(2 * WINDOW + 0.5)
            forgotten = time.monotonic()
            await eventually(lambda: load.cells_since(forgotten)["sick"] > 100)
            assert load.cells_since(forgotten)["circuit-breaker"] == 0
            assert (await pod.later_report())["cells"]["0"]["breaker"] == "Closed"
        assert load.errors == []
        assert {cell for _, _, status, cell in load.answers if status == 503} == {"circuit-breaker"}
        report = await pod.later_report()
        assert report["turnedAway"]["circuit-breaker"] == sum(s == 503 for _, _, s, _ in load.answers)


async def test_a_cell_that_is_held_to_few_requests_is_left_alone_by_the_breaker() -> None:
    """Fewer requests than the minimum trip nothing: one failure of two is no rate."""
    async with Cells("sick") as cells, PlacementApi() as api, RouterPod(api, environment=BREAKS) as pod:
        api.put(placement(cells.placed(sick=0), spread(1024, 0), generation=1))
        await pod.applied(1)
        cells["sick"].failing = True
        answers = [await ask(pod.port, ("x-customer-id", b"alice")) for _ in range(19)]
        assert {answer.status for answer in answers} == {500}


async def test_what_is_turned_away_is_told_with_its_reason() -> None:
    async with Cells("a") as cells, PlacementApi() as api, RouterPod(api, environment=SHEDS) as pod:
        table = spread(1024, 0)
        table[slot_of(b"nobody", 1024)] = 0xFFFF
        api.put(placement(cells.placed(a=0), table, generation=1, shed={"bulk": (100, FAR)}))
        await pod.applied(1)
        for customer in ("alice", "bob", "nobody"):
            await low(pod, customer)
        cells["a"].failing = True
        await low(pod, "alice", b"high")
        report = await pod.later_report()
        assert report["turnedAway"] == {"shed": 2, "no-cell": 1}, "who has no cell was not shed"
        assert report["rejected"] == 3
        assert report["classes"]["bulk"] == {"requests": 3, "shed": 2, "failures": 1}
        assert report["classes"]["checkout"] == {"requests": 1, "shed": 0, "failures": 1}
        _, text = await pod.get(pod.agent_port, "/metrics")
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["recell_router_class_requests_total", "bulk"] == 3
        assert samples["recell_router_class_shed_total", "bulk"] == 2
        assert samples["recell_router_class_failures_total", "checkout"] == 1
        assert samples["recell_router_class_shed_percent", "bulk"] == 100
        assert samples["recell_router_turned_away_total", "shed"] == 2
        assert samples["recell_router_cell_breaker_tripped", "a"] == 0
        assert samples["recell_router_cell_circuit_open_percent", "a"] == 0
