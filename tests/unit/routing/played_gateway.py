"""A Gateway API in memory: an API server that knows generations, and an implementation that takes routes up, divides a
steady load by their weights, and tells Prometheus what it counted, in the words of Envoy Gateway."""

import asyncio
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from recell.providers.kube.api import Object
from recell.providers.kube.paths import HTTP_ROUTES, PODS
from recell.providers.routing.gateway.counters import EnvoyGateway
from recell.providers.routing.gateway.turn_away import TurnedAway, service_name
from tests.fakes.merging import merged
from tests.unit.kube.fake_server import FakeApi, FakeServer

NAMESPACE = "fleet"
GATEWAYS = ("one", "two")
TURNING_AWAY = [service_name("shop", reason) for reason in TurnedAway]
SLOW = 0.02
"""Seconds of an answer."""


class RouteApi(FakeApi):
    """`refused` is raised by each write and each watch."""

    refused: Exception | None = None

    async def apply(self, path: str, body: Object, *, field_manager: str = "recell", force: bool = True) -> Object:
        await self._call()
        if self.refused is not None:
            raise self.refused
        self._may_write("apply", path)
        if "resourceVersion" in body["metadata"]:
            self._same_version(path, body)
        old: Object = self.server.objects.get(path, {"metadata": {"generation": 0}})
        new: Object = merged(old, body) | {"spec": deepcopy(body["spec"])}
        if new == old:
            return deepcopy(old)
        new["metadata"]["generation"] += new["spec"] != old.get("spec")
        return self.server.put(path, new)


@dataclass
class Behaviour:
    failing: bool = False
    hung: bool = False
    down: bool = False
    requests: float = 0.0
    failures: float = 0.0
    waiting: float = 0.0


class PlayedGateway(FakeServer):
    """Implements the Gateways `one` and `two`, with a pod each at 127.0.0.1 and 127.0.0.2."""

    def __init__(self, rate: float = 100.0) -> None:
        super().__init__()
        self.rate = rate
        self.delay = 0.1
        """Seconds until a change of a route is taken up."""
        self.frozen = False
        self.silent = False
        self.accepting = 2
        """How many of the two Gateways take routes up."""
        self.unresolved: Mapping[str, str] | None = None
        """The condition ResolvedRefs, where it is not True."""
        self.cells: dict[str, Behaviour] = {}
        """By name of the Service."""
        self.port = 0
        self._started = time.time()
        self._accounted = self._started
        self._weights: dict[str, int] = {}
        self._listed: list[str] = []
        self._rule = 0
        """Place of the one that takes the load: the rule for every path."""
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> "PlayedGateway":
        for number in (1, 2):
            app = web.Application()
            app.router.add_get(EnvoyGateway.path, self._metrics)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, f"127.0.0.{number}", self.port).start()
            self.port = runner.addresses[0][1]
            self._runners.append(runner)
        self.pods(2)
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def pods(self, ready: int) -> None:
        for number in range(2):
            metadata: Object = {"name": f"proxy-{number}", "namespace": NAMESPACE, "labels": {"app": "proxy"}}
            status = {
                "podIP": f"127.0.0.{number + 1}",
                "conditions": [{"type": "Ready", "status": "True" if number < ready else "False"}],
            }
            self.put(PODS.path(NAMESPACE, f"proxy-{number}"), {"metadata": metadata, "status": status})

    def put(self, path: str, obj: Object) -> Object:
        answer = super().put(path, obj)
        if path.startswith(HTTP_ROUTES.collection(NAMESPACE)) and not self.frozen:
            asyncio.get_running_loop().call_later(self.delay, self.take_up, path)
        return answer

    def take_up(self, path: str) -> None:
        """The implementation looks at a route: it is in force from now on, and its status says so."""
        route = deepcopy(self.objects.get(path))
        if route is None or self.frozen:
            return
        self._account()
        anything = {"path": {"type": "PathPrefix", "value": "/"}}
        rules = route["spec"]["rules"]
        self._rule = next((place for place, rule in enumerate(rules) if anything in rule.get("matches", ())), 0)
        refs = rules[self._rule].get("backendRefs", [])
        self._listed = [ref["name"] for ref in refs]
        self._weights = {ref["name"]: ref["weight"] for ref in refs}
        generation = route["metadata"]["generation"]
        resolved = {"status": "True", "reason": "ResolvedRefs", **(self.unresolved or {})}
        status = {
            "parents": [
                {
                    "parentRef": ref,
                    "controllerName": "played",
                    "conditions": [
                        {"type": "Accepted", "observedGeneration": generation}
                        | (
                            {"status": "True", "reason": "Accepted"}
                            if number < self.accepting
                            else {"status": "False", "reason": "NotAllowedByListeners"}
                        ),
                        {"type": "ResolvedRefs", "observedGeneration": generation, **resolved},
                    ],
                }
                for number, ref in enumerate(route["spec"]["parentRefs"])
            ]
        }
        if route.get("status") != status:
            super().put(path, route | {"status": status})

    def changed(self, cell: str, **behaviour: bool) -> None:
        self._account()
        for name, value in behaviour.items():
            setattr(self.cells.setdefault(cell, Behaviour()), name, value)

    def _account(self) -> None:
        now = time.time()
        seconds, self._accounted = now - self._accounted, now
        total = sum(self._weights.values())
        for name, weight in self._weights.items():
            cell = self.cells.setdefault(name, Behaviour())
            asked = self.rate * seconds * weight / total
            if cell.hung:
                cell.waiting += asked
                continue
            cell.requests += asked
            cell.failures += asked if cell.failing or cell.down or name in TURNING_AWAY else 0.0

    async def _metrics(self, request: web.Request) -> web.Response:
        """Half of everything, for there are two pods."""
        if self.silent:
            await asyncio.sleep(60)
        self._account()
        lines = [f"envoy_server_uptime{{}} {int(time.time() - self._started)}"]
        for place, name in enumerate(self._listed):
            cell = self.cells.setdefault(name, Behaviour())
            failed = round(cell.failures / 2)
            ended = round((cell.requests - cell.failures) / 2) + failed  # rounded apart, they would seem to differ
            label = f'envoy_cluster_name="httproute/{NAMESPACE}/shop/rule/{self._rule}/backend/{place}"'
            lines += [
                f"envoy_cluster_upstream_rq_completed{{{label}}} {ended}",
                f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="5",{label}}} {failed}',
                f"envoy_cluster_upstream_rq_active{{{label}}} {cell.waiting / 2:.0f}",
            ]
            lines += [
                f'envoy_cluster_upstream_rq_time_bucket{{{label},le="{bound}"}}'
                f" {ended if float(bound) >= 1000 * SLOW else 0}"
                for bound in ("0.5", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "+Inf")
            ]
        return web.Response(text="".join(f"{line}\n" for line in lines))


def router_spec(port: int | None = None, **gateway: Any) -> Object:
    """A Router's spec on both Gateways; with a port, its traffic is counted."""
    metrics = {"metrics": {"type": "EnvoyGateway", "podSelector": {"app": "proxy"}, "port": port}} if port else {}
    block = {"parentRefs": [{"name": name} for name in GATEWAYS], **metrics, **gateway}
    return {"type": "Gateway", "customerData": "Shared", "gateway": block}
