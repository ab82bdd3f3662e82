"""Which cell a request reaches, and what a customer gets whom no cell may serve."""

import hashlib
import random

import pytest

from recell.api.placement import READ_ONLY, REJECT
from tests.router.rig import Cells, PlacementApi, RouterPod, ask, placement, spread
from tests.router.rig.load import slot_of


def odd_keys() -> list[bytes]:
    rng = random.Random(7)
    fixed = [
        b"alice", b"bob", b"a,b,c", b"x;y", b'"quoted"', b"back\\slash", b"per%20cent", b"0", b"-1", b"a b  c",
        b"pin:alice", b"slots", b"generation", b"#hash", b"<<", b"a" * 4000, "Zoë".encode(), "Zoe\u0308".encode(),
        "客户-7".encode(), b"\xff\xfe\x80", b"\xc3\x28", b"tab\tinside", b"=", b"{json: 1}",
    ]  # fmt: skip
    bytes_allowed = [b for b in range(0x21, 0x100) if b != 0x7F]
    return fixed + [bytes(rng.choices(bytes_allowed, k=rng.randint(1, 40))) for _ in range(200)]


async def test_each_key_reaches_the_cell_that_python_computes() -> None:
    async with Cells("a", "b", "c") as cells, PlacementApi() as api, RouterPod(api) as pod:
        table = random.Random(1).choices((0, 1, 7), k=1024)
        api.put(placement(cells.placed(a=0, b=1, c=7), table, generation=1))
        await pod.applied(1)
        names = {0: "a", 1: "b", 7: "c"}
        wrong = []
        for key in odd_keys():
            answer = await ask(pod.port, ("X-Customer-Id", key))
            expected = names[table[slot_of(key, 1024)]]
            if (answer.status, answer.cell) != (200, expected):
                wrong.append((key, answer.status, answer.cell, expected))
        assert not wrong


async def test_a_key_that_is_missing_empty_or_given_twice_is_a_bad_request() -> None:
    async with Cells("a") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(a=0), spread(1024, 0), generation=1))
        await pod.applied(1)
        missing = await ask(pod.port)
        empty = await ask(pod.port, ("x-customer-id", b"   "))
        twice = await ask(pod.port, ("x-customer-id", b"alice"), ("X-Customer-ID", b"bob"))
        assert [(a.status, a.reason) for a in (missing, empty, twice)] == [
            (400, "no-customer-key"),
            (400, "no-customer-key"),
            (400, "ambiguous-customer-key"),
        ]
        assert b"header x-customer-id" in missing.body
        assert missing.headers["x-router"] == pod.name
        assert cells["a"].total == 0


async def test_rejected_and_read_only_slots_and_what_the_customer_is_told() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        table = spread(1024, 0)
        table[slot_of(b"rejected", 1024)] = REJECT
        table[slot_of(b"reader", 1024)] = READ_ONLY | 1
        api.put(placement(cells.placed(a=0, b=1), table, generation=1))
        await pod.applied(1)
        rejected = await ask(pod.port, ("x-customer-id", b"rejected"))
        assert (rejected.status, rejected.reason, rejected.headers["x-router"]) == (503, "no-cell", pod.name)
        assert 5 <= int(rejected.headers["retry-after"]) <= 14
        for method in ("GET", "HEAD", "OPTIONS"):
            answer = await ask(pod.port, ("x-customer-id", b"reader"), method=method)
            assert (answer.status, answer.cell) == (200, "b")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = await ask(pod.port, ("x-customer-id", b"reader"), ("Content-Length", b"0"), method=method)
            assert (answer.status, answer.reason) == (503, "read-only")
            assert "retry-after" in answer.headers
        assert cells["b"].total == 3
        report = await pod.counted()
        assert report["rejected"] == 5
        assert report["cells"]["1"]["requests"] == 3


async def test_a_pin_wins_over_the_slot() -> None:
    pins = dict.fromkeys(("alice", "a;b", "back\\slash", "\\", "#x", "<<", '"', "slots", "100%", "~" * 256), 1)
    pins |= {"nobody": REJECT, "reader": READ_ONLY | 1}
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 0), generation=1, pins=pins))
        await pod.applied(1)
        for customer, target in pins.items():
            answer = await ask(pod.port, ("x-customer-id", customer.encode()))
            assert (answer.cell, answer.status) == ((None, 503) if target == REJECT else ("b", 200)), customer
        for customer in ("Alice", "alic", "alice2", "pin:alice"):
            assert (await ask(pod.port, ("x-customer-id", customer.encode()))).cell == "a"
        assert (await ask(pod.port, ("x-customer-id", b"reader"), method="POST")).reason == "read-only"
        # A restarted HAProxy reads the same pins from the file.
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 0), generation=2, pins=pins))
        await pod.applied(2)
        await api.away()
        await pod.stop_haproxy()
        await pod.stop_agent()
        await pod.start_haproxy()
        await pod.ready()
        for customer, target in pins.items():
            answer = await ask(pod.port, ("x-customer-id", customer.encode()))
            assert (answer.cell, answer.status) == ((None, 503) if target == REJECT else ("b", 200)), customer


