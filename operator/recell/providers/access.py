"""The customers' way in, tried: the `Access` port made real.

Promises: one GET through the Router's Service, Gateway or DNS name, as a customer that nobody has, with a deadline; no
customer's data is asked for. A way in that cannot be tried from here says nothing about the cell. Must not judge more
than the status.
"""

import asyncio
from itertools import count, islice

from recell.api import Cell, Router
from recell.api.cell import ProbeScheme
from recell.api.dns import DNS
from recell.api.gateway import Gateway
from recell.api.router import CustomerKey, HAProxy, KeySource, RouterType
from recell.domain.observation import ProbeResult
from recell.domain.placement import slot_of
from recell.domain.wording import listed
from recell.engine.errors import BadInput, Forbidden, NotFound, Retryable
from recell.engine.ports import Clock
from recell.providers import http
from recell.providers.kube.api import Api
from recell.providers.kube.paths import GATEWAYS, SERVICES
from recell.providers.kube.services import Address, address
from recell.providers.routing.dns.publication import Outcome
from recell.providers.routing.dns.records import canonical
from recell.providers.routing.dns.traffic import Names, ask_all
from recell.providers.routing.gateway import entry

TIMEOUT = 2.0
"""Seconds."""
_DEFAULT_PORTS = {ProbeScheme.HTTP: 80, ProbeScheme.HTTPS: 443}
TRIES = 32
"""Keys invented for a table, for each of its slots, at most: a slot is without one less often than once in 1e13."""


class RouterAccess:
    def __init__(self, api: Api, clock: Clock, names: Names) -> None:
        self._api = api
        self._clock = clock
        self._names = names
        self._customers: dict[int, _Invented] = {}
        """By the number of slots."""

    async def try_slot(self, router: Router, cell: Cell, slot: int) -> ProbeResult:
        """GET of the cell's probe path through the real router, as an invented customer of this slot.

        200 to 399 is well; that it was this cell that answered, is the Placement's word.

        The message tells the customer, the status and the time that it took. Raises BadInput for a slot or a Router
        that cannot be tried, Forbidden, Retryable.
        """
        if router.spec.type is RouterType.GATEWAY and router.spec.gateway is not None:
            return await self._through_gateway(router, router.spec.gateway, cell)
        if router.spec.dns is not None:
            return await self._by_name(router.spec.dns, cell)
        name, block = router.metadata.name, router.spec.haproxy
        if block is None:
            raise BadInput(f"Router {name}: spec.haproxy is missing, so there is no way in to try")
        if not 0 <= slot < block.slots:
            raise BadInput(f"Router {name} has the slots 0 to {block.slots - 1}, and none {slot}")
        customer = self._customers.setdefault(block.slots, _Invented(block.slots)).of(slot)
        told = f"customer {customer} of slot {slot}"
        try:
            where = await self._address(router, block)
        except NotFound as error:
            return self._result(False, f"{told}: {error}")
        headers, asked = request(block.customer_key, customer, _path(cell))
        return await self._ask(told, where, asked, headers)

    async def _through_gateway(self, router: Router, block: Gateway, cell: Cell) -> ProbeResult:
        """Whichever cell the Gateway chooses answers: it knows neither customers nor slots, and the message says so."""
        ref = block.parent_refs[0]
        place = (ref.namespace or router.metadata.namespace, ref.name)
        told = f"a customer through Gateway {place[0]}/{place[1]}, who may get to any cell"
        try:
            asked = entry.request(block, _path(cell))
            listener = entry.listener(await self._api.get(GATEWAYS.path(*place)), ref)
        except (entry.Unknown, NotFound, Forbidden) as error:
            return self._result(False, f"{told}: {error}", untried=True)
        name = asked.headers.get("Host")
        return await self._ask(told, listener.address, asked.path, asked.headers, listener.scheme, server_name=name)

    async def _by_name(self, block: DNS, cell: Cell) -> ProbeResult:
        """Where the name servers send customers, for the operator's own resolver may know another zone, or an older
        answer. The cell's own target if it is among theirs, else whichever cell they name."""
        port, probe = cell.spec.backend.port, cell.spec.health.probe
        scheme = probe.scheme if probe is not None else ProbeScheme.HTTP
        told = f"a customer of {block.hostname}:{port}"
        try:
            targets = await self._targets(block)
        except Retryable as error:
            return self._result(False, f"{told}: {error}", untried=True)
        own = cell.spec.backend.address
        mine = canonical(own.host) if own is not None else ""
        where, whose = (mine, "") if mine in targets else (min(targets), ", who may get to any cell")
        host = block.hostname if port == _DEFAULT_PORTS[scheme] else f"{block.hostname}:{port}"
        told = f"{told} at {where}{whose}"
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.get_running_loop().getaddrinfo(where, port)  # of a CNAME's target
        except OSError as error:  # TimeoutError is one
            return self._result(False, f"{told}: cannot be resolved from here: {error or 'no answer'}", untried=True)
        return await self._ask(
            told, Address(where, port), _path(cell), {"Host": host}, scheme, server_name=block.hostname
        )

    async def _targets(self, block: DNS) -> frozenset[str]:
        """All that any name server answers. Raises Retryable, naming each server and what it said instead."""
        replies = await ask_all(self._names, block, block.hostname, str(block.record_type))
        targets = frozenset[str]().union(*(r.targets for r in replies if r.outcome is Outcome.ANSWERED))
        if not targets:
            told = listed(f"{reply.server}: {reply.said}" for reply in replies)
            raise Retryable(f"no name server has an answer ({told or 'there is none'})")
        return targets

    async def _ask(
        self,
        told: str,
        where: Address,
        path: str,
        headers: dict[str, str],
        scheme: ProbeScheme = ProbeScheme.HTTP,
        *,
        server_name: str | None = None,
    ) -> ProbeResult:
        began, asked = self._clock.monotonic(), http.url(scheme.value.lower(), *where, path)
        async with http.session() as session:
            answer = await http.ask(session, asked, timeout=TIMEOUT, headers=headers, server_name=server_name)
        if answer.status is None:
            return self._result(False, f"{told}: {answer.message}")
        took = self._clock.monotonic() - began
        return self._result(200 <= answer.status < 400, f"{told}: {answer.message} in {took * 1000:.0f} ms")

    async def _address(self, router: Router, block: HAProxy) -> Address:
        """The Service that customers use is called like the Router."""
        return address(await self._api.get(SERVICES.path(*router.key)), block.service.port)

    def _result(self, ok: bool, message: str, *, untried: bool = False) -> ProbeResult:
        now = self._clock.now()
        return ProbeResult(ok=ok, message=message, at=now, since=now, operator_cut_off=untried)


