"""The switches that make the shop fail, against real processes: what they do, whom they reach, what heals them."""

from __future__ import annotations

import asyncio
import http.client
import random
import time
from typing import Any

import pytest

from tests.unit.shop.conftest import StartWeb
from tests.unit.shop.processes import Postgres, Web, wait_until


def faults_of(web: Web) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = web.chaos().body["faults"]
    return listed


def test_err_hits_customers_and_the_probe_but_not_the_kubelet(web: Web) -> None:
    web.chaos("POST", {"kind": "err", "percent": 100, "status": 502})

    assert web.order("alice").status == 502
    assert web.ask("GET", "/customer", customer="alice").status == 502
    assert web.ask("GET", "/probe").status == 502
    for path in ("/readyz", "/healthz", "/integrity"):
        assert web.ask("GET", path).status == 200
    assert web.chaos("DELETE").body == {"removed": 1}
    assert web.order("alice").status == 201


def test_err_hits_the_asked_share() -> None:
    from shop.faults import Fault, Faults, parse_spec

    async def hits() -> int:
        faults = Faults(random.Random(7), lambda fault: None)
        faults.add_to_pod(Fault("f", parse_spec({"kind": "err", "percent": 30})))
        return sum([await faults.strike("/orders") is not None for _ in range(10_000)])

    assert asyncio.run(hits()) == pytest.approx(3000, abs=200)


def test_paths_choose_what_is_hit(web: Web) -> None:
    web.chaos("POST", {"kind": "err", "paths": ["/readyz", "/healthz"]})

    assert web.ask("GET", "/readyz").status == 500
    assert web.ask("GET", "/healthz").status == 500
    assert web.order("alice").status == 201


def test_slow_delays_and_still_answers(web: Web) -> None:
    web.chaos("POST", {"kind": "slow", "ms": 300})
    began = time.monotonic()

    assert web.order("alice").status == 201
    assert time.monotonic() - began >= 0.3  # never sooner than ordered; how much later is the machine's affair


def test_a_hanging_request_goes_on_when_the_fault_is_taken_back(web: Web) -> None:
    fault = web.chaos("POST", {"kind": "hang"}).body["id"]
    with pytest.raises(TimeoutError):
        web.ask("GET", "/customer", timeout=0.3, customer="alice")
    hanging = web.begin_order("alice")
    assert web.ask("GET", "/healthz").status == 200

    assert web.chaos("DELETE", fault=fault).body == {"removed": 1}
    assert hanging.answer().status == 201
    assert web.chaos("DELETE", fault=fault).status == 404


def test_what_was_taken_back_does_not_come_back(web: Web) -> None:
    # The faults are read all the time: what was read before they were taken back must not be believed after it.
    for _ in range(40):
        web.chaos("POST", {"kind": "err", "until": "reset"})
        assert web.order("alice").status == 500
        web.chaos("DELETE")
        assert web.order("alice").status == 201


def test_a_fault_ends_with_its_time(web: Web) -> None:
    web.chaos("POST", {"kind": "hang", "seconds": 0.5})
    web.chaos("POST", {"kind": "err", "seconds": 0.5, "scope": "pod"})
    assert web.order("alice").status in (500, 201)

    wait_until(lambda: faults_of(web) == [], "both faults are over")
    assert web.order("alice").status == 201


def test_a_fault_of_the_cell_reaches_all_its_pods_and_a_fault_of_a_pod_only_that(start_web: StartWeb) -> None:
    first = start_web("cell-a").wait_ready()
    second = start_web("cell-a").wait_ready()

    first.chaos("POST", {"kind": "err", "scope": "pod"})
    time.sleep(1.2)  # longer than the other pod takes to read the cell's faults
    assert (first.order("alice").status, second.order("alice").status) == (500, 201)
    first.chaos("DELETE")

    first.chaos("POST", {"kind": "err"})
    wait_until(lambda: second.order("alice").status == 500, "the other pod has the fault")
    second.chaos("DELETE")
    wait_until(lambda: first.order("alice").status == 201, "the other pod is rid of the fault")


def test_a_restart_heals_until_restart_in_each_pod_for_itself(start_web: StartWeb) -> None:
    restarted = start_web("cell-a").wait_ready()
    not_restarted = start_web("cell-a").wait_ready()
    restarted.chaos("POST", {"kind": "err", "until": "restart"})
    wait_until(lambda: not_restarted.order("alice").status == 500, "the other pod has the fault")

    restarted.restart()
    restarted.wait_ready()
    assert restarted.order("alice").status == 201
    assert not_restarted.order("alice").status == 500


