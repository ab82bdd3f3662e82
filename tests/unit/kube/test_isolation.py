"""Isolation on an API server in memory: what the policies say, what is lifted, and what a try proves."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from recell.api import Cell
from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.failure import Verdict
from recell.api.meta import LABEL_CELL, LABEL_DATA_JOB, LABEL_FLEET, LABEL_MADE_BY
from recell.engine.errors import Forbidden, Retryable
from recell.providers.kube import cron_jobs, isolation
from recell.providers.kube.api import Object
from recell.providers.kube.consent import Consent
from recell.providers.kube.isolation import KubeIsolation, policy, policy_name
from recell.providers.kube.paths import CRON_JOBS, JOBS, NETWORK_POLICIES, PODS, WORKLOADS
from recell.runtime.clock import SystemClock
from tests.fakes.ports import free_port
from tests.unit.kube.fake_server import FakeApi, FakeServer

KINDS = {"web": "Deployment", "db": "StatefulSet"}


def cell(name: str = "a", fleet: str = "fleet", **spec: Any) -> Cell:
    refs = [{"apiVersion": "apps/v1", "kind": kind, "name": workload} for workload, kind in KINDS.items()]
    backend = {"type": "Service", "service": {"name": "web", "port": 80}}
    body = {"routerRef": {"name": "shop"}, "backend": backend, "workloads": refs} | spec
    return Cell.model_validate({"metadata": {"name": name, "namespace": fleet, "uid": name}, "spec": body})


def ref(name: str) -> WorkloadRef:
    return WorkloadRef(api_version="apps/v1", kind=WorkloadKind(KINDS[name]), name=name)


class Scene:
    """Cell `a` with a web and a database, and what isolates it."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.api: Any = FakeApi(self.server)
        self.cell = cell()
        self.doubt = ""
        consent = Consent(self.api, SystemClock(), on_change=lambda key: None)
        self.isolation = KubeIsolation(self.api, consent, doubt=lambda: self.doubt)
        for name, kind in KINDS.items():
            selector = {"matchLabels": {"app": name}}
            path = WORKLOADS[WorkloadKind(kind)].path("fleet", name)
            self.server.put(path, {"metadata": {"name": name}, "spec": {"selector": selector}})

    def pod(self, name: str, app: str, *ports: int, running: bool = True, **spec: Any) -> None:
        container = {"name": "main", "ports": [{"containerPort": port} for port in ports]}
        state = {"running": {}} if running else {"waiting": {"reason": "CrashLoopBackOff"}}
        self.server.put(
            PODS.path("fleet", name),
            {
                "metadata": {"name": name, "namespace": "fleet", "labels": {"app": app, "tier": "x"}},
                "spec": {"containers": [container]} | spec,
                "status": {"podIP": "127.0.0.1", "containerStatuses": [{"name": "main", "state": state}]},
            },
        )

    def others_policy(self, **spec: Any) -> None:
        metadata = {"name": "theirs", "namespace": "fleet"}
        self.server.put(NETWORK_POLICIES.path("fleet", "theirs"), {"metadata": metadata, "spec": spec})

    def policies(self) -> dict[str, Object]:
        found = {path: obj for path, obj in self.server.objects.items() if "networkpolicies" in path}
        return {path.rpartition("/")[2]: obj for path, obj in found.items()}


