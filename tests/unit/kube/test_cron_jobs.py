"""A CronJob held at zero, with its Jobs and their pods, on an API server in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from recell.api.meta import ANNOTATION_STOP, ANNOTATION_SUSPEND, LABEL_CELL, LABEL_DATA_JOB
from recell.domain.observation import WorkloadPhase
from recell.engine.errors import BadInput, Conflict, Forbidden, Reverted
from recell.providers.kube import cron_jobs
from recell.providers.kube.api import Object
from recell.providers.kube.paths import CRON_JOBS, JOBS, PODS
from recell.providers.kube.remains import CellRemains
from tests.fakes.eventually import eventually
from tests.unit.kube.test_scaling import LATER, TOKEN, Scene, wrote

NIGHTLY = CRON_JOBS.path("fleet", "nightly")
COMPLETE, FAILED, SUSPENDED = (
    {"conditions": [{"type": type, "status": "True"}]} for type in ("Complete", "Failed", "Suspended")
)


class Nightly(Scene):
    """Cell `a` with the CronJob `nightly`, which has one Job under way."""

    def __init__(self) -> None:
        super().__init__(("CronJob", "nightly"))
        pod = {"metadata": {"labels": {"app": "nightly"}}}
        spec = {"schedule": "@daily", "jobTemplate": {"spec": {"template": pod}}}
        metadata = {
            "name": "nightly", "namespace": "fleet", "uid": "n", "generation": 1, "labels": {LABEL_CELL: "a"},
        }  # fmt: skip
        self.server.put(NIGHTLY, {"kind": "CronJob", "metadata": metadata, "spec": spec})
        self.job = self.make_job("nightly-101")

    def make_job(self, name: str, *, owner: str = "n", status: Object | None = None, **spec: Any) -> str:
        path = JOBS.path("fleet", name)
        metadata: Object = {"name": name, "namespace": "fleet"}
        if owner:
            metadata["ownerReferences"] = [{"kind": "CronJob", "name": "nightly", "uid": owner}]
        self.server.put(path, {"metadata": metadata, "spec": spec, "status": status or {}})
        return path

    def pod(self, name: str, job: str, phase: str = "Running") -> str:
        path = PODS.path("fleet", name)
        metadata = {"name": name, "namespace": "fleet", "labels": {cron_jobs.JOB_NAME: job}}
        self.server.put(path, {"metadata": metadata, "status": {"phase": phase}})
        return path

    async def start(self) -> None:
        """The Cell is known, as after its first reconcile."""
        await super().start()
        await self.workloads.ensure_labels(self.cell)

    async def back(self, token: str = TOKEN) -> None:
        await self.workloads.scale_back(self.cell, self.ref, token)

    def suspended(self, path: str) -> bool | None:
        found: bool | None = self.server.objects[path]["spec"].get("suspend")
        return found

    def annotations(self, path: str) -> dict[str, str]:
        found: dict[str, str] = self.server.objects[path]["metadata"].get("annotations") or {}
        return found


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nightly]:
    monkeypatch.setattr(cron_jobs, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(cron_jobs, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(cron_jobs, "SETTLED", 0.0)
    made = Nightly()
    yield made
    await made.workloads.stop()


# Suspending


async def test_it_is_suspended_before_its_jobs_and_each_once_per_token(scene: Nightly) -> None:
    for _ in range(3):
        await scene.hold()
    assert scene.server.writes == [("patch", NIGHTLY), ("patch", scene.job)]
    for path in (NIGHTLY, scene.job):
        assert scene.suspended(path) is True
        assert scene.annotations(path) == {ANNOTATION_STOP: TOKEN, ANNOTATION_SUSPEND: "false"}


async def test_only_its_own_jobs_that_are_under_way_are_suspended(scene: Nightly) -> None:
    for number, status in enumerate((COMPLETE, FAILED)):
        scene.make_job(f"nightly-9{number}", status=status)
    scene.make_job("nightly-of-another", owner="another")
    scene.make_job("data-job", owner="")
    await scene.hold()
    assert scene.server.writes == [("patch", NIGHTLY), ("patch", scene.job)]


async def test_a_job_that_came_late_is_suspended_at_the_next_look(scene: Nightly) -> None:
    await scene.hold()
    late = scene.make_job("nightly-102")
    await scene.hold()
    assert scene.suspended(late) is True


async def test_it_comes_back_with_its_jobs_as_it_was(scene: Nightly) -> None:
    await scene.hold()
    scene.server.writes.clear()
    for _ in range(2):
        await scene.back()
    assert scene.server.writes == [("patch", scene.job), ("patch", NIGHTLY)], "a crash in between is made up for"
    for path in (NIGHTLY, scene.job):
        assert (scene.suspended(path), scene.annotations(path)) == (False, {})


async def test_what_was_suspended_before_stays_so_on_the_way_back(scene: Nightly) -> None:
    by_hand = scene.make_job("nightly-100", suspend=True)
    scene.server.change(NIGHTLY, spec=scene.server.objects[NIGHTLY]["spec"] | {"suspend": True})
    await scene.hold()
    await scene.hold(LATER)
    await scene.back(LATER)
    assert [scene.suspended(path) for path in (NIGHTLY, by_hand, scene.job)] == [True, True, False]
    assert not any(map(scene.annotations, (NIGHTLY, by_hand, scene.job)))


async def test_another_hold_is_left_alone(scene: Nightly) -> None:
    await scene.hold(LATER)
    await scene.back()
    assert (scene.suspended(NIGHTLY), scene.suspended(scene.job)) == (True, True)


@pytest.mark.parametrize("which", ["CronJob fleet/nightly", "Job fleet/nightly-101"])
async def test_resumed_twice_is_given_up_and_says_by_whom(scene: Nightly, which: str) -> None:
    path = NIGHTLY if which.startswith("CronJob") else scene.job
    await resumed_twice(scene, path)
    with pytest.raises(Reverted, match=f"{which}: suspending it was reverted twice, last by kueue: .*spec.suspend"):
        await scene.hold()


async def test_a_job_that_somebody_resumes_keeps_no_other_from_being_stopped(scene: Nightly) -> None:
    await resumed_twice(scene, scene.job)
    late = scene.make_job("nightly-102")
    with pytest.raises(Reverted):
        await scene.hold()
    assert scene.suspended(late) is True


async def resumed_twice(scene: Nightly, path: str) -> None:
    for _ in range(2):
        await scene.hold()
        live = scene.server.objects[path]
        metadata = live["metadata"] | {"managedFields": [wrote("kueue", "suspend")]}
        scene.server.change(path, metadata=metadata, spec=live["spec"] | {"suspend": False})


async def test_it_is_not_restarted(scene: Nightly) -> None:
    with pytest.raises(BadInput, match="its next Job starts anew"):
        await scene.workloads.restart(scene.cell, scene.ref, TOKEN)


# Seen at zero


async def test_at_zero_is_seen_when_no_pod_of_its_jobs_is_left(scene: Nightly) -> None:
    first = scene.pod("nightly-101-x", "nightly-101")
    orphan = scene.pod("nightly-99-x", "nightly-99")  # its Job is gone
    scene.pod("nightly-101-y", "nightly-101", phase="Succeeded")
    scene.pod("other-1-x", "other-1")
    await scene.start()
    assert (scene.state.phase, scene.state.pods) == (WorkloadPhase.CURRENT, None)
    await scene.hold()
    await eventually(lambda: scene.state.pods == 2, "its pods are looked for")
    scene.server.remove(orphan)
    await eventually(lambda: scene.state.pods == 1, "one still ends")
    scene.server.remove(first)
    await eventually(lambda: scene.state.pods is None, "its Job's controller may not have seen it yet")
    scene.told.clear()
    scene.server.change(scene.job, status=SUSPENDED)
    await eventually(lambda: scene.state.at_zero, "none is left")
    assert scene.cell.key in scene.told
    calls = scene.api.calls
    await asyncio.sleep(0.1)
    assert scene.api.calls == calls, "and nobody looks any more"
    metadata = scene.server.objects[NIGHTLY]["metadata"] | {"generation": 2}
    scene.server.change(NIGHTLY, metadata=metadata, spec=scene.server.objects[NIGHTLY]["spec"] | {"suspend": False})
    await eventually(lambda: not scene.state.at_zero, "somebody resumed it")


async def test_a_process_that_takes_over_sees_it_too(scene: Nightly) -> None:
    await scene.hold()
    scene.server.change(scene.job, status=SUSPENDED)
    successor = Nightly.__new__(Nightly)
    Scene.__init__(successor, ("CronJob", "nightly"), server=scene.server)
    await successor.start()
    try:
        await eventually(lambda: successor.state.at_zero, "none is left")
    finally:
        await successor.workloads.stop()


async def test_none_is_believed_only_after_its_controller_had_time(
    scene: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CronJob does not say what its controller has seen: it may make one more Job."""
    monkeypatch.setattr(cron_jobs, "SETTLED", 60.0)
    scene.server.remove(scene.job)
    await scene.start()
    await scene.hold()
    await asyncio.sleep(0.1)
    assert (scene.state.pods, scene.state.at_zero) == (None, False)
    scene.clock.late = 61.0
    await eventually(lambda: scene.state.at_zero, "it had time")


