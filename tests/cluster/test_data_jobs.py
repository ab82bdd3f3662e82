"""Data Jobs with a real Job controller and real pods, under the very rights that the chart grants."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from recell.api import Cell
from recell.domain.data import Answer, Customers, Operation, Progress, Request
from recell.engine.errors import BadInput, Forbidden
from recell.engine.ports import Key
from recell.providers.data import jobs as provider
from recell.providers.data.job_template import FIELDS
from recell.providers.data.jobs import JobsData
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import JOBS, PODS
from recell.runtime.clock import SystemClock
from tests.cluster.conftest import ROOT, Kubectl, image_of, kubeconfig_with
from tests.fakes.eventually import eventually
from tests.unit.data.requests import documented_example
from tests.unit.domain import builders

SLOTS = tuple(range(1024))
SAY = "printf %s '{}' > /dev/termination-log"


@pytest.fixture(scope="module")
def image(kubectl: Kubectl) -> str:
    return image_of(kubectl, "recell/shop-load")  # it has a shell


@pytest.fixture(scope="module")
def operator(kubeconfig: Path, kubectl: Kubectl, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the operator's own rights, in the tests' namespace."""
    installed = yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text())
    role = next(each for each in installed if each["kind"] == "ClusterRole" and each["metadata"]["name"] == "recell")
    rules = [rule for rule in role["rules"] if rule["apiGroups"] in (["batch"], [""])]
    return kubeconfig_with(kubeconfig, kubectl, namespace, rules, tmp_path_factory.mktemp("operator"))


class World:
    """A namespace with CronJobs for the cell `cell-a`, and the provider."""

    def __init__(self, tested: Api, kubectl: Kubectl, namespace: str, image: str) -> None:
        self.tested, self.namespace, self.image = tested, namespace, image
        self._kubectl = kubectl
        self.woken: list[Key] = []
        self.data = self.provider()
        self.number = 0

    def provider(self) -> JobsData:
        async def consent(cell: Cell) -> None:
            pass

        return JobsData(
            self.tested, SystemClock(), (self.namespace,), require_consent=consent, on_change=self.woken.append
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def cron_job(self, script: str, *, pod: Any = None, container: Any = None, **job: Any) -> None:
        """What the Cell names for every operation."""
        template = {
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "main",
                        "image": self.image,
                        "imagePullPolicy": "Never",
                        "command": ["sh", "-c", script],
                        **(container or {}),
                    }
                ],
                **(pod or {}),
            }
        }
        spec = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": {"template": template, **job}}}
        body = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tool"}, "spec": spec}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(body))

    def cell(self, name: str, cron_job: str = "tool") -> Cell:
        metadata = {"namespace": self.namespace}
        jobs = dict.fromkeys(FIELDS.values(), cron_job)
        return builders.cell(name, metadata=metadata, data={"type": "Jobs", "jobs": jobs})

    def request(self, operation: Operation = Operation.INVENTORY, **more: Any) -> Request:
        self.number += 1
        key = f"{operation.lower()}-{self.number}-{id(self):x}"
        return Request(operation, key, **{"cell": self.cell("cell-a"), **more})

    async def answered(self, request: Request) -> Answer:
        async def look() -> Answer | None:
            answer = await self.data.ensure(request)
            return answer if answer.progress is not Progress.RUNNING else None

        return await eventually(look, f"{request.key} ends", deadline=120)

    async def says(self, request: Request, text: str) -> Answer:
        async def look() -> Answer | None:
            answer = await self.data.ensure(request)
            assert text in answer.message, answer
            return answer

        return await eventually(look, f"{request.key} says {text!r}", deadline=120)

    async def job(self, request: Request) -> Object:
        return await self.tested.get(JOBS.path(self.namespace, request.key))


@pytest.fixture
async def world(operator: Path, kubectl: Kubectl, namespace: str, image: str) -> AsyncIterator[World]:
    tested = await Api.connect(str(operator))
    made = World(tested, kubectl, namespace, image)
    yield made
    await made.data.stop()
    await tested.close()
    for kind in ("jobs", "cronjobs", "resourcequotas"):
        made.kubectl("delete", kind, "--all", "--wait=false")


