"""Holding a workload at zero, on an API server in memory: what is written, in which order, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from recell.api import Cell
from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.meta import ANNOTATION_REPLICAS, ANNOTATION_STOP, LABEL_CELL
from recell.domain.observation import WorkloadPhase, WorkloadState
from recell.engine.errors import BadInput, Conflict, Fenced, Forbidden, Reverted
from recell.engine.ports import Key
from recell.providers.kube import pods, scaling
from recell.providers.kube.api import Object
from recell.providers.kube.ownership import last_manager, owner_of
from recell.providers.kube.paths import PODS, WORKLOADS
from recell.providers.kube.workloads import KubeWorkloads
from recell.runtime.clock import SystemClock
from tests.fakes.eventually import eventually
from tests.unit.kube.fake_server import FakeApi, FakeServer

TOKEN, LATER = "run-1.decommission", "run-2.decommission"


def cell(*refs: tuple[str, str], namespace: str | None = None) -> Cell:
    spec: Object = {
        "routerRef": {"name": "shop"},
        "backend": {"type": "Service", "service": {"name": "web", "port": 80}},
        "workloads": [
            {"apiVersion": WORKLOADS[WorkloadKind(kind)].api_version, "kind": kind, "name": name} for kind, name in refs
        ],
    }
    if namespace:
        spec["namespace"] = namespace
    return Cell.model_validate({"metadata": {"name": "a", "namespace": "fleet", "uid": "a"}, "spec": spec})


class Cluster(FakeServer):
    """Workloads and pods of cell `a` in namespace `fleet`."""

    def workload(self, kind: str, name: str, **spec: Any) -> str:
        path = WORKLOADS[WorkloadKind(kind)].path("fleet", name)
        selector = {"matchLabels": {"app": name}}
        body = {"replicas": 3, "selector": selector, "template": {"metadata": {}}} | spec
        metadata = {"name": name, "namespace": "fleet", "generation": 1, "labels": {LABEL_CELL: "a"}}
        self.put(path, {"metadata": metadata, "spec": body, "status": {"observedGeneration": 1} | counted(3)})
        return path

    def pod(self, name: str, phase: str = "Running") -> str:
        path = PODS.path("fleet", name)
        metadata = {"name": name, "namespace": "fleet", "labels": {"app": "web"}}
        self.put(path, {"metadata": metadata, "status": {"phase": phase}})
        return path

    def change(self, path: str, **fields: Any) -> None:
        """Somebody else writes it, or its controller."""
        self.put(path, self.objects[path] | fields)


def counted(replicas: int) -> Object:
    return {"replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas}


class LateClock(SystemClock):
    """So many seconds later than it is."""

    late = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.late


class Store:
    """The one Cell."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def cell(self, key: Key) -> Cell | None:
        return self._cell if key == self._cell.key else None

    def cells_naming_workload(self, kind: str, namespace: str, name: str) -> list[Key]:
        return [self._cell.key]

    def cells_naming_service(self, namespace: str, name: str) -> list[Key]:
        return [self._cell.key]


class Scene:
    """One cell with what it names; `told` are the cells that looked different."""

    def __init__(self, *refs: tuple[str, str], namespace: str | None = None, server: Cluster | None = None) -> None:
        self.server = server or Cluster()
        self.api: Any = FakeApi(self.server)
        self.cell = cell(*refs, namespace=namespace)
        self.told: list[Key] = []
        self.store = Store(self.cell)
        watched = ("",) if namespace else ("fleet",)
        self.clock = LateClock()
        self.workloads = KubeWorkloads(self.api, self.clock, self.store, watched, on_change=self.told.append)

    async def start(self) -> None:
        self.workloads.start()
        await asyncio.wait_for(self.workloads.wait_synced(), 60)

    @property
    def state(self) -> WorkloadState:
        return self.workloads.states(self.cell)[0]

    @property
    def ref(self) -> WorkloadRef:
        return self.cell.spec.workloads[0]

    async def hold(self, token: str = TOKEN) -> None:
        await self.workloads.scale_to_zero(self.cell, self.ref, token)


@pytest.fixture
async def web() -> AsyncIterator[Scene]:
    scene = Scene(("Deployment", "web"))
    scene.server.workload("Deployment", "web")
    yield scene
    await scene.workloads.stop()


WEB = WORKLOADS[WorkloadKind.DEPLOYMENT].path("fleet", "web")
DB = WORKLOADS[WorkloadKind.STATEFUL_SET].path("fleet", "db")


