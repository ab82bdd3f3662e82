"""A Gateway's HTTPRoute as the switch: which Service it names is the truth, and all else of it is the operator's."""

import ssl
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path

import pytest
from aiohttp import web

from recell.api.placement import PlacementMode
from recell.engine.errors import BadInput, Forbidden, NotFound, Retryable, Reverted
from recell.providers.kube.paths import GATEWAYS
from recell.providers.routing import asking
from tests.fakes.certificates import self_signed
from tests.fakes.eventually import eventually
from tests.fakes.ports import free_port
from tests.unit.routing.builders import router
from tests.unit.routing.switched import KEY, GatewayRig, by_gateway

PUBLIC = GATEWAYS.path("fleet", "public")
FALLBACK, PRIMARY = PlacementMode.FALLBACK, PlacementMode.PRIMARY


@pytest.fixture
async def rig() -> AsyncIterator[GatewayRig]:
    rig = GatewayRig()
    yield rig
    await rig.stop()


async def test_the_route_is_written_once_and_leads_to_the_routers_service(rig: GatewayRig) -> None:
    for _ in range(3):
        await rig.switch.keep(by_gateway())
    assert rig.server.writes == [("apply", rig.path)]
    made = rig.server.objects[rig.path]
    assert made["spec"]["hostnames"] == ["shop.example.com"]
    assert made["metadata"]["labels"]["recell.dev/router"] == "shop"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "router-uid"
    assert rig.leads_to == "shop"


async def test_a_router_that_does_not_name_it_gets_no_route_and_nothing_is_watched(rig: GatewayRig) -> None:
    await rig.switch.keep(router())
    assert (rig.server.objects, rig.server.watched()) == ({}, [])
    assert rig.switch.at(KEY) is None
    assert "is not there" in rig.switch.obstacle(router())
    with pytest.raises(NotFound):
        await rig.switch.to(by_gateway(), FALLBACK)


async def test_what_a_person_switched_stays_and_is_seen_at_once(rig: GatewayRig) -> None:
    await rig.switch.keep(by_gateway())
    rig.woken.clear()
    rig.by_hand("shop-fallback")
    await eventually(lambda: rig.woken == [KEY], "the controller looks")
    assert rig.switch.at(KEY) is FALLBACK
    await rig.switch.keep(by_gateway())
    assert rig.leads_to == "shop-fallback"
    assert len(rig.server.writes) == 1


async def test_other_changes_are_put_back_on_the_side_where_customers_are(rig: GatewayRig) -> None:
    await rig.switch.keep(by_gateway())
    rig.by_hand("shop-fallback")
    route = deepcopy(rig.server.objects[rig.path])
    route["spec"]["hostnames"] = ["other.example.com"]
    rig.server.put(rig.path, route)
    await eventually(lambda: rig.switch.at(KEY) is FALLBACK, "the change is seen")
    await rig.switch.keep(by_gateway())
    assert rig.server.objects[rig.path]["spec"]["hostnames"] == ["shop.example.com"]
    assert rig.leads_to == "shop-fallback"


async def test_a_tool_that_keeps_changing_it_is_named_and_left_alone(rig: GatewayRig) -> None:
    await rig.switch.keep(by_gateway())
    route = deepcopy(rig.server.objects[rig.path])
    route["spec"]["hostnames"] = ["other.example.com"]

    async def changed() -> None:
        rig.woken.clear()
        rig.server.put(rig.path, {**route, "metadata": rig.server.objects[rig.path]["metadata"]})
        await eventually(lambda: rig.woken, "the change is seen")

    for _ in range(2):
        await changed()
        await rig.switch.keep(by_gateway())
        assert rig.server.objects[rig.path]["spec"]["hostnames"] == ["shop.example.com"]
    await changed()
    with pytest.raises(Reverted, match="was put back 2 times and changed again"):
        await rig.switch.keep(by_gateway())


async def test_a_route_of_somebody_else_is_left_alone(rig: GatewayRig) -> None:
    rig.server.put(rig.path, {"metadata": {"name": "shop", "namespace": "fleet"}, "spec": {"rules": []}})
    with pytest.raises(BadInput, match="HTTPRoute fleet/shop is there already and was not made for this Router"):
        await rig.switch.keep(by_gateway())
    assert rig.server.writes == []


async def test_until_a_gateway_takes_it_up_nobody_is_moved_by_it(rig: GatewayRig) -> None:
    await rig.switch.keep(by_gateway())
    assert rig.switch.obstacle(by_gateway()) == "no Gateway has accepted HTTPRoute fleet/shop"
    rig.accept()
    await eventually(lambda: rig.switch.obstacle(by_gateway()) == "", "it is accepted")
    assert await rig.switch.pending(by_gateway()) == ""
    await rig.switch.to(by_gateway(), FALLBACK)
    assert "Gateway fleet/public did not take up the HTTPRoute yet" in await rig.switch.pending(by_gateway())
    rig.accept("False", "BackendNotFound")
    await eventually(lambda: len(rig.woken) >= 4, "it is refused")
    assert "BackendNotFound" in await rig.switch.pending(by_gateway())


@pytest.mark.parametrize(
    ("broken", "raised", "told"),
    [
        (NotFound("no httproutes"), BadInput, "spec.fallback.switches: this cluster has no HTTPRoutes"),
        (Forbidden("may not list"), Forbidden, "features.gatewayApi of the chart grants what is needed"),
        (Retryable("gone"), Retryable, "could not be read yet"),
    ],
)
async def test_what_keeps_it_from_being_read_is_said(
    rig: GatewayRig, broken: Exception, raised: type[Exception], told: str
) -> None:
    rig.api.broken = broken
    with pytest.raises(raised, match=told):
        await rig.switch.keep(by_gateway())
    assert rig.switch.at(KEY) is None


async def test_where_there_is_https_alone_customers_land_by_it(
    rig: GatewayRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TIMEOUT", 60.0)
    asked: list[str | None] = []
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*self_signed(tmp_path, "shop.example.com"))
    tls.sni_callback = lambda _, name, __: asked.append(name)

    async def cell(request: web.Request) -> web.Response:
        asked.append(request.headers["Host"])
        return web.Response(headers={"X-Recell-Cell": f"for-{request.headers['x-customer-id']}"})

    app = web.Application()
    app.router.add_get("/{path:.*}", cell)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    passing = {"name": "passing", "port": 1, "protocol": "HTTPS", "tls": {"mode": "Passthrough"}}
    gateway = {
        "metadata": {"name": "public", "namespace": "fleet"},
        "spec": {"listeners": [passing, {"name": "tls", "port": port, "protocol": "HTTPS"}]},
        "status": {"addresses": [{"value": "127.0.0.1"}]},
    }
    rig.server.put(PUBLIC, gateway)
    landed = await rig.switch.land(by_gateway(), ["recell-probe-1"])
    await runner.cleanup()
    assert [(one.status, one.cell) for one in landed] == [(200, "for-recell-probe-1")]
    assert asked == ["shop.example.com", "shop.example.com"], "by TLS and by HTTP"


async def test_a_gateway_without_an_address_cannot_be_asked(rig: GatewayRig) -> None:
    gateway = {"metadata": {"name": "public", "namespace": "fleet"}, "spec": {"listeners": []}}
    rig.server.put(PUBLIC, gateway)
    with pytest.raises(Retryable, match="Gateway fleet/public has no listener for HTTP or HTTPS"):
        await rig.switch.land(by_gateway(), ["recell-probe-1"])