async def test_a_job_does_it_and_tells(world: World) -> None:
    backups = {"backups": [{"id": "b-1", "at": "2026-01-31T03:00:00Z"}], "message": "hello"}
    world.cron_job(
        f"""test "$RECELL_OPERATION $RECELL_CELL $RECELL_CELL_NAMESPACE" = "Inventory cell-a {world.namespace}"
        test "$GREETING" = "of cell-a" && printf %s '{json.dumps(backups)}' > /dev/termination-log""",
        container={"env": [{"name": "GREETING", "value": "of $(RECELL_CELL)"}]},
        pod={
            "initContainers": [
                {
                    "name": "before",
                    "image": world.image,
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", 'test -n "$RECELL_KEY"'],
                }
            ]
        },
    )
    request = world.request()
    first = await world.data.ensure(request)
    assert first.progress is Progress.RUNNING
    answer = await world.answered(request)
    assert (answer.progress, answer.message) == (Progress.DONE, "hello"), answer
    assert [b.id for b in answer.backups] == ["b-1"]
    assert set(world.woken) == {(world.namespace, "cell-a")}
    job = await world.job(request)
    assert job["spec"]["backoffLimit"] == 2
    assert job["spec"]["ttlSecondsAfterFinished"] == 86400
    assert "ownerReferences" not in job["metadata"]


async def test_watches_wake_before_anybody_asks_again(world: World) -> None:
    world.cron_job(SAY)
    request = world.request(Operation.ABANDON, target=world.cell("cell-b"), slots=(1,), slot_count=1024)
    await world.data.ensure(request)
    await eventually(lambda: world.data._awaited == {}, "its end is seen by itself")
    assert (await world.data.ensure(request)).progress is Progress.DONE


async def test_another_process_goes_on_with_the_same_job(world: World) -> None:
    world.cron_job(f"sleep 2; {SAY}")
    request = world.request(Operation.ABANDON, target=world.cell("cell-b"), slots=(1,), slot_count=1024)
    await world.data.ensure(request)
    uid = (await world.job(request))["metadata"]["uid"]
    other = world.provider()
    await other.ensure(request)
    assert (await world.answered(request)).progress is Progress.DONE
    assert (await other.ensure(request)).progress is Progress.DONE
    with pytest.raises(BadInput, match="is not the one of this request"):
        await other.ensure(replace(request, slots=(2,)))
    assert (await world.job(request))["metadata"]["uid"] == uid
    await other.stop()


async def test_a_failure_tells_exit_code_and_last_words(world: World) -> None:
    # On one stream: the container runtime reads the two beside each other, in no promised order.
    world.cron_job("{ echo connecting; echo no space left on device; } >&2; exit 3", backoffLimit=0)
    answer = await world.answered(world.request())
    assert answer.progress is Progress.FAILED
    assert "failed: BackoffLimitExceeded" in answer.message
    assert "exit code 3. It said last: connecting | no space left on device" in answer.message


async def test_a_result_that_was_cut_off_is_refused(world: World) -> None:
    world.cron_job("""printf '{"message": "%5000s"}' x > /dev/termination-log""")
    answer = await world.answered(world.request())
    assert answer.progress is Progress.FAILED
    assert "it was cut off" in answer.message


async def test_progress_is_read_from_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "LOG_INTERVAL", 0.2)
    # It goes on once what it said was seen.
    world.cron_job(
        f"""seen() {{ until [ -e "/tmp/seen-$1" ]; do sleep 0.2; done; }}
        echo 'recell-progress {{"done": 40, "of": 120}}'; seen 40
        echo 'recell-progress {{"done": 80, "of": 120}}'; seen 80; {SAY}"""
    )
    request = world.request(Operation.ABANDON, target=world.cell("cell-b"), slots=(1,), slot_count=1024)
    told = []

    async def ended() -> bool:
        answer = await world.data.ensure(request)
        if answer.done is not None and (answer.done, answer.of) not in told:
            told.append((answer.done, answer.of))
            world.kubectl("exec", f"job/{request.key}", "--", "touch", f"/tmp/seen-{answer.done}")
        return answer.progress is Progress.DONE

    await eventually(ended, "it ends", deadline=120)
    assert told == [(40, 120), (80, 120)]


async def test_cancelled_means_that_no_pod_is_left(world: World) -> None:
    world.cron_job("trap '' TERM; sleep 600 & wait")
    request = world.request()
    await world.data.ensure(request)
    pods = PODS.collection(world.namespace)
    name = f"batch.kubernetes.io/job-name={request.key}"

    async def running() -> bool:
        await world.data.ensure(request)
        found = (await world.tested.list(pods, labels=name)).items
        return any(pod["status"]["phase"] == "Running" for pod in found)

    await eventually(running, "its pod runs")
    assert not await world.data.cancel(request)
    await eventually(lambda: world.data.cancel(request), "it is gone")
    assert (await world.tested.list(pods, labels=name)).items == []
    assert await world.data.cancel(request)
    assert await world.data.cancel(world.request())


async def test_a_job_that_runs_too_long_has_failed(world: World) -> None:
    world.cron_job("sleep 600", activeDeadlineSeconds=2)
    answer = await world.answered(world.request())
    assert answer.progress is Progress.FAILED
    assert "failed: DeadlineExceeded" in answer.message


