"""Traffic of Routers of type Gateway, by what their implementation's own pods count.

Promises: pods are found by a watch, and each is read once in the interval of the built-in router's reports; from there
on figures are kept and summed up as those of its pods are, so that what is stale or missing is None here too. Without
`spec.gateway.metrics` there are no figures, and nothing is watched or asked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import aiohttp

from recell.api import Cell, Placement, Router
from recell.api.gateway import GatewayMetrics
from recell.domain.observation import RouterTraffic
from recell.engine.ports import Clock, Key
from recell.providers import http
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import PODS
from recell.providers.kube.pods import serves
from recell.providers.kube.reflector import Reflector
from recell.providers.routing.gateway.counters import DIALECTS, Backends, PodCounters
from recell.providers.routing.gateway.route import Rule
from recell.providers.routing.haproxy.report import Report
from recell.providers.routing.haproxy.streams import SAMPLE_INTERVAL, HAProxyTraffic

TIMEOUT = aiohttp.ClientTimeout(total=2.0)
"""Of one scrape, in seconds."""
LIMIT = 16 * 1024 * 1024
"""Bytes of one scrape."""


@dataclass
class _Followed:
    metrics: GatewayMetrics
    pods: Reflector


class Figures:
    """`Traffic.observed` for these Routers."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._traffic = HAProxyTraffic(clock, on_change=lambda key: None, reports=self._reports)
        self._followed: dict[Key, _Followed] = {}
        self._named: dict[Key, tuple[Placement, Backends]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def follow(self, router: Router) -> None:
        """As the Router's spec says. Repeatable."""
        wanted = router.spec.gateway.metrics if router.spec.gateway is not None else None
        known = self._followed.get(router.key)
        if wanted == (known.metrics if known is not None else None):
            return
        await self._unfollow(router.key)
        if wanted is None:
            return
        labels = ",".join(f"{name}={value}" for name, value in sorted(wanted.pod_selector.items()))
        path = PODS.collection(wanted.namespace or router.metadata.namespace)
        pods = Reflector(self._api, path, self._clock, labels=labels, trim=_slim)
        self._followed[router.key] = _Followed(wanted, pods)
        if router.key in self._named:
            self._traffic.set_placement(router.key, self._named[router.key][0])
        pods.subscribe(self._listener(router.key, pods))
        pods.start()

    def name(self, router: Key, placement: Placement, cells: Mapping[str, Cell], rules: Sequence[Rule]) -> None:
        """Which cells and classes the counters are about, by the Placement and the rules that are in force."""
        services = {
            (cell.workload_namespace, cell.spec.backend.service.name): name
            for name, cell in cells.items()
            if cell.spec.backend.service is not None
        }
        indexes = {placed.name: placed.index for placed in placement.spec.cells}
        self._named[router] = (placement, Backends(router, indexes, services, rules))
        if router in self._followed:
            self._traffic.set_placement(router, placement)

    async def drop(self, router: Key) -> None:
        """The Router is gone. Repeatable."""
        self._named.pop(router, None)
        await self._unfollow(router)

    async def _unfollow(self, router: Key) -> None:
        followed = self._followed.pop(router, None)
        if followed is not None:
            await followed.pods.stop()
            self._traffic.drop(router)

    async def stop(self) -> None:
        for router in list(self._followed):
            await self.drop(router)
        await self._traffic.stop()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        return self._traffic.observed(router, window=window, not_before=not_before)

    def unseen(self, router: Key) -> str:
        """Why there are no figures although the Router says where they are; empty if nothing is known to be wrong."""
        followed = self._followed.get(router)
        if followed is None:
            return ""
        where = "spec.gateway.metrics"
        if followed.pods.trouble is not None:
            return f"{where}: the pods cannot be watched: {followed.pods.trouble}"
        if followed.pods.synced.is_set() and not followed.pods.objects():
            place = followed.metrics.namespace or router[0]
            return f"{where}: podSelector selects no pod in namespace {place}: correct namespace or podSelector"
        lost = self._traffic.lost(router)
        return f"{where}: {lost}: correct port or type, or let the operator's pods reach that port" if lost else ""

    def _listener(self, router: Key, pods: Reflector) -> Callable[[Key, Object | None, Object | None], None]:
        def changed(key: Key, old: Object | None, new: Object | None) -> None:
            found = {
                pod["metadata"]["name"]: (pod["status"]["podIP"], serves(pod))
                for pod in pods.objects()
                if pod["status"].get("podIP")
            }
            self._traffic.set_pods(router, found)

        return changed

    async def _reports(self, router: Key, ip: str) -> AsyncIterator[Report]:
        """One for each scrape; ends when the Router is not followed any more."""
        followed = self._followed[router]
        counters = PodCounters(DIALECTS[followed.metrics.type])
        url = http.url("http", ip, followed.metrics.port, counters.dialect.path)
        while self._followed.get(router) is followed:
            if router in self._named:
                text = await self._scrape(url)
                yield counters.take(text, self._named[router][1], self._clock.now().timestamp())
            await asyncio.sleep(SAMPLE_INTERVAL)

    async def _scrape(self, url: str) -> str:
        """Raises as a connection does, ValueError for what is no such answer."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        async with self._session.get(url, timeout=TIMEOUT) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status} from {url}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > LIMIT:
                    raise ValueError(f"more than {LIMIT} bytes from {url}")
            return body.decode(errors="replace")


def _slim(pod: Object) -> Object:
    status = pod.get("status") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")
    return {
        "metadata": {name: pod["metadata"][name] for name in kept if name in pod["metadata"]},
        "status": {"podIP": status.get("podIP"), "conditions": status.get("conditions") or []},
    }
