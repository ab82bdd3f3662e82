"""What a workload's fields and its pods mean."""

from typing import Any

import pytest

from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.meta import ANNOTATION_RESTART, ANNOTATION_STOP
from recell.domain.observation import WorkloadPhase
from recell.providers.kube.api import Object
from recell.providers.kube.kstatus import (
    assess,
    cannot_restart,
    selector_of,
    slim_pod,
    slim_workload,
    stuck_reason,
)
from recell.providers.kube.ownership import HELM_RELEASE
from recell.providers.kube.paths import WORKLOADS

CURRENT, IN_PROGRESS, FAILED = WorkloadPhase.CURRENT, WorkloadPhase.IN_PROGRESS, WorkloadPhase.FAILED


def ref(kind: str) -> WorkloadRef:
    return WorkloadRef(api_version=WORKLOADS[WorkloadKind(kind)].api_version, kind=WorkloadKind(kind), name="web")


def workload(status: dict[str, Any], *, generation: int = 2, **spec: Any) -> Object:
    return {
        "metadata": {"name": "web", "namespace": "shop", "generation": generation, "resourceVersion": "7", "uid": "u"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {}}} | spec,
        "status": {"observedGeneration": 2} | status,
    }


def deployed(replicas: int, updated: int, ready: int, available: int) -> dict[str, Any]:
    return {
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": available,
    }


OVERDUE = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}]


@pytest.mark.parametrize(
    ("status", "spec", "phase", "told"),
    [
        (deployed(3, 3, 3, 3), {}, CURRENT, "3 of 3 pods ready"),
        (deployed(3, 1, 3, 3), {}, IN_PROGRESS, "1 of 3 pods are of the newest revision"),
        (deployed(4, 3, 4, 4), {}, IN_PROGRESS, "1 pods of an older revision are ending"),
        (deployed(3, 3, 2, 2), {}, IN_PROGRESS, "2 of 3 pods ready; 2 of 3 pods are available"),
        ({}, {}, IN_PROGRESS, "0 of 3 pods ready"),
        ({"observedGeneration": 1} | deployed(3, 3, 3, 3), {}, IN_PROGRESS, "its controller has not seen"),
        (deployed(3, 3, 0, 0) | {"conditions": OVERDUE}, {}, FAILED, "ProgressDeadlineExceeded (timed out)"),
        (deployed(0, 0, 0, 0), {"replicas": 0}, CURRENT, "0 of 0 pods ready"),
        (deployed(3, 3, 3, 3), {"replicas": 0}, IN_PROGRESS, "3 of 0 pods ready; 3 pods too many are ending"),
        (deployed(1, 1, 1, 1), {"replicas": 1}, CURRENT, "1 of 1"),
    ],
)
def test_deployment(status: Any, spec: Any, phase: WorkloadPhase, told: str) -> None:
    state = assess(ref("Deployment"), workload(status, **spec))
    assert state.phase == phase
    assert told in state.message
    assert state.updated == (phase == CURRENT)


def set_of(replicas: int, ready: int, updated: int, current: str = "b", newest: str = "b") -> dict[str, Any]:
    return {
        "replicas": replicas,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "updatedReplicas": updated,
        "currentRevision": current,
        "updateRevision": newest,
    }


def strategy(type: str = "RollingUpdate", partition: int = 0) -> dict[str, Any]:
    return {"updateStrategy": {"type": type, "rollingUpdate": {"partition": partition}}}


@pytest.mark.parametrize(
    ("status", "spec", "phase", "told"),
    [
        (set_of(3, 3, 3), strategy(), CURRENT, "3 of 3"),
        (set_of(3, 2, 3), strategy(), IN_PROGRESS, "2 of 3 pods are ready"),
        (set_of(4, 3, 3), strategy(), IN_PROGRESS, "1 pods too many"),
        (set_of(3, 3, 1, "a"), strategy(), IN_PROGRESS, "1 of 3 pods are of the newest revision"),
        (set_of(3, 3, 0, "a"), strategy("OnDelete"), CURRENT, "3 of 3"),
        (set_of(3, 3, 1, "a"), strategy(partition=2), CURRENT, "3 of 3"),
        (set_of(3, 3, 0, "a"), strategy(partition=2), IN_PROGRESS, "0 of 1 pods above the partition"),
        (set_of(3, 3, 3) | {"availableReplicas": 1}, strategy(), IN_PROGRESS, "1 of 3 pods are available"),
        (set_of(0, 0, 0), strategy() | {"replicas": 0}, CURRENT, "0 of 0"),
    ],
)
def test_stateful_set(status: Any, spec: Any, phase: WorkloadPhase, told: str) -> None:
    state = assess(ref("StatefulSet"), workload(status, **spec))
    assert state.phase == phase
    assert told in state.message


