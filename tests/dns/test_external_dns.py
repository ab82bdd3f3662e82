"""A Placement becomes what resolves: through the real ExternalDNS, into real BIND servers and into a zone with weights.

Customers are resolvers that keep an answer for its TTL: once a change is in force, none of them may have an old one.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recell.api import Placement, Router
from recell.providers.kube.api import Api
from recell.providers.routing.dns.data_plane import DNSDataPlane
from recell.providers.routing.dns.resolving import NameServers
from recell.providers.routing.dns.traffic import DNSTraffic
from recell.runtime.clock import SystemClock
from tests.dns.bind import ZONE, Bind
from tests.dns.conftest import ExternalDNS
from tests.dns.customers import Customers
from tests.dns.endpoints_api import EndpointsApi
from tests.dns.webhook import WEIGHT, WeightedZone
from tests.fakes.eventually import eventually
from tests.fakes.name_server import NameServer
from tests.unit.routing.dns.builders import placed

NAME = f"shop.{ZONE}"
EVEN = {"a": 512, "b": 512}
DRAINED = {"a": 0, "b": 1024}
A, B = "192.0.2.1", "192.0.2.2"


@dataclass
class Scene:
    plane: DNSDataPlane
    router: Router

    async def reconcile(self, placement: Placement) -> None:
        await self.plane.ensure(self.router)
        await self.plane.tell(self.router.key, placement)

    def covers(self, placement: Placement) -> bool:
        seen, meta = self.plane.applied(self.router.key), placement.metadata
        return seen is not None and seen.covers(meta.uid, placement.spec.epoch, meta.generation)

    async def in_force(self, placement: Placement) -> None:
        async def there() -> bool:
            await self.reconcile(placement)  # as the controller does at each change that is told
            return self.covers(placement)

        await eventually(there, f"in force; {self.plane.progress(self.router.key)}")


@contextlib.asynccontextmanager
async def scene(kubeconfig: Path, **block: Any) -> AsyncIterator[Scene]:
    api, clock = await Api.connect(str(kubeconfig)), SystemClock()
    plane = DNSDataPlane(
        api, clock, DNSTraffic(clock, NameServers(clock), on_change=lambda key: None), on_change=lambda key: None
    )
    spec = {"type": "DNS", "customerData": "Shared", "dns": {"hostname": NAME, "ttl": "3s"} | block}
    metadata = {"name": "shop", "namespace": "fleet", "uid": "r1"}
    try:
        yield Scene(plane, Router.model_validate({"metadata": metadata, "spec": spec}))
    finally:
        await plane.stop()
        await api.close()


def nameservers(*servers: Any) -> list[dict[str, Any]]:
    return [{"host": "127.0.0.1", "port": server.port} for server in servers]


def rfc2136(primary: Bind) -> tuple[str, ...]:
    return (
        *("--provider=rfc2136", "--rfc2136-host=127.0.0.1", f"--rfc2136-port={primary.port}"),
        *(f"--rfc2136-zone={ZONE}", f"--domain-filter={ZONE}", "--rfc2136-insecure", "--rfc2136-tsig-axfr"),
        *("--rfc2136-min-ttl=1s", "--registry=txt", "--txt-owner-id=recell"),
    )


async def test_a_drained_cell_is_in_no_answer_and_in_no_cache_once_that_is_in_force(
    memory: EndpointsApi, tmp_path: Path, zone: tuple[Bind, Bind], external_dns: ExternalDNS
) -> None:
    primary, secondary = zone
    kubeconfig = memory.kubeconfig(tmp_path)
    with external_dns(kubeconfig, "fleet", *rfc2136(primary)):
        async with (
            scene(kubeconfig, routingPolicy="Simple", nameservers=nameservers(*zone)) as shop,
            Customers(NAME, primary.port, secondary.port) as customers,
        ):
            await shop.in_force(placed(EVEN))
            assert await customers.ask() == {A, B}
            assert shop.plane.serving(shop.router.key) == 2
            for generation, slots, left in ((2, DRAINED, {B}), (3, EVEN, {A, B}), (4, {"a": 1024, "b": 0}, {A})):
                await shop.in_force(placed(slots, generation=generation))
                assert await customers.ask() == left
            await shop.in_force(placed({"a": 0, "b": 0}, generation=5))
            assert await customers.ask() == set()


async def test_what_external_dns_publishes_by_weights_is_answered_so_often(
    memory: EndpointsApi, tmp_path: Path, external_dns: ExternalDNS
) -> None:
    kubeconfig = memory.kubeconfig(tmp_path)
    async with NameServer(ZONE) as names, WeightedZone(names) as provider:
        flags = ("--provider=webhook", f"--webhook-provider-url=http://127.0.0.1:{provider.port}", "--registry=noop")
        with external_dns(kubeconfig, "fleet", *flags):
            block = {"nameservers": nameservers(names), "weights": {"property": WEIGHT}, "propagation": "2s"}
            async with scene(kubeconfig, **block) as shop:
                await shop.in_force(placed(EVEN))
                assert set(provider.records) == {(NAME, "A", "a"), (NAME, "A", "b")}
                for generation, slots, most, least in ((2, {"a": 205, "b": 819}, 0.3, 0.1), (3, DRAINED, 0.0, 0.0)):
                    await shop.in_force(placed(slots, generation=generation))
                    seen = Counter([next(iter(await Customers(NAME, names.port).ask())) for _ in range(400)])
                    assert least <= seen[A] / 400 <= most
                assert set(provider.records) == {(NAME, "A", "b")}
