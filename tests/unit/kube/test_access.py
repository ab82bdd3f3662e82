"""The customers' way in, tried against a real HTTP server in the router's place."""

from collections.abc import AsyncIterator
from typing import Any

import dns.rcode
import pytest
from aiohttp import web

from recell.api import Cell, Router
from recell.api.cell import ServiceBackend
from recell.api.router import CustomerKey
from recell.domain.placement import slot_of
from recell.engine.errors import BadInput
from recell.providers import access
from recell.providers.access import RouterAccess, request
from recell.providers.kube.paths import GATEWAYS, SERVICES
from recell.providers.routing.dns.resolving import NameServers
from recell.runtime.clock import SystemClock
from tests.fakes.name_server import NameServer
from tests.unit.kube.fake_server import FakeApi, FakeServer


class Front:
    """Answers every request as it is told, and remembers them."""

    def __init__(self) -> None:
        self.status, self.port = 200, 0
        self.seen: list[web.Request] = []

    async def answer(self, asked: web.Request) -> web.Response:
        self.seen.append(asked)
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def front(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    monkeypatch.setattr("recell.providers.access.TIMEOUT", 60.0)
    made = Front()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def router(key: dict[str, Any], port: int, slots: int = 1024) -> Router:
    block = {"customerKey": key, "slots": slots, "service": {"port": port}}
    spec = {"type": "HAProxy", "customerData": "Shared", "haproxy": block}
    return Router.model_validate({"metadata": {"name": "shop", "namespace": "fleet"}, "spec": spec})


def cell(path: str | None = None) -> Cell:
    backend = {"type": "Service", "service": {"name": "web", "port": 80}}
    health = {"probe": {"path": path}} if path else {}
    spec = {"routerRef": {"name": "shop"}, "backend": backend, "health": health}
    return Cell.model_validate({"metadata": {"name": "a", "namespace": "fleet"}, "spec": spec})


HEADER = {"type": "Header", "name": "x-customer-id"}


def through(port: int) -> RouterAccess:
    server = FakeServer()
    spec = {"clusterIP": "127.0.0.1", "ports": [{"port": port}]}
    server.put(SERVICES.path("fleet", "shop"), {"metadata": {"name": "shop", "namespace": "fleet"}, "spec": spec})
    return through_api(server)


def through_api(server: FakeServer) -> RouterAccess:
    api: Any = FakeApi(server)
    clock = SystemClock()
    return RouterAccess(api, clock, NameServers(clock))


@pytest.mark.parametrize(("slots", "slot"), [(1024, 0), (1024, 1023), (16384, 9999)])
async def test_the_customer_is_of_the_slot(front: Front, slots: int, slot: int) -> None:
    tried = await through(front.port).try_slot(router(HEADER, front.port, slots), cell("/healthz"), slot)
    customer = front.seen[0].headers["X-Customer-Id"]
    assert slot_of(customer, slots) == slot
    assert (front.seen[0].method, front.seen[0].path) == ("GET", "/healthz")
    assert tried.ok
    assert tried.message.startswith(f"customer {customer} of slot {slot}: status 200 in ")
    assert tried.message.endswith(" ms")


async def test_each_slot_has_its_customer_and_keeps_it(front: Front) -> None:
    access, shop = through(front.port), router(HEADER, front.port)
    for slot in (7, 8, 7):
        await access.try_slot(shop, cell(), slot)
    customers = [seen.headers["X-Customer-Id"] for seen in front.seen]
    assert front.seen[0].path == "/", "the cell has no probe"
    assert customers[0] == customers[2] != customers[1]


@pytest.mark.parametrize(
    ("status", "ok"), [(200, True), (302, True), (399, True), (400, False), (404, False), (503, False)]
)
async def test_what_is_well(front: Front, status: int, ok: bool) -> None:
    front.status = status
    tried = await through(front.port).try_slot(router(HEADER, front.port), cell(), 1)
    assert tried.ok is ok
    assert f"status {status}" in tried.message
    assert len(front.seen) == 1, "redirects are not followed"


async def test_cookie_and_host_say_who_it_is(front: Front) -> None:
    access = through(front.port)
    await access.try_slot(router({"type": "Cookie", "name": "tenant"}, front.port), cell(), 5)
    assert slot_of(front.seen[0].cookies["tenant"], 1024) == 5
    await access.try_slot(router({"type": "Host"}, front.port), cell(), 5)
    assert slot_of(front.seen[1].headers["Host"], 1024) == 5


@pytest.mark.parametrize(
    ("path", "segment", "asked"),
    [
        ("/", 1, "/c"),
        ("/healthz", 1, "/c"),
        ("/healthz?deep=1", 2, "/healthz/c?deep=1"),
        ("/", 3, "/-/-/c"),
        ("/tenants/acme/healthz", 2, "/tenants/c/healthz"),
    ],
)
def test_the_customers_segment_of_the_path_is_replaced(path: str, segment: int, asked: str) -> None:
    key = CustomerKey.model_validate({"type": "PathSegment", "segment": segment})
    assert request(key, "c", path) == ({}, asked)


async def test_what_cannot_be_reached_is_told_and_not_raised(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "TIMEOUT", 0.5)
    shop = router(HEADER, 1)
    tried = await through(1).try_slot(shop, cell(), 1)
    assert (tried.ok, "customer recell-probe-" in tried.message) == (False, True)
    tried = await through_api(FakeServer()).try_slot(shop, cell(), 1)
    assert (tried.ok, "services/shop" in tried.message) == (False, True)


@pytest.mark.parametrize("slot", [-1, 1024])
async def test_a_slot_that_the_router_does_not_have_is_refused(front: Front, slot: int) -> None:
    with pytest.raises(BadInput, match=f"Router shop has the slots 0 to 1023, and none {slot}"):
        await through(front.port).try_slot(router(HEADER, front.port), cell(), slot)


# Through a Gateway


def behind_gateway(port: int, listener: dict[str, Any] | None = None, *, addresses: bool = True) -> RouterAccess:
    server = FakeServer()
    gateway = {
        "metadata": {"name": "public", "namespace": "ingress"},
        "spec": {"listeners": [listener or {"name": "web", "port": port, "protocol": "HTTP"}]},
        "status": {"addresses": [{"type": "IPAddress", "value": "127.0.0.1"}] if addresses else []},
    }
    server.put(GATEWAYS.path("ingress", "public"), gateway)
    return through_api(server)


def gateway_router(*, name: str = "public", **block: Any) -> Router:
    gateway = {"parentRefs": [{"name": name, "namespace": "ingress"}], **block}
    spec = {"type": "Gateway", "customerData": "Shared", "gateway": gateway}
    return Router.model_validate({"metadata": {"name": "shop", "namespace": "fleet"}, "spec": spec})


async def test_a_gateway_is_asked_as_its_rules_want_it(front: Front) -> None:
    match = {
        "path": {"type": "PathPrefix", "value": "/healthz"},
        "headers": [{"type": "Exact", "name": "X-Tier", "value": "gold"}],
        "queryParams": [{"type": "Exact", "name": "lang", "value": "de"}],
    }
    other = {"path": {"type": "Exact", "value": "/other"}}
    shop = gateway_router(hostnames=["*.shop.example.com"], rules=[{"matches": [other]}, {"matches": [other, match]}])
    tried = await behind_gateway(front.port).try_slot(shop, cell("/healthz"), 7)
    (seen,) = front.seen
    assert (seen.method, seen.path_qs, seen.headers["Host"], seen.headers["X-Tier"]) == (
        "GET", "/healthz?lang=de", "recell-probe.shop.example.com", "gold",
    )  # fmt: skip
    assert tried.ok
    assert tried.message.startswith(
        "a customer through Gateway ingress/public, who may get to any cell: status 200 in "
    )


async def test_an_answer_of_500_through_a_gateway_is_a_failure(front: Front) -> None:
    front.status = 500
    tried = await behind_gateway(front.port).try_slot(gateway_router(), cell(), 7)
    assert (tried.ok, tried.operator_cut_off) == (False, False)


@pytest.mark.parametrize(
    ("name", "block", "listener", "addresses", "said"),
    [
        ("gone", {}, None, True, "gateways/gone"),
        ("public", {}, None, False, "Gateway ingress/public has no address (status.addresses)"),
        ("public", {}, {"name": "tls", "port": 443, "protocol": "TLS"}, True, "no listener for HTTP or HTTPS"),
        (
            "public",
            {"rules": [{"matches": [{"path": {"type": "Exact", "value": "/shop"}}]}]},
            None,
            True,
            "no rule of spec.gateway.rules takes GET /healthz",
        ),
    ],
)
async def test_a_way_in_that_cannot_be_tried_says_nothing_about_the_cell(
    name: str, block: dict[str, Any], listener: dict[str, Any] | None, addresses: bool, said: str
) -> None:
    access = behind_gateway(1, listener, addresses=addresses)
    tried = await access.try_slot(gateway_router(name=name, **block), cell("/healthz"), 7)
    assert (tried.ok, tried.operator_cut_off) == (False, True)
    assert said in tried.message


# By a name

SHOP = "shop.example.com"


@pytest.fixture
async def zone() -> AsyncIterator[NameServer]:
    async with NameServer("example.com") as server:
        yield server


def named_router(*zone: NameServer, record_type: str = "A") -> Router:
    """Its name servers are named: the operator's own resolver knows nothing of the zone."""
    servers = [{"host": server.address, "port": server.port} for server in zone]
    dns = {"hostname": SHOP, "nameservers": servers, "recordType": record_type}
    return Router.model_validate(
        {
            "metadata": {"name": "shop", "namespace": "fleet"},
            "spec": {"type": "DNS", "customerData": "Shared", "dns": dns},
        }
    )


def cell_at(host: str, port: int) -> Cell:
    spec = {
        "routerRef": {"name": "shop"},
        "backend": {"type": "Address", "address": {"host": host, "port": port}},
        "health": {"probe": {"path": "/healthz"}},
    }
    return Cell.model_validate({"metadata": {"name": "a", "namespace": "fleet"}, "spec": spec})


async def test_a_customer_that_the_name_servers_send_to_the_cell_asks_it(front: Front, zone: NameServer) -> None:
    zone.put(SHOP, "A", "127.0.0.9", "127.0.0.1")
    tried = await through_api(FakeServer()).try_slot(named_router(zone), cell_at("127.0.0.1", front.port), 7)
    assert tried.ok
    assert tried.message.startswith(f"a customer of {SHOP}:{front.port} at 127.0.0.1: status 200 in ")
    assert [(seen.path, seen.host) for seen in front.seen] == [("/healthz", f"{SHOP}:{front.port}")]


@pytest.mark.parametrize(("record_type", "target"), [("A", "127.0.0.1"), ("CNAME", "localhost.")])
async def test_where_no_target_is_known_to_be_the_cells_any_is_asked(
    front: Front, zone: NameServer, record_type: str, target: str
) -> None:
    zone.put(SHOP, record_type, target)
    asked = cell("/healthz")
    backend = asked.spec.backend.model_copy(update={"service": ServiceBackend(name="web", port=front.port)})
    asked = asked.model_copy(update={"spec": asked.spec.model_copy(update={"backend": backend})})
    tried = await through_api(FakeServer()).try_slot(named_router(zone, record_type=record_type), asked, 7)
    assert tried.ok
    assert f"{SHOP}:{front.port} at {target.rstrip('.')}, who may get to any cell: status 200 in " in tried.message
    assert [(seen.path, seen.host) for seen in front.seen] == [("/healthz", f"{SHOP}:{front.port}")]


async def test_one_name_server_that_answers_is_enough(front: Front, zone: NameServer) -> None:
    zone.put(SHOP, "A", "127.0.0.1")
    async with NameServer("example.com") as refusing:
        refusing.rcode = dns.rcode.REFUSED
        shop = named_router(refusing, zone)
        assert (await through_api(FakeServer()).try_slot(shop, cell_at("127.0.0.1", front.port), 7)).ok


async def test_a_name_without_an_answer_says_nothing_about_the_cell(zone: NameServer) -> None:
    tried = await through_api(FakeServer()).try_slot(named_router(zone), cell_at("127.0.0.1", 1), 7)
    assert (tried.ok, tried.operator_cut_off) == (False, True)
    assert tried.message == (f"a customer of {SHOP}:1: no name server has an answer (127.0.0.1:{zone.port}: NXDOMAIN)")


async def test_a_cname_to_what_cannot_be_resolved_from_here_says_nothing_about_the_cell(zone: NameServer) -> None:
    zone.put(SHOP, "CNAME", "cell-a.invalid.")
    tried = await through_api(FakeServer()).try_slot(named_router(zone, record_type="CNAME"), cell("/healthz"), 7)
    assert (tried.ok, tried.operator_cut_off) == (False, True)
    assert "at cell-a.invalid, who may get to any cell: cannot be resolved from here" in tried.message
