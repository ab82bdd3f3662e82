"""Requests and errors per cell, as the router's pods count them, between two looks.

Promises: reads the agents' metrics through the API server's pod proxy, so it needs `get` on
`pods/proxy` and nothing else. What cannot be read is said once in words and never guessed; a pod
whose counters went back was restarted, and its look is skipped.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

from recell.api.meta import LABEL_ROUTER
from recell.cli.cluster import Key
from recell.cli.views.run import Rate
from recell.engine.errors import Forbidden, NotFound, RecellError, Retryable
from recell.providers.kube.api import Api
from recell.providers.kube.errors import translate
from recell.providers.kube.paths import PODS

AGENT_PORT = 8405
REQUESTS, FAILURES = "recell_router_cell_requests_total", "recell_router_cell_failures_total"
TIMEOUT = 3.0
AT_LEAST = 1.0
"""Seconds between two looks that make a rate."""

Counters = dict[str, tuple[float, float]]
"""Per cell: requests and failures so far."""


@dataclass
class RouterRates:
    """Remembers the last look at each pod."""

    api: Api
    _last: dict[str, tuple[datetime, Counters]] = field(default_factory=dict)
    _refused: str = ""

    async def look(self, router: Key, now: datetime) -> tuple[Mapping[str, Rate] | None, str]:
        """Rates since the last look, or None and why there are none."""
        if self._refused:
            return None, self._refused
        try:
            pods = await self._pods(router)
            found = await asyncio.gather(*(self._counters(router[0], pod) for pod in pods))
        except (Forbidden, NotFound) as error:
            self._refused = f"Requests and errors are not available: {_why(error)}"
            return None, self._refused
        except RecellError as error:
            return None, f"Requests and errors are not available now: {error}"
        if not pods:
            return None, f"Requests and errors are not available: router {router[1]} has no running pod"
        return self._since_last(dict(zip(pods, found, strict=True)), now)

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

    def _since_last(self, seen: Mapping[str, Counters], now: datetime) -> tuple[Mapping[str, Rate] | None, str]:
        requests: dict[str, float] = {}
        failures: dict[str, float] = {}
        complete = bool(seen)
        for pod, present in seen.items():
            at, before = self._last.get(pod, (now, {}))
            seconds = (now - at).total_seconds()
            if seconds < AT_LEAST:
                complete = False
                self._last.setdefault(pod, (now, present))
                continue
            self._last[pod] = (now, present)
            for cell, (asked, failed) in present.items():
                old = before.get(cell, (0.0, 0.0))
                if asked < old[0] or failed < old[1]:
                    complete = False
                    continue
                requests[cell] = requests.get(cell, 0.0) + (asked - old[0]) / seconds
                failures[cell] = failures.get(cell, 0.0) + (failed - old[1]) / seconds
        if not complete:
            return None, ""
        return {
            cell: Rate(requests_per_second=rate, error_rate=failures[cell] / rate if rate else None)
            for cell, rate in requests.items()
        }, ""


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


def _why(error: RecellError) -> str:
    if isinstance(error, Forbidden):
        return "permission missing (get on pods/proxy and list on pods, in the fleet namespace)"
    return str(error)