@pytest.mark.parametrize(
    ("key", "request_parts", "customer"),
    [
        (
            {"CUSTOMER_KEY_TYPE": "Cookie", "CUSTOMER_KEY_NAME": "tenant"},
            {"headers": [("Cookie", b"other=1; tenant=acme; tenant2=x")]},
            b"acme",
        ),
        ({"CUSTOMER_KEY_TYPE": "Host"}, {"host": b"Acme.Shop.Example:8080"}, b"acme.shop.example"),
        ({"CUSTOMER_KEY_TYPE": "PathSegment", "CUSTOMER_KEY_SEGMENT": "2"}, {"path": "/tenants/acme/x?y=/z"}, b"acme"),
        (
            {"CUSTOMER_KEY_TYPE": "PathSegment", "CUSTOMER_KEY_SEGMENT": "1"},
            {"path": "/Zo%C3%AB%2Fx"},
            "Zoë/x".encode(),
        ),
        (
            {
                "CUSTOMER_KEY_TYPE": "Header",
                "CUSTOMER_KEY_NAME": "x-tenant",
                "CUSTOMER_KEY_WHEN_ABSENT": "ClientAddress",
            },
            {},
            b"127.0.0.1",
        ),
        (
            {
                "CUSTOMER_KEY_TYPE": "Header",
                "CUSTOMER_KEY_NAME": "x-tenant",
                "CUSTOMER_KEY_WHEN_ABSENT": "ClientAddress",
            },
            {"headers": [("X-Tenant", b"acme")]},
            b"acme",
        ),
    ],
)
async def test_where_the_key_comes_from(key: dict[str, str], request_parts: dict[str, object], customer: bytes) -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, key=key) as pod:
        table = spread(1024, 0)
        table[slot_of(customer, 1024)] = 1
        api.put(placement(cells.placed(a=0, b=1), table, generation=1))
        await pod.applied(1)
        headers = request_parts.pop("headers", [])
        answer = await ask(pod.port, *headers, **request_parts)  # type: ignore[misc, arg-type]
        assert (answer.status, answer.cell) == (200, "b"), hashlib.md5(customer).hexdigest()


@pytest.mark.parametrize(
    ("key", "request_parts", "reason"),
    [
        ({"CUSTOMER_KEY_TYPE": "Cookie", "CUSTOMER_KEY_NAME": "tenant"}, {}, "no-customer-key"),
        (
            {"CUSTOMER_KEY_TYPE": "Cookie", "CUSTOMER_KEY_NAME": "tenant"},
            {"headers": [("Cookie", b"tenant=a; tenant=b")]},
            "ambiguous-customer-key",
        ),
        ({"CUSTOMER_KEY_TYPE": "Host"}, {"host": b""}, "no-customer-key"),
        ({"CUSTOMER_KEY_TYPE": "PathSegment", "CUSTOMER_KEY_SEGMENT": "2"}, {"path": "/tenants"}, "no-customer-key"),
        ({"CUSTOMER_KEY_TYPE": "PathSegment", "CUSTOMER_KEY_SEGMENT": "2"}, {"path": "/tenants//x"}, "no-customer-key"),
        (
            {"CUSTOMER_KEY_TYPE": "PathSegment", "CUSTOMER_KEY_SEGMENT": "1"},
            {"path": "/acme%00x"},
            "invalid-customer-key",
        ),
    ],
)
async def test_a_key_that_cannot_be_told(key: dict[str, str], request_parts: dict[str, object], reason: str) -> None:
    async with Cells("a") as cells, PlacementApi() as api, RouterPod(api, key=key) as pod:
        api.put(placement(cells.placed(a=0), spread(1024, 0), generation=1))
        await pod.applied(1)
        headers = request_parts.pop("headers", [])
        answer = await ask(pod.port, *headers, **request_parts)  # type: ignore[misc, arg-type]
        assert (answer.status, answer.reason) == (400, reason)
        assert cells["a"].total == 0
