"""A cluster in memory in which Jobs run: what the Job controller and a kubelet write, second by second.

The work itself is a `Program`: asked each second how far it is, and told to stop when its pod is deleted.
"""

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from recell.api.meta import timestamp
from recell.engine.errors import BadInput, Conflict, NotFound
from recell.providers.kube.api import Listing, Object, WatchEvent
from recell.providers.kube.paths import CRON_JOBS, JOBS, PODS, parse
from tests.unit.kube.fake_server import FakeApi, FakeServer

TERMINATING = 2.0
"""Seconds from the deletion of a Job in the foreground until it and its pods are gone."""


class Now(Protocol):
    def now(self) -> datetime: ...


@dataclass(frozen=True)
class Exited:
    code: int
    said: str = ""
    """Its termination message."""


class Program(Protocol):
    async def work(self, environment: Mapping[str, str], log: list[str]) -> Exited | None:
        """None while it is at work."""
        ...

    async def stop(self, environment: Mapping[str, str]) -> None: ...


class JobApi(FakeApi):
    """Also selects by labels, deletes, stamps what is made, and serves logs."""

    def __init__(self, cluster: "JobCluster") -> None:
        super().__init__(cluster.server)
        self.cluster = cluster
        self.logs_read = 0

    async def list(self, path: str, *, labels: str = "", fields: str = "") -> Listing:
        found = await super().list(path)
        return Listing([obj for obj in found.items if _selected(obj, labels)], found.resource_version)

    async def create(self, path: str, body: Object) -> Object:
        now = timestamp(self.cluster.clock.now())
        return await super().create(path, body | {"metadata": body["metadata"] | {"creationTimestamp": now}})

    async def log(self, path: str, *, container: str, lines: int, most: int) -> str:
        await self._call()
        self.logs_read += 1
        pod = path.removesuffix("/log")
        if pod not in self.server.objects:
            raise NotFound(path)
        if self.server.objects[pod]["status"]["phase"] == "Pending":
            raise BadInput(f"container {container} is waiting to start")
        return "\n".join(self.cluster.logs.get(pod, [])[-lines:])[-most:]

    async def delete(self, path: str, *, uid: str | None = None, propagation: str = "Background") -> Object:
        await self._call()
        self._may_write("delete", path)
        found = self.server.objects.get(path)
        if found is None:
            raise NotFound(path)
        if uid is not None and found["metadata"]["uid"] != uid:
            raise Conflict(path)
        assert propagation == "Foreground", "the pods would outlive it"
        found = copy.deepcopy(found)
        found["metadata"].setdefault("deletionTimestamp", timestamp(self.cluster.clock.now()))
        return self.server.put(path, found)

    @asynccontextmanager
    async def watch(
        self, path: str, *, params: Mapping[str, str], labels: str = "", **more: Any
    ) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        async def selected(batches: AsyncIterator[Sequence[WatchEvent]]) -> AsyncIterator[Sequence[WatchEvent]]:
            async for batch in batches:
                yield [e for e in batch if e.type == "BOOKMARK" or _selected(e.object, labels)]

        async with super().watch(path, params=params) as batches:
            yield selected(batches)