def daemons(desired: int, current: int, updated: int, ready: int, available: int) -> dict[str, Any]:
    return {
        "desiredNumberScheduled": desired,
        "currentNumberScheduled": current,
        "updatedNumberScheduled": updated,
        "numberReady": ready,
        "numberAvailable": available,
    }


@pytest.mark.parametrize(
    ("status", "spec", "phase", "told"),
    [
        (daemons(3, 3, 3, 3, 3), {}, CURRENT, "3 of 3"),
        (daemons(3, 2, 2, 2, 2), {}, IN_PROGRESS, "2 of 3 pods are scheduled"),
        (daemons(3, 3, 1, 3, 3), {}, IN_PROGRESS, "1 of 3 pods are of the newest revision"),
        (daemons(3, 3, 1, 3, 3), strategy("OnDelete"), CURRENT, "3 of 3"),
        (daemons(3, 3, 3, 2, 2), {}, IN_PROGRESS, "2 of 3 pods are available"),
        (daemons(0, 0, 0, 0, 0), {}, CURRENT, "0 of 0"),
    ],
)
def test_daemon_set(status: Any, spec: Any, phase: WorkloadPhase, told: str) -> None:
    state = assess(ref("DaemonSet"), workload(status, **spec))
    assert state.phase == phase
    assert told in state.message


def pod(state: Any = None, *, restarts: int = 0, last: Any = None, **more: Any) -> Object:
    container = {"name": "main", "restartCount": restarts, "state": state or {}, "lastState": last or {}}
    metadata = {"name": "web-x", "resourceVersion": "1"} | more.pop("metadata", {})
    return {"metadata": metadata, "status": {"phase": "Running", "containerStatuses": [container]} | more}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available:\n  3 Insufficient cpu.",
}


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("", pod({"running": {}})),
        ("", pod(waiting("ContainerCreating"))),
        (
            "web-x: CrashLoopBackOff (exit 1, 5 restarts)",
            pod(waiting("CrashLoopBackOff"), restarts=5, last={"terminated": {"exitCode": 1}}),
        ),
        (
            "web-x: CrashLoopBackOff (exit 137, OOMKilled, 1 restart)",
            pod(
                waiting("CrashLoopBackOff"),
                restarts=1,
                last={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            ),
        ),
        ("web-x: ImagePullBackOff (no such image)", pod(waiting("ImagePullBackOff", "no such image"))),
        ("web-x: main ended (exit 2, 3 restarts)", pod({"terminated": {"exitCode": 2}}, restarts=3)),
        ("", pod({"terminated": {"exitCode": 0}}, restarts=3)),
        ("", pod({"terminated": {"exitCode": 1}}, restarts=0)),
        ("web-x: Evicted (low on disk)", pod(phase="Failed", reason="Evicted", message="low on disk")),
        (
            "web-x: Unschedulable (0/3 nodes are available: 3 Insufficient cpu.)",
            pod(phase="Pending", conditions=[UNSCHEDULABLE]),
        ),
        ("", pod(waiting("CrashLoopBackOff"), metadata={"deletionTimestamp": "now"})),
    ],
)
def test_what_keeps_a_pod_down(told: str, seen: Object) -> None:
    assert stuck_reason(seen) == told
    assert stuck_reason(slim_pod(seen)) == told


def test_stuck_pods_make_an_unready_workload_failed_and_leave_a_ready_one_alone() -> None:
    bad = pod(waiting("ErrImagePull"))
    unready = assess(ref("Deployment"), workload(deployed(3, 3, 2, 2)), [bad])
    assert unready.phase == FAILED
    assert unready.message.endswith("web-x: ErrImagePull")
    assert assess(ref("Deployment"), workload(deployed(3, 3, 3, 3)), [bad]).phase == CURRENT
    many = assess(ref("Deployment"), workload(deployed(9, 9, 2, 2), replicas=9), [bad] * 7)
    assert many.message.endswith("and 4 more")


def test_messages_stay_short() -> None:
    endless = pod(waiting("ImagePullBackOff", "x" * 5000))
    assert len(assess(ref("Deployment"), workload(deployed(3, 3, 0, 0)), [endless] * 9).message) < 1024


