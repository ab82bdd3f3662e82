"""When an object of any kind is Current, and what it says while it is not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recell.domain.provisioning import Progress
from recell.providers.kube.api import Object
from recell.providers.kube.discovery import Kind
from recell.providers.kube.paths import Resource
from recell.providers.kube.readiness import SAID, SILENCE, has_pods, readiness

READY, WAITS, FAILED = Progress.READY, Progress.IN_PROGRESS, Progress.FAILED
MADE = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = MADE + timedelta(hours=1)

CORE = "v1"
CLAIM, SERVICE, DEPLOYMENT, JOB = "PersistentVolumeClaim", "Service", "Deployment", "Job"


def kind(name: str, api_version: str = "example.com/v1", *, has_status: bool = True) -> Kind:
    group, _, version = api_version.rpartition("/")
    return Kind(Resource(group, version, f"{name.lower()}s", name), has_status)


def obj(status: Any = None, *, spec: Any = None, generation: int = 1, **metadata: Any) -> Object:
    made: Object = {
        "metadata": {"name": "x", "generation": generation, "creationTimestamp": "2026-01-31T12:00:00Z", **metadata},
        "spec": spec or {},
    }
    return made if status is None else made | {"status": status}


def says(*conditions: str, **rest: Any) -> Object:
    """`Ready=False Reason: message`."""
    made = []
    for text in conditions:
        what, _, words = text.partition(" ")
        type, _, status = what.partition("=")
        reason, _, message = words.partition(": ")
        made.append({"type": type, "status": status, "reason": reason, "message": message})
    return {"conditions": made, **rest}


def workload(replicas: int = 1, ready: int = 0, *conditions: str) -> Object:
    status = says(*conditions, observedGeneration=1)
    for name in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"):
        status[name] = ready
    return obj(status, spec={"replicas": replicas, "selector": {"matchLabels": {"app": "x"}}})


QUOTA = 'pods "x-1" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1'
POD_SECURITY = 'pods "x-1" is forbidden: violates PodSecurity "restricted:latest": privileged'
NO_ACCOUNT = 'pods "x-1" is forbidden: error looking up service account shop/web: serviceaccount "web" not found'


@pytest.mark.parametrize(
    ("what", "live", "progress", "told"),
    [
        # anything by conditions
        (kind("Database"), obj(says("Ready=True Available: ok")), READY, ""),
        (kind("Database"), obj(says("Ready=False Creating: 3 of 5")), WAITS, "Creating: 3 of 5"),
        (kind("Database"), obj(says("Ready=Unknown")), WAITS, "Ready is Unknown"),
        (kind("Database"), obj(says("Stalled=True BadSize: size must be positive")), FAILED, "BadSize: size must be"),
        (kind("Database"), obj(says("Ready=False X: y", "Stalled=True Z: w")), FAILED, "Z: w"),
        (kind("Database"), obj(says("Ready=True A: b", "Reconciling=True Resizing: c")), WAITS, "Resizing: c"),
        (kind("Database"), obj(says("Ready=True A: b", "Stalled=False", "Reconciling=False")), READY, ""),
        (kind("Database"), obj(says("Healthy=False A: b")), READY, ""),
        (kind("Database"), obj(says("Ready=True A: b", observedGeneration=1), generation=2), WAITS, "has not seen"),
        (kind("Database"), obj({"observedGeneration": -1}), WAITS, "has not seen the newest change"),
        (kind("Database"), obj({"observedGeneration": 2}, generation=2), READY, ""),
        (
            kind("Database"),
            obj({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1}]}, generation=2),
            WAITS,
            "has not seen",
        ),
        (
            kind("Claim"),
            obj(says("Synced=False ReconcileError: no such class")),
            WAITS,
            "ReconcileError: no such class",
        ),
        (kind("Claim"), obj(says("Synced=True ok: ok", "Ready=False Waiting: not bound")), WAITS, "Waiting: not bound"),
        (kind("Claim"), obj(says("Synced=False late: no", "Ready=True ok: ok")), READY, ""),
        (kind("Odd"), obj({"conditions": "none"}), READY, ""),
        (kind("Odd"), obj({"phase": "Running"}), READY, ""),
        (kind("ConfigMap", CORE, has_status=False), obj(), READY, ""),
        (kind("Database"), obj(says("Ready=True A: b"), deletionTimestamp="2026-01-31T12:00:00Z"), WAITS, "deleted"),
        # workloads
        (kind(DEPLOYMENT, "apps/v1"), workload(1, 1), READY, ""),
        (kind(DEPLOYMENT, "apps/v1"), workload(), WAITS, "0 of 1 pods ready"),
        (kind(DEPLOYMENT, "apps/v1"), obj(spec={"replicas": 1}), WAITS, "0 of 1 pods ready"),
        (kind(DEPLOYMENT, "apps/v1"), workload(1, 0, f"ReplicaFailure=True FailedCreate: {QUOTA}"), FAILED, QUOTA),
        (
            kind(DEPLOYMENT, "apps/v1"),
            workload(1, 0, f"ReplicaFailure=True FailedCreate: {POD_SECURITY}"),
            FAILED,
            POD_SECURITY,
        ),
        (
            kind(DEPLOYMENT, "apps/v1"),
            workload(1, 0, f"ReplicaFailure=True FailedCreate: {NO_ACCOUNT}"),
            WAITS,
            NO_ACCOUNT,
        ),
        (kind(DEPLOYMENT, "apps/v1"), workload(1, 0, "ReplicaFailure=False"), WAITS, "0 of 1 pods ready"),
        (
            kind(DEPLOYMENT, "apps/v1"),
            workload(1, 0, "Progressing=False ProgressDeadlineExceeded: timed out"),
            FAILED,
            "ProgressDeadlineExceeded (timed out)",
        ),
        (kind("StatefulSet", "apps/v1"), workload(1, 1), READY, ""),
        (kind("StatefulSet", "apps/v1"), workload(), WAITS, "0 of 1 pods are ready"),
        (kind("ReplicaSet", "apps/v1"), workload(1, 1), READY, ""),
        (kind("ReplicaSet", "apps/v1"), workload(2, 1), WAITS, "1 of 2 pods ready"),
        (kind("ReplicaSet", "apps/v1"), workload(1, 0, f"ReplicaFailure=True X: {QUOTA}"), FAILED, QUOTA),
        (kind("Deployment", "other.example.com/v1"), obj(says("Ready=True A: b")), READY, ""),
        # others of the platform
        (kind(JOB, "batch/v1"), obj({"active": 1}), WAITS, "1 pods at work, 0 failed"),
        (kind(JOB, "batch/v1"), obj(says("Complete=True Done: ok")), READY, ""),
        (
            kind(JOB, "batch/v1"),
            obj(says("Failed=True BackoffLimitExceeded: twice")),
            FAILED,
            "BackoffLimitExceeded: tw",
        ),
        (kind(JOB, "batch/v1"), obj(says("FailureTarget=True PodFailurePolicy: x")), FAILED, "PodFailurePolicy"),
        (
            kind(JOB, "batch/v1"),
            obj(says("Suspended=True X: y"), spec={"suspend": True}),
            WAITS,
            "spec.suspend is true",
        ),
        (kind("CronJob", "batch/v1"), obj(), READY, ""),
        (kind("Ingress", "networking.k8s.io/v1"), obj(), READY, ""),
        (kind(CLAIM, CORE), obj({"phase": "Bound"}), READY, ""),
        (kind(CLAIM, CORE), obj({"phase": "Lost"}), FAILED, "Lost"),
        (kind(CLAIM, CORE), obj({"phase": "Pending"}), READY, ""),
        (
            kind(CLAIM, CORE),
            obj({"phase": "Pending"}, annotations={"volume.kubernetes.io/storage-provisioner": "csi.example.com"}),
            WAITS,
            "to be made by csi.example.com",
        ),
        (kind(SERVICE, CORE), obj({"loadBalancer": {}}, spec={"type": "ClusterIP"}), READY, ""),
        (kind(SERVICE, CORE), obj({"loadBalancer": {}}, spec={"type": "LoadBalancer"}), WAITS, "has no address yet"),
        (
            kind(SERVICE, CORE),
            obj({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}, spec={"type": "LoadBalancer"}),
            READY,
            "",
        ),
        (kind("Pod", CORE), obj({"phase": "Running"} | says("Ready=True")), READY, ""),
        (kind("Pod", CORE), obj({"phase": "Running"} | says("Ready=False")), WAITS, "Running, not ready"),
        (kind("Pod", CORE), obj({"phase": "Succeeded"}), READY, ""),
        (kind("Pod", CORE), obj({"phase": "Failed", "reason": "Evicted"}), FAILED, "Evicted"),
        (kind("Pod", CORE), obj(), WAITS, "Pending, not ready"),
    ],
)
def test_what_an_object_says(what: Kind, live: Object, progress: Progress, told: str) -> None:
    found = readiness(what, live, (), LATER)
    assert found.progress is progress
    assert told in found.says
    assert bool(found.says) == (progress is not READY)


def application(sync: str = "", health: str = "", *, phase: str = "", automated: bool = True, **status: Any) -> Object:
    if sync:
        status["sync"] = {"status": sync}
    if health:
        status["health"] = {"status": health, "message": "web is not there" if health == "Missing" else ""}
    if phase:
        status["operationState"] = {"phase": phase, "message": "one or more objects failed to apply"}
    return obj(status, spec={"syncPolicy": {"automated": {}}} if automated else {})


@pytest.mark.parametrize(
    ("live", "progress", "told"),
    [
        (application(), WAITS, "Argo CD has not compared it yet"),
        (application("Synced", "Healthy", phase="Succeeded"), READY, ""),
        (application("Synced", "Progressing"), WAITS, "Synced, health Progressing"),
        (application("Synced", "Degraded"), WAITS, "Synced, health Degraded"),
        (application("Synced", "Missing"), WAITS, "health Missing: web is not there"),
        (application("Synced"), WAITS, "health Unknown"),
        (application("OutOfSync", "Missing", phase="Running"), WAITS, "OutOfSync"),
        (application("OutOfSync", "Healthy"), WAITS, "OutOfSync"),
        (application("OutOfSync", "Healthy", automated=False), WAITS, "spec.syncPolicy.automated is not set"),
        (application("OutOfSync", "Missing", phase="Failed"), FAILED, "ended as Failed: one or more objects failed"),
        (application("Unknown", "Healthy", phase="Error"), FAILED, "ended as Error"),
        (application(**says("InvalidSpecError=True X: no such project")), FAILED, "InvalidSpecError: no such project"),
        (application("Unknown", "Healthy", **says("ComparisonError= X: no such ref")), WAITS, "no such ref"),
    ],
)
def test_an_application_of_argo_cd(live: Object, progress: Progress, told: str) -> None:
    found = readiness(kind("Application", "argoproj.io/v1alpha1", has_status=False), live, (), LATER)
    assert found.progress is progress
    assert told in found.says


@pytest.mark.parametrize(
    ("status", "progress", "told"),
    [
        ({}, WAITS, "CloudNativePG has said nothing yet"),
        ({"phase": "Setting up primary", "phaseReason": "db-1"}, WAITS, "Setting up primary: db-1"),
        ({"phase": "x", "conditions": [{"type": "Ready", "status": "False"}]}, WAITS, "x"),
        ({"phase": "x", "conditions": [{"type": "Ready", "status": "True"}]}, READY, ""),
    ],
)
def test_a_cluster_of_cloud_native_pg(status: Object, progress: Progress, told: str) -> None:
    found = readiness(kind("Cluster", "postgresql.cnpg.io/v1"), {"metadata": {}, "status": status}, (), LATER)
    assert (found.progress, found.says) == (progress, told)


def pod(name: str, reason: str = "", **status: Any) -> Object:
    waiting = {"state": {"waiting": {"reason": reason, "message": "no such thing"}}, "name": "main"}
    containers = {"containerStatuses": [waiting]} if reason else {}
    return {"metadata": {"name": name}, "status": {"phase": "Pending", **containers, **status}}


UNSCHEDULABLE = says("PodScheduled=False Unschedulable: 0/3 nodes are available: insufficient memory")


@pytest.mark.parametrize(
    ("pods", "progress", "told"),
    [
        ([pod("x-1", "ImagePullBackOff")], FAILED, "x-1: ImagePullBackOff (no such thing)"),
        ([pod("x-1", "ErrImageNeverPull")], FAILED, "ErrImageNeverPull"),
        ([pod("x-1", "InvalidImageName")], FAILED, "InvalidImageName"),
        ([pod("x-1", "ErrImagePull")], WAITS, "ErrImagePull"),
        ([pod("x-1", "CrashLoopBackOff")], WAITS, "x-1: CrashLoopBackOff"),
        ([pod("x-1", "CreateContainerConfigError")], WAITS, "CreateContainerConfigError (no such thing)"),
        ([pod("x-1", **UNSCHEDULABLE)], WAITS, "insufficient memory"),
        ([pod("x-1"), pod("x-2", "ContainerCreating")], WAITS, "0 of 1"),
        ([pod(f"x-{n}", "CrashLoopBackOff") for n in range(5)], WAITS, "; and 2 more"),
    ],
)
@pytest.mark.parametrize(
    ("what", "live"),
    [
        (kind(DEPLOYMENT, "apps/v1"), workload()),
        (kind("StatefulSet", "apps/v1"), workload()),
        (kind("ReplicaSet", "apps/v1"), workload()),
        (kind(JOB, "batch/v1"), obj({"active": 1})),
    ],
    ids=["Deployment", "StatefulSet", "ReplicaSet", "Job"],
)
def test_pods_that_do_not_come_up_are_quoted(
    what: Kind, live: Object, pods: list[Object], progress: Progress, told: str
) -> None:
    assert has_pods(what)
    found = readiness(what, live, pods, LATER)
    assert found.progress is progress
    assert told.replace("0 of 1", "1 pods at work" if what.resource.kind == JOB else "0 of 1") in found.says


def test_pods_of_what_is_ready_are_of_no_interest() -> None:
    assert (
        readiness(kind(DEPLOYMENT, "apps/v1"), workload(1, 1), [pod("x", "ImagePullBackOff")], LATER).progress is READY
    )


def test_a_kind_that_could_say_something_is_given_time() -> None:
    new = obj()
    for seconds, progress in ((0, WAITS), (SILENCE - 1, WAITS), (SILENCE, READY)):
        assert readiness(kind("Database"), new, (), MADE + timedelta(seconds=seconds)).progress is progress
    assert readiness(kind("Database", has_status=False), new, (), MADE).progress is READY
    assert readiness(kind("Database"), obj({"phase": "Running"}), (), MADE).progress is READY


def test_words_without_end_are_cut() -> None:
    found = readiness(kind("Database"), obj(says("Ready=False Creating: " + "x" * 5000)), (), LATER)
    assert len(found.says) == SAID
