"""The stage for tests with the real Velero: a cluster with volumes and snapshots, its server, and an object store.

Promises: every function may be repeated. Server, plugin and store are compiled at pinned versions, and run as processes
of this machine while `server` lasts; the CRDs are its authors' own, out of the module that it is compiled from.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hack.localnode import versions
from hack.stage import IMAGES, ROOT, Stage
from tests.fakes.ports import free_port

VELERO = "velero"
"""Namespace of the server."""
BUCKET = "backups"
LOCATION = "default"
STORAGE_SECONDS = 20 * 60
"""The first time it is compiled."""
AVAILABLE_SECONDS = 90
SHELL_IMAGE = "recell/shop-load:dev"

Object = dict[str, Any]


class VeleroStage:
    def __init__(self, cluster: str, say: Callable[[str], None]) -> None:
        self.stage = Stage(cluster, say)
        self._say = say

    @property
    def kubeconfig(self) -> Path:
        return Path(self.stage.kubeconfig)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.stage.kubectl(*arguments, stdin=stdin)

    def up(self) -> None:
        self.stage.up()
        self._say("volumes with snapshots")
        self.stage.hack_cluster("storage", within=STORAGE_SECONDS)
        file, context = IMAGES[SHELL_IMAGE]
        where = ("--file", str(ROOT / file), "--context", str(ROOT / context))
        self.stage.hack_cluster("build-image", "--tag", SHELL_IMAGE, *where)
        self._say("CRDs and Velero's namespace")
        for folder in (ROOT / "crds", *self._crds()):
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder))
        self.stage.apply(yaml.safe_dump_all(self._objects()))

    def program(self, name: str) -> Path:
        """Path of one that hack/tools compiles, unless it is there."""
        self._say(f"program {name}")
        made = subprocess.run(
            [sys.executable, str(ROOT / "hack" / "tools"), name], check=True, stdout=subprocess.PIPE, text=True
        )
        return Path(made.stdout.strip().splitlines()[-1])

    @staticmethod
    def _crds() -> list[Path]:
        module = f"github.com/vmware-tanzu/velero@v{versions.VELERO}"
        told = subprocess.run(
            ["go", "mod", "download", "-json", module], check=True, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        folder = Path(json.loads(told.stdout)["Dir"]) / "config" / "crd"
        return [folder / version / "bases" for version in ("v1", "v2alpha1")]

    @staticmethod
    def _objects() -> list[Object]:
        labels = {"app": VELERO}
        pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": VELERO, "image": VELERO}]}}
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": VELERO}},
            # Without an object of this name every Restore ends PartiallyFailed; the server itself runs elsewhere.
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": VELERO, "namespace": VELERO},
                "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod},
            },
        ]

    def locate(self, port: int, name: str = LOCATION) -> None:
        """A BackupStorageLocation at this port."""
        config = {"region": "local", "s3ForcePathStyle": "true", "s3Url": f"http://127.0.0.1:{port}"}
        body = {
            "apiVersion": "velero.io/v1",
            "kind": "BackupStorageLocation",
            "metadata": {"name": name, "namespace": VELERO},
            "spec": {
                "provider": "aws",
                "default": name == LOCATION,
                "objectStorage": {"bucket": BUCKET},
                "config": config,
            },
        }
        self.stage.apply(yaml.safe_dump(body))

    @contextmanager
    def server(self, folder: Path) -> Iterator[None]:
        """Velero's server with an object store of its own, until the end of the block; logs are in `folder`."""
        velero, plugin, store = (self.program(name) for name in ("velero", "velero-plugin-for-aws", "gofakes3"))
        plugins = folder / "plugins"
        plugins.mkdir(exist_ok=True)
        shutil.copy(plugin, plugins)
        port = free_port()
        serve = [str(store), "-backend", "memory", "-initialbucket", BUCKET, "-host", f"127.0.0.1:{port}"]
        command = [str(velero), "server", "--kubeconfig", str(self.kubeconfig), "--namespace", VELERO]
        command += ["--plugin-dir", str(plugins), "--features", "EnableCSI", "--item-operation-sync-frequency", "1s"]
        command += ["--metrics-address", f"127.0.0.1:{free_port()}", "--profiler-address", f"127.0.0.1:{free_port()}"]
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-only"}
        with _running(serve, folder / "store.log"):
            self.locate(port)
            with _running(command, folder / "velero.log", environment):
                wait = ("--for=jsonpath={.status.phase}=Available", f"--timeout={AVAILABLE_SECONDS}s")
                where = f"backupstoragelocations.velero.io/{LOCATION}"
                self.stage.kubectl("-n", VELERO, "wait", where, *wait, within=AVAILABLE_SECONDS + 20)
                yield

    def forget_all(self) -> None:
        """No Backup or Restore of an earlier process, whose store is gone with it."""
        for kind in ("schedules", "restores", "backups", "backupstoragelocations"):
            self.kubectl("-n", VELERO, "delete", f"{kind}.velero.io", "--all", "--timeout=60s")

    def velero(self, *arguments: str) -> None:
        """Its command line."""
        where = ("--kubeconfig", str(self.kubeconfig), "--namespace", VELERO)
        command = [str(self.program("velero")), *arguments, *where]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)

    def delete_backups(self) -> None:
        """Also from the object store, from where the server would bring them back."""
        for kind in ("restore", "backup"):
            self.velero(kind, "delete", "--all", "--confirm")
        for kind in ("restores.velero.io", "backups.velero.io"):
            self.stage.eventually(
                f"no {kind} is left",
                lambda kind=kind: not self.kubectl("-n", VELERO, "get", kind, "-o", "name"),
                within=90,
            )


@contextmanager
def _running(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("w") as told:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told, env=environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
