"""Routers whose fallback is reached through a Gateway or by name, and the switches over an API server in memory."""

from collections.abc import Sequence
from typing import Any

from recell.api import Router
from recell.engine.ports import Key
from recell.providers.kube.collection import Collection
from recell.providers.kube.paths import DNS_ENDPOINTS, HTTP_ROUTES
from recell.providers.routing.dns.switch import DNSSwitch
from recell.providers.routing.gateway.switch import GatewaySwitch
from tests.unit.kube.fake_server import FakeServer
from tests.unit.routing.builders import ManualClock, router
from tests.unit.routing.dns.test_traffic import ScriptedNames
from tests.unit.routing.played_gateway import RouteApi

KEY = ("fleet", "shop")
GATEWAY = {"parentRefs": [{"name": "public"}], "hostnames": ["shop.example.com"]}
DNS = {"hostname": "shop.example.com", "routerTargets": ["192.0.2.1"], "fallbackTargets": ["192.0.2.2", "192.0.2.3"]}


def with_switches(*switches: dict[str, Any]) -> Router:
    found = router()
    raw = found.to_dict()
    raw["spec"]["fallback"] = {"switches": list(switches)}
    return Router.model_validate(raw)


def by_gateway(**changes: Any) -> Router:
    return with_switches({"type": "Gateway", "gateway": GATEWAY | changes})


def by_name(**changes: Any) -> Router:
    block = {name: value for name, value in (DNS | changes).items() if value is not None}
    return with_switches({"type": "DNS", "dns": block})


class GatewayRig:
    """`accepted` by a Gateway as soon as it is asked for."""

    path = HTTP_ROUTES.path(*KEY)

    def __init__(self) -> None:
        self.server = FakeServer()
        self.api = RouteApi(self.server)
        self.woken: list[Key] = []
        anything: Any = self.api
        self.routes = Collection(anything, HTTP_ROUTES, ManualClock(), ("fleet",), labels="recell.dev/router")
        self.switch = GatewaySwitch(anything, ManualClock(), self.routes, lambda key: {}, on_change=self.woken.append)

    async def stop(self) -> None:
        await self.routes.stop()

    def accept(self, status: str = "True", reason: str = "Accepted") -> None:
        route = self.server.objects[self.path]
        ref = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "fleet", "name": "public"}
        told = {"status": status, "reason": reason, "observedGeneration": route["metadata"]["generation"]}
        conditions = [{"type": type_, **told} for type_ in ("Accepted", "ResolvedRefs")]
        self.server.put(self.path, {**route, "status": {"parents": [{"parentRef": ref, "conditions": conditions}]}})

    def by_hand(self, service: str) -> None:
        """As the documented command does."""
        route = self.server.objects[self.path]
        (rule,) = route["spec"]["rules"]
        backends = [{**rule["backendRefs"][0], "name": service}]
        spec = {**route["spec"], "rules": [{**rule, "backendRefs": backends}]}
        metadata = {**route["metadata"], "generation": route["metadata"]["generation"] + 1}
        self.server.put(self.path, {**route, "metadata": metadata, "spec": spec})

    @property
    def leads_to(self) -> str:
        name: str = self.server.objects[self.path]["spec"]["rules"][0]["backendRefs"][0]["name"]
        return name


class Balancers:
    """The Services of the router and its fallback, with the addresses of their load balancers."""

    def __init__(self) -> None:
        self.addresses: dict[str, Sequence[dict[str, str]]] = {}

    def get(self, key: Key) -> dict[str, Any] | None:
        return {"status": {"loadBalancer": {"ingress": list(self.addresses.get(key[1], ()))}}}


class NameRig:
    path = DNS_ENDPOINTS.path(*KEY)

    def __init__(self) -> None:
        self.server = FakeServer()
        self.names = ScriptedNames()
        self.balancers = Balancers()
        self.woken: list[Key] = []
        self.api: Any = RouteApi(self.server)
        self.switch = DNSSwitch(
            self.api,
            ManualClock(),
            ("fleet",),
            self.balancers,
            self.names,
            lambda key: {},
            on_change=self.woken.append,
        )

    async def stop(self) -> None:
        await self.switch.stop()

    def by_hand(self, *targets: str) -> None:
        live = self.server.objects[self.path]
        (record,) = live["spec"]["endpoints"]
        self.server.put(self.path, {**live, "spec": {"endpoints": [{**record, "targets": list(targets)}]}})

    @property
    def targets(self) -> list[str]:
        found: list[str] = self.server.objects[self.path]["spec"]["endpoints"][0]["targets"]
        return found
