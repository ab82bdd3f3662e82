"""What stands around an implementation of the Gateway API in a test: cells behind Services, Gateways, and Traefik."""

import base64
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from recell.api import Cell
from recell.providers.kube.api import Api
from recell.providers.kube.paths import (
    ENDPOINT_SLICES,
    GATEWAYS,
    HTTP_ROUTES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)
from recell.providers.routing.gateway.turn_away import service_name
from tests.fakes.ports import free_port
from tests.gateway.process import LoggedProcess
from tests.router.rig.cells import HttpCell
from tests.router.rig.pod import eventually
from tests.router.rig.turn_away import TurnAwayPod

Object = dict[str, Any]

CLASSES = Resource("gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", namespaced=False)
GRANTS = Resource("gateway.networking.k8s.io", "v1beta1", "referencegrants", "ReferenceGrant")
BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
LABEL = "recell.dev/test"


class GatewayCluster:
    """Objects in one namespace of a real API server; what it made outside of it goes at the end."""

    api: Api

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.cells: dict[str, HttpCell] = {}
        self._cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        self._files = contextlib.ExitStack()
        self._processes = contextlib.AsyncExitStack()
        self._outside: list[str] = []

    async def __aenter__(self) -> "GatewayCluster":
        self.api = await Api.connect(str(self.kubeconfig))
        return self

    async def __aexit__(self, *_: object) -> None:
        for cell in self.cells.values():
            cell.hung = False
            await cell.stop()
        await self._processes.aclose()
        for path in dict.fromkeys(self._outside):
            await self.api.delete(path)
        await self.api.close()
        self._files.close()

    @property
    def server(self) -> str:
        return str(self._cluster["server"])

    @property
    def authority(self) -> str:
        """The API server's certificate authority, as a file."""
        if "certificate-authority" in self._cluster:
            return str(self._cluster["certificate-authority"])
        file = Path(self._files.enter_context(tempfile.TemporaryDirectory())) / "ca.crt"
        file.write_bytes(base64.b64decode(self._cluster["certificate-authority-data"]))
        return str(file)

    @property
    def address(self) -> str:
        """Of this machine, as the API server's machine sees it; an EndpointSlice takes no loopback address."""
        where = urlsplit(self.server)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((where.hostname, where.port))
            return str(probe.getsockname()[0])

    async def token(self) -> str:
        """Of an account that may do everything: what an implementation needs of its rights is not tried here."""
        name = f"{self.namespace}-implementation"
        metadata = {"name": "implementation", "namespace": self.namespace}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
        await self.api.apply(SERVICE_ACCOUNTS.path(self.namespace, "implementation"), account)
        binding = {
            "apiVersion": BINDINGS.api_version,
            "kind": BINDINGS.kind,
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "implementation", "namespace": self.namespace}],
        }
        await self.api.apply(BINDINGS.path("", name), binding)
        self._outside.append(BINDINGS.path("", name))
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        answer = await self.api.create(SERVICE_ACCOUNTS.path(self.namespace, "implementation", "token"), asked)
        return str(answer["status"]["token"])

    async def put(self, resource: Resource, name: str, spec: Object, *, namespace: str = "", **metadata: Any) -> Object:
        place = namespace or self.namespace
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, **({"namespace": place} if resource.namespaced else {}), **metadata},
            **spec,
        }
        answer = await self.api.apply(resource.path(place, name), body)
        if not resource.namespaced:
            self._outside.append(resource.path(place, name))
        return answer

    async def cell(self, name: str, *, namespace: str = "") -> Cell:
        """A real HTTP server behind a Service of this name."""
        served = self.cells[name] = await HttpCell(name, self.address).start()
        await self._served(name, served.port, namespace=namespace)
        return cell_of(name, self.namespace, namespace)

    async def _served(self, name: str, target: int, *, namespace: str = "") -> None:
        """A Service in front of this port of this machine."""
        port = {"name": "http", "port": 80, "protocol": "TCP"}
        await self.put(SERVICES, name, {"spec": {"ports": [port]}}, namespace=namespace)
        slices = {
            "addressType": "IPv4",
            "endpoints": [{"addresses": [self.address], "conditions": {"ready": True}}],
            "ports": [port | {"port": target}],
        }
        labels = {"kubernetes.io/service-name": name}
        await self.put(ENDPOINT_SLICES, f"{name}-1", slices, namespace=namespace, labels=labels)

    async def turn_away(self, router: str = "shop") -> TurnAwayPod:
        """What answers in place of the cells, behind its Services, as a process of this machine."""
        pod = await self._processes.enter_async_context(TurnAwayPod(self.address))
        for reason, port in pod.ports.items():
            await self._served(service_name(router, reason), port)
        return pod

    async def gateway(self, name: str, gateway_class: str, port: int, *, routes: bool = True, **spec: Any) -> None:
        """With one listener for HTTP, which takes up routes of every namespace or of none."""
        allowed = {"from": "All"} if routes else {"from": "Selector", "selector": {"matchLabels": {"no": "such"}}}
        listener = {"name": "web", "port": port, "protocol": "HTTP", "allowedRoutes": {"namespaces": allowed}}
        await self.put(GATEWAYS, name, {"spec": {"gatewayClassName": gateway_class, "listeners": [listener], **spec}})

    async def pod(self, name: str, ip: str, labels: Mapping[str, str], *, ready: bool = True) -> None:
        """A process of this machine, as a pod that no scheduler places."""
        container = {"name": "proxy", "image": "none", "imagePullPolicy": "Never"}
        spec = {"spec": {"schedulerName": "nobody", "containers": [container]}}
        if not await self._has(PODS, name):
            await self.put(PODS, name, spec, labels=dict(labels))
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        await self.api.merge_patch(PODS.status(self.namespace, name), {"status": status})

    async def _has(self, resource: Resource, name: str) -> bool:
        listing = await self.api.list(resource.collection(self.namespace), fields=f"metadata.name={name}")
        return bool(listing.items)

    async def route(self, name: str = "shop") -> Object:
        return await self.api.get(HTTP_ROUTES.path(self.namespace, name))


