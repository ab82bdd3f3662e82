"""A cell in a cluster of its own: restarted there, watched there, never judged by an API server that is away."""

import json
import time
from typing import Any

from hack.stage import SHOP
from tests.remote.stage import FAR, Clusters


def restart(name: str) -> str:
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    spec = {
        "targetRef": {"kind": "Cell", "name": FAR},
        "strategy": "CellRestart",
        "startWhen": "Always",
        "startBefore": before,
    }
    metadata = {"name": name, "namespace": SHOP}
    return json.dumps({"apiVersion": "recell.dev/v1alpha1", "kind": "RecoveryRun", "metadata": metadata, "spec": spec})


def status_of(clusters: Clusters, run: str) -> dict[str, Any]:
    found: dict[str, Any] = clusters.here.get("recoveryrun", run).get("status") or {}
    return found


def assert_operator_is_well(clusters: Clusters) -> None:
    for pod in clusters.operator_pods():
        for status in pod["status"]["containerStatuses"]:
            assert status["ready"], pod["metadata"]["name"]
            assert status["restartCount"] == 0, pod["metadata"]["name"]


def test_a_cell_in_another_cluster_is_seen_and_labelled_there(clusters: Clusters) -> None:
    assert clusters.condition()[:2] == ("True", "Reachable")
    assert clusters.deployment()["metadata"]["labels"]["recell.dev/cell"] == FAR
    assert [
        c for c in clusters.here.get("cell", "cell-a")["status"]["conditions"] if c["type"] == "ClusterReachable"
    ] == []


def test_it_is_restarted_there_while_its_credentials_are_rotated(clusters: Clusters) -> None:
    here = clusters.here
    before = clusters.deployment()["metadata"]["generation"]
    with clusters.load() as load:
        time.sleep(7)
        here.apply(restart("rotated"))
        here.eventually("it drains", lambda: status_of(clusters, "rotated").get("step") == "drain-traffic", within=60)
        clusters.new_account()
        time.sleep(2)
        clusters.give_credentials()
        here.eventually("the run ends", lambda: bool(status_of(clusters, "rotated").get("finishedAt")), within=240)
    assert status_of(clusters, "rotated")["phase"] == "Succeeded", status_of(clusters, "rotated")
    assert clusters.deployment()["metadata"]["generation"] == before + 1, "restarted once"
    assert load.failures == []
    assert load.requests > 300
    here.eventually("both are Healthy", clusters.all_healthy, within=60)
    assert_operator_is_well(clusters)


def test_an_api_server_that_is_away_for_a_minute_moves_and_destroys_nothing(clusters: Clusters) -> None:
    here = clusters.here
    here.eventually("both are Healthy", clusters.all_healthy, within=60)
    placed, deployed = here.get("placement", "shop")["metadata"]["generation"], clusters.deployment()["metadata"]
    runs = len(here.runs())
    with clusters.load() as load:
        clusters.there.hack_cluster("stop-apiserver", "--hang")
        try:
            began = time.monotonic()
            here.eventually("it is Unknown", lambda: here.phase(FAR) == "Unknown", within=60)
            status, reason, message = clusters.condition()
            assert (status, reason) == ("False", "Unreachable")
            assert "has not answered since" in message
            assert here.phase("cell-a") == "Healthy"
            shown = here.recell("status", "-n", SHOP).stdout
            assert "ClusterReachable=False" in shown
            written = here.get("cell", FAR)["metadata"]["resourceVersion"]
            time.sleep(max(0.0, began + 50 - time.monotonic()))
            assert here.phase(FAR) == "Unknown"
            assert here.get("cell", FAR)["metadata"]["resourceVersion"] == written, "nothing is written meanwhile"
            here.apply(restart("in-vain"))
            time.sleep(max(0.0, began + 65 - time.monotonic()))
            assert_operator_is_well(clusters)
            assert here.get("placement", "shop")["metadata"]["generation"] == placed, "nobody was moved"
        finally:
            clusters.there.hack_cluster("start-apiserver")
        here.eventually("it is Healthy again", lambda: clusters.condition()[0] == "True", within=120)
        assert clusters.deployment()["metadata"]["uid"] == deployed["uid"]
        here.eventually(
            "the run goes on and ends", lambda: bool(status_of(clusters, "in-vain").get("finishedAt")), within=240
        )
    assert status_of(clusters, "in-vain")["phase"] == "Succeeded", status_of(clusters, "in-vain")
    assert clusters.deployment()["metadata"]["generation"] == deployed["generation"] + 1
    assert load.failures == []
    assert len(here.runs()) == runs + 1, "none was started by itself"
    here.eventually("both are Healthy", clusters.all_healthy, within=60)


def test_a_kubeconfig_that_is_refused_is_told_without_its_content(clusters: Clusters) -> None:
    here, word = clusters.here, "hunter2-of-the-cluster"
    clusters.put_secret(
        {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": "https://10.0.0.1"}}],
            "users": [{"name": "x", "user": {"exec": {"command": word}, "token": word}}],
        }
    )
    here.eventually("it is refused", lambda: clusters.condition()[1] == "KubeconfigRefused", within=60)
    here.eventually("it is Unknown", lambda: here.phase(FAR) == "Unknown", within=60)
    assert "users[].user.exec would run a program" in clusters.condition()[2]
    token = clusters.give_credentials()
    here.eventually("it is Healthy again", lambda: here.phase(FAR) == "Healthy", within=60)
    said = [
        clusters.logs(),
        json.dumps(here.get("cell", FAR)["status"]),
        here.kubectl("-n", SHOP, "get", "events", "-o", "json"),
    ]
    for text in said:
        assert word not in text
        assert token not in text


def test_a_right_that_is_missing_there_is_named(clusters: Clusters) -> None:
    here, there = clusters.here, clusters.there
    there.kubectl("-n", SHOP, "delete", "rolebinding", "recell-workloads")
    clusters.give_credentials()  # watches that are open go on; those of a new connection are refused
    here.eventually("it is told", lambda: clusters.condition()[1] == "Forbidden", within=60)
    assert 'grant verb "list"' in clusters.condition()[2] or 'grant verb "watch"' in clusters.condition()[2]
    there.kubectl("apply", "-f", "manifests/remote-cluster.yaml")
    here.eventually("it is Healthy again", lambda: here.phase(FAR) == "Healthy", within=120)