async def test_a_deployment_is_scaled_once_per_token_and_can_be_scaled_back(web: Scene) -> None:
    for _ in range(3):
        await web.hold()
    assert web.server.writes == [("patch", WEB)]
    held = web.server.objects[WEB]
    assert held["spec"]["replicas"] == 0
    assert held["metadata"]["annotations"] == {ANNOTATION_STOP: TOKEN, ANNOTATION_REPLICAS: "3"}
    assert held["spec"]["template"] == {"metadata": {}}, "its pods would roll"


async def test_a_later_hold_keeps_the_replicas_of_before_the_first(web: Scene) -> None:
    await web.hold()
    await web.hold(LATER)
    annotations = web.server.objects[WEB]["metadata"]["annotations"]
    assert annotations == {ANNOTATION_STOP: LATER, ANNOTATION_REPLICAS: "3"}


async def test_replicas_that_a_person_chose_meanwhile_are_those_of_before(web: Scene) -> None:
    await web.hold()
    web.server.change(WEB, spec=web.server.objects[WEB]["spec"] | {"replicas": 5})
    await web.hold(LATER)
    assert web.server.objects[WEB]["metadata"]["annotations"][ANNOTATION_REPLICAS] == "5"


async def test_what_is_at_zero_already_is_marked_as_held(web: Scene) -> None:
    web.server.change(WEB, spec=web.server.objects[WEB]["spec"] | {"replicas": 0})
    await web.hold()
    assert web.server.objects[WEB]["metadata"]["annotations"] == {ANNOTATION_STOP: TOKEN, ANNOTATION_REPLICAS: "0"}


async def test_a_daemon_set_is_refused() -> None:
    scene = Scene(("DaemonSet", "web"))
    scene.server.workload("DaemonSet", "web")
    with pytest.raises(BadInput, match=r"DaemonSet fleet/web cannot be scaled to zero.*isolate"):
        await scene.hold()
    assert scene.server.writes == []


async def test_the_write_is_fenced(web: Scene) -> None:
    def fence() -> None:
        raise Fenced("not the leader any more")

    web.api._fence = fence
    with pytest.raises(Fenced):
        await web.hold()
    assert web.server.objects[WEB]["spec"]["replicas"] == 3


async def test_a_namespace_that_does_not_consent_is_left_alone() -> None:
    scene = Scene(("Deployment", "web"), namespace="elsewhere")
    with pytest.raises(Forbidden, match=r"kubectl label namespace elsewhere recell\.dev/fleet=fleet"):
        await scene.hold()
    assert scene.server.writes == []


async def test_a_change_in_between_is_looked_at_again(web: Scene) -> None:
    original, late = web.api.merge_patch, [4]

    async def raced(path: str, body: Object, **how: Any) -> Object:
        if late:
            web.server.change(WEB, spec=web.server.objects[WEB]["spec"] | {"replicas": late.pop()})
        answer: Object = await original(path, body, **how)
        return answer

    web.api.merge_patch = raced
    await web.hold()
    assert web.server.objects[WEB]["metadata"]["annotations"][ANNOTATION_REPLICAS] == "4"


async def test_what_changes_without_end_is_a_conflict(web: Scene) -> None:
    async def never(path: str, body: Object, **how: Any) -> Object:
        raise Conflict("changed")

    web.api.merge_patch = never
    with pytest.raises(Conflict):
        await web.hold()


# Claims (rule 6)


def claiming(policy: Object | None) -> Scene:
    scene = Scene(("StatefulSet", "db"))
    told = {} if policy is None else {"persistentVolumeClaimRetentionPolicy": policy}
    scene.server.workload("StatefulSet", "db", volumeClaimTemplates=[{"metadata": {"name": "data"}}], **told)
    return scene


