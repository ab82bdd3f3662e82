"""Real volumes: the snapshot controller, csi-snapshotter and csi-provisioner of Kubernetes with a CSI driver of our own
(`hack/cluster storage`), under the very rights that the chart grants with features.volumeSnapshots."""

import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from recell.api import Cell
from recell.api.meta import LABEL_BACKUP, LABEL_CELL
from recell.domain.data import Customers, Operation, Progress, Request
from recell.engine.errors import BadInput, Forbidden
from recell.providers.data.volume_snapshots import VolumeSnapshotsData
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import VOLUME_SNAPSHOTS
from tests.cluster.conftest import ROOT, Kubectl, image_of, kubeconfig_with
from tests.cluster.volume_world import DATA, WAL, WITHIN, Anywhere, Provider, VolumeWorld
from tests.fakes.eventually import eventually
from tests.unit.delivery.programs import program

pytestmark = pytest.mark.usefixtures("crds", "storage")

STORAGE_SECONDS = 20 * 60
"""The first time it is compiled."""


@pytest.fixture(scope="module")
def storage(kubectl: Kubectl) -> None:
    """Volumes with snapshots; started where the cluster is a local node, which its node is named after."""
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    name = nodes[0]["metadata"]["name"]
    command = [str(ROOT / "hack" / "cluster"), "storage", "--name", name]
    done = subprocess.run(command, timeout=STORAGE_SECONDS, check=False, capture_output=True, text=True)
    if "for a local node only" in done.stderr or "there is no cluster" in done.stderr:
        pytest.skip("volumes with snapshots are there on a local node only")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def image(kubectl: Kubectl) -> str:
    return image_of(kubectl, "recell/shop-load")  # it has a shell


