"""What the operator must not do, and what people are told, on a real cluster."""

import json
import time
from datetime import datetime, timedelta

from hack.stage import SHOP, SYSTEM, Stage
from tests.e2e.audit import Audit
from tests.e2e.test_cell_restart import always, ended, run_of, step_of


def test_observe_moves_nothing(stage: Stage) -> None:
    stage.patch("recoverypolicy", "default", {"spec": {"mode": "Observe"}})
    audit = Audit(stage)
    with stage.load(rate=50):
        time.sleep(5)
        stage.fault("cell-b", kind="err", percent=60, until="restart")
        stage.eventually("the cell is Failed", lambda: stage.phase("cell-b") == "Failed", within=120)

        def told() -> bool:
            blocked = stage.get("cell", "cell-b")["status"].get("recovery", {}).get("blocked", {})
            return blocked.get("reason") == "Observe" and "would be started" in blocked["message"]

        stage.eventually("it says what it would do", told, within=60)
        time.sleep(5)
    assert audit.writes("placements", "shop") == []
    assert stage.runs() == []


def test_a_freeze_stops_a_run_and_lets_it_go_on(stage: Stage) -> None:
    # The next effect would begin while the run is frozen, and not before the operator can know that it is.
    stage.patch("recoverypolicy", "default", {"spec": {"steps": {"drainIncrements": 2, "incrementInterval": "7s"}}})
    with stage.load(rate=40):
        time.sleep(6)
        stage.apply(run_of("frozen", **always(stage)))
        stage.eventually("the drain runs", lambda: step_of(stage, "frozen") == "drain-traffic", within=60, every=0.2)
        audit = Audit(stage)
        stage.recell("freeze", "-n", SHOP, "--reason", "sale", "--yes")
        stage.eventually(
            "the run is Paused", lambda: stage.condition("recoveryrun", "frozen", "Paused") == "True", within=60
        )
        paused = stage.get("recoveryrun", "frozen")["status"]["conditions"]
        assert [c["reason"] for c in paused if c["type"] == "Paused"] == ["Frozen"]
        time.sleep(8)
        (frozen,) = (e for e in audit.entries() if e["objectRef"]["resource"] == "recoveryfreezes")
        begun = datetime.fromisoformat(frozen["stageTimestamp"])
        moved = [datetime.fromisoformat(e["requestReceivedTimestamp"]) for e in audit.writes("placements", "shop")]
        assert [at for at in moved if at > begun + timedelta(seconds=1)] == [], "no effect begins a second later"
        stage.recell("unfreeze", "-n", SHOP, "--yes")
        stage.eventually("the run ends", lambda: ended(stage, "frozen"), within=180)
    assert stage.get("recoveryrun", "frozen")["status"]["phase"] == "Succeeded"


def test_abort_gives_a_healthy_cell_its_traffic_back(stage: Stage) -> None:
    with stage.load(rate=40):
        time.sleep(6)
        stage.apply(run_of("aborted", **always(stage)))
        stage.eventually("the drain runs", lambda: step_of(stage, "aborted") == "drain-traffic", within=60, every=0.2)
        stage.recell("abort", "aborted", "-n", SHOP, "--yes")
        stage.eventually("the run ends", lambda: ended(stage, "aborted"), within=180)
    assert stage.get("recoveryrun", "aborted")["status"]["phase"] == "Aborted"
    assert stage.get("placement", "shop")["spec"].get("holds", []) == []


def test_wrong_cells_say_what_is_wrong(stage: Stage) -> None:
    wrong = [
        ("no-workload", {"name": "cell-a", "port": 80}, "no-such-deployment", "no-such-deployment"),
        ("no-port", {"name": "cell-a", "port": 81}, "cell-a-web", "spec.backend.service.port"),
        ("no-service", {"name": "nowhere", "port": 80}, "cell-a-web", "nowhere"),
    ]
    for name, service, deployment, _ in wrong:
        stage.apply(
            json.dumps(
                {
                    "apiVersion": "recell.dev/v1alpha1",
                    "kind": "Cell",
                    "metadata": {"name": name, "namespace": SHOP},
                    "spec": {
                        "routerRef": {"name": "shop"},
                        "backend": {"type": "Service", "service": service},
                        "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment}],
                    },
                }
            )
        )
    for name, _, _, expected in wrong:

        def told(name: str = name, expected: str = expected) -> bool:
            return expected in json.dumps(stage.get("cell", name).get("status") or {})

        stage.eventually(f"Cell {name} says {expected}", told, within=60)
        assert stage.phase(name) in ("Joining", "Unknown", "Degraded", "Failed")
    placed = {c["name"] for c in stage.get("placement", "shop")["spec"]["cells"]}
    assert placed.isdisjoint(name for name, *_ in wrong), "none of them gets a customer"
    for name, *_ in wrong:
        stage.kubectl("-n", SHOP, "delete", "cell", name, "--timeout=110s")


def test_nothing_is_written_while_nothing_changes(stage: Stage) -> None:
    time.sleep(15)  # what the last test left behind has settled
    account = f"system:serviceaccount:{SYSTEM}:"

    def written_in_half_a_minute() -> list[tuple[str, str, str | None]]:
        audit = Audit(stage)
        time.sleep(30)
        return [
            (e["verb"], e["objectRef"]["resource"], e["objectRef"].get("name"))
            for e in audit.entries()
            if e["user"]["username"].startswith(account)
            and e["verb"] in ("create", "update", "patch", "delete")
            and e["objectRef"]["resource"] != "leases"
        ]

    # On a busy machine something may change after all: an answer to a probe that comes too late.
    written = [written_in_half_a_minute()]
    while written[-1] and len(written) < 5:
        written.append(written_in_half_a_minute())
    assert written[-1] == [], written
