"""The name that customers resolve as the switch between a router and its fallback: the `Switch` port made real.

Promises: which addresses the Router's DNSEndpoint names is the truth, whoever wrote that: a person may switch by one
kubectl command while no operator runs, and nothing here takes it back. Everything else of it is the operator's. What
name servers do not answer yet is pending: resolvers may keep what they heard for the record's TTL beyond that, which
nothing here can shorten. DNSEndpoints are watched from the first Router on that names this switch.

Must not: decide who serves, or take a written DNSEndpoint for a published one.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from recell.api import Cell, Router
from recell.api.dns import DNS, RecordType
from recell.api.fallback import DNSSwitch as Block
from recell.api.fallback import SwitchType
from recell.api.meta import GROUP, LABEL_ROUTER, seconds
from recell.api.placement import PlacementMode
from recell.domain.observation import Landed
from recell.domain.wording import listed
from recell.engine.errors import BadInput, NotFound, Retryable
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.collection import Collection
from recell.providers.kube.kept import KeptObjects
from recell.providers.kube.ownership import of_router
from recell.providers.kube.paths import DNS_ENDPOINTS
from recell.providers.routing.asking import land, way_in
from recell.providers.routing.dns.data_plane import READ_WITHIN, explained
from recell.providers.routing.dns.publication import Outcome, Reply
from recell.providers.routing.dns.records import canonical
from recell.providers.routing.dns.traffic import Names, ask_all
from recell.providers.routing.haproxy.fallback import fallback_name

ANNOTATION_PRIMARY = f"{GROUP}/router-targets"
ANNOTATION_FALLBACK = f"{GROUP}/fallback-targets"
"""On the DNSEndpoint: the targets of either side, for whoever switches by hand; separated by spaces."""

Targets = tuple[str, ...]


class Services(Protocol):
    """The routers' Services, with `spec.type` and `status.loadBalancer`."""

    def get(self, key: Key) -> Object | None: ...


