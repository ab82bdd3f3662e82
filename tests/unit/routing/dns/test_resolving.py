"""Name servers are asked one by one, and what they do not say is told apart from what they deny."""

from collections.abc import AsyncIterator

import dns.asyncresolver
import dns.rcode
import pytest

from recell.engine.errors import Retryable
from recell.providers.routing.dns import resolving
from recell.providers.routing.dns.publication import Outcome
from recell.providers.routing.dns.resolving import NameServers, Server
from tests.fakes.name_server import NameServer
from tests.fakes.ports import free_port
from tests.unit.routing.builders import ManualClock
from tests.unit.routing.dns.builders import NAME, block


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServer]:
    monkeypatch.setattr(resolving, "TIMEOUT", 60.0)
    monkeypatch.setattr(resolving, "FIND_WITHIN", 60.0)
    async with NameServer("example.com") as server:
        yield server


def names(server: NameServer, clock: ManualClock | None = None) -> NameServers:
    """The test's server is the operator's own resolver too."""
    own = dns.asyncresolver.Resolver(configure=False)
    own.nameservers = [server.address]
    own.port = server.port
    return NameServers(clock or ManualClock(), resolver=own)


def at(server: NameServer) -> Server:
    return Server(server.address, server.port, "ns1.example.com")


async def test_an_answer_has_its_targets_and_ttl(server: NameServer) -> None:
    server.put(NAME, "A", "192.0.2.1", "192.0.2.2", ttl=30)
    reply = await names(server).ask(at(server), NAME, "A")
    assert (reply.outcome, reply.targets, reply.ttl) == (Outcome.ANSWERED, {"192.0.2.1", "192.0.2.2"}, 30.0)
    assert reply.server == f"ns1.example.com (127.0.0.1:{server.port})"


async def test_a_long_answer_is_asked_for_again_over_tcp(server: NameServer) -> None:
    server.put(NAME, "A", *(f"192.0.2.{n}" for n in range(1, 101)))
    reply = await names(server).ask(at(server), NAME, "A")
    assert len(reply.targets) == 100
    assert server.asked == 2


@pytest.mark.parametrize(
    ("put", "rcode", "outcome", "said"),
    [
        ((), None, Outcome.NO_RECORD, "NXDOMAIN"),
        ((NAME, "AAAA", "2001:db8::1"), None, Outcome.NO_RECORD, "it has no record of this type"),
        ((NAME, "A", "192.0.2.1"), dns.rcode.SERVFAIL, Outcome.FAILED, "SERVFAIL"),
        ((NAME, "A", "192.0.2.1"), dns.rcode.REFUSED, Outcome.FAILED, "REFUSED"),
    ],
)
async def test_no_such_record_and_cannot_tell_are_two_things(
    server: NameServer, put: tuple[str, ...], rcode: dns.rcode.Rcode | None, outcome: Outcome, said: str
) -> None:
    if put:
        server.put(*put)
    server.rcode = rcode
    reply = await names(server).ask(at(server), NAME, "A")
    assert (reply.outcome, reply.said, reply.targets) == (outcome, said, frozenset())


async def test_a_server_that_does_not_answer_is_silent(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "TIMEOUT", 0.1)
    server.silent = True
    reply = await names(server).ask(at(server), NAME, "A")
    assert (reply.outcome, reply.said) == (Outcome.SILENT, "no answer within 0.1 s")
    nobody = Server("127.0.0.1", free_port(), "127.0.0.1")
    assert (await names(server).ask(nobody, NAME, "A")).outcome is Outcome.SILENT


async def test_a_cname_where_an_address_should_be_is_seen_as_what_it_is(server: NameServer) -> None:
    server.put(NAME, "CNAME", "Elsewhere.example.net.")
    reply = await names(server).ask(at(server), NAME, "A")
    assert reply.targets == {"elsewhere.example.net"}


async def test_the_servers_that_the_router_names_are_asked_and_no_others(server: NameServer) -> None:
    server.put("dns-1.example.com", "A", "192.0.2.53")
    told = block(nameservers=[{"host": "192.0.2.9", "port": 5353}, {"host": "dns-1.example.com"}])
    found = await names(server).servers(told)
    assert [str(one) for one in found] == ["192.0.2.9:5353", "dns-1.example.com (192.0.2.53)"]


async def test_without_them_those_of_the_zone_are_found_by_ns_and_looked_up_again_in_time(server: NameServer) -> None:
    clock = ManualClock()
    known = names(server, clock)
    server.put("example.com", "NS", "ns1.example.com.", "ns2.example.com.")
    server.put("ns1.example.com", "A", "192.0.2.51")
    server.put("ns2.example.com", "AAAA", "2001:db8::52")
    found = await known.servers(block(hostname="shop.eu.example.com"))
    assert [(one.address, one.port) for one in found] == [("192.0.2.51", 53), ("2001:db8::52", 53)]
    server.put("example.com", "NS", "ns1.example.com.")
    asked = server.asked
    assert len(await known.servers(block(hostname="shop.eu.example.com"))) == 2
    assert server.asked == asked
    clock.seconds += resolving.KNOWN_FOR
    assert len(await known.servers(block(hostname="shop.eu.example.com"))) == 1


async def test_a_zone_that_cannot_be_found_is_said_with_the_question(server: NameServer) -> None:
    with pytest.raises(Retryable, match=r"no zone with NS records was found for shop.example.com"):
        await names(server).servers(block())
    with pytest.raises(Retryable, match=r"name server nowhere.example.org has no address that can be found"):
        await names(server).servers(block(nameservers=[{"host": "nowhere.example.org"}]))
    server.rcode = dns.rcode.SERVFAIL
    with pytest.raises(Retryable, match=r"the name servers of shop.example.com cannot be found \(NS shop.example.com"):
        await names(server).servers(block())
