"""The port on name servers that say what the test tells them to: what counts as applied, who is woken, what is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from recell.api.dns import DNS
from recell.engine.errors import Retryable
from recell.providers.routing.dns import traffic as module
from recell.providers.routing.dns.publication import Outcome, Reply, Wanted
from recell.providers.routing.dns.resolving import Server
from recell.providers.routing.dns.traffic import DNSTraffic
from tests.unit.routing.builders import ManualClock
from tests.unit.routing.dns.builders import KEY, block
from tests.unit.routing.dns.test_publication import wanted

SIMPLE = block(routingPolicy="Simple")


class ScriptedNames:
    """Two name servers that answer alike."""

    def __init__(self) -> None:
        self.targets: set[str] = set()
        self.outcome = Outcome.ANSWERED
        self.lost = False
        self.looks = 0

    async def servers(self, block: DNS) -> Sequence[Server]:
        self.looks += 1
        if self.lost:
            raise Retryable("no zone with NS records was found")
        return (Server("192.0.2.51", 53, "ns1"), Server("192.0.2.52", 53, "ns2"))

    async def ask(self, server: Server, name: str, record_type: str) -> Reply:
        await asyncio.sleep(0)
        return Reply(server.name, self.outcome, frozenset(self.targets), 2.0, "SERVFAIL")


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.names = ScriptedNames()
        self.told: list[str] = []
        self.traffic = DNSTraffic(self.clock, self.names, on_change=lambda key: self.told.append(key[1]))

    async def looks(self, seconds: float) -> None:
        """Time passes by so much, in looks of two seconds, of which each is seen."""
        for _ in range(max(1, round(seconds / 2))):
            self.clock.seconds += 2
            before = self.names.looks
            async with asyncio.timeout(60):
                while self.names.looks < before + 2:
                    await asyncio.sleep(0.001)

    async def publish(self, told: Wanted, *, taken: bool = True) -> None:
        await self.traffic.publish(KEY, SIMPLE, told, taken=taken)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.001)
    monkeypatch.setattr(module, "SETTLED_EVERY", 0.001)
    rig = Rig()
    yield rig
    await rig.traffic.stop()


def short(*targets: str, generation: int = 1, **more: Any) -> Wanted:
    """The TTL in real time is none, so that looks after a change go on; in virtual time it is a minute."""
    return wanted(*targets, generation=generation, **more)


async def test_nothing_is_applied_before_it_is_in_force_and_then_the_placements_version_is(rig: Rig) -> None:
    rig.names.targets = {"1.1.1.1"}
    await rig.publish(short("1.1.1.1", generation=4))
    await rig.looks(50)
    assert rig.traffic.applied(KEY) is None
    assert "resolvers may keep older answers" in rig.traffic.progress(KEY)
    await rig.looks(14)
    seen = rig.traffic.applied(KEY)
    assert seen is not None
    assert (seen.uid, seen.epoch, seen.generation, seen.pods) == ("p", 1, 4, 2)
    assert rig.traffic.serving(KEY) == 2
    assert "with the cells that serve, and no others" in rig.traffic.progress(KEY)
    assert rig.traffic.complaint(KEY) == ""
    assert rig.traffic.observed(KEY, window=10) is None


async def test_while_a_change_is_under_way_the_one_before_it_counts_and_each_news_is_told_once(rig: Rig) -> None:
    rig.names.targets = {"1.1.1.1", "1.1.1.2"}
    await rig.publish(short("1.1.1.1", "1.1.1.2", ttl=2.0))
    await rig.looks(6)
    rig.told.clear()
    await rig.publish(short("1.1.1.2", generation=2, ttl=2.0))
    await rig.looks(10)
    told = len(rig.told)
    assert told == 1
    seen = rig.traffic.applied(KEY)
    assert seen is not None
    assert seen.generation == 1
    rig.names.targets = {"1.1.1.2"}
    await rig.looks(6)
    seen = rig.traffic.applied(KEY)
    assert seen is not None
    assert seen.generation == 2


async def test_a_placement_that_changes_no_record_is_in_force_at_once(rig: Rig) -> None:
    rig.names.targets = {"1.1.1.1"}
    await rig.publish(short("1.1.1.1", ttl=2.0))
    await rig.looks(6)
    await rig.publish(short("1.1.1.1", generation=8, ttl=2.0))
    seen = rig.traffic.applied(KEY)
    assert seen is not None
    assert seen.generation == 8


@pytest.mark.parametrize("turns", range(6))
async def test_it_stops_in_the_very_turn_in_which_a_placement_stirs_it(
    rig: Rig, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation that meets news is not lost, or the operator would never end."""
    rig.names.targets = {"1.1.1.1"}
    await rig.publish(short("1.1.1.1", ttl=2.0))
    await rig.looks(6)
    monkeypatch.setattr(module, "LOOK_EVERY", 60)
    monkeypatch.setattr(module, "SETTLED_EVERY", 60)
    await asyncio.sleep(0.1)  # it has looked, and pauses
    await rig.publish(short("1.1.1.2", generation=2, ttl=2.0))
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await rig.traffic.stop()


async def test_older_and_foreign_placements_are_refused(rig: Rig) -> None:
    rig.names.targets = {"1.1.1.1"}
    await rig.publish(short("1.1.1.1", generation=5, epoch=3, ttl=2.0))
    await rig.looks(6)
    for other in (
        short("1.1.1.9", generation=6, epoch=2),
        short("1.1.1.9", generation=4, epoch=3),
        short("1.1.1.9", generation=7, epoch=3, uid="restored"),
    ):
        await rig.publish(other)
        assert "is older or another one" in rig.traffic.complaint(KEY)
        seen = rig.traffic.applied(KEY)
        assert seen is not None
        assert (seen.uid, seen.epoch, seen.generation) == ("p", 3, 5)
    await rig.publish(short("1.1.1.1", generation=1, epoch=4, uid="restored", ttl=2.0))
    assert rig.traffic.complaint(KEY) == ""


async def test_answers_that_turn_wrong_end_what_was_applied_and_are_complained_about_in_time(rig: Rig) -> None:
    rig.names.targets = {"1.1.1.1"}
    await rig.publish(short("1.1.1.1", ttl=2.0, within=20.0))
    await rig.looks(6)
    rig.names.targets = {"6.6.6.6"}
    await rig.looks(4)
    assert rig.traffic.applied(KEY) is None
    assert rig.traffic.complaint(KEY) == ""
    rig.told.clear()
    await rig.looks(24)
    assert "ns1 still answers 6.6.6.6" in rig.traffic.complaint(KEY)
    assert len(rig.told) == 1


async def test_servers_that_cannot_tell_and_a_zone_that_is_not_found_are_said(rig: Rig) -> None:
    rig.names.outcome = Outcome.FAILED
    await rig.publish(short("1.1.1.1"))
    await rig.looks(4)
    assert rig.traffic.serving(KEY) == 0
    assert "ns1 does not tell A shop.example.com: SERVFAIL" in rig.traffic.progress(KEY)
    rig.names.lost = True
    await rig.looks(4)
    assert "no zone with NS records was found" in rig.traffic.progress(KEY)


async def test_a_router_that_is_gone_is_not_asked_about(rig: Rig) -> None:
    await rig.publish(short("1.1.1.1"))
    await rig.looks(2)
    rig.traffic.drop(KEY)
    rig.traffic.drop(KEY)
    await rig.traffic.stop()
    asked = rig.names.looks
    await asyncio.sleep(0.05)
    assert rig.names.looks == asked
    assert rig.traffic.applied(KEY) is None
    assert rig.traffic.serving(KEY) == 0