class JobCluster:
    def __init__(self, clock: Now, program: Program) -> None:
        self.clock = clock
        self.program = program
        self.server = FakeServer()
        self.logs: dict[str, list[str]] = {}
        self.waiting: dict[str, str] = {}
        """Jobs whose pods cannot start, and the reason for which their container waits."""

    def cron_job(self, namespace: str, name: str, **job: Any) -> None:
        container = {"name": "main", "image": "tool"}
        spec = {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}} | job
        body = {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"suspend": True, "jobTemplate": {"spec": spec}},
        }
        self.server.put(CRON_JOBS.path(namespace, name), body)

    def jobs(self) -> list[Object]:
        return [obj for path, obj in self.server.objects.items() if parse(path).resource == "jobs"]

    def pods_of(self, job: Object) -> dict[str, Object]:
        return {
            path: obj
            for path, obj in self.server.objects.items()
            if parse(path).resource == "pods" and _selected(obj, f"batch.kubernetes.io/controller-uid={_uid(job)}")
        }

    async def second(self) -> None:
        """What happens in one second."""
        for job in self.jobs():
            if "deletionTimestamp" in job["metadata"]:
                await self._delete(job)
            elif not (job.get("status") or {}).get("conditions"):
                await self._run(copy.deepcopy(job))

    async def _delete(self, job: Object) -> None:
        for pod in self.pods_of(job).values():
            if pod["status"]["phase"] in ("Pending", "Running"):
                await self.program.stop(_environment(job))
        since = datetime.fromisoformat(job["metadata"]["deletionTimestamp"])
        if (self.clock.now() - since).total_seconds() >= TERMINATING:
            for path in self.pods_of(job):
                self.server.remove(path)
            self.server.remove(_path(job))

    async def _run(self, job: Object) -> None:
        status = job.setdefault("status", {})
        metadata = job["metadata"]
        alive = {p: o for p, o in self.pods_of(job).items() if o["status"]["phase"] in ("Pending", "Running")}
        if not alive:
            name = f"{metadata['name']}-{status.get('failed', 0)}"
            labels = {"batch.kubernetes.io/job-name": metadata["name"], "batch.kubernetes.io/controller-uid": _uid(job)}
            labels |= job["spec"]["template"]["metadata"]["labels"]
            pod = {
                "metadata": {"name": name, "namespace": metadata["namespace"], "labels": labels},
                "status": {"phase": "Pending"},
            }
            self.server.put(PODS.path(metadata["namespace"], name), pod)
            status["active"] = 1
            self.server.put(_path(job), job)
            return
        path, pod = next(iter(alive.items()))
        pod = copy.deepcopy(pod)
        if reason := self.waiting.get(metadata["name"]):
            pod["status"]["containerStatuses"] = [{"name": "main", "state": {"waiting": {"reason": reason}}}]
            self.server.put(path, pod)
            return
        exited = await self.program.work(_environment(job), self.logs.setdefault(path, []))
        if exited is None:
            if pod["status"]["phase"] != "Running":
                pod["status"] = {"phase": "Running"}
                self.server.put(path, pod)
            return
        self._end(job, path, pod, exited)

    def _end(self, job: Object, path: str, pod: Object, exited: Exited) -> None:
        end = {"exitCode": exited.code, "message": exited.said, "finishedAt": timestamp(self.clock.now())}
        pod["status"] = {
            "phase": "Failed" if exited.code else "Succeeded",
            "containerStatuses": [{"name": "main", "state": {"terminated": end}}],
        }
        self.server.put(path, pod)
        status = job["status"]
        status["active"] = 0
        if not exited.code:
            status["conditions"] = [{"type": "Complete", "status": "True", "reason": "CompletionsReached"}]
        else:
            status["failed"] = status.get("failed", 0) + 1
            if status["failed"] > job["spec"]["backoffLimit"]:
                text = "Job has reached the specified backoff limit"
                reason = "BackoffLimitExceeded"
                status["conditions"] = [{"type": "Failed", "status": "True", "reason": reason, "message": text}]
        self.server.put(_path(job), job)


def _path(job: Object) -> str:
    return JOBS.path(job["metadata"]["namespace"], job["metadata"]["name"])


def _uid(job: Object) -> str:
    return str(job["metadata"]["uid"])


def _environment(job: Object) -> dict[str, str]:
    container = job["spec"]["template"]["spec"]["containers"][0]
    return {variable["name"]: variable["value"] for variable in container["env"]}


def _selected(obj: Object, labels: str) -> bool:
    own = obj["metadata"].get("labels") or {}
    return all(own.get(name) == value for name, _, value in (term.partition("=") for term in labels.split(",") if term))
