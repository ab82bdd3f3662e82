"""A cluster in memory with CloudNativePG's kinds: a test says what its controller writes next."""

from copy import deepcopy
from typing import Any

from recell.api.meta import ANNOTATION_CONTENT, LABEL_CELL, LABEL_MADE_BY
from recell.engine.errors import NotFound
from recell.providers.kube.api import Object
from recell.providers.kube.paths import CELLS, CLAIMS, CNPG_BACKUPS, CNPG_CLUSTERS, JOBS, PODS
from tests.fakes.merging import merged
from tests.unit.kube.fake_server import FakeApi, FakeServer

STORE = {
    "destinationPath": "s3://backups/shop",
    "endpointURL": "http://s3:9000",
    "s3Credentials": {"accessKeyId": {"name": "s3", "key": "id"}, "secretAccessKey": {"name": "s3", "key": "secret"}},
}
DISCOVERY = f"/apis/{CNPG_CLUSTERS.api_version}"
HEALTHY = {
    "phase": "Cluster in healthy state",
    "readyInstances": 1,
    "conditions": [{"type": "Ready", "status": "True"}],
}


class CnpgApi(FakeApi):
    """Also serves logs."""

    def __init__(self, server: FakeServer) -> None:
        super().__init__(server)
        self.logs: dict[str, str] = {}

    async def log(self, path: str, *, container: str, lines: int, most: int) -> str:
        await self._call()
        if path not in self.logs:
            raise NotFound(path)
        return self.logs[path]


class CnpgCluster:
    def __init__(self) -> None:
        self.server = FakeServer()
        self.install()

    def install(self) -> None:
        entries = [
            {"name": resource.plural, "kind": resource.kind, "namespaced": True}
            for resource in (CNPG_CLUSTERS, CNPG_BACKUPS)
        ]
        self.server.put(DISCOVERY, {"resources": entries})

    def remove_crds(self) -> None:
        self.server.remove(DISCOVERY)

    def cluster(self, name: str, *, cell: str = "", status: Object | None = None, **spec: Any) -> Object:
        """`cell`: made from a template for that one."""
        labels = {LABEL_MADE_BY: "recell", LABEL_CELL: cell} if cell else {}
        annotations = {ANNOTATION_CONTENT: "content-1"} if cell else {}
        body = {
            "apiVersion": CNPG_CLUSTERS.api_version,
            "kind": CNPG_CLUSTERS.kind,
            "metadata": {"name": name, "namespace": "fleet", "labels": labels, "annotations": annotations},
            "spec": {
                "instances": 1,
                "storage": {"size": "1Gi"},
                "backup": {"barmanObjectStore": STORE},
                "bootstrap": {"initdb": {"database": "shop", "owner": "shop", "secret": {"name": "shop-app"}}},
                **spec,
            },
            "status": HEALTHY if status is None else status,
        }
        return self.server.put(CNPG_CLUSTERS.path("fleet", name), body)

    def backup(self, name: str, *, cluster: str = "cell-a-db", **status: Any) -> Object:
        told = {
            **STORE,
            "phase": "completed",
            "method": "barmanObjectStore",
            "serverName": cluster,
            "backupId": "20260131T030000",
            "startedAt": "2026-01-31T03:00:00Z",
            "stoppedAt": "2026-01-31T03:00:10Z",
            **status,
        }
        body = {
            "metadata": {"name": name, "namespace": "fleet"},
            "spec": {"cluster": {"name": cluster}, "method": told["method"]},
            "status": told,
        }
        return self.server.put(CNPG_BACKUPS.path("fleet", name), body)

    def cell(self, name: str) -> None:
        self.server.put(CELLS.path("fleet", name), {"metadata": {"name": name, "namespace": "fleet"}})

    def says(self, path: str, **status: Any) -> None:
        """The controller writes the status."""
        live = deepcopy(self.server.objects[path])
        self.server.put(path, merged(live, {"status": status}))

    def claim(self, cluster: str) -> str:
        path = CLAIMS.path("fleet", f"{cluster}-1")
        self.server.put(
            path,
            {"metadata": {"name": f"{cluster}-1", "namespace": "fleet", "labels": {"cnpg.io/cluster": cluster}}},
        )
        return path

    def failed_recovery(self, cluster: str, number: int = 1) -> str:
        """A pod of the Job that recovers has failed."""
        name = f"{cluster}-1-full-recovery-{number}"
        labels = {"cnpg.io/cluster": cluster, "cnpg.io/jobRole": "full-recovery"}
        end = {"exitCode": 1, "reason": "Error", "finishedAt": f"2026-01-31T12:00:0{number}Z"}
        body = {
            "metadata": {"name": name, "namespace": "fleet", "labels": labels},
            "status": {
                "phase": "Failed",
                "containerStatuses": [{"name": "full-recovery", "state": {"terminated": end}}],
            },
        }
        self.server.put(PODS.path("fleet", name), body)
        return PODS.path("fleet", name, "log")

    def recovery_job(self, cluster: str, *, failed: bool) -> None:
        name = f"{cluster}-1-full-recovery"
        labels = {"cnpg.io/cluster": cluster, "cnpg.io/jobRole": "full-recovery"}
        conditions = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}] if failed else []
        metadata = {"name": name, "namespace": "fleet", "labels": labels}
        self.server.put(JOBS.path("fleet", name), {"metadata": metadata, "status": {"conditions": conditions}})