async def test_a_missing_cron_job_is_named(world: World) -> None:
    request = world.request(cell=world.cell("cell-a", "none"))
    with pytest.raises(BadInput, match=rf"spec\.data\.jobs\.inventory: CronJob {world.namespace}/none does not exist"):
        await world.data.ensure(request)


@pytest.mark.parametrize(
    ("container", "pod", "told"),
    [
        ({"image": "localhost/no/such:image"}, {}, "ErrImageNeverPull"),
        ({"envFrom": [{"secretRef": {"name": "missing"}}]}, {}, "CreateContainerConfigError"),
        ({}, {"nodeSelector": {"no-such": "node"}}, "Unschedulable"),
    ],
    ids=["image", "secret", "node"],
)
async def test_a_pod_that_cannot_start_is_told(world: World, container: Any, pod: Any, told: str) -> None:
    world.cron_job(SAY, container=container, pod=pod)
    answer = await world.says(world.request(), told)
    assert answer.progress is Progress.RUNNING


async def test_a_quota_that_refuses_the_pod_is_guessed(world: World) -> None:
    world.kubectl("create", "quota", "none", "--hard=pods=0")
    world.cron_job(SAY)
    answer = await world.says(world.request(), "a quota or an admission rule may refuse it")
    assert answer.progress is Progress.RUNNING


async def test_without_the_right_its_rule_is_named(world: World) -> None:
    elsewhere = builders.cell("cell-a", metadata={"namespace": "default"}, data=world.cell("x").spec.data.to_dict())
    with pytest.raises(Forbidden, match='grant verb "get" on resource "jobs" of apiGroup "batch" in namespace default'):
        await world.data.ensure(world.request(cell=elsewhere))


# The documentation's example --------------------------------------------------------------------------


class Volume:
    """The claim that the example names, on a folder of the node, and a shell in it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._number = 0

    def make(self) -> str:
        name = f"cells-data-{self._world.namespace}"
        spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        size = {"storage": "1Mi"}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                **spec,
                "capacity": size,
                "hostPath": {"path": f"/tmp/{name}", "type": "DirectoryOrCreate"},
                "claimRef": {"namespace": self._world.namespace, "name": "cells-data"},
            },
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "cells-data"},
            "spec": {**spec, "resources": {"requests": size}},
        }
        self._world.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([volume, claim]))
        return name

    def shell(self, script: str) -> str:
        self._number += 1
        name = f"shell-{self._number}"
        container = {
            "name": "main",
            "image": self._world.image,
            "imagePullPolicy": "Never",
            "command": ["sh", "-euc", script],
            "securityContext": {"runAsUser": 0},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        claim = {"name": "data", "persistentVolumeClaim": {"claimName": "cells-data"}}
        spec = {"restartPolicy": "Never", "containers": [container], "volumes": [claim]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self._world.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        self._world.kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=150s")
        return self._world.kubectl("logs", name).strip()


@pytest.fixture
def volume(world: World) -> Iterator[Volume]:
    made = Volume(world)
    name = made.make()
    yield made
    made.shell("rm -rf /data/*")
    world.kubectl("delete", "pods", "-l", "!batch.kubernetes.io/job-name", "--wait=false")
    world.kubectl("delete", "pvc", "cells-data", "--wait=false")
    world.kubectl("delete", "pv", name, "--wait=false")


def example(image: str) -> str:
    """The example's objects, with an image that the cluster has."""
    documents = documented_example()
    pod = documents[1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["containers"][0] |= {"image": image, "imagePullPolicy": "Never", "securityContext": {"runAsUser": 0}}
    return yaml.safe_dump_all(documents)


async def test_the_example_of_the_documentation_works(world: World, volume: Volume) -> None:
    """As it is applied; what each of its operations does is tried in tests/unit/data/test_documented_example.py."""
    world.kubectl("apply", "-f", "-", stdin=example(world.image))
    source, target = world.cell("cell-a", "cell-data"), world.cell("cell-b", "cell-data")
    volume.shell("mkdir -p /data/cell-a; for n in $(seq 5); do echo order 1 > /data/cell-a/c-$n; done")
    (made,) = (await world.answered(world.request(Operation.BACKUP, cell=source))).backups
    assert abs(made.at - datetime.now(UTC)) < timedelta(minutes=5)
    restored = await world.answered(
        world.request(
            Operation.RESTORE,
            cell=source,
            target=target,
            slots=SLOTS,
            slot_count=1024,
            backup=made.id,
            not_after=made.at,
        )
    )
    assert restored == Answer(Progress.DONE, customers=Customers(expected=5, done=5), recovery_point=made.at)
    assert (await world.answered(world.request(Operation.CHECK, cell=target))).intact is True
