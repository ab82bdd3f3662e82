"""Requests and errors per cell, as the router's pods count them, over the last seconds.

Promises: reads the agents' metrics through the API server's pod proxy, so it needs `list`
on `pods` and `get` on `pods/proxy`. What cannot be read is said once in words and never guessed; a pod
whose counters went back was restarted, and its counting begins anew.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

from recell.api.meta import LABEL_ROUTER
from recell.cli.cluster import Key
from recell.cli.views.run import Rate
from recell.engine.errors import Forbidden, RecellError, Retryable
from recell.providers.kube.api import Api
from recell.providers.kube.errors import translate
from recell.providers.kube.paths import PODS

AGENT_PORT = 8405
REQUESTS, FAILURES = "recell_router_cell_requests_total", "recell_router_cell_failures_total"
TIMEOUT = 3.0
WINDOW = 5.0
"""Seconds that a rate is about; shorter while they have not passed yet."""

Counters = dict[str, tuple[float, float]]
"""Per cell: requests and failures so far."""


@dataclass(frozen=True)
class Look:
    at: datetime
    counters: Counters


@dataclass
class RouterRates:
    """Remembers the looks at each pod within the window."""

    api: Api
    _looks: dict[str, deque[Look]] = field(default_factory=dict)
    _refused: str = ""

    async def look(self, router: Key, now: datetime) -> tuple[Mapping[str, Rate] | None, str]:
        """Rates of the window, or None and why there are none (nothing to say while the first look is the only one)."""
        if self._refused:
            return None, self._refused
        try:
            pods = await self._pods(router)
            found = await asyncio.gather(*(self._counters(router[0], pod) for pod in pods))
        except Forbidden:
            self._refused = (
                "Requests and errors are not available: permission missing (list on pods and get on pods/proxy,"
                f" in namespace {router[0]})"
            )
            return None, self._refused
        except RecellError as error:
            return None, f"Requests and errors are not available now: {error}"
        if not pods:
            return None, f"Requests and errors are not available: router {router[1]} has no running pod"
        return self._over_window(dict(zip(pods, found, strict=True)), now), ""

    async def _pods(self, router: Key) -> list[str]:
        listing = await self.api.list(
            PODS.collection(router[0]), labels=f"{LABEL_ROUTER}={router[1]}", fields="status.phase=Running"
        )
        return [pod["metadata"]["name"] for pod in listing.items]

    async def _counters(self, namespace: str, pod: str) -> Counters:
        path = PODS.path(namespace, f"{pod}:{AGENT_PORT}", "proxy/metrics")
        answer = await self.api.connection.request("GET", path, timeout=TIMEOUT)
        if answer.status >= 400:
            raise translate("get", path, answer.status, answer.body, answer.headers)
        try:
            return counters(answer.body.decode())
        except ValueError as error:
            raise Retryable(f"pod {pod}: its metrics cannot be read: {error}") from error

    def _over_window(self, found: Mapping[str, Counters], now: datetime) -> Mapping[str, Rate] | None:
        """Summed over the pods; None until every pod was looked at twice since it started."""
        requests: dict[str, float] = {}
        failures: dict[str, float] = {}
        for pod, present in found.items():
            looks = self._looks.setdefault(pod, deque())
            if looks and _went_back(looks[-1].counters, present):
                looks.clear()
            looks.append(Look(now, present))
            while len(looks) > 2 and (now - looks[1].at).total_seconds() >= WINDOW:
                looks.popleft()
        for pod in found:
            first, last = self._looks[pod][0], self._looks[pod][-1]
            seconds = (last.at - first.at).total_seconds()
            if seconds <= 0:
                return None
            for cell, (asked, failed) in last.counters.items():
                old = first.counters.get(cell, (0.0, 0.0))
                requests[cell] = requests.get(cell, 0.0) + (asked - old[0]) / seconds
                failures[cell] = failures.get(cell, 0.0) + (failed - old[1]) / seconds
        return {
            cell: Rate(requests_per_second=rate, error_rate=failures[cell] / rate if rate else None)
            for cell, rate in requests.items()
        }


def _went_back(before: Counters, present: Counters) -> bool:
    """The pod's HAProxy was restarted."""
    return any(
        present[cell][0] < old[0] or present[cell][1] < old[1] for cell, old in before.items() if cell in present
    )


def counters(text: str) -> Counters:
    """Raises ValueError for what is no exposition text."""
    found: Counters = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            cell = sample.labels.get("cell")
            if cell is None or sample.name not in (REQUESTS, FAILURES):
                continue
            requests, failures = found.get(cell, (0.0, 0.0))
            found[cell] = (sample.value, failures) if sample.name == REQUESTS else (requests, sample.value)
    return found
