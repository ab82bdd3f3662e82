"""Migrations between two cells' databases, and the other operations on a living one, against real PostgreSQL."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.shop.cells import SLOT_COUNT, Cells, Done
from tests.unit.shop.processes import Web, begin_load, run_load, wait_until
from tests.unit.shop.router import SlotRouter

STOPS = "SELECT count(*) FROM shop.write_stops"
ALL_ORDERS = "SELECT id, customer, idempotency_key, item, cents, placed_at FROM shop.orders ORDER BY id"


def fill(web: Web, customers: int, orders: int = 2) -> None:
    for customer in range(customers):
        for number in range(orders):
            assert web.order(f"customer-{customer}", f"item-{number}", 100 + number, key=f"k{number}").status == 201


def counts(done: Done) -> tuple[int, int, int]:
    """How many customers were expected, done, and failed."""
    assert done.code == 0, done.output
    customers = done.result["customers"]
    return customers["expected"], customers["done"], customers["failed"]


def slot_of(customer: str) -> int:
    from shop_load.customers import slot_of

    return slot_of(customer, SLOT_COUNT)


class Writer(threading.Thread):
    """Places orders of its customers in turn in a cell, new customers among them, until it is told to end."""

    def __init__(self, web: Web, prefix: str) -> None:
        super().__init__()
        self._web = web
        self._prefix = prefix
        self._over = threading.Event()
        self.acknowledged: dict[str, str] = {}
        self.refused: set[int] = set()

    def run(self) -> None:
        number = 0
        while not self._over.is_set():
            customer = f"{self._prefix}-{number % 7 if number % 3 else number}"
            answer = self._web.order(customer, f"item-{number}")
            if answer.status == 201:
                self.acknowledged[answer.body["id"]] = customer
            else:
                assert (answer.status, answer.body["error"]) == (503, "WritesStopped"), answer
                assert answer.headers["retry-after"] == "1"
                self.refused.add(number)
            number += 1

    def end(self) -> None:
        self._over.set()
        self.join(90)


@contextmanager
def writing(web: Web, *prefixes: str) -> Iterator[list[Writer]]:
    writers = [Writer(web, prefix) for prefix in prefixes]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.end()


def test_customers_move_with_their_orders_and_idempotency_keys(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 5)
    expected = cells.sql("cell-a", ALL_ORDERS)
    done = cells.data("Migrate", "cell-a", "cell-b")

    assert counts(done) == (5, 5, 0)
    assert (done.result["records"], done.result["customers"]["slots"], done.result["conflicts"]) == (10, "", [])
    assert cells.sql("cell-b", ALL_ORDERS) == expected
    stopped = web_a.order("customer-1")
    assert (stopped.status, stopped.body["error"], stopped.headers["retry-after"]) == (503, "WritesStopped", "1")
    assert "moves to cell-b" in stopped.body["message"]
    # Not even a customer whom nobody knows yet may begin in a slot that is on its way.
    assert web_a.order("nobody-yet").status == 503
    # Until customers are led to the new cell, they read in the old one.
    assert web_a.ask("GET", "/customer", customer="customer-1").headers["x-customer-home"] == "cell-a"
    moved = web_b.order("customer-1", "item-0", 100, key="k0")
    assert (moved.status, moved.headers["x-customer-home"], moved.headers["x-customer-moves"]) == (200, "cell-b", "1")
    for cell in ("cell-a", "cell-b"):
        assert cells.data("CheckIntegrity", cell).result == {"intact": True}


def test_only_the_customers_of_the_slots_move(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 6, 1)
    slots = ",".join(map(str, sorted({slot_of("customer-1"), slot_of("customer-3")})))

    assert counts(cells.data("Migrate", "cell-a", "cell-b", SLOTS=slots)) == (2, 2, 0)
    assert web_a.order("customer-0").status == 201
    assert web_a.order("customer-1").status == 503
    # A router with more slots divides them further.
    fine = cells.sql("cell-a", "SELECT slot FROM shop.customers WHERE id = 'customer-4'")
    assert counts(cells.data("Migrate", "cell-a", "cell-b", SLOTS=fine, SLOT_COUNT="16384")) == (1, 1, 0)


def test_nothing_acknowledged_is_lost_while_customers_write(cells: Cells, web_a: Web, web_b: Web) -> None:
    with writing(web_a, "x", "y", "z") as writers:
        wait_until(lambda: all(len(writer.acknowledged) > 30 for writer in writers), "the writers write")
        done = cells.data("Migrate", "cell-a", "cell-b")
        wait_until(lambda: all(writer.refused for writer in writers), "the writers are refused")

    acknowledged = {order for writer in writers for order in writer.acknowledged}
    moved = set(cells.sql("cell-b", "SELECT id FROM shop.orders").splitlines())
    assert acknowledged <= moved
    customers = int(cells.sql("cell-a", "SELECT count(*) FROM shop.customers"))
    assert counts(done) == (customers, customers, 0)
    assert cells.sql("cell-b", ALL_ORDERS) == cells.sql("cell-a", ALL_ORDERS)


def test_customers_who_are_led_to_the_new_cell_miss_nothing(
    cells: Cells, web_a: Web, web_b: Web, tmp_path: Path
) -> None:
    leads_to, orders = ["cell-a"], str(tmp_path / "orders")
    with SlotRouter({"cell-a": web_a.port, "cell-b": web_b.port}, lambda _: leads_to[0]) as router:
        run = f"--target {router.url} --customers 40 --rate 30 --duration 600 --json --orders-file {orders}"
        with begin_load(*run.split()) as load:
            wait_until(lambda: router.passed > 100, "customers come")
            assert cells.data("Migrate", "cell-a", "cell-b").code == 0
            leads_to[0] = "cell-b"
            passed = router.passed
            wait_until(lambda: router.passed > passed + 100, "customers come to the new cell")
            time.sleep(3)  # in seconds of their own, however many came at once
            leads_to[0] = "cell-a"  # by mistake: the old cell has old copies
            mistaken = router.passed
            wait_until(lambda: router.passed > mistaken + 100, "customers come to the old cell")
            load.send_signal(signal.SIGTERM)
            output, _ = load.communicate(timeout=120)
            records = [json.loads(line) for line in output.splitlines()]
        leads_to[0] = "cell-b"
        verified = run_load("verify", "--target", router.url, "--orders-file", orders)
    assert verified.returncode == 0, verified.stdout

    assert records[-1]["errors"].keys() == {"503"}
    seconds = [record for record in records if record["type"] == "second"]
    came = next(at for at, second in enumerate(seconds) if "cell-b" in second["cells"])
    wrong = [second["wrong"] for second in seconds]
    assert wrong[: came + 2] == [0] * (came + 2)
    assert any(wrong)


def test_a_write_under_way_is_waited_for(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 1, 1)
    placing = threading.Thread(
        target=cells.sql,
        args=(
            "cell-a",
            "BEGIN; SELECT shop.place_order('cell-a', 'customer-0', 'slow', 'tea', 1); SELECT pg_sleep(8); COMMIT",
        ),
    )
    placing.start()
    wait_until(lambda: cells.sql("cell-a", "SELECT count(*) FROM pg_locks WHERE classid = 7304552") == "1", "it writes")
    done = cells.data("Migrate", "cell-a", "cell-b")
    placing.join(90)

    assert (counts(done), done.result["records"]) == ((1, 1, 0), 2)


def test_a_write_that_could_not_see_the_stop_is_refused(cells: Cells, web_a: Web) -> None:
    fill(web_a, 1, 1)
    with pytest.raises(AssertionError, match="READ COMMITTED only"):
        cells.sql(
            "cell-a",
            "BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE shop.orders SET cents = 1; COMMIT",
        )


def test_a_migration_that_was_cut_off_is_taken_up_again(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 40, 1)
    process = cells.begin_data("Migrate", "cell-a", "cell-b")
    wait_until(lambda: cells.sql("cell-b", "SELECT count(*) > 0 FROM shop.customers") == "t", "the first arrive")
    cells.kill(process)
    assert int(cells.sql("cell-a", STOPS)) > 0

    assert counts(cells.data("Migrate", "cell-a", "cell-b")) == (40, 40, 0)
    assert cells.sql("cell-b", ALL_ORDERS) == cells.sql("cell-a", ALL_ORDERS)
    # Once more, with customers at home in cell-b by now.
    assert web_b.order("customer-1", "a new one").status == 201
    assert counts(cells.data("Migrate", "cell-a", "cell-b")) == (40, 40, 0)
    assert web_b.ask("GET", "/customer", customer="customer-1").body["orders"] == 2
    assert cells.data("CheckIntegrity", "cell-b").result == {"intact": True}


def test_two_attempts_at_once_do_nothing_twice(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 20, 1)
    other = cells.begin_data("Migrate", "cell-a", "cell-b")
    assert counts(cells.data("Migrate", "cell-a", "cell-b")) == (20, 20, 0)
    assert other.wait(180) == 0
    assert cells.sql("cell-b", ALL_ORDERS) == cells.sql("cell-a", ALL_ORDERS)
    assert cells.data("CheckIntegrity", "cell-b").result == {"intact": True}


def test_customers_go_there_and_back_again(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 3, 1)
    cells.data("Migrate", "cell-a", "cell-b")
    assert web_b.order("customer-0", "placed away from home").status == 201
    assert counts(cells.data("Migrate", "cell-b", "cell-a")) == (3, 3, 0)

    assert web_b.order("customer-0").status == 503
    back = web_a.order("customer-0", "placed at home")
    assert (back.status, back.headers["x-customer-home"], back.headers["x-customer-moves"]) == (201, "cell-a", "2")
    # The old cell's answers are those of the fewer moves, which a client can tell.
    assert web_b.ask("GET", "/customer", customer="customer-0").headers["x-customer-moves"] == "1"
    # And again to where there are old copies of those who placed nothing meanwhile.
    assert counts(cells.data("Migrate", "cell-a", "cell-b")) == (3, 3, 0)
    assert cells.sql("cell-b", "SELECT string_agg(moves::text, ' ') FROM shop.customers") == "3 3 3"
    assert cells.sql("cell-b", STOPS) == "0"
    assert web_b.ask("GET", "/customer", customer="customer-0").body["orders"] == 3


def test_customers_whose_orders_are_spoilt_stay(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 3)
    cells.sql("cell-a", "UPDATE shop.orders SET cents = 7 WHERE customer = 'customer-1'")

    done = cells.data("Migrate", "cell-a", "cell-b")
    assert counts(done) == (3, 2, 1)
    assert done.result["customers"]["names"] == ["customer-1"]
    assert done.result["customers"]["slots"] == str(slot_of("customer-1"))
    assert "restore an earlier state" in done.result["conflicts"][0]
    assert web_a.order("customer-1").status == 503  # the stop stays until somebody decides


def test_abandon_lets_customers_write_again_and_removes_the_copies(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 3)
    assert web_b.order("another").status == 201
    cells.data("Migrate", "cell-a", "cell-b")

    for _ in range(2):
        abandoned = cells.data("Abandon", "cell-a", "cell-b")
        assert (abandoned.code, abandoned.result) == (0, {}), abandoned.output
    assert web_a.order("customer-1").status == 201
    assert cells.sql("cell-b", "SELECT string_agg(id, ' ') FROM shop.customers") == "another"
    assert cells.data("CheckIntegrity", "cell-b").result == {"intact": True}
    assert counts(cells.data("Migrate", "cell-a", "cell-b")) == (3, 3, 0)


def test_abandon_removes_nobody_who_is_at_home_there(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 2)
    cells.data("Migrate", "cell-a", "cell-b")
    assert web_b.order("customer-1", "a new one").status == 201

    refused = cells.data("Abandon", "cell-a", "cell-b")
    assert refused.code == 1
    assert "1 of 2 customers placed orders in cell-b" in refused.result["message"]
    assert web_a.order("customer-1").status == 503
    assert web_b.ask("GET", "/customer", customer="customer-0").body["orders"] == 2


def test_abandon_without_one_of_the_cells(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 2)
    cells.data("Migrate", "cell-a", "cell-b")
    cells.stop("cell-a")
    failed = cells.data("Abandon", "cell-a", "cell-b")
    cells.start("cell-a")
    assert failed.code == 1
    assert "Repeat Abandon when it answers" in failed.result["message"]

    cells.data("Migrate", "cell-a", "cell-b")
    cells.stop("cell-b")
    lifted = cells.data("Abandon", "cell-a", "cell-b")
    cells.start("cell-b")
    assert (lifted.code, "the copies stay in cell-b" in lifted.result["message"]) == (0, True)
    web_a.wait_ready()
    assert web_a.order("customer-0").status == 201
    assert counts(cells.data("Migrate", "cell-a", "cell-b")) == (2, 2, 0)
    assert cells.sql("cell-b", ALL_ORDERS) == cells.sql("cell-a", ALL_ORDERS)


def test_a_cell_on_its_way_to_another_is_not_sent_elsewhere(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 1)
    cells.sql("cell-a", f"SELECT shop.stop_writes('{{{slot_of('customer-0')}}}', 'cell-c')")

    refused = cells.data("Migrate", "cell-a", "cell-b")
    assert refused.code == 1
    assert "to cell-c already: abandon that first" in refused.result["message"]


def test_accessible_reads_the_data(cells: Cells, web_a: Web) -> None:
    fill(web_a, 2)
    assert cells.data("Accessible").result == {"accessible": True, "message": "2 customers and 4 orders can be read"}
    path = cells.sql("cell-a", "CHECKPOINT; SELECT pg_relation_filepath('shop.orders')")
    cells.stop("cell-a")
    down = cells.data("Accessible")
    assert (down.code, down.result["accessible"]) == (0, False)
    assert "the database of cell-a" in down.result["message"]

    table = cells.folder / "cell-a" / "data" / path
    content = table.read_bytes()
    table.write_bytes(content[:4000] + b"spoilt" + content[4006:])
    cells.start("cell-a")
    unreadable = cells.data("Accessible").result
    assert (unreadable["accessible"], "invalid page" in unreadable["message"]) == (False, True)
    checked = cells.data("CheckIntegrity")
    assert checked.code == 1 or checked.result["intact"] is False


def test_check_finds_what_is_wrong_with_orders_and_indexes(cells: Cells, web_a: Web) -> None:
    fill(web_a, 3)
    assert cells.data("CheckIntegrity").result == {"intact": True}
    cells.sql("cell-a", "UPDATE shop.orders SET item = 'nothing' WHERE customer = 'customer-1'")
    found = cells.data("CheckIntegrity").result
    assert found == {
        "intact": False,
        "message": "the database of cell-a: 1 customers have orders that differ from what they placed",
    }
    # A row that the index does not know: the heap is right, and so are all sums.
    cells.sql("cell-a", "UPDATE shop.orders SET item = 'item-0' WHERE customer = 'customer-1' AND cents = 100")
    cells.sql("cell-a", "UPDATE shop.orders SET item = 'item-1' WHERE customer = 'customer-1' AND cents = 101")
    assert cells.data("CheckIntegrity").result == {"intact": True}
    cells.sql("cell-a", "UPDATE pg_index SET indisready = false WHERE indexrelid = 'shop.orders_of_customer'::regclass")
    assert web_a.order("customer-0", "without the index").status == 201
    cells.sql("cell-a", "UPDATE pg_index SET indisready = true WHERE indexrelid = 'shop.orders_of_customer'::regclass")
    assert "amcheck" in cells.data("CheckIntegrity").result["message"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OPERATION": "Destroy"}, "RECELL_OPERATION is 'Destroy'"),
        ({"SLOTS": "1-"}, "RECELL_SLOTS: '1-'"),
        ({"SLOTS": "1024"}, "not within 0-1023"),
        ({"SLOT_COUNT": "1000"}, "RECELL_SLOT_COUNT is '1000'"),
        ({"TARGET": "cell-a"}, "Migrate needs two cells"),
        ({"NOT_AFTER": "yesterday"}, "RECELL_NOT_AFTER is 'yesterday'"),
        ({"NOT_AFTER": "2026-01-01T00:00:00"}, "its time zone is missing"),
        ({"CELL": ""}, "RECELL_CELL is not set"),
    ],
)
def test_wrong_variables_are_named(variables: dict[str, str], message: str) -> None:
    from shop_data.failure import OperationFailed
    from shop_data.request import read_request

    right = {"OPERATION": "Migrate", "CELL": "cell-a", "TARGET": "cell-b", "SLOTS": "0-5", "SLOT_COUNT": "1024"}
    with pytest.raises(OperationFailed) as refused:
        read_request({f"RECELL_{name}": value for name, value in (right | variables).items()})
    assert message in str(refused.value)


def test_a_result_fits_the_termination_message() -> None:
    from shop_data import report, slots

    names = [f"{'ß' * 150}-{number}" for number in range(100)]
    every_second = slots.write(range(0, 1024, 2))
    result = {
        "customers": {"expected": 100, "done": 0, "failed": 100, "names": names, "slots": every_second},
        "conflicts": names,
        "message": "m" * 500,
    }
    text = report.fit(result)
    assert len(text.encode()) <= 4096
    kept = json.loads(text)
    assert kept["customers"]["slots"] == every_second
    assert (kept["message"], len(kept["customers"]["names"]) <= 20) == ("m" * 500, True)
    assert slots.parse("5,0-2,9", 10) == [0, 1, 2, 5, 9]
    assert slots.write([9, 0, 1, 2, 5]) == "0-2,5,9"