RUNNING, ENDING = pod(), pod(metadata={"deletionTimestamp": "2026-11-25T03:00:00Z"})
ENDED = [pod(phase="Succeeded"), pod(phase="Failed")]


@pytest.mark.parametrize(
    ("pods", "counted", "generation", "known"),
    [
        (None, 0, 2, None),
        ([], 0, 2, 0),
        (ENDED, 0, 2, 0),
        ([RUNNING, ENDING, *ENDED], 0, 2, 2),
        ([], 1, 2, None),
        ([], 0, 3, None),
    ],
)
def test_pods_that_may_run(pods: list[Object] | None, counted: int, generation: int, known: int | None) -> None:
    """None at all counts only when its controller has seen the newest change and counts none either."""
    stopped = workload(deployed(counted, counted, counted, counted), generation=generation, replicas=0)
    state = assess(ref("Deployment"), stopped, pods)
    assert state.pods == known
    assert state.at_zero == (known == 0)


@pytest.mark.parametrize(
    ("suspend", "pods", "desired", "known", "told"),
    [
        (None, None, None, None, "scheduled"),
        (False, [*ENDED, RUNNING], None, 1, "scheduled; 1 pods not yet ended"),
        (True, None, 0, None, "suspended"),
        (True, [RUNNING, ENDING], 0, 2, "suspended; 2 pods not yet ended"),
        (True, ENDED, 0, 0, "suspended"),
    ],
)
def test_a_cron_job_is_never_unwell(
    suspend: bool | None, pods: list[Object] | None, desired: int | None, known: int | None, told: str
) -> None:
    spec = {} if suspend is None else {"suspend": suspend}
    cron_job = {"metadata": {"name": "web", "namespace": "shop", "generation": 2}, "spec": spec, "status": {}}
    state = assess(ref("CronJob"), cron_job, pods)
    assert state == assess(ref("CronJob"), slim_workload(cron_job), pods)
    assert (state.phase, state.message, state.updated) == (CURRENT, told, True)
    assert (state.desired, state.pods) == (desired, known)
    assert state.at_zero == (suspend is True and known == 0)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_slimming_changes_no_answer(kind: str) -> None:
    template = {
        "metadata": {"annotations": {ANNOTATION_RESTART: "run.1"}, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "x"}]},
    }
    for spec in ({}, strategy(partition=2), strategy("OnDelete"), {"paused": True}):
        whole = workload(deployed(3, 2, 2, 2) | daemons(3, 3, 2, 2, 2), template=template, **spec)
        whole["metadata"]["annotations"] = {ANNOTATION_STOP: "run.2", HELM_RELEASE: "web", "some/thing": "x"}
        slim = slim_workload(whole)
        assert assess(ref(kind), slim) == assess(ref(kind), whole)
        state = assess(ref(kind), slim)
        assert (state.restart_token, state.stop_token, state.owned_by) == ("run.1", "run.2", "Helm release /web")
        assert "some/thing" not in str(slim)
        assert cannot_restart(ref(kind), slim) == cannot_restart(ref(kind), whole)
        assert selector_of(slim) == selector_of(whole)
        assert "containers" not in str(slim)


@pytest.mark.parametrize(
    ("kind", "spec", "told"),
    [
        ("Deployment", {}, ""),
        ("CronJob", {}, "its next Job starts anew"),
        ("Deployment", {"paused": True}, "spec.paused is true"),
        ("StatefulSet", strategy(), ""),
        ("StatefulSet", {}, ""),
        ("StatefulSet", strategy("OnDelete"), "OnDelete"),
        ("StatefulSet", strategy(partition=1), "partition is 1"),
        ("DaemonSet", {"updateStrategy": {"type": "RollingUpdate"}}, ""),
        ("DaemonSet", strategy("OnDelete"), "OnDelete"),
    ],
)
def test_what_cannot_be_restarted(kind: str, spec: Any, told: str) -> None:
    why = cannot_restart(ref(kind), workload({}, **spec))
    assert told in why
    assert bool(told) == bool(why)


def test_selectors_become_queries() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "env", "operator": "NotIn", "values": ["dev"]},
        {"key": "app", "operator": "Exists"},
        {"key": "old", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"z": "1", "a": "2"}, "matchExpressions": expressions}
    assert selector_of(workload({}, selector=selector)) == "a=2,z=1,tier in (a,b),env notin (dev),app,!old"
