"""Envoy Gateway as a process of this machine, with an Envoy process for each Gateway: Kubernetes tells it what to do,
and the host is its infrastructure, which is a way of running that it knows by itself.

It reads its certificates from /certs whatever it is told, so it runs in a root folder of its own (chroot: root only).
"""

import contextlib
import os
import shutil
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import yaml

from recell.providers.kube.paths import Resource
from tests.fakes.ports import free_port
from tests.gateway.cluster import CLASSES, GatewayCluster
from tests.gateway.process import LoggedProcess
from tests.router.rig.pod import eventually

PROXIES = Resource("gateway.envoyproxy.io", "v1alpha1", "envoyproxies", "EnvoyProxy")
LIBRARIES = ("libm.so.6", "librt.so.1", "libdl.so.2", "libpthread.so.0", "libc.so.6")


class EnvoyGateway:
    """The control plane; it starts and stops the Envoys."""

    def __init__(self, cluster: GatewayCluster, program: Path, envoy: Path, version: str, folder: Path) -> None:
        self.process: LoggedProcess | None = None
        self.version = version
        self._cluster = cluster
        self._program, self._envoy = program, envoy
        self._root = folder

    @property
    def controller(self) -> str:
        return f"gateway.envoyproxy.io/{self._cluster.namespace}"

    async def __aenter__(self) -> "EnvoyGateway":
        self._furnish()
        await self._cluster.put(CLASSES, self._cluster.namespace, {"spec": {"controllerName": self.controller}})
        # Secrets for what it translates, files for what runs on this machine.
        for where in (("--disable-topology-injector",), ("--local", "--config-home", "/home")):
            certificates = await self._run("certgen", *where)
            assert await certificates.end() == 0, certificates.words
        (self._root / "certs").symlink_to("home/certs/envoy-gateway")
        self.process = await self._run("server", "--config-path", "/config.yaml")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        await self.process.stop(10)
        for pid in self.proxies().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.process.end()

    def proxies(self) -> dict[str, int]:
        """Process of each Envoy, by its Gateway."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                if b"--service-cluster" in words and Path(f"{entry}/root").resolve() == self._root:
                    cluster = words[words.index(b"--service-cluster") + 1].decode()
                    found[cluster.rpartition("/")[2]] = int(entry.name)
        return found

    def _furnish(self) -> None:
        root = self._root
        versions = root / "home" / "data" / "envoy-versions" / self.version / "bin"
        libraries = root / "lib" / "x86_64-linux-gnu"
        for folder in (versions, libraries, root / "tmp", root / "lib64", root / "etc", root / "dev"):
            folder.mkdir(parents=True)
        os.mknod(root / "dev" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        shutil.copy(self._program, root / "envoy-gateway")
        shutil.copy(self._envoy, versions / "envoy")
        shutil.copy("/lib64/ld-linux-x86-64.so.2", root / "lib64")
        for name in LIBRARIES:
            shutil.copy(f"/lib/x86_64-linux-gnu/{name}", libraries)
        for name in ("passwd", "group", "resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", root / "etc")
        shutil.copy(self._cluster.kubeconfig, root / "kubeconfig")
        home = {"configHome": "/home", "dataHome": "/home/data", "stateHome": "/home/state", "runtimeDir": "/tmp/run"}
        settings: dict[str, Any] = {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyGateway",
            "gateway": {"controllerName": self.controller},
            "provider": {
                "type": "Custom",
                "kubernetes": {
                    "leaderElection": {"disable": True},
                    "watch": {"type": "Namespaces", "namespaces": [self._cluster.namespace]},
                },
                "custom": {
                    "resource": {"type": "Kubernetes"},
                    "infrastructure": {"type": "Host", "host": home},
                },
            },
        }
        (root / "config.yaml").write_text(yaml.safe_dump(settings))

    async def _run(self, *arguments: str) -> LoggedProcess:
        return await LoggedProcess.start(
            *("/usr/sbin/chroot", str(self._root), "/envoy-gateway", *arguments),
            env={
                "PATH": "/",
                "HOME": "/home",
                "KUBECONFIG": "/kubeconfig",
                "GOMAXPROCS": "1",
                "ENVOY_GATEWAY_NAMESPACE": self._cluster.namespace,
            },
        )


class Envoy:
    """A Gateway with an Envoy of its own, and a pod that stands for it."""

    def __init__(
        self, cluster: GatewayCluster, control: EnvoyGateway, name: str, *, number: int, metrics_port: int
    ) -> None:
        self.name = name
        self.port = free_port()
        self.metrics = (f"127.0.0.{number}", metrics_port)
        self.figures = {"type": "EnvoyGateway", "podSelector": {"app": "proxy"}, "port": metrics_port}
        self._cluster, self._control = cluster, control

    async def __aenter__(self) -> "Envoy":
        place = "/admin/address/socket_address"
        patches = [
            {"op": "replace", "path": f"{place}/address", "value": self.metrics[0]},
            {"op": "replace", "path": f"{place}/port_value", "value": self.metrics[1]},
        ]
        spec = {
            "provider": {"type": "Host", "host": {"envoyVersion": self._control.version}},
            "bootstrap": {"type": "JSONPatch", "jsonPatches": patches},
            "concurrency": 1,
            "extraArgs": ["--disable-hot-restart"],
        }
        await self._cluster.put(PROXIES, self.name, {"spec": spec})
        await self.listen(True)
        await self._cluster.pod(self.name, self.metrics[0], {"app": "proxy"})
        try:
            await eventually(self._answers, within=60, what=f"Envoy {self.name} listens")
        except AssertionError:
            print(self._process.words[-8000:])
            raise
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def signal(self, number: signal.Signals) -> None:
        for name, pid in self._control.proxies().items():
            if name == self.name:
                os.kill(pid, number)

    async def listen(self, routes: bool) -> None:
        reference = {"group": PROXIES.group, "kind": PROXIES.kind, "name": self.name}
        await self._cluster.gateway(
            self.name,
            self._cluster.namespace,
            self.port,
            routes=routes,
            infrastructure={"parametersRef": reference},
            addresses=[{"type": "IPAddress", "value": "127.0.0.1"}],  # no Service of its own says where it listens
        )

    async def ready(self, ready: bool) -> None:
        await self._cluster.pod(self.name, self.metrics[0], {"app": "proxy"}, ready=ready)

    @property
    def _process(self) -> LoggedProcess:
        assert self._control.process is not None
        return self._control.process

    def _answers(self) -> bool:
        assert self._process.runs, self._process.words[-4000:]
        with socket.socket() as probe:
            return probe.connect_ex(self.metrics) == 0