@pytest.mark.parametrize("policy", [{"whenScaled": "Delete", "whenDeleted": "Delete"}, None])
async def test_claims_are_told_to_stay_before_anything_is_scaled(policy: Object | None) -> None:
    scene = claiming(policy)
    seen = []
    original = scene.api.merge_patch

    async def watched(path: str, body: Object, **how: Any) -> Object:
        answer: Object = await original(path, body, **how)
        spec = answer["spec"]
        seen.append((spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"], spec["replicas"]))
        return answer

    scene.api.merge_patch = watched
    await scene.hold()
    assert seen == [("Retain", 3), ("Retain", 0)]
    kept = scene.server.objects[DB]["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert kept.get("whenDeleted") == (policy or {}).get("whenDeleted"), "that is somebody else's decision"


async def test_claims_that_stay_anyway_are_not_written_about() -> None:
    scene = claiming({"whenScaled": "Retain", "whenDeleted": "Retain"})
    await scene.hold()
    assert scene.server.writes == [("patch", DB)]


async def test_a_stateful_set_without_claims_has_none_to_lose() -> None:
    scene = Scene(("StatefulSet", "db"))
    scene.server.workload("StatefulSet", "db", persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete"})
    await scene.hold()
    assert scene.server.writes == [("patch", DB)]


async def test_what_does_not_read_back_as_retain_is_not_scaled() -> None:
    """An API server without the field, or somebody who writes it back at once."""
    scene = claiming({"whenScaled": "Delete"})
    original = scene.api.merge_patch

    async def in_vain(path: str, body: Object, **how: Any) -> Object:
        answer: Object = await original(path, body, **how)
        spec = scene.server.objects[DB]["spec"] | {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}}
        scene.server.change(DB, spec=spec)
        return answer

    scene.api.merge_patch = in_vain
    with pytest.raises(
        BadInput, match=r"StatefulSet fleet/db is not scaled to zero: its claims .*whenScaled is Delete"
    ):
        await scene.hold()
    assert scene.server.objects[DB]["spec"]["replicas"] == 3


# Reverted (rule 31)


def wrote(manager: str, field: str, subresource: str = "") -> Object:
    entry: Object = {"manager": manager, "time": "2026-11-25T03:00:00Z", "fieldsV1": {"f:spec": {f"f:{field}": {}}}}
    return entry | ({"subresource": subresource} if subresource else {})


async def test_scaled_back_twice_is_given_up_and_says_by_whom(web: Scene) -> None:
    def scale_back() -> None:
        live = web.server.objects[WEB]
        managers = [wrote("kubectl", "template"), wrote("keda", "replicas", "scale"), wrote("recell-hold", "replicas")]
        web.server.change(
            WEB, metadata=live["metadata"] | {"managedFields": managers}, spec=live["spec"] | {"replicas": 1}
        )

    for _ in range(2):
        await web.hold()
        scale_back()
    with pytest.raises(Reverted, match="twice, last by keda through /scale: suspend the autoscaler"):
        await web.hold()
    assert web.server.objects[WEB]["metadata"]["annotations"][ANNOTATION_REPLICAS] == "3", "not what keda wanted"
    await web.hold(LATER)


async def test_what_was_reverted_twice_is_tried_again_after_five_minutes(web: Scene) -> None:
    """Whoever told the autoscaler to leave it alone has nothing more to do."""
    for _ in range(2):
        await web.hold()
        web.server.change(WEB, spec=web.server.objects[WEB]["spec"] | {"replicas": 1})
    web.clock.late += 299
    with pytest.raises(Reverted):
        await web.hold()
    web.clock.late += 2
    await web.hold()
    assert web.server.objects[WEB]["spec"]["replicas"] == 0


def test_argo_cd_is_told_to_leave_the_hold_alone() -> None:
    metadata = {
        "name": "web",
        "namespace": "fleet",
        "annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:fleet/web"},
        "managedFields": [wrote("argocd-controller", "replicas")],
    }
    told = scaling.REPLICAS.reverted({"metadata": metadata, "spec": {}})
    assert told.startswith("scaling to zero was reverted twice, last by argocd-controller: ")
    assert "Argo CD Application shop" in told
    assert "managedFieldsManagers [recell-hold]" in told


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({}, None),
        ({"labels": {"app.kubernetes.io/instance": "shop"}}, None),
        ({"labels": {"argocd.argoproj.io/instance": "shop"}}, "Argo CD Application shop"),
        (
            {"annotations": {"argocd.argoproj.io/tracking-id": "argo_shop:apps/Deployment:fleet/web"}},
            "Argo CD Application argo_shop",
        ),
        ({"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:fleet/other"}}, None),
        (
            {"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux"}},
            "Flux Kustomization flux/apps",
        ),
        (
            {
                "labels": {"helm.toolkit.fluxcd.io/name": "web", "helm.toolkit.fluxcd.io/namespace": "flux"},
                "annotations": {"meta.helm.sh/release-name": "web"},
            },
            "Flux HelmRelease flux/web",
        ),
        (
            {"annotations": {"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "fleet"}},
            "Helm release fleet/web",
        ),
    ],
)
def test_the_owner_is_told_by_its_marks(metadata: Object, owner: str | None) -> None:
    assert owner_of({"metadata": {"name": "web", "namespace": "fleet"} | metadata}) == owner


