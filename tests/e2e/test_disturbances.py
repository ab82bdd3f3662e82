"""The operator, its leader and the API server fail in the middle of a run: it ends all the same, everything once."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client, config

from hack.stage import SHOP, SYSTEM, Stage
from tests.e2e.audit import OPERATOR, Audit
from tests.e2e.test_cell_restart import always, assert_everything_once, ended, run_of, step_of

STEPS = ("drain-traffic", "restart-workloads", "check-health", "restore-traffic", "watch-stability")
SLOWER = {"spec": {"steps": {"incrementInterval": "3s", "stabilityDuration": "12s"}}}
"""Each step has to last until it was seen."""


def start(stage: Stage, name: str) -> None:
    stage.apply(run_of(name, **always(stage)))


def reached(stage: Stage, name: str, step: str) -> bool:
    order = ("check-eligibility", *STEPS)
    now = step_of(stage, name)
    return now in order and order.index(now) >= order.index(step)


def test_the_leader_is_killed_in_each_step(stage: Stage) -> None:
    stage.patch("recoverypolicy", "default", SLOWER)
    audit = Audit(stage)
    with stage.load(rate=40):
        time.sleep(6)
        start(stage, "killed")
        killed = []
        for step in STEPS:
            stage.eventually(
                f"step {step} runs", lambda step=step: reached(stage, "killed", step), within=120, every=0.2
            )
            killed.append((step, step_of(stage, "killed")))
            leader = stage.leader()
            stage.kill_operator(leader)
            stage.eventually("another one leads", lambda leader=leader: stage.leader() not in ("", leader), within=60)
        stage.eventually("the run ends", lambda: ended(stage, "killed"), within=240)
    assert stage.get("recoveryrun", "killed")["status"]["phase"] == "Succeeded"
    assert_everything_once(audit)
    assert len({seen for _, seen in killed}) >= 4, f"too fast to be killed in each step: {killed}"


@contextmanager
def a_patient_kubelet(stage: Stage) -> Iterator[None]:
    """By default it ends an operator that does not answer after 55 to 65 s."""
    where = "/spec/template/spec/containers/0/livenessProbe/failureThreshold"
    pods = stage.get("deployment", "recell", SYSTEM)["spec"]["template"]["spec"]
    default = pods["containers"][0]["livenessProbe"]["failureThreshold"]

    def after(failures: int) -> None:
        change = json.dumps([{"op": "replace", "path": where, "value": failures}])
        stage.kubectl("-n", SYSTEM, "patch", "deployment", "recell", "--type=json", "-p", change)
        stage.kubectl("-n", SYSTEM, "rollout", "status", "deployment/recell", "--timeout=300s", within=330)

    after(30)
    try:
        yield
    finally:
        after(default)


def restarts(stage: Stage, pod: str) -> int:
    return sum(int(c["restartCount"]) for c in stage.get("pod", pod, SYSTEM)["status"]["containerStatuses"])


def test_a_stopped_leader_that_wakes_after_the_take_over_writes_nothing(stage: Stage) -> None:
    stage.patch("recoverypolicy", "default", SLOWER)
    with a_patient_kubelet(stage):
        stopped_and_woken(stage)


def stopped_and_woken(stage: Stage) -> None:
    audit = Audit(stage)
    with stage.load(rate=40):
        time.sleep(6)
        start(stage, "stopped")
        stage.eventually("the drain runs", lambda: step_of(stage, "stopped") == "drain-traffic", within=60, every=0.2)
        old = stage.leader()
        epoch = stage.get("placement", "shop")["spec"]["epoch"]
        begun = restarts(stage, old)
        stage.signal_operator(old, "SIGSTOP")
        stopped = time.monotonic()
        stage.eventually("another one leads", lambda: stage.leader() not in ("", old), within=60)
        stage.eventually(
            "the Placement has its epoch", lambda: stage.get("placement", "shop")["spec"]["epoch"] > epoch, within=60
        )
        time.sleep(max(0.0, 60 - (time.monotonic() - stopped)))
        assert restarts(stage, old) == begun, "it is the process that led that wakes"
        stage.signal_operator(old, "SIGCONT")
        stage.eventually("the run ends", lambda: ended(stage, "stopped"), within=240)
    assert stage.get("recoveryrun", "stopped")["status"]["phase"] == "Succeeded"
    assert_everything_once(audit)
    epochs = [
        entry["requestObject"]["spec"]["epoch"]
        for entry in audit.writes("placements", "shop")
        if entry["verb"] != "delete"
    ]
    assert epochs == sorted(epochs), "no write of the old leader after the new one's first"


def test_the_api_server_is_away_for_half_a_minute(stage: Stage) -> None:
    stage.patch("recoverypolicy", "default", SLOWER)
    audit = Audit(stage)
    start(stage, "away")
    stage.eventually("the drain runs", lambda: step_of(stage, "away") == "drain-traffic", within=60, every=0.2)
    stage.hack_cluster("stop-apiserver")
    time.sleep(30)
    stage.hack_cluster("start-apiserver")
    stage.eventually("the run ends", lambda: ended(stage, "away"), within=300)
    run = stage.get("recoveryrun", "away")
    assert run["status"]["phase"] == "Succeeded", run["status"]["summary"]
    assert_everything_once(audit)
    assert stage.get("placement", "shop", SHOP)["spec"].get("holds", []) == []


FLOW: dict[str, Any] = {"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "metadata": {"name": "recell-test-throttle"}}


def throttle(stage: Stage, shares: int) -> None:
    """The API server's own limit for what the operator asks of Recell's kinds; with no share every call gets a 429."""
    limited = {
        "nominalConcurrencyShares": shares,
        "lendablePercent": 0,
        "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"},
    }
    stage.apply(
        json.dumps({**FLOW, "kind": "PriorityLevelConfiguration", "spec": {"type": "Limited", "limited": limited}})
    )


def flow_schema() -> str:
    account = {"kind": "ServiceAccount", "serviceAccount": {"name": "recell", "namespace": "recell-system"}}
    kinds = {"apiGroups": ["recell.dev"], "resources": ["*"], "verbs": ["*"], "namespaces": ["*"]}
    spec = {
        "priorityLevelConfiguration": {"name": FLOW["metadata"]["name"]},
        "matchingPrecedence": 100,
        "rules": [{"subjects": [account], "resourceRules": [kinds]}],
    }
    return json.dumps({**FLOW, "kind": "FlowSchema", "spec": spec})


def test_conflicts_and_too_many_requests(stage: Stage) -> None:
    """Somebody else writes to the same objects all the time, and the server turns the operator away again and again."""
    stage.patch("recoverypolicy", "default", SLOWER)
    audit = Audit(stage)
    over = threading.Event()

    def turn_away() -> None:
        while not over.is_set():
            before, until = audit.answers(OPERATOR, 429), time.monotonic() + 5
            throttle(stage, 0)
            while audit.answers(OPERATOR, 429) == before and time.monotonic() < until and not over.wait(0.3):
                pass
            throttle(stage, 30)
            over.wait(1.0)

    def write_too() -> None:
        objects = client.CustomObjectsApi(config.new_client_from_config(stage.kubeconfig))
        written = (("recoveryruns", "contested"), ("placements", "shop"), ("cells", "cell-b"))
        late = False
        for number in itertools.count():
            body = {"metadata": {"annotations": {"example.com/n": str(number)}}}
            # The run alone, without a pause, until the operator's write came too late once: else it is left to chance.
            late = late or (number % 20 == 0 and audit.answers(OPERATOR, 409) > 0)
            for plural, name in written if late else written[:1]:
                objects.patch_namespaced_custom_object("recell.dev", "v1alpha1", SHOP, plural, name, body)
                if over.wait(0.02 if late else 0.0):
                    return

    disturbers = [threading.Thread(target=disturb) for disturb in (turn_away, write_too)]
    with stage.load(rate=40):
        time.sleep(6)
        start(stage, "contested")
        throttle(stage, 30)
        stage.apply(flow_schema())
        for disturber in disturbers:
            disturber.start()
        try:
            stage.eventually("the run ends", lambda: ended(stage, "contested"), within=300)
        finally:
            over.set()
            for disturber in disturbers:
                disturber.join()
            for kind in ("flowschema", "prioritylevelconfiguration"):
                stage.kubectl("delete", kind, FLOW["metadata"]["name"], "--ignore-not-found")
    run = stage.get("recoveryrun", "contested")
    assert run["status"]["phase"] == "Succeeded", run["status"]["summary"]
    assert_everything_once(audit)
    assert audit.answers(OPERATOR, 429) > 0
    assert audit.answers(OPERATOR, 409) > 0