@pytest.fixture(scope="module")
def operator(kubeconfig: Path, kubectl: Kubectl, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the operator's own rights, in the tests' namespace."""
    chart = [str(program("helm")), "template", "recell", str(ROOT / "helm" / "recell"), "--kube-version", "1.36.0"]
    rendered = subprocess.run(
        [*chart, "--set", "features.volumeSnapshots=true"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    installed = [each for each in yaml.safe_load_all(rendered) if each]
    role = next(each for each in installed if each["kind"] == "ClusterRole" and each["metadata"]["name"] == "recell")
    return kubeconfig_with(kubeconfig, kubectl, namespace, role["rules"], tmp_path_factory.mktemp("operator"))


class World(VolumeWorld):
    def provider(self) -> Provider:
        return VolumeSnapshotsData(
            self.tested,
            self.clock,
            self.workloads,
            require_consent=Anywhere().ensure,
            is_home=lambda router, cell: cell in self.homes,
            on_change=self.wake,
        )

    def data_of(self, claims: list[str]) -> Object:
        return {"type": "VolumeSnapshots", "volumeSnapshots": {"claims": claims}}


@pytest.fixture
async def world(operator: Path, kubeconfig: Path, kubectl: Kubectl, namespace: str, image: str) -> AsyncIterator[World]:
    apis = await Api.connect(str(operator)), await Api.connect(str(kubeconfig))
    made = World(*apis, kubectl, namespace, image)
    await made.start()
    yield made
    await made.stop()
    for api in apis:
        await api.close()
    for kind in ("cells", "statefulsets", "volumesnapshots", "pvc"):
        made.kubectl("delete", kind, "--all", "--timeout=150s")


@pytest.mark.parametrize("storage_class", ["hostpath", "hostpath-late"])
async def test_exactly_what_was_in_the_volumes_is_there_again(world: World, storage_class: str) -> None:
    """Late: a volume is made once a pod needs it."""
    volumes = (DATA, WAL)
    source = await world.source("cell-a", storage_class, volumes)
    world.shell(source, "echo 1 > /data/first; mkdir /wal/sub; echo 2 > /wal/sub/first")
    before = datetime.now(UTC)
    made = await world.backed_up(source, "backup-1")
    assert before - timedelta(seconds=2) < made.at < datetime.now(UTC) + timedelta(seconds=2)
    world.shell(source, "echo 1 > /data/second; rm -r /wal/sub")
    listed = await world.done(Request(Operation.INVENTORY, "list-1", source))
    assert listed.backups == (made,)

    target = await world.target("cell-b", source, storage_class, volumes)
    world.shell(target, "echo 1 > /data/own; echo 1 > /wal/own")
    old = await world.claim("data-cell-b-db-0")
    request = Request(Operation.RESTORE, "restore-1", source, target=target, backup=made.id, not_after=made.at)
    answer = await world.done(request)
    assert answer.customers == Customers(whole=True)
    assert answer.recovery_point == made.at
    assert world.shell(target, "cd /data; find . -type f; cat first") == "./first\n1"
    assert world.shell(target, "cd /wal; find . -type f; cat sub/first") == "./sub/first\n2"
    assert world.shell(source, "ls /data") == "first\nsecond"
    new = await world.claim("data-cell-b-db-0")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["metadata"]["labels"] == old["metadata"]["labels"]
    assert new["spec"]["storageClassName"] == storage_class

    world.homes.add("cell-b")
    world.shell(target, "echo 1 > /data/customer")
    assert await world.data.ensure(request) == answer
    assert world.shell(target, "ls /data") == "customer\nfirst"
    with pytest.raises(BadInput, match="is the home of customers"):
        await world.data.ensure(replace(request, key="restore-2"))


async def test_a_new_process_at_every_step_goes_on(world: World) -> None:
    source = await world.source("cell-a", volumes=(DATA, WAL))
    world.shell(source, "echo 1 > /data/first; echo 1 > /wal/first")
    await world.done(Request(Operation.BACKUP, "backup-1", source), between=world.another_process)
    target = await world.target("cell-b", source, volumes=(DATA, WAL))
    request = Request(Operation.RESTORE, "restore-1", source, target=target, backup="backup-1")
    await world.done(request, between=world.another_process)
    assert world.shell(target, "cat /data/first /wal/first") == "1\n1"
    uids = [(await world.claim(f"{name}-cell-b-db-0"))["metadata"]["uid"] for name in (DATA, WAL)]
    await world.another_process()
    await world.done(request)
    assert [(await world.claim(f"{name}-cell-b-db-0"))["metadata"]["uid"] for name in (DATA, WAL)] == uids
    world.shell(target, "echo 1 > /data/more")
    await world.done(replace(request, key="restore-2"))
    assert world.shell(target, "ls /data /wal") == "/data:\nfirst\n\n/wal:\nfirst"


async def test_snapshots_of_other_tools_count(world: World) -> None:
    source = await world.source("cell-a")
    world.shell(source, "echo 1 > /data/nightly")
    snapshot = {
        "apiVersion": VOLUME_SNAPSHOTS.api_version,
        "kind": VOLUME_SNAPSHOTS.kind,
        "metadata": {"name": "nightly-1"},
        "spec": {"source": {"persistentVolumeClaimName": "data-cell-a-db-0"}},
    }
    world.kubectl("apply", "-f", "-", stdin=json.dumps(snapshot))

    async def complete() -> bool:
        listed = await world.data.ensure(Request(Operation.INVENTORY, "list-1", source))
        return [(backup.id, backup.complete) for backup in listed.backups] == [("nightly-1", True)]

    await eventually(complete, "it is listed")
    target = await world.target("cell-b", source)
    await world.done(Request(Operation.RESTORE, "restore-1", source, target=target, backup="nightly-1"))
    assert world.shell(target, "ls /data") == "nightly"
    # Of the target's own claim, which is another one since: what was taken of it before is not told.
    assert (await world.data.ensure(Request(Operation.INVENTORY, "list-2", target))).backups == ()


async def test_a_volume_that_the_operator_did_not_make_is_not_touched(world: World) -> None:
    source, other = await world.source("cell-a"), await world.source("cell-c")
    world.shell(other, "echo 1 > /data/own")
    made = await world.backed_up(source, "backup-1")
    request = Request(Operation.RESTORE, "restore-1", source, target=other, backup=made.id)
    with pytest.raises(BadInput, match="data-cell-c-db-0 was not made from a template for this cell"):
        await world.data.ensure(request)
    assert world.shell(other, "ls /data") == "own"


async def test_what_keeps_a_snapshot_from_being_taken_is_told_and_it_can_be_called_off(world: World) -> None:
    source = await world.source("cell-a")
    spec = source.spec.to_dict()
    spec["data"]["volumeSnapshots"]["className"] = "none"
    cell = Cell.model_validate({"metadata": source.metadata, "spec": spec})
    request = Request(Operation.BACKUP, "backup-1", cell)

    async def told() -> bool:
        answer = await world.data.ensure(request)
        assert answer.progress is Progress.RUNNING
        return 'volumesnapshotclass.snapshot.storage.k8s.io "none" not found' in answer.message

    await eventually(told, "its error is told")
    await eventually(lambda: world.data.cancel(request), "it is called off")
    found = await world.direct.list(VOLUME_SNAPSHOTS.collection(world.namespace), labels=f"{LABEL_BACKUP}=backup-1")
    assert found.items == []


async def test_a_pod_that_is_not_of_the_cell_is_waited_for(world: World) -> None:
    source = await world.source("cell-a")
    world.shell(source, "echo 1 > /data/first")
    made = await world.backed_up(source, "backup-1")
    target = await world.target("cell-b", source)
    container = {"name": "main", "image": world.image, "imagePullPolicy": "Never", "command": ["sleep", "3600"]}
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data-cell-b-db-0"}}]
    spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell"}, "spec": spec}
    world.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    world.kubectl("wait", "pod/shell", "--for=condition=Ready", "--timeout=150s")
    request = Request(Operation.RESTORE, "restore-1", source, target=target, backup=made.id)

    async def told() -> bool:
        return "claim data-cell-b-db-0 is used by pod shell" in (await world.data.ensure(request)).message

    await eventually(told, "it is named")
    assert not (await world.claim("data-cell-b-db-0"))["metadata"].get("deletionTimestamp")
    world.kubectl("delete", "pod", "shell", "--grace-period=0", "--force")
    await eventually(lambda: _is_done(world, request), "it goes on", deadline=WITHIN)
    assert world.shell(target, "ls /data") == "first"


async def _is_done(world: World, request: Request) -> bool:
    return (await world.data.ensure(request)).progress is Progress.DONE


async def test_without_the_right_its_rule_and_feature_are_named(world: World) -> None:
    source = await world.source("cell-a")
    elsewhere = source.model_copy(update={"spec": source.spec.model_copy(update={"namespace": "default"})})
    with pytest.raises(Forbidden, match=r'"volumesnapshots".*in namespace default.*features\.volumeSnapshots'):
        await world.data.ensure(Request(Operation.BACKUP, "backup-1", elsewhere))


async def test_a_claim_that_belongs_to_a_made_cell_carries_its_name(world: World) -> None:
    """What the refusal relies on: a StatefulSet's controller gives claims the labels of their template."""
    source = await world.source("cell-a")
    await world.target("cell-b", source)
    labels = (await world.claim("data-cell-b-db-0"))["metadata"]["labels"]
    assert labels[LABEL_CELL] == "cell-b"
    assert labels["recell.dev/made-by"] == "recell"