def test_the_last_manager_is_neither_us_nor_a_status() -> None:
    managers = [
        wrote("helm", "replicas") | {"time": "2026-11-25T02:00:00Z"},
        wrote("kube-controller-manager", "x", "status"),
        wrote("recell", "template"),
    ]
    assert last_manager({"metadata": {"managedFields": managers}}) == "helm"
    assert last_manager({"metadata": {"managedFields": managers}}, "template") == "an unknown manager"


# Seen at zero (rule 5)


async def test_at_zero_is_seen_when_the_last_pod_is_gone(web: Scene) -> None:
    first, second = web.server.pod("web-1"), web.server.pod("web-2")
    await web.start()
    assert web.state.phase == WorkloadPhase.CURRENT
    assert web.state.pods is None, "a workload that is well costs no watch of its pods"
    await web.hold()
    await eventually(lambda: web.state.pods == 2, "its pods are watched")
    web.server.remove(first)
    live = web.server.objects[WEB]
    web.server.change(WEB, status={"observedGeneration": 1} | counted(0), metadata=live["metadata"])
    await eventually(lambda: (web.state.phase, web.state.pods) == (WorkloadPhase.CURRENT, 1), "one pod still ends")
    assert not web.state.at_zero
    assert "1 not yet ended" in web.state.message
    web.told.clear()
    web.server.remove(second)
    await eventually(lambda: web.state.at_zero, "none is left")
    assert web.cell.key in web.told
    await eventually(lambda: not web.workloads._pods.reflectors, "and no watch")
    assert web.state.at_zero, "it is remembered"
    web.server.change(WEB, metadata=live["metadata"] | {"generation": 2}, spec=live["spec"] | {"replicas": 1})
    await eventually(lambda: web.state.desired == 1, "somebody scaled it back")
    assert not web.state.at_zero


async def test_at_zero_is_seen_after_a_restart_of_the_operator_and_beyond_the_most_watches(
    web: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "WATCHES", 0)
    web.server.pod("web-1", phase="Failed")
    await web.hold()
    web.server.change(WEB, status={"observedGeneration": 1} | counted(0))
    restarted = Scene(("Deployment", "web"), server=web.server)
    await restarted.start()
    try:
        await eventually(lambda: restarted.state.at_zero, "a pod that has ended writes nothing")
        await eventually(lambda: restarted.cell.key in restarted.told, "and the cell is looked at")
    finally:
        await restarted.workloads.stop()


async def test_pods_that_are_still_counted_keep_it_from_being_at_zero(web: Scene) -> None:
    """The Deployment's controller has seen the change, and may know of pods that nobody else does yet."""
    await web.hold()
    web.server.change(WEB, status={"observedGeneration": 1} | counted(3))
    web.server.pod("web-1", phase="Succeeded")
    await web.start()
    await eventually(lambda: web.told, "its pods are known")
    assert (web.state.phase, web.state.pods, web.state.at_zero) == (WorkloadPhase.IN_PROGRESS, None, False)
    web.server.change(WEB, status={"observedGeneration": 1} | counted(0))
    await eventually(lambda: web.state.at_zero, "none is counted any more")


# Back again


async def test_a_hold_is_undone_once_and_gives_back_the_replicas(web: Scene) -> None:
    await web.hold()
    for _ in range(2):
        await web.workloads.scale_back(web.cell, web.ref, TOKEN)
    assert web.server.writes == [("patch", WEB)] * 2
    live = web.server.objects[WEB]
    assert live["spec"]["replicas"] == 3
    assert live["metadata"]["annotations"] == {}


async def test_another_hold_or_none_is_left_alone(web: Scene) -> None:
    await web.workloads.scale_back(web.cell, web.ref, TOKEN)
    await web.hold(LATER)
    await web.workloads.scale_back(web.cell, web.ref, TOKEN)
    assert web.server.objects[WEB]["spec"]["replicas"] == 0
    assert web.server.writes == [("patch", WEB)]


async def test_replicas_that_a_person_chose_stay_when_a_hold_is_undone(web: Scene) -> None:
    await web.hold()
    web.server.change(WEB, spec=web.server.objects[WEB]["spec"] | {"replicas": 5})
    await web.workloads.scale_back(web.cell, web.ref, TOKEN)
    live = web.server.objects[WEB]
    assert (live["spec"]["replicas"], live["metadata"]["annotations"]) == (5, {})


async def test_holding_and_undoing_by_turns_is_no_revert(web: Scene) -> None:
    for _ in range(4):
        await web.hold()
        await web.workloads.scale_back(web.cell, web.ref, TOKEN)
    assert web.server.objects[WEB]["spec"]["replicas"] == 3