@pytest.fixture
async def scene() -> Scene:
    return Scene()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """One that somebody listens on."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        number: int = server.sockets[0].getsockname()[1]
        yield number


def test_a_policy_denies_all_but_data_jobs_the_workloads_own_pods_and_dns() -> None:
    selector = {"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}
    made = policy(cell(), ref("db"), selector)
    spec = made["spec"]
    assert spec["podSelector"] == selector
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    jobs, own = {"podSelector": {"matchLabels": {LABEL_DATA_JOB: "true"}}}, {"podSelector": selector}
    assert spec["ingress"] == [{"from": [jobs, own]}]
    assert spec["egress"] == [
        {"to": [jobs, own]},
        {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
    ]
    assert made["metadata"]["namespace"] == "fleet"
    labels = made["metadata"]["labels"]
    assert (labels[LABEL_CELL], labels[LABEL_MADE_BY], labels[LABEL_FLEET]) == ("a", "recell", "fleet")
    assert "ownerReferences" not in made["metadata"], "a deleted Cell is no reason to open its data"


def test_names_are_deterministic_and_apart() -> None:
    names = {
        policy_name(each, workload)
        for each in (cell(), cell("b"), cell(fleet="other"))
        for workload in (ref("web"), ref("db"))
    }
    assert len(names) == 6
    assert policy_name(cell(), ref("web")) == policy_name(cell(), ref("web"))
    assert max(map(len, names)) < 253


async def test_isolating_twice_and_lifting_twice(scene: Scene) -> None:
    for _ in range(2):
        await scene.isolation.isolate(scene.cell)
    names = {policy_name(scene.cell, ref("web")), policy_name(scene.cell, ref("db"))}
    assert set(scene.policies()) == names
    assert len(scene.server.writes) == 2, "the second time there was nothing to write"
    for _ in range(2):
        await scene.isolation.lift(scene.cell)
    assert scene.policies() == {}


async def test_a_policy_that_somebody_changed_is_made_anew(scene: Scene) -> None:
    await scene.isolation.isolate(scene.cell)
    wanted = policy_name(scene.cell, ref("db"))
    path = NETWORK_POLICIES.path("fleet", wanted)
    changed = scene.server.objects[path]
    scene.server.put(path, changed | {"spec": changed["spec"] | {"policyTypes": ["Ingress"]}})
    await scene.isolation.isolate(scene.cell)
    assert scene.policies()[wanted]["spec"]["policyTypes"] == ["Ingress", "Egress"]


async def test_a_workload_that_does_not_exist_is_left_out(scene: Scene) -> None:
    scene.server.remove(WORKLOADS[WorkloadKind.DEPLOYMENT].path("fleet", "web"))
    await scene.isolation.isolate(scene.cell)
    assert set(scene.policies()) == {policy_name(scene.cell, ref("db"))}


async def test_what_the_cell_no_longer_names_is_lifted_too(scene: Scene) -> None:
    await scene.isolation.isolate(scene.cell)
    await scene.isolation.lift(cell(workloads=[]))
    assert scene.policies() == {}


async def test_others_policies_and_other_cells_stay(scene: Scene) -> None:
    """Also one that the operator made from a template: it has the labels of the cell, and is no isolation."""
    scene.others_policy(podSelector={})
    made = {"name": "from-template", "namespace": "fleet", "labels": {LABEL_CELL: "a", LABEL_MADE_BY: "recell"}}
    scene.server.put(NETWORK_POLICIES.path("fleet", "from-template"), {"metadata": made, "spec": {"podSelector": {}}})
    await scene.isolation.isolate(scene.cell)
    await scene.isolation.isolate(cell("b"))
    await scene.isolation.lift(scene.cell)
    left = {"theirs", "from-template", policy_name(cell("b"), ref("web")), policy_name(cell("b"), ref("db"))}
    assert set(scene.policies()) == left


async def test_a_namespace_that_does_not_consent_is_left_alone(scene: Scene) -> None:
    outside = cell(namespace="elsewhere")
    for act in (scene.isolation.isolate, scene.isolation.lift, scene.isolation.tried):
        with pytest.raises(Forbidden, match="kubectl label namespace elsewhere"):
            await act(outside)
    assert scene.server.writes == []


# Trying (rule 29)


async def test_what_can_be_reached_is_not_isolated(scene: Scene, port: int) -> None:
    scene.pod("web-1", "web", free_port())
    scene.pod("db-0", "db", port)
    await scene.isolation.isolate(scene.cell)
    seen = await scene.isolation.tried(scene.cell)
    assert seen.verdict is Verdict.FAILED
    assert seen.message == f"connected to pod db-0 port {port}"


async def test_a_pod_in_the_nodes_network_is_told_apart(scene: Scene, port: int) -> None:
    scene.pod("web-1", "web", port, hostNetwork=True)
    await scene.isolation.isolate(scene.cell)
    assert "no NetworkPolicy applies in the node's network" in (await scene.isolation.tried(scene.cell)).message


async def test_what_cannot_be_reached_is_isolated(scene: Scene) -> None:
    scene.pod("web-1", "web", number := free_port())
    await scene.isolation.isolate(scene.cell)
    seen = await scene.isolation.tried(scene.cell)
    assert seen.verdict is Verdict.PASSED
    assert seen.message == f"no connection within 2 s to pod web-1 port {number}"


async def test_a_connection_that_hangs_does_not_come_about(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "TIMEOUT", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        number = silent.getsockname()[1]
        with socket.socket() as first, socket.socket() as second:
            for filling in (first, second):  # the backlog is full: nobody answers any more
                filling.setblocking(False)
                filling.connect_ex(("127.0.0.1", number))
            scene.pod("web-1", "web", number)
            await scene.isolation.isolate(scene.cell)
            assert (await scene.isolation.tried(scene.cell)).verdict is Verdict.PASSED


async def test_an_operator_that_can_open_no_connection_has_not_tried(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_more(host: str, port: int) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    scene.pod("web-1", "web", free_port())
    await scene.isolation.isolate(scene.cell)
    monkeypatch.setattr(asyncio, "open_connection", no_more)
    with pytest.raises(Retryable, match="too many open files"):
        await scene.isolation.tried(scene.cell)


@pytest.mark.parametrize("running", [None, False])
async def test_nothing_to_try_proves_nothing(scene: Scene, port: int, running: bool | None) -> None:
    if running is not None:
        scene.pod("web-1", "web", port, running=running)
    await scene.isolation.isolate(scene.cell)
    seen = await scene.isolation.tried(scene.cell)
    assert (seen.verdict, "nothing to try" in seen.message) == (Verdict.INCONCLUSIVE, True)


async def test_an_operator_that_is_cut_off_proves_nothing(scene: Scene) -> None:
    scene.pod("web-1", "web", free_port())
    await scene.isolation.isolate(scene.cell)
    scene.doubt = "the operator reaches no cell at all"
    assert (await scene.isolation.tried(scene.cell)).verdict is Verdict.INCONCLUSIVE


async def test_without_its_policies_nothing_is_isolated(scene: Scene) -> None:
    scene.pod("web-1", "web", free_port())
    await scene.isolation.isolate(scene.cell)
    scene.server.remove(NETWORK_POLICIES.path("fleet", name := policy_name(scene.cell, ref("db"))))
    seen = await scene.isolation.tried(scene.cell)
    assert (seen.verdict, name in seen.message) == (Verdict.FAILED, True)


ANYONE: Object = {"from": [{"namespaceSelector": {}}]}


@pytest.mark.parametrize(
    ("theirs", "opens"),
    [
        ({"podSelector": {}, "policyTypes": ["Ingress"]}, False),
        ({"podSelector": {}, "ingress": [ANYONE]}, True),
        ({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]}, True),
        ({"podSelector": {}, "egress": [{}]}, True),
        ({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53}]}]}, False),
        ({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53, "endPort": 60}]}]}, True),
        ({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [ANYONE]}, False),
        ({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [ANYONE]}, True),
        ({"podSelector": {"matchLabels": {"app": "other"}}, "ingress": [ANYONE]}, False),
        *(
            ({"podSelector": {"matchExpressions": [expression]}, "ingress": [ANYONE]}, opens)
            for expression, opens in (
                ({"key": "app", "operator": "In", "values": ["web", "api"]}, True),
                ({"key": "app", "operator": "NotIn", "values": ["web"]}, False),
                ({"key": "tier", "operator": "Exists"}, True),
                ({"key": "app", "operator": "DoesNotExist"}, False),
            )
        ),
    ],
)
async def test_what_others_policies_open_is_not_isolated(scene: Scene, theirs: Object, opens: bool) -> None:
    """Policies add up: none takes away what another allows, and the operator is not who may come in by theirs."""
    scene.pod("web-1", "web", free_port())
    scene.others_policy(**theirs)
    await scene.isolation.isolate(scene.cell)
    seen = await scene.isolation.tried(scene.cell)
    assert seen.verdict is (Verdict.FAILED if opens else Verdict.PASSED)
    assert ("NetworkPolicy theirs of namespace fleet" in seen.message) is opens


async def test_as_many_as_are_tried_are_of_every_workload(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "MOST_TRIED", 4)
    asked: list[int] = []

    async def ask(host: str, port: int) -> bool:
        asked.append(port)
        return False

    monkeypatch.setattr(isolation, "_connects", ask)
    for number in range(20):
        scene.pod(f"web-{number:02}", "web", 1000 + number)
    scene.pod("db-0", "db", 5432)
    await scene.isolation.isolate(scene.cell)
    await scene.isolation.tried(scene.cell)
    assert asked == [1000, 5432, 1001, 1002]


async def test_ports_of_sidecars_are_tried_and_those_of_udp_are_not(scene: Scene, port: int) -> None:
    scene.pod("web-1", "web")
    pod = scene.server.objects[PODS.path("fleet", "web-1")]
    pod["spec"]["containers"][0]["ports"] = [{"containerPort": port, "protocol": "UDP"}]
    await scene.isolation.isolate(scene.cell)
    assert (await scene.isolation.tried(scene.cell)).verdict is Verdict.INCONCLUSIVE
    pod["spec"]["initContainers"] = [{"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": port}]}]
    pod["status"]["initContainerStatuses"] = [{"name": "proxy", "state": {"running": {}}}]
    assert (await scene.isolation.tried(scene.cell)).verdict is Verdict.FAILED


# CronJobs


def with_cron_job(scene: Scene, labels: Object | None, *, suspend: bool = False) -> None:
    spec = scene.cell.spec.to_dict()
    spec["workloads"].append({"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly"})
    scene.cell = Cell.model_validate({"metadata": scene.cell.metadata, "spec": spec})
    template = {"metadata": {"labels": labels}} if labels else {}
    scene.server.put(
        CRON_JOBS.path("fleet", "nightly"),
        {
            "metadata": {"name": "nightly", "namespace": "fleet", "uid": "n"},
            "spec": {"suspend": suspend, "jobTemplate": {"spec": {"template": template}}},
        },
    )


def nightly_pod(scene: Scene, *ports: int) -> None:
    owners = [{"kind": "CronJob", "name": "nightly", "uid": "n"}]
    metadata = {"name": "nightly-101", "namespace": "fleet", "ownerReferences": owners}
    scene.server.put(JOBS.path("fleet", "nightly-101"), {"metadata": metadata, "spec": {}})
    scene.pod("nightly-101-x", "nightly", *ports)
    path = PODS.path("fleet", "nightly-101-x")
    found = scene.server.objects[path]
    found["metadata"]["labels"][cron_jobs.JOB_NAME] = "nightly-101"
    scene.server.put(path, found)


async def test_the_pods_of_a_cron_job_are_selected_by_its_templates_labels_and_tried(scene: Scene, port: int) -> None:
    with_cron_job(scene, {"app": "nightly"})
    nightly_pod(scene, port)
    await scene.isolation.isolate(scene.cell)
    made = scene.policies()[policy_name(scene.cell, scene.cell.spec.workloads[-1])]
    assert made["spec"]["podSelector"]["matchLabels"] == {"app": "nightly"}
    assert "connected to pod nightly-101-x" in (await scene.isolation.tried(scene.cell)).message


async def test_what_others_policies_open_to_the_next_job_is_not_isolated(scene: Scene) -> None:
    with_cron_job(scene, {"app": "nightly"})
    scene.pod("web-1", "web", free_port())
    scene.others_policy(podSelector={"matchLabels": {"app": "nightly"}}, ingress=[ANYONE])
    await scene.isolation.isolate(scene.cell)
    assert "NetworkPolicy theirs" in (await scene.isolation.tried(scene.cell)).message


@pytest.mark.parametrize(
    ("suspend", "running", "verdict"),
    [
        (False, False, Verdict.INCONCLUSIVE),
        (True, True, Verdict.INCONCLUSIVE),
        (True, False, Verdict.PASSED),
    ],
)
async def test_pods_that_nothing_selects_are_not_said_to_be_isolated(
    scene: Scene, suspend: bool, running: bool, verdict: Verdict
) -> None:
    with_cron_job(scene, None, suspend=suspend)
    scene.pod("web-1", "web", free_port())
    if running:
        nightly_pod(scene)
    await scene.isolation.isolate(scene.cell)
    seen = await scene.isolation.tried(scene.cell)
    assert seen.verdict is verdict
    told = "no NetworkPolicy can select the pods of CronJob/nightly: their template has no labels"
    assert (told == seen.message) is (verdict is Verdict.INCONCLUSIVE)
