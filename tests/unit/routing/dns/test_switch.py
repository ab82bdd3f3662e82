"""The name that customers resolve as the switch: its targets are the truth, and only what is answered is in force."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from recell.api.placement import PlacementMode
from recell.engine.errors import BadInput, Forbidden, NotFound
from recell.providers.routing.dns.publication import Outcome
from tests.fakes.eventually import eventually
from tests.unit.routing.builders import router
from tests.unit.routing.switched import KEY, NameRig, by_name

FALLBACK, PRIMARY = PlacementMode.FALLBACK, PlacementMode.PRIMARY
BALANCED: dict[str, Any] = {"routerTargets": None, "fallbackTargets": None}


@pytest.fixture
async def rig() -> AsyncIterator[NameRig]:
    rig = NameRig()
    yield rig
    await rig.stop()


async def test_the_record_is_written_once_and_names_the_router(rig: NameRig) -> None:
    for _ in range(3):
        await rig.switch.keep(by_name(ttl="10s", providerSpecific=[{"name": "a", "value": "b"}]))
    assert rig.server.writes == [("apply", rig.path)]
    made = rig.server.objects[rig.path]
    assert made["spec"]["endpoints"] == [
        {
            "dnsName": "shop.example.com",
            "recordType": "A",
            "recordTTL": 10,
            "targets": ["192.0.2.1"],
            "providerSpecific": [{"name": "a", "value": "b"}],
        }
    ]
    assert made["metadata"]["annotations"] == {
        "recell.dev/router-targets": "192.0.2.1",
        "recell.dev/fallback-targets": "192.0.2.2 192.0.2.3",
    }
    assert made["metadata"]["ownerReferences"][0]["uid"] == "router-uid"


async def test_a_router_that_does_not_name_it_gets_no_record_and_nothing_is_watched(rig: NameRig) -> None:
    await rig.switch.keep(router())
    assert (rig.server.objects, rig.server.watched()) == ({}, [])
    assert rig.switch.at(KEY) is None
    with pytest.raises(NotFound):
        await rig.switch.to(by_name(), FALLBACK)


async def test_what_a_person_switched_stays_and_is_seen_at_once(rig: NameRig) -> None:
    await rig.switch.keep(by_name())
    rig.woken.clear()
    rig.by_hand("192.0.2.3", "192.0.2.2")
    await eventually(lambda: rig.woken == [KEY], "the controller looks")
    assert rig.switch.at(KEY) is FALLBACK
    await rig.switch.keep(by_name())
    assert set(rig.targets) == {"192.0.2.2", "192.0.2.3"}, "still the fallback"


async def test_targets_of_neither_side_are_put_right(rig: NameRig) -> None:
    await rig.switch.keep(by_name())
    rig.by_hand("203.0.113.9")
    await eventually(lambda: rig.woken, "the change is seen")
    assert rig.switch.at(KEY) is PRIMARY
    await rig.switch.keep(by_name())
    assert rig.targets == ["192.0.2.1"]


async def test_it_is_in_force_when_every_name_server_says_so(rig: NameRig) -> None:
    await rig.switch.keep(by_name())
    await rig.switch.to(by_name(), FALLBACK)
    rig.names.targets = {"192.0.2.1"}
    told = await rig.switch.pending(by_name())
    assert "ns1 still answers 192.0.2.1 for A shop.example.com, not 192.0.2.2 and 192.0.2.3" in told
    rig.names.outcome = Outcome.FAILED
    assert "ns2 does not answer A shop.example.com (SERVFAIL)" in await rig.switch.pending(by_name())
    rig.names.outcome, rig.names.targets = Outcome.ANSWERED, {"192.0.2.2", "192.0.2.3"}
    assert await rig.switch.pending(by_name()) == ""
    rig.names.lost = True
    assert "no zone" in await rig.switch.pending(by_name())
    assert rig.switch.within(by_name(publishTimeout="2m")) == 120


async def test_the_load_balancers_addresses_are_used_where_none_are_named(rig: NameRig) -> None:
    told = by_name(**BALANCED)
    with pytest.raises(BadInput, match=r"Service fleet/shop has no address for a record of type A yet"):
        await rig.switch.keep(told)
    rig.balancers.addresses = {"shop": [{"ip": "192.0.2.7"}, {"ip": "2001:db8::1"}, {"hostname": "lb.example.com"}]}
    with pytest.raises(BadInput, match=r"Service fleet/shop-fallback has no address"):
        await rig.switch.keep(told)
    rig.balancers.addresses["shop-fallback"] = [{"ip": "192.0.2.8"}]
    await rig.switch.keep(told)
    assert rig.targets == ["192.0.2.7"]
    rig.balancers.addresses["shop-fallback"] = [{"ip": "192.0.2.9"}]
    await rig.switch.keep(told)
    assert rig.server.objects[rig.path]["metadata"]["annotations"]["recell.dev/fallback-targets"] == "192.0.2.9"
    await rig.switch.to(told, FALLBACK)
    assert rig.targets == ["192.0.2.9"]


async def test_an_address_that_changes_while_customers_are_there_follows(rig: NameRig) -> None:
    told = by_name(**BALANCED)
    rig.balancers.addresses = {"shop": [{"ip": "192.0.2.7"}], "shop-fallback": [{"ip": "192.0.2.8"}]}
    await rig.switch.keep(told)
    await rig.switch.to(told, FALLBACK)
    rig.balancers.addresses["shop-fallback"] = [{"ip": "192.0.2.9"}]
    await rig.switch.keep(told)
    assert (rig.targets, rig.switch.at(KEY)) == (["192.0.2.9"], FALLBACK)
    del rig.balancers.addresses["shop-fallback"]
    assert "Service fleet/shop-fallback has no address" in rig.switch.obstacle(told)
    assert "Service fleet/shop-fallback has no address" in await rig.switch.pending(told)


@pytest.mark.parametrize(
    ("broken", "raised", "told"),
    [
        (NotFound("no dnsendpoints"), BadInput, "has no kind DNSEndpoint"),
        (Forbidden("may not list"), Forbidden, "features.dnsEndpoints"),
    ],
)
async def test_what_keeps_it_from_being_read_is_said(
    rig: NameRig, broken: Exception, raised: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recell.providers.routing.dns.switch.READ_WITHIN", 1.0)
    rig.api.broken = broken
    with pytest.raises(raised, match=told):
        await rig.switch.keep(by_name())
