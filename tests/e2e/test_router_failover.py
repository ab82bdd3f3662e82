"""RouterFailover on a real cluster, measured from the customers' side: seconds without service, failed requests, and
where sample customers land."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hack.stage import SHOP, SYSTEM, Stage
from tests.e2e.test_cell_restart import ended, step_of

STEPS = {"restartTimeout": "40s", "incrementInterval": "5s", "applyTimeout": "30s"}
SWITCH = {"spec": {"selector": {"app.kubernetes.io/name": "recell-fallback"}}}
"""The documented command: kubectl patch service shop -p '...'."""


@pytest.fixture
def failover(stage: Stage) -> Stage:
    """The shop with a fallback that stands by."""
    stage.patch("recoverypolicy", "default", {"spec": {"steps": STEPS}})
    stage.patch("router", "shop", {"spec": {"fallback": {"replicas": 2}}})
    stage.eventually("the fallback stands by", lambda: condition(stage, "FallbackReady") == "True", within=120)
    stage.eventually("the router is well", lambda: "failure" not in stage.get("router", "shop")["status"], within=60)
    return stage


def condition(stage: Stage, type: str) -> str:
    return stage.condition("router", "shop", type)


def selected(stage: Stage) -> str:
    """Whose pods the customers' Service leads to."""
    return str(stage.get("service", "shop")["spec"]["selector"]["app.kubernetes.io/name"])


def the_run(stage: Stage) -> str:
    stage.eventually("a run appears", lambda: bool(stage.runs()), within=60, every=0.2)
    return str(stage.runs()[-1]["metadata"]["name"])


def landing(stage: Stage, customers: int = 200) -> dict[str, str]:
    """Which cell answers each of so many customers, through the way that customers take."""
    told = stage.kubectl("-n", SHOP, "exec", "deployment/load", "--", "python3", "-c", _ASK, str(customers))
    found: dict[str, str] = json.loads(told)
    return found


def by_hash(order: list[str], customer: str) -> str:
    digest = hashlib.md5(customer.encode(), usedforsecurity=False).digest()
    return order[int.from_bytes(digest[:4], "big") % len(order)]


def assert_lands_where_md5_says(stage: Stage) -> None:
    order = stage.get("placement", "shop")["spec"]["fallback"]["order"]
    found = landing(stage)
    assert len(found) == 200
    assert {c: cell for c, cell in found.items() if cell != by_hash(order, c)} == {}


def outage(seconds: list[dict[str, Any]]) -> tuple[int, int]:
    """Longest time in which nobody was served, in whole seconds, and requests that failed."""
    longest = current = 0
    for second in seconds:
        current = current + 1 if not second["ok"] else 0
        longest = max(longest, current)
    return longest, sum(sum(second["errors"].values()) for second in seconds)


def told(stage: Stage, name: str, load: Any, what: str) -> None:
    """The numbers, for the report."""
    without, failed = outage(load.seconds)
    steps = {s["name"]: s["message"] for s in stage.get("recoveryrun", name)["status"]["steps"]} if name else {}
    sent = sum(second["ended"] for second in load.seconds)
    print(f"\n{what}: {without} s without service, {failed} of {sent} requests failed")
    for step, message in steps.items():
        print(f"  {step}: {message}")


def test_the_pods_are_killed_and_cannot_come_back(failover: Stage) -> None:
    stage = failover
    with stage.load(rate=100) as load:
        time.sleep(8)
        stage.break_router()
        name = the_run(stage)
        stage.eventually("the fallback serves", lambda: condition(stage, "FallbackActive") == "True", within=60)
        stage.eventually("it is validated", lambda: step_of(stage, name) == "recover-primary", within=60)
        assert_lands_where_md5_says(stage)
        relieved = len(load.seconds)
        stage.eventually("the run ends", lambda: ended(stage, name), within=240)
        time.sleep(8)
        back = load.seconds[relieved:]
    told(stage, name, load, "pods killed")
    run = stage.get("recoveryrun", name)
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert run["status"]["decision"]["row"] == "router-high"
    assert sum(sum(second["errors"].values()) for second in back) == 0, "it takes over again without a failed request"
    assert condition(stage, "FallbackActive") == "False"
    assert "fallback" not in stage.get("placement", "shop")["spec"]


