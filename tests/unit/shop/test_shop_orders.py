"""The public port, against a real PostgreSQL: orders, customers, readiness, the orderly end."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.shop.conftest import StartWeb
from tests.unit.shop.processes import Postgres, Web, wait_until


def test_an_acknowledged_order_is_committed_and_listed(web: Web, postgres: Postgres) -> None:
    placed = web.order("alice", "tea", 450)

    assert placed.status == 201
    assert placed.headers["x-cell"] == "cell-a"
    assert placed.headers["x-customer-home"] == "cell-a"
    row = postgres.sql(web.database, f"SELECT customer, item, cents FROM shop.orders WHERE id = '{placed.body['id']}'")
    assert row == "alice|tea|450"
    listed = web.ask("GET", "/orders", customer="alice")
    assert [(order["id"], order["item"], order["cents"]) for order in listed.body["orders"]] == [
        (placed.body["id"], "tea", 450)
    ]


def test_an_idempotency_key_places_one_order(web: Web) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: web.order("alice", key="k1"), range(8)))

    assert {answer.body["id"] for answer in answers} == {answers[0].body["id"]}
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]
    assert web.ask("GET", "/customer", customer="alice").body["orders"] == 1
    # The same key of another customer is another order; for a different order it is refused.
    assert web.order("bob", key="k1").status == 201
    refused = web.order("alice", "coffee", key="k1")
    assert refused.status == 422
    assert "use a new key" in refused.body["message"]
    assert web.ask("GET", "/integrity").body["integrity"] == "Intact"


def test_orders_are_paged_oldest_first(web: Web) -> None:
    ids = [web.order("alice", f"item-{number}").body["id"] for number in range(7)]

    pages: list[list[str]] = []
    after: int | None = 0
    while after is not None:
        page = web.ask("GET", f"/orders?limit=3&after={after}", customer="alice").body
        pages.append([order["id"] for order in page["orders"]])
        after = page["next"]
    assert pages == [ids[:3], ids[3:6], ids[6:]]


def test_a_customer_nobody_knows_has_no_orders(web: Web) -> None:
    answer = web.ask("GET", "/customer", customer="nobody")

    assert (answer.status, answer.body["known"], answer.body["orders"]) == (200, False, 0)
    assert "x-customer-home" not in answer.headers
    assert web.ask("GET", "/orders", customer="nobody").body == {"orders": [], "next": None}


def test_a_bad_order_is_refused_with_the_field(web: Web) -> None:
    good = {"item": "tea", "cents": 450}
    for body, customer, message in (
        (good, "", "x-customer-id"),
        (good, "x" * 201, "x-customer-id"),
        (good, "caf\xe9", "UTF-8"),
        ({"item": "tea"}, "alice", "cents"),
        ({"item": "tea", "cents": 0}, "alice", "cents"),
        ({"item": "tea", "cents": True}, "alice", "cents"),
        ({"item": "", "cents": 1}, "alice", "item"),
        ({"item": "a\u0000b", "cents": 1}, "alice", "item"),
        (["tea"], "alice", "JSON object"),
    ):
        answer = web.ask("POST", "/orders", body, customer=customer)
        assert answer.status == 400, (body, customer)
        assert message in answer.body["message"]
        assert answer.headers["x-cell"] == "cell-a"
    assert web.ask("GET", "/integrity").body["orders"] == 0


def test_unknown_paths_name_the_cell_too(web: Web) -> None:
    answer = web.ask("GET", "/nothing")

    assert (answer.status, answer.headers["x-cell"]) == (404, "cell-a")
    assert web.ask("POST", "/chaos", {"kind": "crash"}).status == 404  # not on the public port


def test_without_a_database_the_process_lives_but_is_not_ready(start_web: StartWeb) -> None:
    web = start_web("cell-a", PGHOST="/tmp/no-such-folder")

    assert web.ask("GET", "/healthz").status == 200
    for path in ("/readyz", "/probe"):
        answer = web.ask("GET", path)
        assert (answer.status, answer.body["error"]) == (503, "DatabaseUnavailable")
    assert web.order("alice").status == 503
    assert web.ask("GET", "/integrity").body["integrity"] == "Unknown"


def test_a_restart_of_the_database_is_survived(web: Web, postgres: Postgres) -> None:
    kept = web.order("alice").body["id"]
    postgres.stop()
    try:
        assert web.ask("GET", "/readyz").status == 503
        assert web.ask("GET", "/healthz").status == 200
    finally:
        postgres.start()
    web.wait_ready()

    assert [order["id"] for order in web.ask("GET", "/orders", customer="alice").body["orders"]] == [kept]
    assert web.ask("GET", "/integrity").body["integrity"] == "Intact"


def test_two_processes_on_an_empty_database_agree_on_the_schema(start_web: StartWeb) -> None:
    first, second = start_web("cell-a"), start_web("cell-a")
    first.wait_ready()
    second.wait_ready()

    first.order("alice")
    assert second.ask("GET", "/customer", customer="alice").body["orders"] == 1
    assert (first.log() + second.log()).count("made the schema") == 1


def test_cells_that_share_a_database_serve_any_customer_as_their_own(start_web: StartWeb) -> None:
    first = start_web("cell-a", SHOP_DATA="shared").wait_ready()
    second = start_web("cell-b", SHOP_DATA="shared").wait_ready()
    placed = first.order("alice")

    answer = second.ask("GET", "/customer", customer="alice")
    assert (answer.headers["x-cell"], answer.body["orders"], answer.body["home"]) == ("cell-b", 1, None)
    assert "x-customer-home" not in placed.headers.keys() | answer.headers.keys()


def test_at_the_end_readiness_goes_first_and_requests_in_flight_are_finished(start_web: StartWeb) -> None:
    web = start_web("cell-a", SHOP_DRAIN_SECONDS="6").wait_ready()
    web.chaos("POST", {"kind": "slow", "ms": 8000, "paths": ["/orders"], "scope": "pod"})
    ordering = web.begin_order("alice")
    assert web.ask("GET", "/readyz").status == 200
    web.process.send_signal(signal.SIGTERM)

    wait_until(lambda: web.ask("GET", "/readyz").status == 503, "readiness goes")
    draining = web.ask("GET", "/customer", customer="bob")
    assert draining.status == 200  # still served while routers learn of the end
    assert draining.headers["connection"] == "close"
    assert ordering.answer().status == 201
    assert web.wait_ended() == 0


def test_the_end_is_bounded_while_requests_hang(start_web: StartWeb) -> None:
    web = start_web("cell-a", SHOP_STOP_SECONDS="0.5").wait_ready()
    web.chaos("POST", {"kind": "hang", "scope": "pod"})
    hanging = web.begin_order("alice")
    assert web.ask("GET", "/readyz").status == 200
    web.process.send_signal(signal.SIGTERM)

    assert web.wait_ended() == 0
    with pytest.raises(OSError):
        hanging.answer()
