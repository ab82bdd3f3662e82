"""Routers of type DNS: each has one DNSEndpoint, which ExternalDNS makes into records of its zone.

Promises
- The DNSEndpoint says what the Placement says, and is written only when it says something else, by compare-and-swap
  and never over one that was made from a newer Placement (rule 18).
- A DNSEndpoint of that name that somebody else made is left alone, and said.
- What it lacks is said with the next step: the kind, a permission, an address.
- DNSEndpoints are watched in the namespaces of such Routers only, from the first Router on.

Must not: decide who serves, or take a written DNSEndpoint for a published one: see `traffic`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from recell.api import Placement, Router
from recell.api.dns import DNS
from recell.api.meta import ANNOTATION_CONTENT, seconds
from recell.domain.observation import Applied, RouterTraffic
from recell.engine.errors import BadInput, Forbidden, NotFound, RecellError, Retryable
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.kept import KeptObjects
from recell.providers.kube.paths import DNS_ENDPOINTS
from recell.providers.kube.reflector import Reflector
from recell.providers.routing.dns.publication import Wanted
from recell.providers.routing.dns.records import answered, endpoint, records
from recell.providers.routing.dns.traffic import DNSTraffic
from recell.providers.routing.version import ANNOTATION_PLACEMENT, Version

logger = logging.getLogger(__name__)

READ_WITHIN = 5.0
"""Seconds for the first look at a namespace's DNSEndpoints."""


class DNSDataPlane:
    """`on_change` is told the key of each Router whose DNSEndpoint looks different."""

    def __init__(self, api: Api, clock: Clock, traffic: DNSTraffic, *, on_change: Callable[[Key], None]) -> None:
        self._api = api
        self._clock = clock
        self._traffic = traffic
        self._on_change = on_change
        self._routers: dict[Key, Router] = {}
        self._watches: dict[str, Reflector] = {}
        """By namespace."""
        self._kept = KeptObjects(
            api, clock, DNS_ENDPOINTS, lambda key: self._watches[key[0]], field="endpoints", explained=explained
        )

    @property
    def reflectors(self) -> Sequence[Reflector]:
        return tuple(self._watches.values())

    def start(self) -> None:
        """Watches begin with the first Router of a namespace."""

    async def wait_synced(self) -> None:
        """Nothing is waited for: not every cluster has the kind."""

    async def stop(self) -> None:
        await self._traffic.stop()
        await asyncio.gather(*(watch.stop() for watch in self._watches.values()))

    async def ensure(self, router: Router) -> None:
        """The namespace's DNSEndpoints can be read. Raises Forbidden, BadInput, Retryable."""
        if router.spec.dns is None:
            raise BadInput("spec.dns is missing")
        self._routers[router.key] = router
        namespace = router.metadata.namespace
        watch = self._watches.get(namespace)
        if watch is None:
            watch = self._watches[namespace] = Reflector(
                self._api, DNS_ENDPOINTS.collection(namespace), self._clock, trim=_trim
            )
            watch.subscribe(self._changed)
            watch.start()
        await self._readable(watch)

    async def tell(self, router: Key, placement: Placement | None) -> None:
        """Raises as `ensure`, and Conflict when somebody else wrote first."""
        if placement is None:
            self._routers.pop(router, None)
            self._kept.forget(router)
            self._traffic.drop(router)
            return
        known = self._routers.get(router)
        if known is None or known.spec.dns is None:
            return
        live = self._live(router)
        block = known.spec.dns
        wanted = endpoint(known, placement, block)
        if live is None or live["spec"] != wanted["spec"]:
            live = await self._write(known, live, wanted, Version.of(placement))
        await self._traffic.publish(router, block, asked(placement, block, wanted), taken=_taken(live))

    def serving(self, router: Key) -> int:
        return self._traffic.serving(router)

    def complaint(self, router: Key) -> str:
        return self._traffic.complaint(router)

    def unseen(self, router: Key) -> str:
        return ""

    def progress(self, router: Key) -> str:
        return self._traffic.progress(router)

    def applied(self, router: Key) -> Applied | None:
        return self._traffic.applied(router)

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        return self._traffic.observed(router, window=window, not_before=not_before)

    # How.

    async def _readable(self, watch: Reflector) -> None:
        if not watch.synced.is_set() and watch.trouble is None:
            try:
                async with asyncio.timeout(READ_WITHIN):
                    await watch.synced.wait()
            except TimeoutError:
                raise explained(watch.trouble or Retryable("DNSEndpoints have not been read yet")) from None
        gone = isinstance(watch.trouble, Forbidden | NotFound)
        if watch.trouble is not None and (gone or not watch.synced.is_set()):
            raise explained(watch.trouble)

    def _live(self, router: Key) -> Object | None:
        watch = self._watches.get(router[0])
        return watch.get(router) if watch is not None else None

    async def _write(self, router: Router, live: Object | None, wanted: Object, version: Version) -> Object:
        if live is not None:
            carried = Version.parse((live["metadata"].get("annotations") or {}).get(ANNOTATION_PLACEMENT, ""))
            if carried is not None and not version.may_follow(carried):
                name = f"DNSEndpoint {'/'.join(router.key)}"
                raise Retryable(f"{name} carries Placement {carried}, and {version} is older or another one")
        return _trim(await self._kept.keep(router, wanted))

    def _changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        if key in self._routers:
            self._on_change(key)


def asked(placement: Placement, block: DNS, made: Object) -> Wanted:
    """What name servers have to answer once this DNSEndpoint is published; pure."""
    return Wanted(
        version=Version.of(placement),
        content=made["metadata"]["annotations"][ANNOTATION_CONTENT],
        name=block.hostname,
        record_type=str(block.record_type),
        targets=answered(records(placement.spec, block)),
        exact=not block.weighted,
        ttl=seconds(block.ttl),
        propagation=seconds(block.propagation) if block.weighted else 0.0,
        within=seconds(block.publish_timeout),
    )


def _taken(live: Object) -> bool:
    observed = (live.get("status") or {}).get("observedGeneration") or 0
    return bool(observed >= live["metadata"]["generation"])


def explained(error: RecellError) -> RecellError:
    """With what to do about it."""
    if isinstance(error, Forbidden):
        return Forbidden(f"{error}; features.dnsEndpoints of the chart grants what a Router of type DNS needs")
    if isinstance(error, NotFound):
        return BadInput(
            f"the API server has no kind DNSEndpoint in {DNS_ENDPOINTS.api_version}: install ExternalDNS with its"
            " CustomResourceDefinition, and run it with --source=crd"
        )
    return error


def _trim(obj: Object) -> Object:
    kept = ("name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations", "deletionTimestamp")
    metadata = {name: obj["metadata"][name] for name in kept if name in obj["metadata"]}
    return {"metadata": metadata, "spec": obj.get("spec") or {}, "status": obj.get("status") or {}}
