"""Asking name servers, one by one: what does each of them answer itself, and whose zone is it?

Promises: every question has a deadline; an answer, the certainty that there is no such record, a server that cannot
tell and one that does not answer are told apart (`Outcome`), with the server's name. Truncated answers are asked for
again over TCP. The name servers are those that the Router names, else those in the NS records of the name's zone,
found through the operator's own resolver and looked up again every few minutes.

Must not: cache an answer, or follow a CNAME that stands where an address should.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

from recell.api.dns import DNS, NameServer
from recell.domain.wording import listed
from recell.engine.errors import Retryable
from recell.engine.ports import Clock
from recell.providers.routing.dns.publication import Outcome, Reply
from recell.providers.routing.dns.records import canonical

TIMEOUT = 2.0
"""Seconds for one question to one server."""
FIND_WITHIN = 6.0
"""Seconds for each question to the operator's own resolver."""
MOST_SERVERS = 16
KNOWN_FOR = 300.0
"""Seconds after which name servers are looked up again."""
PORT = 53


@dataclass(frozen=True)
class Server:
    """One name server, as it is asked and as people know it."""

    address: str
    port: int
    name: str

    def __str__(self) -> str:
        where = f"[{self.address}]" if ":" in self.address else self.address
        where = where if self.port == PORT else f"{where}:{self.port}"
        return where if self.name == self.address else f"{self.name} ({where})"


@dataclass
class _Known:
    asked: tuple[str, tuple[tuple[str, int | None], ...]]
    at: float
    servers: tuple[Server, ...] = field(default_factory=tuple)


class NameServers:
    """`resolver` is the operator's own one: by default what /etc/resolv.conf says."""

    def __init__(self, clock: Clock, *, resolver: dns.asyncresolver.Resolver | None = None) -> None:
        self._clock = clock
        self._resolver = resolver
        self._known: dict[str, _Known] = {}

    async def servers(self, block: DNS) -> Sequence[Server]:
        """Who has to be asked. Raises Retryable with the question that has no answer."""
        asked = (block.hostname, tuple((server.host, server.port) for server in block.nameservers))
        known, now = self._known.get(block.hostname), self._clock.monotonic()
        if known is not None and known.asked == asked and now - known.at < KNOWN_FOR:
            return known.servers
        named = block.nameservers or [NameServer(host=host) for host in await self._of_zone(block.hostname)]
        found = [server for entry in named for server in await self._addresses(entry)][:MOST_SERVERS]
        self._known[block.hostname] = _Known(asked, now, tuple(found))
        return self._known[block.hostname].servers

    async def ask(self, server: Server, name: str, record_type: str) -> Reply:
        """One question to one server; never raises for what goes wrong on the way."""
        wanted = dns.rdatatype.from_text(record_type)
        question = dns.message.make_query(name, wanted)
        try:
            answer, _ = await dns.asyncquery.udp_with_fallback(
                question, server.address, timeout=TIMEOUT, port=server.port, ignore_unexpected=True
            )
        except dns.exception.Timeout:
            return Reply(str(server), Outcome.SILENT, said=f"no answer within {TIMEOUT:g} s")
        except (OSError, EOFError, dns.exception.DNSException) as error:
            return Reply(str(server), Outcome.SILENT, said=f"{type(error).__name__} {error}".strip())
        return read(str(server), answer, name, wanted)

    async def _of_zone(self, hostname: str) -> list[str]:
        """The zone's name servers by its NS records."""
        name = dns.name.from_text(hostname)
        while True:
            try:
                answer = await self._own().resolve(name, "NS", lifetime=FIND_WITHIN)
                return sorted(str(entry.target).rstrip(".") for entry in answer)
            except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
                if len(name.labels) <= 2:
                    raise Retryable(
                        f"no zone with NS records was found for {hostname}: correct spec.dns.hostname, or name the"
                        " servers in spec.dns.nameservers"
                    ) from None
                name = name.parent()
            except dns.exception.DNSException as error:
                raise Retryable(
                    f"the name servers of {hostname} cannot be found (NS {name}: {error}): see the operator's own"
                    " resolver, or name them in spec.dns.nameservers"
                ) from error

    async def _addresses(self, entry: NameServer) -> list[Server]:
        """One for each of the host's addresses of the first family that it has."""
        port = entry.port or PORT
        if dns.inet.is_address(entry.host):
            return [Server(entry.host, port, entry.host)]
        said = []
        for family in ("A", "AAAA"):
            try:
                answer = await self._own().resolve(f"{entry.host}.".replace("..", "."), family, lifetime=FIND_WITHIN)
            except dns.exception.DNSException as error:
                said.append(f"{family}: {error}")
                continue
            return [Server(str(found.address), port, entry.host) for found in answer]
        raise Retryable(f"name server {entry.host} has no address that can be found ({listed(said)})")

    def _own(self) -> dns.asyncresolver.Resolver:
        if self._resolver is None:
            self._resolver = dns.asyncresolver.Resolver()
        return self._resolver


def read(server: str, answer: dns.message.Message, name: str, wanted: dns.rdatatype.RdataType) -> Reply:
    """What an answer says about the name; pure."""
    rcode = answer.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Reply(server, Outcome.FAILED, said=dns.rcode.to_text(rcode))
    owner = dns.name.from_text(name)
    sets = [entry for entry in answer.answer if entry.name == owner]
    found = [entry for entry in sets if entry.rdtype in (wanted, dns.rdatatype.CNAME)]
    if not found:
        said = "NXDOMAIN" if rcode == dns.rcode.NXDOMAIN else "it has no record of this type"
        return Reply(server, Outcome.NO_RECORD, said=said)
    targets = frozenset(canonical(item.to_text()) for entry in found for item in entry)
    return Reply(server, Outcome.ANSWERED, targets, max(float(entry.ttl) for entry in found))
