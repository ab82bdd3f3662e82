"""The real ExternalDNS, before an API server in memory or a real one, with BIND or a zone with weights behind it."""

import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from hack.localnode import gotools, versions
from hack.localnode.progress import Progress
from tests.cluster.conftest import Kubectl, api, crds, image, kubectl, namespace  # noqa: F401 - fixtures
from tests.dns import bind
from tests.dns.endpoints_api import EndpointsApi
from tests.fakes.ports import free_port
from tests.unit.delivery.programs import program

ExternalDNS = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="session")
def dns_endpoints(kubectl: Kubectl) -> None:  # noqa: F811 - a fixture
    """The real API server has the kind, as ExternalDNS brings it."""
    source = gotools.source("sigs.k8s.io/external-dns", versions.EXTERNAL_DNS, Progress())
    kubectl("apply", "--server-side", "-f", str(source / "config/crd/standard/dnsendpoints.externaldns.k8s.io.yaml"))
    kubectl("wait", "--for=condition=Established", "crd/dnsendpoints.externaldns.k8s.io", "--timeout=30s")


@pytest.fixture
async def memory() -> AsyncIterator[EndpointsApi]:
    async with EndpointsApi() as made:
        yield made


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[tuple[bind.Bind, bind.Bind]]:
    with bind.servers(tmp_path) as made:
        yield made


@pytest.fixture
def external_dns(tmp_path: Path) -> ExternalDNS:
    """Starts ExternalDNS for the DNSEndpoints of a namespace; it syncs every second. Takes the flags of a provider."""

    @contextlib.contextmanager
    def start(kubeconfig: Path, namespace: str, *provider: str) -> Iterator[None]:  # noqa: F811 - no fixture
        flags = (
            *(f"--kubeconfig={kubeconfig}", f"--namespace={namespace}", "--source=crd", "--policy=sync"),
            *("--interval=1s", "--events", "--min-event-sync-interval=1s", "--request-timeout=10s"),
            f"--metrics-address=127.0.0.1:{free_port()}",
        )
        with (tmp_path / "external-dns.log").open("wb") as log:
            process = subprocess.Popen([program("external-dns"), *flags, *provider], stderr=log, stdout=log)
            try:
                yield
            except BaseException:
                print((tmp_path / "external-dns.log").read_text()[-4000:])
                raise
            finally:
                process.terminate()
                process.wait(timeout=20)

    return start
