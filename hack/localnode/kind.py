"""A cluster of kind, for machines where a Docker engine answers. It answers to the same commands as the local node."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from . import audit, folders, gotools
from .command import Failure, run, succeeds, wait_until
from .images import full_name
from .progress import Progress

CREATE_WITHIN = 900.0
MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
PARKED = "/etc/kubernetes/kube-apiserver.yaml"


def engine_answers() -> bool:
    """Whether a Docker engine is there to be used."""
    return shutil.which("docker") is not None and succeeds(["docker", "info"], within=20)


class KindCluster:
    """The kind cluster `name`."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name = name
        self.folder = folders.clusters() / name
        self.kubeconfig = self.folder / "kubeconfig"
        self._progress = progress
        self._node = f"{name}-control-plane"

    def up(self, kubernetes: str | None) -> None:
        """Create the cluster, or start and check the one that is there. Without a version kind's own default runs."""
        kind = gotools.ensure(gotools.TOOLS["kind"], self._progress)
        if self.name in run([kind, "get", "clusters"]).split():
            run(["docker", "start", self._node], within=60)
            run([kind, "export", "kubeconfig", "--name", self.name, "--kubeconfig", self.kubeconfig])
            self.start_api_server()
        else:
            self._progress.say(f"creating the kind cluster {self.name}")
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "audit").mkdir(exist_ok=True)
            folders.write(self.folder / "audit-policy.json", json.dumps(audit.POLICY))
            folders.write(self.folder / "kind.json", json.dumps(self._config()))
            create: list[str | Path] = [
                kind,
                "create",
                "cluster",
                "--name",
                self.name,
                "--config",
                self.folder / "kind.json",
            ]
            create += ["--kubeconfig", self.kubeconfig, "--wait", "120s"]
            if kubernetes:
                create += ["--image", f"kindest/node:v{kubernetes}"]
            run(create, within=CREATE_WITHIN)
        wait_until(f"the API server of {self.name}", self._ready, within=120)
        self._progress.say(f"cluster {self.name} is up (kind)")

    def down(self) -> None:
        """Delete the cluster and its folder."""
        kind = gotools.ensure(gotools.TOOLS["kind"], self._progress)
        run([kind, "delete", "cluster", "--name", self.name], within=120)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._progress.say(f"cluster {self.name} is down")

    def status(self) -> dict[str, object]:
        """Whether the API server answers."""
        ready = self._ready()
        return {"name": self.name, "kind": "kind", "kubeconfig": str(self.kubeconfig), "ready": ready}

    def stop_api_server(self, *, hang: bool) -> None:
        """Take the API server's static pod away, or with `hang` freeze its process."""
        if hang:
            run([*self.inside(["pkill", "-STOP", "kube-apiserver"])])
        else:
            run(self.inside(["mv", MANIFEST, PARKED]))
            wait_until("the end of the API server", lambda: not self._ready(), within=60, every=0.5)

    def start_api_server(self) -> None:
        """Bring the API server back; return when it is ready."""
        back = f"if [ -e {PARKED} ]; then mv {PARKED} {MANIFEST}; fi; pkill -CONT kube-apiserver || true"
        run(self.inside(["sh", "-c", back]))
        wait_until(f"the API server of {self.name}", self._ready, within=120, every=0.5)

    def audit_log(self) -> Path:
        """Where the API server writes its audit log."""
        return self.folder / "audit" / "audit.log"

    def provide(self, tag: str, dockerfile: Path, context: Path, arguments: Sequence[str]) -> None:
        """Build the image with Docker, which caches it, and load it into the node."""
        name = full_name(tag)
        options = [word for argument in arguments for word in ("--build-arg", argument)]
        build: list[str | Path] = [
            "docker",
            "build",
            "--network",
            "host",
            "--tag",
            name,
            "--file",
            dockerfile,
            *options,
            context,
        ]
        run(build, within=1200, env={**os.environ, "DOCKER_BUILDKIT": "1"})
        kind = gotools.ensure(gotools.TOOLS["kind"], self._progress)
        run([kind, "load", "docker-image", name, "--name", self.name], within=300)

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the node."""
        return ["docker", "exec", self._node, *argv]

    def require(self) -> None:
        """Raise Failure unless the cluster was made."""
        if not self.kubeconfig.exists():
            raise Failure(f"there is no cluster {self.name}; `hack/cluster up --name {self.name}` makes it")

    def _ready(self) -> bool:
        ask = ["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "get", "--raw", "/readyz"]
        return succeeds(self.inside(ask), within=15)

    def _config(self) -> dict[str, object]:
        policy, log = "/etc/kubernetes/audit/policy.json", "/var/log/recell-audit"
        arguments = {
            "audit-policy-file": policy,
            "audit-log-path": f"{log}/audit.log",
            "audit-log-maxsize": str(audit.MEGABYTES),
            "audit-log-maxbackup": str(audit.OLDER_PARTS),
        }
        kubeadm = {
            "kind": "ClusterConfiguration",
            "apiServer": {
                "extraArgs": [{"name": name, "value": value} for name, value in arguments.items()],
                "extraVolumes": [
                    {
                        "name": "audit-policy",
                        "hostPath": policy,
                        "mountPath": policy,
                        "readOnly": True,
                        "pathType": "File",
                    },
                    {"name": "audit-log", "hostPath": log, "mountPath": log, "pathType": "Directory"},
                ],
            },
        }
        mounts = [
            {"hostPath": str(self.folder / "audit-policy.json"), "containerPath": policy, "readOnly": True},
            {"hostPath": str(self.folder / "audit"), "containerPath": log},
        ]
        node = {"role": "control-plane", "extraMounts": mounts, "kubeadmConfigPatches": [json.dumps(kubeadm)]}
        return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [node]}