def cell_of(name: str, fleet: str, namespace: str = "") -> Cell:
    backend = {"type": "Service", "service": {"name": name, "port": 80}}
    spec = {"routerRef": {"name": "shop"}, "backend": backend, **({"namespace": namespace} if namespace else {})}
    metadata = {"name": name, "namespace": fleet, "uid": f"uid-{name}"}
    return Cell.model_validate({"metadata": metadata, "spec": spec})


class Traefik:
    """A Traefik process with a GatewayClass and a Gateway of its own, and a pod that stands for it."""

    def __init__(
        self,
        cluster: GatewayCluster,
        program: Path,
        name: str,
        *,
        number: int,
        metrics_port: int,
        address: str = "127.0.0.1",
    ) -> None:
        """`address`: where customers reach it, and what its Gateway tells."""
        self.name = name
        self.address = address
        self.port = free_port()
        self.metrics = (f"127.0.0.{number}", metrics_port)
        self.figures = {"type": "Traefik", "podSelector": {"app": "traefik"}, "port": metrics_port}
        self.process: LoggedProcess | None = None
        self._cluster = cluster
        self._program = program

    @property
    def gateway_class(self) -> str:
        return f"{self._cluster.namespace}-{self.name}"

    async def __aenter__(self) -> "Traefik":
        cluster = self._cluster
        controller = {"spec": {"controllerName": "traefik.io/gateway-controller"}}
        await cluster.put(CLASSES, self.gateway_class, controller, labels={LABEL: self.gateway_class})
        await self.listen(True)
        await cluster.pod(self.name, self.metrics[0], {"app": "traefik"})
        self.process = await LoggedProcess.start(
            str(self._program),
            f"--entrypoints.web.address={self.address}:{self.port}",
            f"--entrypoints.metrics.address={self.metrics[0]}:{self.metrics[1]}",
            "--metrics.prometheus.entrypoint=metrics",
            f"--providers.kubernetesgateway.endpoint={cluster.server}",
            f"--providers.kubernetesgateway.token={await cluster.token()}",
            f"--providers.kubernetesgateway.certauthfilepath={cluster.authority}",
            f"--providers.kubernetesgateway.labelselector={LABEL}={self.gateway_class}",
            f"--providers.kubernetesgateway.statusaddress.ip={self.address}",
            "--providers.providersthrottleduration=100ms",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"},
        )
        await eventually(self._answers, what=f"Traefik {self.name} listens")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        await self.process.stop(5)
        await self.process.end()

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.signal(number)

    async def listen(self, routes: bool) -> None:
        """Whether the Gateway's listener takes routes up."""
        await self._cluster.gateway(self.name, self.gateway_class, self.port, routes=routes)

    async def ready(self, ready: bool) -> None:
        await self._cluster.pod(self.name, self.metrics[0], {"app": "traefik"}, ready=ready)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.runs, self.process.words[-4000:]
        with socket.socket() as probe:
            return probe.connect_ex(self.metrics) == 0
