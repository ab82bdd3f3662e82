"""The real Velero with real volumes: what was in a cell's claims is in another cell's, under the chart's rights."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from recell.api.meta import LABEL_CLAIM
from recell.domain.data import Customers, Operation, Progress, Request
from recell.engine.errors import BadInput, Forbidden
from recell.providers.data.velero import VeleroData
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CLAIMS, VELERO_BACKUPS, VELERO_RESTORES
from tests.cluster.volume_world import DATA, WAL, Anywhere, Provider, VolumeWorld
from tests.fakes.eventually import eventually
from tests.velero.stage import VELERO, VeleroStage

BOTH = (DATA, WAL)


class World(VolumeWorld):
    settings: Object
    """Of Velero's block, beside the claims."""

    def provider(self) -> Provider:
        return VeleroData(
            self.tested,
            self.clock,
            self.workloads,
            require_consent=Anywhere().ensure,
            is_home=lambda router, cell: cell in self.homes,
            on_change=self.wake,
        )

    def data_of(self, claims: list[str]) -> Object:
        return {"type": "Velero", "velero": {"claims": claims, **self.settings}}


@pytest.fixture
async def world(operator: Path, stage: VeleroStage, namespace: str, image: str) -> AsyncIterator[World]:
    apis = await Api.connect(str(operator)), await Api.connect(str(stage.kubeconfig))
    made = World(*apis, stage.kubectl, namespace, image)
    made.settings = {}
    await made.start()
    yield made
    await made.stop()
    for api in apis:
        await api.close()
    for kind in ("cells", "statefulsets", "volumesnapshots", "pvc"):
        made.kubectl("delete", kind, "--all", "--timeout=50s")
    stage.delete_backups()


@pytest.mark.parametrize("storage_class", ["hostpath", "hostpath-late"])
async def test_exactly_what_was_in_the_volumes_is_there_again(world: World, storage_class: str) -> None:
    """While the source and its claims are still there. Late: a volume is made once a pod needs it."""
    source = await world.source("cell-a", storage_class, BOTH)
    world.shell(source, "echo 1 > /data/first; mkdir /wal/sub; echo 2 > /wal/sub/first")
    before = datetime.now(UTC)
    made = await world.backed_up(source, "backup-1")
    assert before < made.at < datetime.now(UTC) + timedelta(seconds=2)
    world.shell(source, "echo 1 > /data/second; rm -r /wal/sub")
    listed = await world.done(Request(Operation.INVENTORY, "list-1", source))
    assert listed.backups == (made,)
    left = json.loads(world.kubectl("get", "volumesnapshots", "-o", "json"))["items"]
    assert left == [], "what is restored from is in Velero alone"

    target = await world.target("cell-b", source, storage_class, BOTH)
    world.shell(target, "echo 1 > /data/own; echo 1 > /wal/own")
    old = await world.claim("data-cell-b-db-0")
    request = Request(Operation.RESTORE, "restore-1", source, target=target, backup=made.id, not_after=made.at)
    answer = await world.done(request)
    assert answer.customers == Customers(whole=True)
    assert answer.recovery_point is not None
    assert before - timedelta(seconds=1) < answer.recovery_point <= made.at
    assert world.shell(target, "cd /data; find . -type f; cat first") == "./first\n1"
    assert world.shell(target, "cd /wal; find . -type f; cat sub/first") == "./sub/first\n2"
    assert world.shell(source, "ls /data") == "first\nsecond"
    new = await world.claim("data-cell-b-db-0")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["metadata"]["labels"] == old["metadata"]["labels"]

    world.homes.add("cell-b")
    world.shell(target, "echo 1 > /data/customer")
    assert await world.data.ensure(request) == answer
    assert world.shell(target, "ls /data") == "customer\nfirst"
    with pytest.raises(BadInput, match="is the home of customers"):
        await world.data.ensure(replace(request, key="restore-2"))


async def test_a_new_process_at_every_step_goes_on(world: World) -> None:
    source = await world.source("cell-a", volumes=BOTH)
    world.shell(source, "echo 1 > /data/first; echo 1 > /wal/first")
    await world.done(Request(Operation.BACKUP, "backup-1", source), between=world.another_process)
    target = await world.target("cell-b", source, volumes=BOTH)
    request = Request(Operation.RESTORE, "restore-1", source, target=target, backup="backup-1")
    await world.done(request, between=world.another_process)
    assert world.shell(target, "cat /data/first /wal/first") == "1\n1"
    world.shell(target, "echo 1 > /data/more")
    await world.done(replace(request, key="restore-2"))
    assert world.shell(target, "ls /data /wal") == "/data:\nfirst\n\n/wal:\nfirst"


async def test_a_cell_whose_claims_and_volumes_are_gone_comes_back_too(world: World) -> None:
    source = await world.source("cell-a")
    world.shell(source, "echo 1 > /data/first")
    await world.backed_up(source, "backup-1")
    world.kubectl("delete", "statefulset", "cell-a-db", "--timeout=50s")
    world.kubectl("delete", "pvc", "data-cell-a-db-0", "--timeout=50s")
    target = await world.target("cell-b", source)
    await world.done(Request(Operation.RESTORE, "restore-1", source, target=target, backup="backup-1"))
    assert world.shell(target, "ls /data") == "first"


