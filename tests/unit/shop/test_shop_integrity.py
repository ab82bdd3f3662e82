"""The integrity check, against a real PostgreSQL: what spoils data is found, what is normal is not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.shop.processes import Postgres, Web


def fill(web: Web) -> None:
    for customer in ("alice", "bob", "carol"):
        for number in range(4):
            assert web.order(customer, f"item-{number}", 100 + number).status == 201


def test_data_are_intact_while_orders_arrive(web: Web) -> None:
    with ThreadPoolExecutor(6) as pool:
        orders = [pool.submit(web.order, f"customer-{number % 5}", key=str(number // 10)) for number in range(120)]
        while not all(order.done() for order in orders):
            verdict = web.ask("GET", "/integrity")
            assert (verdict.status, verdict.body["reasons"]) == (200, [])
        assert {order.result().status for order in orders} == {200, 201}
    counts = web.ask("GET", "/integrity").body
    assert (counts["integrity"], counts["customers"], counts["affectedCustomers"]) == ("Intact", 5, 0)


@pytest.mark.parametrize(
    ("statement", "reason", "affected"),
    [
        ("UPDATE shop.orders SET cents = 1", "3 customers have orders that differ", 3),
        ("UPDATE shop.orders SET item = 'nothing' WHERE customer = 'bob'", "1 customers have orders that differ", 1),
        ("UPDATE shop.orders SET cents = 201 - cents WHERE customer = 'bob' AND cents IN (100, 101)", "1 customers", 1),
        ("UPDATE shop.orders SET placed_at = placed_at - interval '1 hour'", "3 customers have orders that differ", 3),
        ("DELETE FROM shop.orders WHERE seq = (SELECT min(seq) FROM shop.orders)", "11 orders found, 12 expected", 1),
        ("TRUNCATE shop.orders", "0 orders found, 12 expected", 3),
        ("TRUNCATE shop.orders, shop.customers", "0 customers found, 3 expected", 0),
        (
            "INSERT INTO shop.orders (customer, item, cents) SELECT customer, item, cents FROM shop.orders"
            " WHERE customer = 'bob'",
            "16 orders found, 12 expected",
            1,
        ),
        (
            "UPDATE shop.orders SET customer = 'alice' WHERE customer = 'bob'",
            "2 customers have more or fewer orders",
            2,
        ),
    ],
)
def test_changes_behind_the_shops_back_are_found(
    web: Web, postgres: Postgres, statement: str, reason: str, affected: int
) -> None:
    fill(web)
    assert web.ask("GET", "/integrity").status == 200
    postgres.sql(web.database, statement)

    verdict = web.ask("GET", "/integrity")
    assert (verdict.status, verdict.body["integrity"]) == (503, "Corrupted")
    assert any(reason in found for found in verdict.body["reasons"]), verdict.body
    assert verdict.body["affectedCustomers"] == affected


@pytest.mark.parametrize(("what", "percent", "rows"), [("amounts", 100, 12), ("amounts", 1, 1), ("rows", 50, 6)])
def test_corruption_on_order_is_found_and_neither_restart_nor_reset_heals_it(
    web: Web, what: str, percent: float, rows: int
) -> None:
    fill(web)
    spoilt = web.chaos("POST", {"kind": "corrupt", "what": what, "percent": percent})

    assert (spoilt.status, spoilt.body["rows"]) == (201, rows)
    assert web.ask("GET", "/integrity").status == 503
    web.chaos("DELETE")
    web.restart()
    web.wait_ready()
    assert web.ask("GET", "/integrity").status == 503
    # The cell still serves: corruption is not an outage.
    assert web.order("dave").status == 201


def test_a_database_made_anew_has_another_identity(web: Web, postgres: Postgres) -> None:
    first = web.ask("GET", "/integrity").body["database"]
    web.restart()
    assert web.wait_ready().ask("GET", "/integrity").body["database"] == first

    postgres.sql(web.database, "DROP SCHEMA shop CASCADE")
    assert web.wait_ready().ask("GET", "/integrity").body["database"] != first