def test_the_processes_hang(failover: Stage) -> None:
    stage = failover
    with stage.load(rate=100) as load:
        time.sleep(8)
        with hanging(stage):
            name = the_run(stage)
            stage.eventually("the fallback serves", lambda: condition(stage, "FallbackActive") == "True", within=90)
            stage.eventually("it is validated", lambda: step_of(stage, name) == "recover-primary", within=60)
            assert_lands_where_md5_says(stage)
            time.sleep(10)  # what was stuck in the hung router has been given up
            relieved = len(load.seconds)
        stage.eventually("the run ends", lambda: ended(stage, name), within=240)
        time.sleep(8)
        back = load.seconds[relieved:]
    told(stage, name, load, "processes hang")
    assert stage.get("recoveryrun", name)["status"]["phase"] == "Succeeded"
    assert sum(sum(second["errors"].values()) for second in back) == 0, "it takes over again without a failed request"


def test_one_kubectl_command_switches_while_no_operator_runs(failover: Stage) -> None:
    stage = failover
    replicas = str(stage.get("deployment", "recell", SYSTEM)["spec"]["replicas"])
    with stage.load(rate=100) as load:
        time.sleep(6)
        stage.kubectl("-n", SYSTEM, "scale", "deployment/recell", "--replicas=0")
        stage.eventually("no operator runs", lambda: not stage.all("pods", SYSTEM), within=90)
        stage.kubectl("-n", SHOP, "patch", "service", "shop", "-p", json.dumps(SWITCH))
        time.sleep(5)
        stage.kubectl("-n", SYSTEM, "scale", "deployment/recell", f"--replicas={replicas}")
        seen: set[str] = set()

        def recorded() -> bool:
            seen.add(selected(stage))
            return condition(stage, "FallbackActive") == "True"

        stage.eventually("it is seen", recorded, within=120, every=0.2)
        for _ in range(40):
            seen.add(selected(stage))
            time.sleep(0.25)
        assert seen == {"recell-fallback"}, "what a person switched is not taken back"
        assert stage.get("placement", "shop")["spec"]["fallback"]["holder"]["kind"] == "Person"
        new = [*("recover", "router/shop", "-n", SHOP, "--always", "--strategy", "ActivateFallbackRouting", "--yes")]
        back = stage.recell(*new, "--wait", within=240)
        assert "Succeeded" in back.stdout
        time.sleep(8)
    told(stage, "", load, "switched by hand and back")
    assert outage(load.seconds) == (0, 0)
    assert selected(stage) == "recell-router"


@contextmanager
def hanging(stage: Stage) -> Iterator[None]:
    """Every HAProxy of the router itself is stopped, and each that the kubelet starts anew too."""
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            stage.hack_cluster("enter", "--", "python3", "-c", _HOLD, "2", within=60)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join(timeout=90)


_ASK = """
import concurrent.futures, json, sys, urllib.request
def ask(customer):
    request = urllib.request.Request('http://shop/', headers={'x-customer-id': customer, 'Connection': 'close'})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return customer, answer.headers.get('X-Cell', '')
    except urllib.error.HTTPError as error:
        return customer, error.headers.get('X-Cell', '') or f'status {error.code}'
    except OSError as error:
        return customer, str(error)
with concurrent.futures.ThreadPoolExecutor(8) as beside:
    print(json.dumps(dict(beside.map(ask, [f'sample-{n}' for n in range(int(sys.argv[1]))]))))
"""
_HOLD = """
import os, pathlib, signal, sys, time
ends = time.monotonic() + float(sys.argv[1])
while time.monotonic() < ends:
    for process in pathlib.Path('/proc').iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / 'cmdline').read_bytes()
            names = [v for v in (process / 'environ').read_bytes().split(b'\\0') if v.startswith(b'POD_NAME=')]
        except OSError:
            continue
        if words.startswith(b'haproxy\\0') and names and names[0].startswith(b'POD_NAME=shop-router-'):
            os.kill(int(process.name), signal.SIGSTOP)
    time.sleep(0.2)
"""