def test_a_restart_does_not_heal_until_reset(web: Web) -> None:
    web.chaos("POST", {"kind": "err", "until": "reset"})
    web.restart()
    web.wait_ready()

    wait_until(lambda: web.order("alice").status == 500, "the fault is back")
    web.chaos("DELETE")
    assert web.order("alice").status == 201


def test_crash_until_restart_happens_once(web: Web) -> None:
    fault = web.chaos("POST", {"kind": "crash"})
    assert fault.status == 201  # the answer comes before the crash

    assert web.wait_ended() == 70
    assert fault.body["id"] in web.log()
    web.restart()
    web.wait_ready()
    assert web.order("alice").status == 201


def test_crash_until_reset_crashes_on_each_start(web: Web, postgres: Postgres) -> None:
    web.chaos("POST", {"kind": "crash", "until": "reset"})
    assert web.wait_ended() == 70
    for _ in range(2):
        web.start()
        assert web.wait_ended() == 70

    postgres.sql(web.database, "DELETE FROM shop.faults")
    web.start()
    assert web.wait_ready().order("alice").status == 201


def test_a_copy_of_the_database_that_becomes_another_cell_has_no_faults(start_web: StartWeb) -> None:
    start_web("cell-a").wait_ready().chaos("POST", {"kind": "err", "until": "reset"})

    other = start_web("cell-a-r1").wait_ready()
    placed = other.order("alice")
    assert (placed.status, placed.headers["x-cell"]) == (201, "cell-a-r1")


def test_faults_stay_while_the_database_is_away(web: Web, postgres: Postgres) -> None:
    web.chaos("POST", {"kind": "err", "status": 418})
    postgres.stop()
    try:
        time.sleep(1.2)  # a refresh or two that fail
        assert web.order("alice").status == 418
        web.chaos("POST", {"kind": "err", "scope": "pod", "paths": ["/healthz"]})
        assert web.ask("GET", "/healthz").status == 500
        assert web.chaos("POST", {"kind": "err"}).status == 503
    finally:
        postgres.start()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], "JSON object"),
        ({}, "kind"),
        ({"kind": "explode"}, "kind"),
        ({"kind": "err", "percent": 0}, "percent"),
        ({"kind": "err", "percent": 101}, "percent"),
        ({"kind": "err", "percent": True}, "percent"),
        ({"kind": "err", "status": 200}, "status"),
        ({"kind": "err", "ms": 5}, "ms: not a field"),
        ({"kind": "slow", "ms": 60_001}, "ms"),
        ({"kind": "hang", "paths": []}, "paths"),
        ({"kind": "hang", "paths": ["/chaos"]}, "paths"),
        ({"kind": "hang", "seconds": 0}, "seconds"),
        ({"kind": "hang", "until": "never"}, "until"),
        ({"kind": "hang", "scope": "pod", "until": "reset"}, "until"),
    ],
)
def test_a_wrong_fault_is_refused_with_the_field(spec: object, message: str) -> None:
    from shop.faults import BadFault, parse_spec

    with pytest.raises(BadFault, match=message):
        parse_spec(spec)


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "crash", "until": "reset", "scope": "cell"},
        {"kind": "err", "until": "restart", "scope": "pod", "paths": ["/readyz"], "percent": 5, "status": 429},
        {
            "kind": "slow",
            "until": "restart",
            "scope": "cell",
            "seconds": 9,
            "paths": ["/orders"],
            "percent": 5,
            "ms": 7,
        },
    ],
)
def test_a_fault_described_is_read_back_as_it_was(spec: dict[str, object]) -> None:
    from shop.faults import describe_spec, parse_spec

    assert describe_spec(parse_spec(spec)) == spec


def test_wrong_orders_to_the_admin_port_are_answered_with_the_reason(web: Web) -> None:
    for spec, message in (
        ({"kind": "err", "percent": 200}, "percent"),
        ({"kind": "corrupt", "until": "restart"}, "until"),
        ({"kind": "corrupt", "what": "disks"}, "what"),
        ({"kind": "corrupt", "percent": 0}, "percent"),
    ):
        answer = web.chaos("POST", spec)
        assert answer.status == 400
        assert message in answer.body["message"]
    assert web.chaos("POST", {"kind": "corrupt"}).status == 409  # no orders yet
    assert web.ask("GET", "/orders").status == 400
    with pytest.raises((http.client.HTTPException, OSError, AssertionError)):
        assert web.ask("GET", "/chaos").status == 200