class DNSSwitch:
    type = SwitchType.DNS
    name = "the DNS record"

    def __init__(
        self,
        api: Api,
        clock: Clock,
        namespaces: Sequence[str],
        services: Services,
        names: Names,
        cells: Callable[[Key], Mapping[str, Cell]],
        *,
        on_change: Callable[[Key], None],
    ) -> None:
        """`on_change` is told the key of each Router that names this switch and whose DNSEndpoint looks different."""
        self._endpoints = endpoints = Collection(api, DNS_ENDPOINTS, clock, namespaces, labels=LABEL_ROUTER)
        self._on_change = on_change
        self._named: set[Key] = set()
        endpoints.subscribe(self._changed)
        self._services = services
        self._names = names
        self._cells = cells
        self._kept = KeptObjects(
            api, clock, DNS_ENDPOINTS, lambda key: endpoints, field="endpoints", explained=explained
        )

    async def keep(self, router: Router) -> None:
        """The record is there, and leads where it led.

        Raises BadInput where there is no such kind, no address, or the DNSEndpoint is another one's, Forbidden with
        what to grant, Conflict, Retryable, Reverted.
        """
        if _block(router) is None:
            self._named.discard(router.key)
            return
        self._named.add(router.key)
        self._endpoints.start()
        if not await self._endpoints.synced_within(READ_WITHIN):
            raise explained(self._endpoints.trouble or Retryable("DNSEndpoints have not been read yet"))
        await self._write(router, self.at(router.key) or PlacementMode.PRIMARY)

    def obstacle(self, router: Router) -> str:
        if self._endpoints.get(router.key) is None:
            return f"DNSEndpoint {'/'.join(router.key)} is not there"
        try:
            self._targets(router, PlacementMode.FALLBACK)
        except BadInput as error:
            return str(error)
        return ""

    def at(self, router: Key) -> PlacementMode | None:
        """Targets that are neither side's count as the router's own, and are put right when somebody is moved."""
        live = self._endpoints.get(router)
        if live is None:
            return None
        found = {canonical(target) for entry in live["spec"].get("endpoints") or () for target in entry["targets"]}
        told = (live["metadata"].get("annotations") or {}).get(ANNOTATION_FALLBACK, "")
        behind = {canonical(target) for target in told.split()}
        return PlacementMode.FALLBACK if behind and found == behind else PlacementMode.PRIMARY

    async def to(self, router: Router, side: PlacementMode) -> None:
        if self._endpoints.get(router.key) is None:
            raise NotFound(f"DNSEndpoint {'/'.join(router.key)} does not exist")
        if self.at(router.key) is not side:
            await self._write(router, side)

    def within(self, router: Router) -> float:
        block = _block(router)
        return seconds(block.publish_timeout) if block is not None else 0.0

    async def pending(self, router: Router) -> str:
        block, side = _block(router), self.at(router.key)
        if block is None or side is None:
            return f"DNSEndpoint {'/'.join(router.key)} is not there"
        zone = DNS(hostname=block.hostname, nameservers=block.nameservers)
        try:
            wanted = frozenset(map(canonical, self._targets(router, side)))
            replies = await ask_all(self._names, zone, block.hostname, block.record_type)
        except (BadInput, Retryable) as error:
            return str(error)
        return listed(told for reply in replies if (told := _differs(reply, block, wanted)))

    async def land(self, router: Router, customers: Sequence[str]) -> Sequence[Landed]:
        """At the first of the addresses that the record names: what name servers answer, `pending` tells."""
        block, haproxy = _block(router), router.spec.haproxy
        if block is None or haproxy is None:
            raise BadInput(f"Router {router.metadata.name}: spec.fallback.switches names no DNS")
        target = self._targets(router, self.at(router.key) or PlacementMode.PRIMARY)[0]
        where = (target, haproxy.service.port)
        way = way_in(router, where, self._cells(router.key), name=block.hostname)
        return await land(way, customers) if way is not None else ()

    async def stop(self) -> None:
        await self._endpoints.stop()

    def _changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        if key in self._named:
            self._on_change(key)

    async def _write(self, router: Router, side: PlacementMode) -> None:
        sides = {side: self._targets(router, side) for side in PlacementMode}
        await self._kept.keep(router, switched_record(router, sides, side))

    def _targets(self, router: Router, side: PlacementMode) -> Targets:
        """Where customers reach that side. Raises BadInput while it has no address."""
        block, behind = _block(router), side is PlacementMode.FALLBACK
        if block is None:
            raise BadInput(f"Router {router.metadata.name}: spec.fallback.switches names no DNS")
        named = block.fallback_targets if behind else block.router_targets
        if named:
            return tuple(named)
        key = (router.metadata.namespace, fallback_name(router.metadata.name) if behind else router.metadata.name)
        service = self._services.get(key) or {}
        given = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        found = [told for each in given if (told := each.get("ip") or each.get("hostname")) if _is(told, block)]
        if not found:
            raise BadInput(
                f"Service {'/'.join(key)} has no address for a record of type {block.record_type} yet"
                " (status.loadBalancer.ingress); what gives Services of type LoadBalancer their addresses has to, or"
                " name routerTargets and fallbackTargets"
            )
        return tuple(sorted(found)[:1] if block.record_type is RecordType.CNAME else sorted(found))


def _block(router: Router) -> Block | None:
    return router.spec.fallback.dns if router.spec.fallback is not None else None


def _is(target: str, block: Block) -> bool:
    """An address, or host name, that a record of this type takes."""
    try:
        version = ipaddress.ip_address(target).version
    except ValueError:
        return block.record_type is RecordType.CNAME
    return block.record_type is (RecordType.A if version == 4 else RecordType.AAAA)


def _differs(reply: Reply, block: Block, wanted: frozenset[str]) -> str:
    """Why customers who ask this name server do not go there; empty: they do."""
    question = f"{block.record_type} {block.hostname}"
    if reply.outcome is not Outcome.ANSWERED:
        return f"{reply.server} does not answer {question} ({reply.said})"
    if reply.targets == wanted:
        return ""
    return f"{reply.server} still answers {listed(sorted(reply.targets))} for {question}, not {listed(sorted(wanted))}"


def switched_record(router: Router, sides: Mapping[PlacementMode, Targets], side: PlacementMode) -> Object:
    """The name has the targets of that side; pure. Raises BadInput for a Router that names no such switch."""
    block = _block(router)
    if block is None:
        raise BadInput(f"Router {router.metadata.name}: spec.fallback.switches names no DNS")
    record: Object = {
        "dnsName": block.hostname,
        "recordType": str(block.record_type),
        "recordTTL": int(seconds(block.ttl)),
        "targets": list(sides[side]),
    }
    if block.provider_specific:
        record["providerSpecific"] = [{"name": each.name, "value": each.value} for each in block.provider_specific]
    noted = {
        ANNOTATION_PRIMARY: " ".join(sides[PlacementMode.PRIMARY]),
        ANNOTATION_FALLBACK: " ".join(sides[PlacementMode.FALLBACK]),
    }
    return of_router(router, DNS_ENDPOINTS, {"endpoints": [record]}, noted)