async def test_pods_that_cannot_be_read_are_not_known(scene: Nightly) -> None:
    await scene.start()
    await scene.hold()
    scene.server.change(scene.job, status=SUSPENDED)
    scene.api.broken = Forbidden("list jobs.batch: permission missing")
    await asyncio.sleep(0.1)
    assert not scene.state.at_zero
    scene.api.broken = None
    await eventually(lambda: scene.state.at_zero, "they can be read again")


# Watching


async def test_cron_jobs_are_watched_from_when_a_cell_names_one(scene: Nightly) -> None:
    watched = CRON_JOBS.collection("fleet")
    plain = Scene(("Deployment", "web"), server=scene.server)
    plain.server.workload("Deployment", "web")
    await plain.start()
    await plain.workloads.ensure_labels(plain.cell)
    assert watched not in [collection for collection, _ in scene.server.watched()]
    await plain.workloads.stop()
    await scene.start()
    await eventually(lambda: (watched, LABEL_CELL) in scene.server.watched(), "by its label")
    assert scene.workloads.synced, "nobody waits for it"


# What remains


@pytest.mark.parametrize(
    ("suspend", "phase", "told"),
    [
        (True, None, ""),
        (True, "Succeeded", ""),
        (True, "Running", "has pods"),
        (False, None, "is not suspended"),
    ],
)
async def test_what_runs_is_not_deleted(scene: Nightly, suspend: bool, phase: str | None, told: str) -> None:
    scene.server.change(NIGHTLY, spec=scene.server.objects[NIGHTLY]["spec"] | {"suspend": suspend})
    if phase is not None:
        scene.pod("nightly-101-x", "nightly-101", phase=phase)
    remains = CellRemains(scene.api, scene.store, scene.workloads.consent)
    if told:
        with pytest.raises(Conflict, match=f"CronJob fleet/nightly {told}"):
            await remains.workloads(scene.cell)
    else:
        assert [found["metadata"]["name"] for found in await remains.workloads(scene.cell)] == ["nightly"]


# What selects its pods


def test_a_policy_selects_the_pods_of_its_jobs_but_no_data_job() -> None:
    def selector(labels: Object | None) -> Any:
        template: Object = {} if labels is None else {"metadata": {"labels": labels}}
        return cron_jobs.pod_selector({"spec": {"jobTemplate": {"spec": {"template": template}}}})

    found = selector({"app": "nightly"})
    assert found["matchLabels"] == {"app": "nightly"}
    assert {(term["key"], term["operator"]) for term in found["matchExpressions"]} == {
        (cron_jobs.JOB_NAME, "Exists"),
        (LABEL_DATA_JOB, "DoesNotExist"),
    }
    assert selector(None) is None, "it would select every Job's pods"