def _path(cell: Cell) -> str:
    probe = cell.spec.health.probe
    return probe.path if probe is not None else "/"


def request(key: CustomerKey, customer: str, path: str) -> tuple[dict[str, str], str]:
    """Headers and path of a request that is this customer's; pure."""
    match key.type:
        case KeySource.HEADER:
            return {str(key.name): customer}, path
        case KeySource.COOKIE:
            return {"Cookie": f"{key.name}={customer}"}, path
        case KeySource.HOST:
            return {"Host": customer}, path
        case KeySource.PATH_SEGMENT:
            return {}, _in_segment(path, key.segment or 1, customer)


def _in_segment(path: str, number: int, customer: str) -> str:
    """The path with this segment, counted from 1, replaced; a path that is too short is filled up."""
    asked, mark, query = path.partition("?")
    segments = asked.split("/")[1:]
    before = [segment or "-" for segment in segments[: number - 1]]
    before += ["-"] * (number - 1 - len(before))
    return "/" + "/".join([*before, customer, *segments[number:]]) + mark + query


class _Invented:
    """Customer keys by their slot, found as they are needed."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._found: dict[int, str] = {}
        self._next = islice(count(), TRIES * slots)

    def of(self, slot: int) -> str:
        while slot not in self._found:
            number = next(self._next, None)
            if number is None:
                raise BadInput(f"no customer key was found for slot {slot} of {self._slots}")
            customer = f"recell-probe-{number}"
            self._found.setdefault(slot_of(customer, self._slots), customer)
        return self._found[slot]
