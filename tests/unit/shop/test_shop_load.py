"""The load generator, against real web processes: what customers saw is what is reported."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ports import free_port
from tests.unit.shop.conftest import StartWeb
from tests.unit.shop.processes import Postgres, Web, begin_load, run_load, wait_until
from tests.unit.shop.router import SlotRouter

CELLS = ("cell-a", "cell-b")


def half_and_half(slot: int) -> str:
    return CELLS[slot % 2]


@pytest.fixture
def cells(start_web: StartWeb, postgres: Postgres) -> Iterator[dict[str, Web]]:
    """Two cells, each with a database of its own."""
    second = postgres.create_database()
    webs = {"cell-a": start_web("cell-a"), "cell-b": start_web("cell-b", **second)}
    for web in webs.values():
        web.wait_ready()
    yield webs
    for web in webs.values():
        web.end()
    postgres.sql("postgres", f"DROP DATABASE {second['PGDATABASE']} WITH (FORCE)")


@pytest.fixture
def router(cells: dict[str, Web]) -> Iterator[SlotRouter]:
    with SlotRouter({name: web.port for name, web in cells.items()}, half_and_half) as running:
        yield running


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_slots_are_those_of_the_routers() -> None:
    from shop_load.customers import slot_of

    assert [slot_of(key) for key in ("alice", "bob", "carol", "vip-1")] == [690, 444, 384, 916]
    assert slot_of("alice", 16_384) % 1024 == 690


def test_a_good_run_is_counted_completely(router: SlotRouter, cells: dict[str, Web], tmp_path: Path) -> None:
    orders, customers = tmp_path / "orders", tmp_path / "customers"
    ended = run_load(
        "--target", router.url, "--customers", "20", "--rate", "60", "--duration", "2", "--json", "--verify",
        "--cells-expected", "cell-a,cell-b", "--orders-file", str(orders), "--customers-file", str(customers),
    )  # fmt: skip

    assert (ended.returncode, ended.stderr) == (0, "")
    *seconds, summary, verification = records(ended.stdout)
    assert (summary["sent"], summary["ended"], summary["ok"], summary["unsent"]) == (120, 120, 120, 0)
    assert (summary["errors"], summary["wrong"], summary["moved"], summary["problems"]) == ({}, 0, 0, [])
    assert sum(second["ended"] for second in seconds) == 120
    assert [second["second"] for second in seconds] == list(range(1, len(seconds) + 1))
    # Each customer was answered by the cell of the slot, and each cell really has what it acknowledged.
    seen = records(customers.read_text())
    assert {(one["customer"], one["home"], one["cell"]) for one in seen} == {
        (one["customer"], half_and_half(one["slot"]), half_and_half(one["slot"])) for one in seen
    }
    per_cell = Counter(record["cell"] for record in records(orders.read_text()))
    assert per_cell.total() == summary["acknowledged"] == verification["checked"] > 20
    for name, web in cells.items():
        assert web.ask("GET", "/integrity").body["orders"] == per_cell[name]
        assert summary["cells"][name] == summary["homes"][name]["requests"]


def test_errors_are_those_of_the_failing_cells_customers(router: SlotRouter, cells: dict[str, Web]) -> None:
    cells["cell-b"].chaos("POST", {"kind": "err", "status": 502})
    arguments = ("--target", router.url, "--customers", "20", "--rate", "60", "--duration", "1", "--json")
    ended = run_load(*arguments)

    summary = records(ended.stdout)[-1]
    homes = summary["homes"]
    assert ended.returncode == 1
    assert homes["cell-a"]["errors"] == 0 < homes["cell-a"]["requests"]
    assert homes["cell-b"]["errors"] == homes["cell-b"]["requests"] == summary["errors"]["502"] > 0
    assert summary["problems"] == [
        f"customers of cell-b saw {homes['cell-b']['errors']} errors in {homes['cell-b']['requests']} requests"
    ]
    assert run_load(*arguments, "--tolerate", "cell-b").returncode == 0
    assert run_load(*arguments, "--tolerate-percent", "10").returncode == 1
    assert run_load(*arguments, "--tolerate-percent", "100").returncode == 0


def test_a_refusal_by_the_router_counts_for_the_customers_home(router: SlotRouter) -> None:
    router.cell_of_slot = lambda slot: half_and_half(slot) if router.passed < 40 or slot % 2 == 0 else None
    ended = run_load("--target", router.url, "--customers", "10", "--rate", "60", "--duration", "1.5", "--json")

    homes = records(ended.stdout)[-1]["homes"]
    assert homes["cell-a"]["errors"] == 0
    assert 0 < homes["cell-b"]["errors"] < homes["cell-b"]["requests"]
    assert "?" not in homes


def test_moved_customers_and_their_missing_orders_are_seen(
    router: SlotRouter, cells: dict[str, Web], tmp_path: Path
) -> None:
    orders = tmp_path / "orders"
    with begin_load(
        "--target", router.url, "--customers", "12", "--rate", "80", "--duration", "600", "--json",
        "--orders-file", str(orders), "--write-share", "20",
    ) as running:  # fmt: skip
        wait_until(lambda: cells["cell-b"].ask("GET", "/integrity").body["orders"] > 5, "orders come in")
        router.cell_of_slot = lambda slot: "cell-a"
        passed = router.passed
        wait_until(lambda: router.passed > passed + 400, "everybody asks, and nobody was on the way")
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=120)

    summary = records(output)[-1]
    of_b = {record["customer"] for record in records(orders.read_text()) if record["cell"] == "cell-b"}
    assert summary["errors"] == {}
    # At least once each: requests that overtake one another on their way make a customer change more often.
    assert summary["moved"] == summary["homes"]["cell-b"]["moved"] >= len(of_b)
    assert summary["homes"]["cell-b"]["wrong"] > 0  # their orders are in cell-b
    assert summary["homes"]["cell-a"] | {"requests": 0} == {"requests": 0, "errors": 0, "wrong": 0, "moved": 0}
    # The verifier sees the same: a customer's orders in the one cell are not to be had in the other.
    verified = run_load("verify", "--target", router.url, "--orders-file", str(orders), "--json")
    finding = records(verified.stdout)[-1]
    assert verified.returncode == 1
    assert finding["customersWithMissing"] == len(of_b)
    assert set(finding["missing"]) == {
        record["order"] for record in records(orders.read_text()) if record["cell"] == "cell-b"
    }


def test_a_late_answer_is_no_change_of_cell() -> None:
    from shop_load.customers import Customer

    customer = Customer("alice", 690)
    answers = [("cell-b", 1), ("cell-a", 3), ("cell-b", 2), ("cell-a", 4), ("cell-b", 5)]
    assert [customer.answered_by(*answer) for answer in answers] == [False, True, False, False, True]
    assert (customer.home, customer.cell) == ("cell-b", "cell-b")


def test_an_unexpected_cell_is_wrong_and_a_silent_one_is_named(web: Web) -> None:
    ended = run_load(
        "--target", f"http://127.0.0.1:{web.port}", "--customers", "5", "--rate", "20", "--duration", "1", "--json",
        "--cells-expected", "cell-b",
    )  # fmt: skip

    summary = records(ended.stdout)[-1]
    assert (ended.returncode, summary["wrong"]) == (1, 20)
    assert summary["problems"] == [
        "customers of cell-a were answered by a wrong cell 20 times",
        "cell-b answered nothing",
    ]


def test_why_there_was_no_answer_is_told_apart(web: Web) -> None:
    arguments = ("--customers", "5", "--rate", "20", "--duration", "0.5", "--json")
    web.chaos("POST", {"kind": "hang", "paths": ["/orders", "/customer"]})
    hung = run_load("--target", f"http://127.0.0.1:{web.port}", *arguments, "--timeout", "0.3")
    assert records(hung.stdout)[-1]["errors"] == {"timeout": 10}
    assert hung.returncode == 3

    refused = run_load("--target", f"http://127.0.0.1:{free_port()}", *arguments)
    assert records(refused.stdout)[-1]["errors"] == {"refused": 10}

    unknown = run_load("--target", "http://no-such-shop.invalid", *arguments, "--timeout", "0.3")
    assert records(unknown.stdout)[-1]["errors"].keys() <= {"dns", "timeout"}


def test_requests_start_at_the_rate_however_slow_the_answers(web: Web) -> None:
    web.chaos("POST", {"kind": "slow", "ms": 700, "paths": ["/orders", "/customer"]})
    arguments = (
        "--target",
        f"http://127.0.0.1:{web.port}",
        "--customers",
        "5",
        "--rate",
        "40",
        "--duration",
        "1",
        "--json",
    )

    summary = records(run_load(*arguments).stdout)[-1]
    assert (summary["sent"], summary["ok"], summary["unsent"]) == (40, 40, 0)
    assert summary["p50Ms"] >= 690

    capped = records(run_load(*arguments, "--in-flight", "10").stdout)[-1]
    assert capped["sent"] + capped["unsent"] == 40
    assert capped["unsent"] > 0
    assert capped["problems"] == []  # what was never sent is no customer's error


def test_a_run_without_keepalive_uses_a_connection_for_each_request(web: Web) -> None:
    ended = run_load(
        "--target",
        f"http://127.0.0.1:{web.port}",
        "--customers",
        "5",
        "--rate",
        "40",
        "--duration",
        "1",
        "--no-keepalive",
    )

    assert ended.returncode == 0, ended.stdout
    assert "no problem" in ended.stdout


def test_a_run_can_be_ended_early_and_is_summarised(web: Web) -> None:
    with begin_load("--target", f"http://127.0.0.1:{web.port}", "--rate", "20", "--duration", "600") as running:
        wait_until(lambda: web.ask("GET", "/integrity").body["orders"] > 5, "orders come in")
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=120)

    assert running.returncode == 0
    assert "no problem" in output
    assert all(len(line) <= 80 for line in output.splitlines())


def test_verify_names_what_is_missing_or_altered(web: Web, postgres: Postgres, tmp_path: Path) -> None:
    target, orders = f"http://127.0.0.1:{web.port}", tmp_path / "orders"
    run_load("--target", target, "--customers", "5", "--rate", "40", "--duration", "1", "--orders-file", str(orders))
    remembered = records(orders.read_text())
    with orders.open("a") as file:
        file.write('{"order": "cut sho')  # a line that a kill cut short
    verify = ("verify", "--target", target, "--orders-file", str(orders))
    assert run_load(*verify).returncode == 0

    lost, spoilt = remembered[0]["order"], remembered[1]["order"]
    postgres.sql(web.database, f"DELETE FROM shop.orders WHERE id = '{lost}'")
    postgres.sql(web.database, f"UPDATE shop.orders SET cents = cents + 1 WHERE id = '{spoilt}'")
    found = run_load(*verify)
    assert found.returncode == 1
    assert f"missing: {lost} of {remembered[0]['customer']}" in found.stdout
    assert f"altered: {spoilt} of {remembered[1]['customer']}" in found.stdout
    acknowledged_at = remembered[0]["at"]
    assert f"missing: 1 orders, acknowledged from {acknowledged_at} to {acknowledged_at}" in found.stdout
    told = records(run_load(*verify, "--json").stdout)[-1]
    assert told["missing"] == {lost: acknowledged_at}
    assert (told["firstMissingAt"], told["lastMissingAt"]) == (acknowledged_at, acknowledged_at)
    assert f"verified {len(remembered)} acknowledged orders of 5 customers: 1 missing, 1 altered" in found.stdout


def test_verify_tells_unreadable_from_missing(web: Web, tmp_path: Path) -> None:
    target, orders = f"http://127.0.0.1:{web.port}", tmp_path / "orders"
    run_load("--target", target, "--customers", "2", "--rate", "20", "--duration", "0.5", "--orders-file", str(orders))
    web.chaos("POST", {"kind": "err", "status": 503})

    ended = run_load("verify", "--target", target, "--orders-file", str(orders))
    assert ended.returncode == 3
    assert "0 missing, 0 altered" in ended.stdout
    assert "not verified: 2 customers" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "shop", "--duration", "1"), "must begin with http"),
        (("--target", "http://shop"), "--duration"),
        (("--target", "http://shop", "--duration", "1", "--rate", "0"), "no number from 0.1"),
        (("--target", "http://shop", "--duration", "1", "--customers", "-1"), "no whole number from 1"),
        (
            ("--target", "http://shop", "--duration", "1", "--orders-file", "/nowhere/orders"),
            "/nowhere/orders: No such file",
        ),
        (("verify", "--target", "http://shop", "--orders-file", "/nowhere/orders"), "/nowhere/orders: No such file"),
        (("verify", "--target", "http://shop", "--orders-file", __file__), "line 1: not an acknowledged order"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], message: str) -> None:
    ended = run_load(*arguments)

    assert ended.returncode == 2
    assert message in ended.stderr


def test_lines_fit_80_columns_and_the_bar_shows_the_shares() -> None:
    from shop_load.customers import Seen
    from shop_load.display import BAR, HEADER, Letters, second_line, summary_lines
    from shop_load.tally import Outcome, Tally

    tally = Tally(sent=9999)
    for cell, count in (("cell-a", 600), ("cell-b", 300), ("cell-c", 100)):
        for number in range(count):
            error = f"kind-{number % 9}" if cell == "cell-c" else None
            tally.count(Outcome(cell, cell, error, True, True, 123.0 * number))
    letters = Letters()
    line = second_line("12:34:56", tally, letters)

    assert line.endswith(" aaaaaaaaabbbbc")
    assert len(line) <= 80
    assert len(HEADER) + BAR - len("share") == 80
    summary = summary_lines(
        tally, {"a" * 60: Seen(10**8, 10**8, 10**8, 10**8)}, 10**7, 1024, 1024, ["a problem of " * 9]
    )
    assert all(len(one) <= 80 for one in summary), summary


def test_letters_are_the_cells_own_where_free() -> None:
    from shop_load.display import Letters

    letters = Letters()
    assert [letters.of(cell) for cell in ("cell-a", "cell-b", "other-a", "cell-b")] == ["a", "b", "A", "b"]


def test_percentiles_are_within_two_percent() -> None:
    from shop_load.tally import Latencies

    latencies = Latencies()
    for number in range(1, 1001):
        latencies.add(float(number))
    assert latencies.percentile(50) == pytest.approx(500, rel=0.02)
    assert latencies.percentile(99) == pytest.approx(990, rel=0.02)
    assert Latencies().percentile(50) is None
