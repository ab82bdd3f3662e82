"""Restores from the archive, against real PostgreSQL and nginx: to a moment, as late as possible, and not at all."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.shop.cells import ALL_SLOTS, SLOT_COUNT, Cells, Done
from tests.unit.shop.processes import Web, wait_until


def fill(web: Web, first: int, last: int, orders: int = 2) -> None:
    for customer in range(first, last):
        for number in range(orders):
            assert web.order(f"customer-{customer}", f"item-{number}", 100 + number, key=f"k{number}").status == 201


def orders_in(cells: Cells, cell: str) -> str:
    """All that customers would miss if it were not there."""
    return cells.sql(cell, "SELECT id, customer, idempotency_key, item, cents, placed_at FROM shop.orders ORDER BY id")


def counts(done: Done) -> tuple[int, int, int]:
    """How many customers were expected, done, and failed."""
    assert done.code == 0, done.output
    customers = done.result["customers"]
    return customers["expected"], customers["done"], customers["failed"]


def later(cells: Cells, cell: str) -> datetime:
    """A moment between what was committed before and what will be committed after."""
    time.sleep(0.05)
    now = cells.now(cell)
    time.sleep(0.05)
    return now


def slot_of(customer: str) -> int:
    from shop_load.customers import slot_of

    return slot_of(customer, SLOT_COUNT)


def test_a_lost_database_comes_back_up_to_its_last_archived_commit(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 0, 4)
    backup = cells.data("Backup").result["id"]
    fill(web_a, 4, 7)
    nearly = cells.now("cell-a")
    fill(web_a, 7, 8)
    fill(web_b, 100, 102)
    expected, mine = orders_in(cells, "cell-a"), orders_in(cells, "cell-b")
    ended = cells.now("cell-a")
    cells.wait_archived("cell-a")
    cells.lose_volume("cell-a")

    done = cells.data("Restore", "cell-a", "cell-b", BACKUP=backup)
    assert counts(done) == (8, 8, 0)
    assert done.result["records"] == 16
    assert done.result["conflicts"] == []
    assert nearly < datetime.fromisoformat(done.result["recoveryPoint"]) <= ended
    assert sorted(orders_in(cells, "cell-b").splitlines()) == sorted((expected + "\n" + mine).splitlines())
    assert 'recell-progress {"done": 8, "of": 8}' in done.output
    answer = web_b.ask("GET", "/customer", customer="customer-5")
    assert (answer.body["home"], answer.headers["x-customer-home"], answer.headers["x-customer-moves"]) == (
        "cell-b", "cell-b", "1",
    )  # fmt: skip
    # The same order again is the same order.
    assert web_b.order("customer-5", "item-0", 100, key="k0").status == 200
    assert web_b.ask("GET", "/integrity").status == 200


@pytest.mark.parametrize("mistake", ["UPDATE shop.orders SET cents = 0", "TRUNCATE shop.customers CASCADE"])
def test_a_moment_before_a_mistake_brings_every_row_back(cells: Cells, web_a: Web, mistake: str) -> None:
    cells.data("Backup")
    fill(web_a, 0, 6)
    expected = orders_in(cells, "cell-a")
    before = later(cells, "cell-a")
    cells.sql("cell-a", mistake)
    assert cells.data("CheckIntegrity").result["intact"] is False
    cells.wait_archived("cell-a")

    done = cells.data("Restore", "cell-a", "cell-b", NOT_AFTER=before.isoformat())
    assert counts(done) == (6, 6, 0)
    assert datetime.fromisoformat(done.result["recoveryPoint"]) <= before
    assert orders_in(cells, "cell-b") == expected
    assert cells.data("CheckIntegrity", "cell-b").result == {"intact": True}


def test_a_moment_after_a_mistake_tells_which_customers_are_spoilt(cells: Cells, web_a: Web) -> None:
    fill(web_a, 0, 3)
    cells.data("Backup")
    cells.sql("cell-a", "UPDATE shop.orders SET cents = 0 WHERE customer = 'customer-1'")
    cells.sql("cell-a", "DELETE FROM shop.orders WHERE customer = 'customer-2'")
    cells.sql("cell-a", "DELETE FROM shop.customers WHERE id = 'customer-2'")
    cells.wait_archived("cell-a")

    done = cells.data("Restore", "cell-a", "cell-b")
    assert counts(done) == (3, 1, 2)
    assert done.result["customers"]["names"] == ["customer-1"]
    spoilt = sorted({slot_of("customer-1"), slot_of("customer-2")})
    assert done.result["customers"]["slots"] == ",".join(map(str, spoilt))
    assert "restore an earlier state" in done.result["conflicts"][0]
    assert "1 customers are counted in the ledger" in done.result["conflicts"][1]
    assert "2 customers found, 3 expected" in done.result["message"]
    assert cells.sql("cell-b", "SELECT string_agg(id, ' ') FROM shop.customers") == "customer-0"


def test_only_the_slots_asked_for_are_restored(cells: Cells, web_a: Web) -> None:
    fill(web_a, 0, 6, orders=1)
    cells.data("Backup")
    chosen = sorted({slot_of("customer-2"), slot_of("customer-4")})

    done = cells.data("Restore", "cell-a", "cell-b", SLOTS=",".join(map(str, chosen)))
    assert counts(done) == (2, 2, 0)
    assert cells.sql("cell-b", "SELECT string_agg(id, ' ' ORDER BY id) FROM shop.customers") == "customer-2 customer-4"


def test_what_cannot_be_reached_is_said_with_what_can(cells: Cells, web_a: Web) -> None:
    fill(web_a, 0, 2)
    early = later(cells, "cell-a")
    first, second = (cells.data("Backup").result for _ in range(2))

    too_early = cells.data("Restore", "cell-a", "cell-b", NOT_AFTER=early.isoformat())
    assert too_early.code == 1
    for word in ("cannot be reached", first["id"], first["at"], second["id"], second["at"]):
        assert word in too_early.result["message"]
    before_second = cells.data("Restore", "cell-a", "cell-b", BACKUP=second["id"], NOT_AFTER=first["at"])
    assert f"cannot be reached from backup {second['id']}" in before_second.result["message"]
    unknown = cells.data("Restore", "cell-a", "cell-b", BACKUP="nothing")
    assert (unknown.code, f"{first['id']} from {first['at']} on" in unknown.result["message"]) == (1, True)
    nobody = cells.data("Restore", "cell-z", "cell-b")
    assert (nobody.code, nobody.result["message"]) == (1, "the archive has no complete backup of cell-z")
    # Later than the last commit: all there is, and a word about it.
    cells.wait_archived("cell-a")
    done = cells.data("Restore", "cell-a", "cell-b", NOT_AFTER=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert counts(done) == (2, 2, 0)
    assert "no commit after" in done.result["message"]


def test_a_damaged_backup_is_refused_and_another_one_serves(cells: Cells, web_a: Web) -> None:
    fill(web_a, 0, 2)
    first, second = (cells.data("Backup").result["id"] for _ in range(2))
    (base,) = cells.archived("cell-a").glob(f"*/base/{second}/base.tar.gz")
    content = bytearray(base.read_bytes())
    content[len(content) // 2] ^= 0xFF
    base.write_bytes(content)

    refused = cells.data("Restore", "cell-a", "cell-b", BACKUP=second)
    assert (refused.code, f"backup {second} of cell-a is damaged, choose another" in refused.result["message"]) == (
        1,
        True,
    )
    assert counts(cells.data("Restore", "cell-a", "cell-b", BACKUP=first)) == (2, 2, 0)


def test_missing_wal_is_told(cells: Cells, web_a: Web) -> None:
    cells.data("Backup")
    fill(web_a, 0, 2)
    cells.wait_archived("cell-a")
    fill(web_a, 2, 4)
    cells.wait_archived("cell-a")
    fill(web_a, 4, 6)
    cells.wait_archived("cell-a")
    segments = sorted(path for path in cells.archived("cell-a").glob("*/wal/*.gz") if path.name.count(".") == 1)
    segments[-2].unlink()

    done = cells.data("Restore", "cell-a", "cell-b")
    assert "WAL is missing after" in done.result["message"]
    assert done.result["customers"]["done"] < 6


def test_a_repeated_restore_changes_nothing_and_keeps_new_orders(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 0, 3)
    backup = cells.data("Backup").result["id"]
    first = cells.data("Restore", "cell-a", "cell-b", BACKUP=backup)
    # The customers are at home in cell-b by now.
    assert web_b.order("customer-1", "a new one").status == 201
    expected = orders_in(cells, "cell-b")

    again = cells.data("Restore", "cell-a", "cell-b", BACKUP=backup)
    assert again.result["customers"] == first.result["customers"]
    assert orders_in(cells, "cell-b") == expected
    assert cells.data("CheckIntegrity", "cell-b").result == {"intact": True}


def test_orders_that_only_the_target_has_are_never_removed(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 0, 2)
    cells.data("Backup")
    kept = web_b.order("customer-1", "placed in the wrong cell").body["id"]

    done = cells.data("Restore", "cell-a", "cell-b")
    assert counts(done) == (2, 1, 1)
    assert "cell-b has orders of the customer that cell-a does not have" in done.result["conflicts"][0]
    assert kept in orders_in(cells, "cell-b")


def test_a_database_made_anew_takes_its_own_customers_back(cells: Cells, web_a: Web) -> None:
    fill(web_a, 0, 3)
    cells.data("Backup")
    expected = orders_in(cells, "cell-a")
    cells.lose_volume("cell-a")
    cells.start("cell-a")
    web_a.restart()
    web_a.wait_ready()

    assert counts(cells.data("Restore", "cell-a", "cell-a")) == (3, 3, 0)
    assert orders_in(cells, "cell-a") == expected


def test_a_restore_that_was_cut_off_is_taken_up_again(cells: Cells, web_a: Web) -> None:
    fill(web_a, 0, 40, orders=1)
    cells.data("Backup")
    expected = orders_in(cells, "cell-a")
    process = cells.begin_data("Restore", "cell-a", "cell-b")
    wait_until(
        lambda: int(cells.sql("cell-b", "SELECT count(*) FROM shop.customers")) > 0, "the first customers arrive"
    )
    cells.kill(process)

    assert counts(cells.data("Restore", "cell-a", "cell-b")) == (40, 40, 0)
    assert orders_in(cells, "cell-b") == expected
    assert cells.data("CheckIntegrity", "cell-b").result == {"intact": True}


@pytest.mark.parametrize("source", ["down", "made anew"])
def test_a_restore_is_abandoned_though_its_source_is_gone(cells: Cells, web_a: Web, web_b: Web, source: str) -> None:
    fill(web_a, 0, 3)
    fill(web_b, 100, 101)
    cells.data("Backup")
    web_a.end()
    cells.lose_volume("cell-a")
    if source == "made anew":
        cells.start("cell-a")
    assert counts(cells.data("Restore", "cell-a", "cell-b")) == (3, 3, 0)
    abandoned = cells.data("Abandon", "cell-a", "cell-b")
    assert (abandoned.code, abandoned.result) == (0, {}), abandoned.output
    assert cells.sql("cell-b", "SELECT string_agg(id, ' ') FROM shop.customers") == "customer-100"
    assert cells.data("CheckIntegrity", "cell-b").result == {"intact": True}


def test_the_target_must_have_its_tables(cells: Cells, web_a: Web, web_b: Web) -> None:
    fill(web_a, 0, 1)
    cells.data("Backup")
    web_b.end()
    cells.sql("cell-b", "DROP SCHEMA shop CASCADE")
    refused = cells.data("Restore", "cell-a", "cell-b", SLOTS=ALL_SLOTS)
    assert (refused.code, "start the web app of cell-b" in refused.result["message"]) == (1, True)
