"""A real API server with the Gateway API, and implementations of it that others wrote, as processes of this machine."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from hack.localnode import gotools, versions
from hack.localnode.progress import Progress
from tests.cluster.conftest import Kubectl, api, crds, kubectl
from tests.conftest import ROOT
from tests.fakes.ports import free_port
from tests.gateway.cluster import GatewayCluster, Traefik
from tests.gateway.envoy import Envoy, EnvoyGateway

__all__ = ["api", "crds", "kubectl"]


@pytest.fixture(scope="session")
def gateway_api(kubectl: Kubectl) -> str:
    """The standard channel's CRDs, established; their version."""
    folder = gotools.source(gotools.GATEWAY_API, versions.GATEWAY_API, Progress()) / "config" / "crd" / "standard"
    names = [str(path) for path in sorted(folder.glob("*.yaml")) if path.name != "kustomization.yaml"]
    kubectl("apply", "--server-side", "--force-conflicts", *(part for name in names for part in ("-f", name)))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/httproutes.gateway.networking.k8s.io")
    return versions.GATEWAY_API


@pytest.fixture(scope="session")
def envoy_gateway_api(gateway_api: str, kubectl: Kubectl) -> str:
    """The CRDs of Envoy Gateway, established; their version."""
    module = gotools.source(gotools.ENVOY_GATEWAY, versions.ENVOY_GATEWAY, Progress())
    folder = module / "charts" / "gateway-helm" / "charts" / "crds" / "crds" / "generated"
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/envoyproxies.gateway.envoyproxy.io")
    return versions.ENVOY_GATEWAY


def program(name: str) -> Path:
    """The path of a pinned tool."""
    made = subprocess.run(
        [str(ROOT / "hack" / "tools"), name], check=True, stdout=subprocess.PIPE, text=True, timeout=1800
    )
    return Path(made.stdout.strip())


@pytest.fixture(scope="session")
def traefik() -> Path:
    return program("traefik")


@pytest.fixture
def fresh_namespace(api: client.ApiClient) -> Iterator[str]:
    """A namespace for one test; it goes with all that is in it."""
    core = client.CoreV1Api(api)
    name: str = core.create_namespace({"metadata": {"generateName": "recell-gw-"}}, _request_timeout=10).metadata.name
    yield name
    core.delete_namespace(name, _request_timeout=10)


@pytest.fixture
async def cluster(
    kubeconfig: Path, crds: dict[str, Any], gateway_api: str, fresh_namespace: str
) -> AsyncIterator[GatewayCluster]:
    async with GatewayCluster(kubeconfig, fresh_namespace) as made:
        yield made


@pytest.fixture(params=["traefik", "envoy"])
async def proxy(
    request: pytest.FixtureRequest, cluster: GatewayCluster, tmp_path: Path
) -> AsyncIterator[Traefik | Envoy]:
    """A Gateway `one` with an implementation behind it."""
    port = free_port()
    if request.param == "traefik":
        async with Traefik(cluster, program("traefik"), "one", number=1, metrics_port=port) as traefik:
            yield traefik
        return
    request.getfixturevalue("envoy_gateway_api")
    programs, folder = (program("envoy-gateway"), program("envoy")), tmp_path / "envoy"
    folder.mkdir()
    async with (
        EnvoyGateway(cluster, *programs, versions.ENVOY, folder) as control,
        Envoy(cluster, control, "one", number=1, metrics_port=port) as envoy,
    ):
        yield envoy
