"""Workloads and Services that Cells name, with real controllers and real pods."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from recell.api import Cell
from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.meta import (
    ANNOTATION_REPLICAS,
    ANNOTATION_RESTART,
    ANNOTATION_STOP,
    ANNOTATION_SUSPEND,
    LABEL_CELL,
    LABEL_FLEET,
)
from recell.domain.observation import WorkloadPhase, WorkloadState
from recell.engine.errors import BadInput, Forbidden, NotFound, Retryable, Reverted
from recell.engine.ports import Key
from recell.providers.kube import consent
from recell.providers.kube import workloads as provider
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import (
    CELLS,
    CRON_JOBS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    JOBS,
    NAMESPACES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    WORKLOADS,
)
from recell.providers.kube.store import KubeStore
from recell.providers.kube.workloads import KubeWorkloads
from recell.runtime.clock import SystemClock
from tests.cluster.conftest import Kubectl
from tests.fakes.api_proxy import ApiProxy
from tests.fakes.eventually import eventually

pytestmark = pytest.mark.usefixtures("crds")

ROLLOUT = 120.0


class World:
    """A watched namespace, the provider behind a proxy, and what it told."""

    def __init__(self, proxy: ApiProxy, tested: Api, direct: Api, namespace: str, image: str) -> None:
        self.proxy, self.direct, self.namespace, self.image = proxy, direct, namespace, image
        clock = SystemClock()
        self.store = KubeStore(tested, clock, (namespace,))
        self.changed: list[Key] = []
        self.workloads = KubeWorkloads(tested, clock, self.store, (namespace,), on_change=self.changed.append)

    async def start(self) -> None:
        self.store.start()
        self.workloads.start()
        await asyncio.wait_for(asyncio.gather(self.store.wait_synced(), self.workloads.wait_synced()), 120)

    async def stop(self) -> None:
        await self.workloads.stop()
        await self.store.stop()

    async def cell(
        self, name: str, *refs: tuple[str, str], service: str = "", namespace: str = "", port: int = 80
    ) -> Cell:
        spec: Object = {
            "routerRef": {"name": "shop"},
            "backend": {"type": "Service", "service": {"name": service or name, "port": port}},
            "workloads": [
                {"apiVersion": WORKLOADS[WorkloadKind(kind)].api_version, "kind": kind, "name": ref}
                for kind, ref in refs
            ],
        }
        if namespace:
            spec["namespace"] = namespace
        metadata = {"name": name, "namespace": self.namespace}
        body = {"apiVersion": CELLS.api_version, "kind": "Cell", "metadata": metadata, "spec": spec}
        await self.direct.create(CELLS.collection(self.namespace), body)

        def known() -> Cell | None:
            return self.store.cell((self.namespace, name))

        return await eventually(known, "the Cell is watched")

    def pods(self, app: str, **container: Any) -> Object:
        command = {"name": "main", "image": self.image, "imagePullPolicy": "Never"} | container
        return {
            "metadata": {"labels": {"app": app}},
            "spec": {"containers": [command], "terminationGracePeriodSeconds": 0},
        }

    async def deployment(self, name: str, replicas: int = 1, template: Object | None = None) -> None:
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template or self.pods(name),
        }
        await self.apply("Deployment", DEPLOYMENTS.collection(self.namespace), name, spec)

    async def stateful_set(self, name: str, strategy: Object, *, replicas: int = 1, **more: Any) -> None:
        spec = more | {
            "replicas": replicas,
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": self.pods(name),
            "updateStrategy": strategy,
        }
        await self.apply("StatefulSet", STATEFUL_SETS.collection(self.namespace), name, spec)

    async def cron_job(self, name: str, template: Object, **spec: Any) -> None:
        job = {"spec": {"template": template, "backoffLimit": 0}}
        wanted = {"schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": job} | spec
        await self.apply("CronJob", CRON_JOBS.collection(self.namespace), name, wanted, api_version="batch/v1")

    async def service(self, name: str, app: str = "", **spec: Any) -> None:
        wanted: Object = {"ports": [{"port": 80}]} | spec
        if app:
            wanted["selector"] = {"app": app}
        await self.apply("Service", SERVICES.collection(self.namespace), name, wanted, api_version="v1")

    async def apply(self, kind: str, collection: str, name: str, spec: Object, api_version: str = "apps/v1") -> None:
        metadata = {"name": name, "namespace": self.namespace}
        body = {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
        await self.direct.create(collection, body, field_manager="argocd-controller")

    def state(self, cell: Cell) -> WorkloadState:
        return self.workloads.states(cell)[0]

    async def reaches(self, cell: Cell, phase: WorkloadPhase, text: str = "") -> WorkloadState:
        def there() -> WorkloadState | None:
            state = self.state(cell)
            return state if state.phase == phase and text in state.message else None

        return await eventually(there, f"{cell.metadata.name} is {phase} {text!r}", deadline=ROLLOUT)


@pytest.fixture
async def world(kubeconfig: Path, kubectl: Kubectl, namespace: str, image: str, tmp_path: Path) -> AsyncIterator[World]:
    async with ApiProxy.to(kubeconfig, tmp_path) as proxy:
        tested, direct = await Api.connect(str(proxy.kubeconfig)), await Api.connect(str(kubeconfig))
        made = World(proxy, tested, direct, namespace, image)
        await made.start()
        yield made
        await made.stop()
        kinds = ("deployments", "statefulsets", "daemonsets", "cronjobs", "services", "endpointslices")
        for kind in ("cells.recell.dev", *kinds):
            kubectl("delete", kind, "--all", "-n", namespace, "--wait=false")
        kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=0", "--force", "--wait=false")
        await tested.close()
        await direct.close()


def deployment_ref(name: str) -> WorkloadRef:
    return WorkloadRef(api_version="apps/v1", kind=WorkloadKind.DEPLOYMENT, name=name)


async def test_what_a_cell_names_is_labelled_once_and_seen(world: World) -> None:
    await world.deployment("web", replicas=2)
    await world.service("web", "web")
    cell = await world.cell("web", ("Deployment", "web"))
    assert world.state(cell).phase == WorkloadPhase.UNKNOWN
    assert world.workloads.endpoints(cell) is None
    with pytest.raises(Retryable, match="not been read yet"):
        world.workloads.address_of(cell)

    await world.workloads.ensure_labels(cell)
    state = await world.reaches(cell, WorkloadPhase.CURRENT)
    assert (state.desired, state.ready, state.updated, state.restart_token) == (2, 2, True, None)
    assert state.since is None
    service = await world.direct.get(SERVICES.path(world.namespace, "web"))
    assert world.workloads.address_of(cell) == (service["spec"]["clusterIP"], 80)
    await eventually(lambda: (world.workloads.endpoints(cell) or state).ready == 2, "two endpoints")
    deployment = await world.direct.get(DEPLOYMENTS.path(world.namespace, "web"))
    assert deployment["metadata"]["labels"][LABEL_CELL] == "web"
    assert LABEL_CELL not in deployment["spec"]["template"]["metadata"]["labels"], "that would have been a rollout"
    assert cell.key in world.changed

    world.proxy.seen.clear()
    await world.workloads.ensure_labels(cell)
    assert world.proxy.seen == [], "all is well: nothing is asked, nothing is written"


async def test_a_label_that_was_taken_away_is_put_back(world: World) -> None:
    await world.deployment("web")
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)
    await world.reaches(cell, WorkloadPhase.CURRENT)
    world.changed.clear()
    await world.direct.merge_patch(
        DEPLOYMENTS.path(world.namespace, "web"), {"metadata": {"labels": {LABEL_CELL: None}}}
    )

    def told() -> bool:  # of this, beside what is still told of its pods
        return cell.key in world.changed and world.state(cell).phase == WorkloadPhase.UNKNOWN

    await eventually(told, "the cell is told; not seen is not yet missing")
    await world.workloads.ensure_labels(cell)
    await world.reaches(cell, WorkloadPhase.CURRENT)


async def test_what_is_missing_is_said_and_found_when_it_appears(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "LOOK_AGAIN", 0.5)
    cell = await world.cell("ghost", ("Deployment", "ghost"))
    await world.workloads.ensure_labels(cell)
    state = world.state(cell)
    assert state.phase == WorkloadPhase.NOT_FOUND
    assert "does not exist: create it or correct spec.workloads" in state.message
    assert state.since is not None
    endpoints = world.workloads.endpoints(cell)
    assert endpoints is not None
    assert not endpoints.service_found
    with pytest.raises(NotFound, match=r"spec\.backend\.service\.name: Service .* does not exist"):
        world.workloads.address_of(cell)
    await world.deployment("ghost")
    await world.service("ghost", "ghost")
    world.changed.clear()

    async def found() -> bool:
        if cell.key in world.changed:  # it is time to look again
            world.changed.clear()
            await world.workloads.ensure_labels(cell)
        endpoints = world.workloads.endpoints(cell)
        return endpoints is None or endpoints.service_found

    await eventually(found, "the Service is found")
    await world.reaches(cell, WorkloadPhase.CURRENT)
    assert world.workloads.address_of(cell).port == 80


async def test_a_deleted_workload_is_missing(world: World) -> None:
    await world.deployment("web")
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)
    await world.reaches(cell, WorkloadPhase.CURRENT)
    await world.direct.delete(DEPLOYMENTS.path(world.namespace, "web"))
    await eventually(lambda: world.state(cell).phase == WorkloadPhase.UNKNOWN, "gone from the watch")
    await world.workloads.ensure_labels(cell)
    assert world.state(cell).phase == WorkloadPhase.NOT_FOUND


@pytest.mark.parametrize(
    ("container", "told"),
    [
        ({"image": "localhost/no/such:image"}, "ErrImageNeverPull"),
        ({"command": ["/no/such/program"]}, "web-"),
    ],
    ids=["image", "command"],
)
async def test_pods_that_cannot_come_up_make_it_failed(world: World, container: Object, told: str) -> None:
    await world.deployment("web", template=world.pods("web", **container))
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)
    state = await world.reaches(cell, WorkloadPhase.FAILED, told)
    assert (state.desired, state.ready, state.updated) == (1, 0, False)
    assert state.since is not None
    # Mended, the pods' watch is closed again.
    await world.direct.merge_patch(
        DEPLOYMENTS.path(world.namespace, "web"),
        {"spec": {"template": {"spec": {"containers": [world.pods("web")["spec"]["containers"][0]]}}}},
    )
    await world.reaches(cell, WorkloadPhase.CURRENT)
    await eventually(lambda: world.workloads._pods.reflectors == (), "they are not watched any longer")


async def test_a_pod_that_no_node_takes_makes_it_failed(world: World) -> None:
    template = world.pods("web")
    template["spec"]["nodeSelector"] = {"no-such": "node"}
    await world.deployment("web", template=template)
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)
    await world.reaches(cell, WorkloadPhase.FAILED, "Unschedulable")


async def test_a_restart_rolls_the_pods_once_per_token(world: World, kubectl: Kubectl) -> None:
    await world.deployment("web", replicas=2)
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)
    await world.reaches(cell, WorkloadPhase.CURRENT)
    before = pods_of(kubectl, world.namespace)
    await world.workloads.restart(cell, deployment_ref("web"), "run-1.restart")
    state = world.state(cell)
    assert state.restart_token == "run-1.restart"
    assert not state.updated, "the answer of the write is known at once: it has not rolled yet"
    await world.reaches(cell, WorkloadPhase.CURRENT)
    assert world.state(cell).updated
    after = pods_of(kubectl, world.namespace)
    assert not before & after
    generation = (await world.direct.get(DEPLOYMENTS.path(world.namespace, "web")))["metadata"]["generation"]
    world.proxy.seen.clear()
    for _ in range(3):
        await world.workloads.restart(cell, deployment_ref("web"), "run-1.restart")
    assert world.proxy.writes() == []
    deployment = await world.direct.get(DEPLOYMENTS.path(world.namespace, "web"))
    assert deployment["metadata"]["generation"] == generation
    assert pods_of(kubectl, world.namespace) == after


def pods_of(kubectl: Kubectl, namespace: str) -> set[str]:
    listing = json.loads(kubectl("get", "pods", "-n", namespace, "-l", "app=web", "-o", "json"))
    return {item["metadata"]["uid"] for item in listing["items"] if not item["metadata"].get("deletionTimestamp")}


async def test_a_restart_that_is_reverted_twice_is_given_up(world: World) -> None:
    await world.deployment("web")
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)
    path = DEPLOYMENTS.path(world.namespace, "web")

    async def revert() -> None:
        await world.direct.merge_patch(
            path,
            {"spec": {"template": {"metadata": {"annotations": {ANNOTATION_RESTART: None}}}}},
            field_manager="argocd-controller",
        )

    for _ in range(2):
        await world.workloads.restart(cell, deployment_ref("web"), "run-2.restart")
        await revert()
    with pytest.raises(Reverted, match="argocd-controller"):
        await world.workloads.restart(cell, deployment_ref("web"), "run-2.restart")
    await world.workloads.restart(cell, deployment_ref("web"), "run-3.restart")


async def test_a_restart_among_others_changes_is_repeated(world: World) -> None:
    await world.deployment("web")
    cell = await world.cell("web", ("Deployment", "web"))
    world.proxy.fail("deployments/web", 409, method="PATCH", times=3, reason="Conflict")
    await world.workloads.restart(cell, deployment_ref("web"), "run-4.restart")
    deployment = await world.direct.get(DEPLOYMENTS.path(world.namespace, "web"))
    assert deployment["spec"]["template"]["metadata"]["annotations"][ANNOTATION_RESTART] == "run-4.restart"


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ({"type": "OnDelete"}, "spec.updateStrategy.type is OnDelete"),
        ({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}, "rollingUpdate.partition is 1"),
    ],
    ids=["on-delete", "partition"],
)
async def test_a_strategy_that_replaces_no_pods_is_refused(world: World, strategy: Object, told: str) -> None:
    await world.stateful_set("db", strategy)
    cell = await world.cell("db", ("StatefulSet", "db"))
    await world.workloads.ensure_labels(cell)
    await world.reaches(cell, WorkloadPhase.CURRENT)
    with pytest.raises(BadInput, match=told):
        await world.workloads.restart(cell, cell.spec.workloads[0], "run-5.restart")


async def test_a_stateful_set_rolls(world: World) -> None:
    await world.stateful_set("db", {"type": "RollingUpdate"})
    cell = await world.cell("db", ("StatefulSet", "db"))
    await world.workloads.ensure_labels(cell)
    await world.reaches(cell, WorkloadPhase.CURRENT)
    await world.workloads.restart(cell, cell.spec.workloads[0], "run-6.restart")
    assert not world.state(cell).updated
    await world.reaches(cell, WorkloadPhase.CURRENT)
    assert world.state(cell).updated


# At zero


LINGER_SECONDS = 60
LINGERS = {"preStop": {"sleep": {"seconds": LINGER_SECONDS}}}
"""Of pods that are there until they were seen to end, and are then told to hurry."""


def end_pods(kubectl: Kubectl, world: World, app: str) -> None:
    kubectl("delete", "pods", "-n", world.namespace, "-l", f"app={app}", "--grace-period=0", "--force", "--wait=false")


async def test_a_workload_is_held_at_zero_and_seen_there_when_its_last_pod_is_gone(
    world: World, kubectl: Kubectl
) -> None:
    template = world.pods("web", lifecycle=LINGERS)
    template["spec"]["terminationGracePeriodSeconds"] = LINGER_SECONDS
    await world.deployment("web", replicas=2, template=template)
    path = DEPLOYMENTS.path(world.namespace, "web")
    tracking = f"shop:apps/Deployment:{world.namespace}/web"
    await world.direct.merge_patch(path, {"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": tracking}}})
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)
    assert (await world.reaches(cell, WorkloadPhase.CURRENT)).owned_by == "Argo CD Application shop"
    world.proxy.seen.clear()
    for _ in range(3):
        await world.workloads.scale_to_zero(cell, deployment_ref("web"), "run-8.decommission")
    assert len(world.proxy.writes()) == 1
    ending = await world.reaches(cell, WorkloadPhase.CURRENT, "2 not yet ended")
    assert (ending.desired, ending.pods, ending.at_zero) == (0, 2, False), "its controller no longer counts them"
    end_pods(kubectl, world, "web")
    await eventually(lambda: world.state(cell).at_zero, "its pods are gone", deadline=ROLLOUT)
    await eventually(lambda: world.workloads._pods.reflectors == (), "and not watched any longer")
    held = await world.direct.get(path)
    annotations = held["metadata"]["annotations"]
    assert (annotations[ANNOTATION_STOP], annotations[ANNOTATION_REPLICAS]) == ("run-8.decommission", "2")
    owners = [
        e["manager"] for e in held["metadata"]["managedFields"] if "f:replicas" in e["fieldsV1"].get("f:spec", {})
    ]
    assert owners == ["recell-hold"], "what Argo CD is told to leave alone"
    for _ in range(2):
        await world.workloads.scale_back(cell, deployment_ref("web"), "run-8.decommission")
    assert len(world.proxy.writes()) == 2
    assert not world.state(cell).at_zero
    await world.reaches(cell, WorkloadPhase.CURRENT, "2 of 2 pods ready")
    assert world.state(cell).stop_token is None


async def test_a_cron_job_with_a_job_under_way_is_held_at_zero_and_comes_back(world: World, kubectl: Kubectl) -> None:
    template = world.pods("nightly", lifecycle=LINGERS)
    template["spec"] |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": LINGER_SECONDS}
    await world.cron_job("nightly", template)
    cell = await world.cell("web", ("CronJob", "nightly"))
    ref = cell.spec.workloads[0]
    await world.workloads.ensure_labels(cell)
    assert (await world.reaches(cell, WorkloadPhase.CURRENT, "scheduled")).pods is None

    async def its_pods(*phases: str) -> list[str]:
        found = (await world.direct.list(PODS.collection(world.namespace), labels="app=nightly")).items
        return [pod["metadata"]["name"] for pod in found if pod["status"].get("phase") in phases]

    async def running() -> bool:
        return bool(await its_pods("Running"))

    await eventually(running, "a Job of it has a pod", deadline=ROLLOUT)
    for _ in range(3):
        await world.workloads.scale_to_zero(cell, ref, "run-11.fence")
    (job,) = (await world.direct.list(JOBS.collection(world.namespace))).items
    for held in (job, await world.direct.get(CRON_JOBS.path(world.namespace, "nightly"))):
        annotations = held["metadata"]["annotations"]
        assert held["spec"]["suspend"] is True
        assert (annotations[ANNOTATION_STOP], annotations[ANNOTATION_SUSPEND]) == ("run-11.fence", "false")
    ending = await world.reaches(cell, WorkloadPhase.CURRENT, "suspended; 1 pods not yet ended")
    assert (ending.desired, ending.pods, ending.at_zero) == (0, 1, False)
    end_pods(kubectl, world, "nightly")
    await eventually(lambda: world.state(cell).at_zero, "its pod is gone", deadline=ROLLOUT)
    assert await its_pods("Pending", "Running") == []

    for _ in range(2):
        await world.workloads.scale_back(cell, ref, "run-11.fence")
    await world.reaches(cell, WorkloadPhase.CURRENT, "scheduled")
    assert (world.state(cell).stop_token, world.state(cell).at_zero) == (None, False)
    await eventually(running, "its Job goes on", deadline=ROLLOUT)
    (again,) = (await world.direct.list(JOBS.collection(world.namespace))).items
    assert again["metadata"]["uid"] == job["metadata"]["uid"]


@pytest.mark.parametrize("subresource", ["", "scale"])
async def test_scaled_back_twice_is_given_up(world: World, subresource: str) -> None:
    await world.deployment("web", replicas=2)
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)
    path = DEPLOYMENTS.path(world.namespace, "web")
    back = DEPLOYMENTS.path(world.namespace, "web", subresource)
    for _ in range(2):
        await world.workloads.scale_to_zero(cell, deployment_ref("web"), "run-9.decommission")
        await world.direct.merge_patch(back, {"spec": {"replicas": 1}}, field_manager="somebody")
    told = "somebody through /scale: suspend the autoscaler" if subresource else "somebody: let it leave spec.replicas"
    with pytest.raises(Reverted, match=f"scaling to zero was reverted twice, last by {told}"):
        await world.workloads.scale_to_zero(cell, deployment_ref("web"), "run-9.decommission")
    found = await world.direct.get(path)
    assert found["spec"]["replicas"] == 1
    assert found["metadata"]["annotations"][ANNOTATION_REPLICAS] == "2"


@pytest.fixture
def volumes(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """Storage class of four volumes."""
    names = [f"{namespace}-{number}" for number in range(4)]
    for name in names:
        spec = {
            "storageClassName": namespace,
            "capacity": {"storage": "1Mi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/tmp"},
        }
        body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
        kubectl("create", "-f", "-", stdin=json.dumps(body))
    yield namespace
    kubectl("delete", "persistentvolumeclaims", "--all", "-n", namespace, "--wait=false")
    kubectl("delete", "persistentvolumes", *names, "--wait=false")


async def test_claims_outlive_scaling_to_zero_although_their_owner_said_otherwise(
    world: World, kubectl: Kubectl, volumes: str
) -> None:
    """Rule 6. A second set, scaled to zero by hand, shows what would have become of the claims."""

    def claims(name: str) -> set[str]:
        listing = json.loads(kubectl("get", "persistentvolumeclaims", "-n", world.namespace, "-o", "json"))
        found = [each["metadata"] for each in listing["items"] if each["metadata"]["name"].startswith(f"data-{name}-")]
        return {each["name"] for each in found if not each.get("deletionTimestamp")}

    resources = {"requests": {"storage": "1Mi"}}
    claim = {
        "metadata": {"name": "data"},
        "spec": {"storageClassName": volumes, "accessModes": ["ReadWriteOnce"], "resources": resources},
    }
    cells = {}
    for name in ("kept", "lost"):
        await world.stateful_set(
            name,
            {"type": "RollingUpdate"},
            replicas=2,
            volumeClaimTemplates=[claim],
            persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete", "whenDeleted": "Delete"},
        )
        cells[name] = await world.cell(name, ("StatefulSet", name))
        await world.workloads.ensure_labels(cells[name])
    for name, cell in cells.items():
        await world.reaches(cell, WorkloadPhase.CURRENT)
        assert claims(name) == {f"data-{name}-0", f"data-{name}-1"}

    kept, path = cells["kept"], STATEFUL_SETS.path(world.namespace, "kept")
    await world.workloads.scale_to_zero(kept, kept.spec.workloads[0], "run-10.decommission")
    await world.direct.merge_patch(STATEFUL_SETS.path(world.namespace, "lost"), {"spec": {"replicas": 0}})
    await eventually(lambda: world.state(kept).at_zero, "its pods are gone", deadline=ROLLOUT)
    await eventually(lambda: claims("lost") == set(), "the other's claims are deleted", deadline=ROLLOUT)
    assert claims("kept") == {"data-kept-0", "data-kept-1"}
    policy = (await world.direct.get(path))["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert policy == {"whenScaled": "Retain", "whenDeleted": "Delete"}


async def test_services_that_cannot_work_are_refused_by_field(world: World) -> None:
    await world.service("headless", "web", clusterIP="None")
    await world.service("external", type="ExternalName", externalName="example.org")
    await world.service(
        "other-port", "web", ports=[{"port": 8080, "name": "web"}, {"port": 53, "protocol": "UDP", "name": "dns"}]
    )
    for name, told in (
        ("headless", "is headless"),
        ("external", "ExternalName"),
        ("other-port", "has no TCP port 80; its ports: 8080, 53"),
    ):
        cell = await world.cell(f"c-{name}", service=name)
        await world.workloads.ensure_labels(cell)
        with pytest.raises(BadInput, match=told):
            world.workloads.address_of(cell)
    endpoints = world.workloads.endpoints(cell)
    assert endpoints is not None
    assert (endpoints.service_found, endpoints.port_found) == (True, False)


async def test_endpoints_follow_the_pods(world: World) -> None:
    await world.deployment("web", replicas=2)
    await world.service("web", "web")
    cell = await world.cell("web", ("Deployment", "web"))
    await world.workloads.ensure_labels(cell)

    def ready() -> int:
        found = world.workloads.endpoints(cell)
        return found.ready if found else -1

    await eventually(lambda: ready() == 2, "two endpoints", deadline=ROLLOUT)
    await world.direct.merge_patch(DEPLOYMENTS.path(world.namespace, "web"), {"spec": {"replicas": 0}})
    await eventually(lambda: ready() == 0, "none", deadline=ROLLOUT)
    state = await world.reaches(cell, WorkloadPhase.CURRENT)
    assert state.desired == 0


async def test_slices_of_a_service_without_selector_are_found(world: World) -> None:
    await world.service("outside")
    await world.direct.create(
        ENDPOINT_SLICES.collection(world.namespace),
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "outside-1", "labels": {"kubernetes.io/service-name": "outside"}},
            "addressType": "IPv4",
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["192.0.2.7"]}, {"addresses": ["192.0.2.8"], "conditions": {"ready": False}}],
        },
    )
    cell = await world.cell("outside")
    await world.workloads.ensure_labels(cell)
    await world.workloads.ensure_labels(cell)

    def known() -> bool:
        found = world.workloads.endpoints(cell)
        return found is not None and (found.ready, found.total) == (1, 2)

    await eventually(known, "the slice is known")


async def test_a_workload_belongs_to_the_older_cell_alone(world: World) -> None:
    await world.deployment("web")
    older = await world.cell("a-older", ("Deployment", "web"))
    await asyncio.sleep(1.1)  # creation times are whole seconds
    younger = await world.cell("a-younger", ("Deployment", "web"))
    await world.workloads.ensure_labels(older)
    with pytest.raises(BadInput, match=r"spec\.workloads: Deployment .*/web belongs to the older Cell .*/a-older"):
        await world.workloads.ensure_labels(younger)
    deployment = await world.direct.get(DEPLOYMENTS.path(world.namespace, "web"))
    assert deployment["metadata"]["labels"][LABEL_CELL] == "a-older"


async def test_another_namespace_has_to_consent(
    world: World, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "LOOK_AGAIN", 0.2)
    monkeypatch.setattr(consent, "LOOK_AGAIN", 0.2)
    other = f"{world.namespace}-apps"
    await world.direct.create(
        NAMESPACES.collection(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}}
    )
    api = await Api.connect(str(kubeconfig))
    everywhere = KubeWorkloads(api, SystemClock(), world.store, on_change=world.changed.append)
    try:
        outside = await world.cell("far", ("Deployment", "web"), namespace=other)
        with pytest.raises(BadInput, match="does not watch namespace"):
            await world.workloads.ensure_labels(outside)
        everywhere.start()
        await asyncio.wait_for(everywhere.wait_synced(), 120)
        with pytest.raises(Forbidden, match=f"kubectl label namespace {other} {LABEL_FLEET}={world.namespace}"):
            await everywhere.ensure_labels(outside)
        with pytest.raises(Forbidden):
            await everywhere.restart(outside, deployment_ref("web"), "run-7.restart")
        assert everywhere.states(outside)[0].phase == WorkloadPhase.UNKNOWN
        await world.direct.merge_patch(
            NAMESPACES.path("", other), {"metadata": {"labels": {LABEL_FLEET: world.namespace}}}
        )
        await asyncio.sleep(0.3)
        await everywhere.ensure_labels(outside)
        assert everywhere.states(outside)[0].phase == WorkloadPhase.NOT_FOUND
    finally:
        await everywhere.stop()
        await api.close()
        await world.direct.delete(NAMESPACES.path("", other))