async def test_backups_of_a_schedule_of_the_whole_namespace_count(world: World, stage: VeleroStage) -> None:
    world.settings = {"schedules": ["nightly"]}
    source = await world.source("cell-a")
    world.kubectl("label", "pvc", "data-cell-a-db-0", f"{LABEL_CLAIM}=data-cell-a-db-0")
    world.shell(source, "echo 1 > /data/nightly")
    schedule = {
        "apiVersion": "velero.io/v1",
        "kind": "Schedule",
        "metadata": {"name": "nightly", "namespace": VELERO},
        "spec": {"schedule": "@every 24h", "template": {"includedNamespaces": [world.namespace]}},
    }
    stage.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(schedule))
    stage.velero("backup", "create", "nightly-1", "--from-schedule", "nightly")
    inventory = Request(Operation.INVENTORY, "list-1", source)

    async def complete() -> bool:
        return any(backup.complete for backup in (await world.done(inventory)).backups)

    try:
        await eventually(complete, "its Backup is listed", deadline=90)
    finally:
        stage.kubectl("-n", VELERO, "delete", "schedules.velero.io", "nightly")
    (made,) = (await world.done(inventory)).backups
    target = await world.target("cell-b", source)
    await world.done(Request(Operation.RESTORE, "restore-1", source, target=target, backup=made.id))
    assert world.shell(target, "ls /data") == "nightly"


async def test_what_veleros_server_refuses_is_told_in_its_words(world: World, stage: VeleroStage) -> None:
    world.settings = {"storageLocation": "nowhere"}
    source = await world.source("cell-a")
    answer = await world.ended(Request(Operation.BACKUP, "backup-1", source))
    assert answer.progress is Progress.FAILED
    assert "(FailedValidation)" in answer.message
    assert "nowhere" in answer.message
    listed = await world.done(Request(Operation.INVENTORY, "list-1", source))
    assert not [backup for backup in listed.backups if backup.complete]
    stage.kubectl("-n", VELERO, "delete", "backup.velero.io", "backup-1")  # Velero deletes none without its store


async def test_volumes_without_snapshots_make_no_backup(world: World, stage: VeleroStage) -> None:
    """Velero takes none of a claim whose class of snapshots it does not find."""
    source = await world.source("cell-a")
    annotation = "velero.io/csi-volumesnapshot-class"
    world.kubectl("label", "pvc", "data-cell-a-db-0", "velero.io/exclude-from-backup=true")
    answer = await world.ended(Request(Operation.BACKUP, "backup-1", source))
    assert answer.progress is Progress.FAILED
    assert "has 0 CSI snapshots, and the cell 1 claims" in answer.message
    assert annotation in answer.message


async def test_a_claim_by_its_own_name_is_not_what_velero_restores(world: World, stage: VeleroStage) -> None:
    """Why claims are not renamed by a resource modifier: Velero leaves such a claim without its data while one of the
    source's name is there, and calls the Restore Completed. If this fails, Velero has changed: the shorter way may be
    open."""
    source = await world.source("cell-a")
    world.shell(source, "echo 1 > /data/first")
    await world.backed_up(source, "backup-1")
    rules: dict[str, Any] = {
        "version": "v1",
        "resourceModifierRules": [
            {
                "conditions": {"groupResource": "persistentvolumeclaims", "resourceNameRegex": "^data-cell-a-db-0$"},
                "patches": [{"operation": "replace", "path": "/metadata/name", "value": '"renamed"'}],
            }
        ],
    }
    stage.kubectl("-n", VELERO, "create", "configmap", "rename", f"--from-literal=rules.yaml={yaml.safe_dump(rules)}")
    body = {
        "apiVersion": VELERO_RESTORES.api_version,
        "kind": VELERO_RESTORES.kind,
        "metadata": {"name": "renaming", "namespace": VELERO},
        "spec": {
            "backupName": "backup-1",
            "includedNamespaces": [world.namespace],
            "includedResources": ["persistentvolumeclaims"],
            "resourceModifier": {"kind": "ConfigMap", "name": "rename"},
        },
    }
    try:
        await world.direct.create(VELERO_RESTORES.collection(VELERO), body)
        stage.kubectl(
            "-n",
            VELERO,
            "wait",
            "restore.velero.io/renaming",
            "--for=jsonpath={.status.phase}=Completed",
            "--timeout=60s",
        )
    finally:
        stage.kubectl("-n", VELERO, "delete", "configmap", "rename")
    claim = await world.direct.get(CLAIMS.path(world.namespace, "renamed"))
    assert "dataSource" not in claim["spec"]


async def test_without_the_right_its_rule_and_feature_are_named(world: World) -> None:
    world.settings = {"namespace": "default"}
    source = await world.source("cell-a")
    with pytest.raises(Forbidden, match=r'"backups".*in namespace default.*features\.velero'):
        await world.data.ensure(Request(Operation.INVENTORY, "list-1", source))


async def test_an_expired_backup_is_not_restored_from(world: World) -> None:
    source = await world.source("cell-a")
    await world.backed_up(source, "backup-1")
    past = {"status": {"expiration": "2026-01-01T00:00:00Z"}}
    await world.direct.merge_patch(VELERO_BACKUPS.path(VELERO, "backup-1"), past)
    listed = await world.done(Request(Operation.INVENTORY, "list-1", source))
    assert [backup.complete for backup in listed.backups] in ([False], []), "Velero may have deleted it already"
