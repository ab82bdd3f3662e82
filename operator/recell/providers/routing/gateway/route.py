"""The HTTPRoute of a Router of type Gateway: what it is to be, and what the Gateways say of it. Pure.

Promises: the same Router, Placement and cells give the same dictionary, whole, with what the API server would fill in
written out, so that no tool sees a difference. Shares are whole weights: the slots that each cell serves. Weights are
never all zero, which implementations answer differently: cells without a share are left out, and while nobody may
serve, the rules have no backends, which the Gateway API answers with 500.

With `spec.shedding` each of the user's rules is one for each class. What is to be turned away is the weight of Services
that answer instead of the cells: of what a class gets so much as is shed of it, of what a cell gets so much as its
circuit is open. While nothing is, weights are as without.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recell.api import Cell, Placement, Router
from recell.api.gateway import (
    MOST_BACKENDS,
    MOST_BACKENDS_SHEDDING,
    Filter,
    Gateway,
    GatewayMetricsType,
    Match,
    ParentRef,
    RouteRule,
)
from recell.api.placement import PlacementSpec
from recell.domain import placement
from recell.engine.errors import BadInput
from recell.providers.kube.ownership import of_router
from recell.providers.kube.paths import HTTP_ROUTES
from recell.providers.routing.gateway.classes import ROOT, Unsayable, class_rules
from recell.providers.routing.gateway.turn_away import PORT, TurnedAway, service_name
from recell.providers.routing.version import ANNOTATION_PLACEMENT, Version

Object = dict[str, Any]

GATEWAY_GROUP = "gateway.networking.k8s.io"
CELL_HEADER = "X-Recell-Cell"
"""Set on requests where the implementation counts a cell's requests apart only if they are treated apart."""
MOST_WEIGHT = 1_000_000
"""Weight of one backend, by the Gateway API."""


@dataclass(frozen=True)
class Backend:
    """What gets requests: a cell, or what turns them away."""

    cell: str
    """Empty: none."""
    namespace: str
    service: str
    port: int
    weight: int
    reason: TurnedAway | None = None
    """Why requests that get here are turned away; None where a cell serves them."""


@dataclass(frozen=True)
class Rule:
    """A rule of the HTTPRoute."""

    of: RouteRule
    """The user's, with what is done to requests."""
    matches: tuple[Match, ...]
    name: str
    """Class of the requests that it takes; empty where there are no classes."""
    backends: tuple[Backend, ...]

    @property
    def turned_away(self) -> float:
        """Part (0..1) of its requests."""
        total = sum(backend.weight for backend in self.backends)
        return sum(backend.weight for backend in self.backends if backend.reason) / total if total else 0.0


@dataclass(frozen=True)
class Divided:
    """Who gets which requests."""

    rules: tuple[Rule, ...]
    unsaid: str
    """Why there are no rules by class although the Router has classes; empty otherwise."""


def backends(spec: PlacementSpec, cells: Mapping[str, Cell]) -> tuple[Backend, ...]:
    """The cells with a share, in the Placement's order. Raises BadInput for what an HTTPRoute cannot say."""
    slots = placement.served_slots(spec)
    found = []
    for placed in spec.cells:
        weight = slots[placed.index]
        if not weight:
            continue
        cell = cells.get(placed.name)
        service = cell.spec.backend.service if cell is not None else None
        if cell is None or service is None:
            raise BadInput(
                f"Cell {placed.name} has customers, but no Service (spec.backend.service): the HTTPRoute stays as it is"
            )
        found.append(Backend(placed.name, cell.workload_namespace, service.name, service.port, weight))
    if len(found) > MOST_BACKENDS:
        raise BadInput(
            f"{len(found)} cells have customers, but a rule of an HTTPRoute takes at most {MOST_BACKENDS} backends: the"
            " HTTPRoute stays as it is; take traffic from a cell (spec.weight 0), or use another Router"
        )
    return tuple(found)


def divided(
    router: Router,
    placed: Placement,
    cells: Mapping[str, Cell],
    *,
    turn_away: bool,
    faint: Collection[str] = (),
) -> Divided:
    """`turn_away`: there are Services that turn requests away; `faint`: classes for which these have next to no weight,
    because they have just come or are about to go. Raises BadInput as `backends` does, and for a Router of another
    type."""
    block = _block(router)
    serving = backends(placed.spec, cells)
    rules, unsaid = _rules(router, block)
    opened = {item.cell: item.percent for item in placed.spec.open_circuits}
    shed = {item.class_: item.percent for item in placed.spec.shedding}
    if not turn_away or router.spec.shedding is None:
        return Divided(tuple(replace(rule, backends=serving) for rule in rules), unsaid)

    def of(rule: Rule) -> tuple[Backend, ...]:
        return _turned_away(router, serving, opened, shed.get(rule.name, 0), faint=rule.name in faint)

    return Divided(tuple(replace(rule, backends=of(rule)) for rule in rules), unsaid)


def _block(router: Router) -> Gateway:
    if router.spec.gateway is None:
        raise BadInput(f"Router {router.metadata.name}: spec.gateway is missing")
    return router.spec.gateway


def _rules(router: Router, block: Gateway) -> tuple[tuple[Rule, ...], str]:
    """Without backends. Customers are served whether classes can be said or not."""
    users, unsaid = block.rules or [RouteRule()], ""
    if router.spec.shedding is not None:
        try:
            by_class = class_rules(block, router.spec.shedding)
            return tuple(Rule(users[made.rule], made.matches, made.name, ()) for made in by_class), ""
        except Unsayable as error:
            unsaid = f"{error}; until then nothing is shed"
    return tuple(Rule(rule, tuple(rule.matches) or (Match(),), "", ()) for rule in users), unsaid


def _turned_away(
    router: Router, serving: Sequence[Backend], opened: Mapping[str, int], shed: int, *, faint: bool
) -> tuple[Backend, ...]:
    """The cells with what is left to them, and what gets the rest. While anything is turned away both Services have
    their places, and no cell loses its own: Envoy Gateway names clusters by place, and one that goes, goes before the
    routes that name it, so that requests of that moment fail."""
    if faint:
        opened, shed = {}, 0
    spares = any(backend.cell in opened for backend in serving)
    if len(serving) > MOST_BACKENDS_SHEDDING or not (serving and (shed or spares or faint)):
        return tuple(serving)  # who is served comes before who is turned away
    made, spared = [], 0
    for backend in serving:
        open_for = opened.get(backend.cell, 0)
        made.append(replace(backend, weight=backend.weight * (100 - open_for) * (100 - shed)))
        spared += backend.weight * open_for * (100 - shed)
    whole = sum(backend.weight for backend in serving) * 100 * shed
    name, namespace = router.metadata.name, router.metadata.namespace
    for why, weight in ((TurnedAway.SHED, whole), (TurnedAway.CIRCUIT_OPEN, spared)):
        made.append(Backend("", namespace, service_name(name, why), PORT, weight, why))
    return _reduced(made, faint=faint)


def _reduced(backends: Sequence[Backend], *, faint: bool) -> tuple[Backend, ...]:
    """In the smallest whole numbers, or in the largest that the Gateway API takes where those are too large, or where
    nothing is left to what must not leave at once: that gets one in a million then."""
    staying = [bool(backend.cell) or faint for backend in backends]
    common = math.gcd(*(backend.weight for backend in backends))
    largest = max(backend.weight for backend in backends)
    tiny = any(stays and not backend.weight for stays, backend in zip(staying, backends, strict=True))
    scale = MOST_WEIGHT / largest if tiny or largest // common > MOST_WEIGHT else 1 / common
    return tuple(
        replace(backend, weight=max(int(stays), round(backend.weight * scale)))
        for stays, backend in zip(staying, backends, strict=True)
    )


def http_route(router: Router, placed: Placement, rules: Sequence[Rule]) -> Object:
    """Of `divided`. Raises BadInput for a Router of another type."""
    block = _block(router)
    spec: Object = {"parentRefs": [parent_ref(ref, router.metadata.namespace) for ref in block.parent_refs]}
    if block.hostnames:
        spec["hostnames"] = list(block.hostnames)
    spec["rules"] = [_rule(router, block, rule) for rule in rules]
    return of_router(router, HTTP_ROUTES, spec, {ANNOTATION_PLACEMENT: str(Version.of(placed))})


def parent_ref(ref: ParentRef, namespace: str) -> Object:
    made: Object = {
        "group": GATEWAY_GROUP,
        "kind": "Gateway",
        "namespace": ref.namespace or namespace,
        "name": ref.name,
    }
    if ref.section_name is not None:
        made["sectionName"] = ref.section_name
    if ref.port is not None:
        made["port"] = ref.port
    return made


def _backend_ref(router: Router, block: Gateway, backend: Backend) -> Object:
    made: Object = {
        "group": "",
        "kind": "Service",
        "name": backend.service,
        "port": backend.port,
        "weight": backend.weight,
    }
    if backend.namespace != router.metadata.namespace:
        made["namespace"] = backend.namespace
    if block.metrics is not None and block.metrics.type is GatewayMetricsType.ENVOY_GATEWAY:
        # Without a filter of its own a backend shares its Envoy cluster, and with it the counters, with the others.
        header = {"name": CELL_HEADER, "value": backend.cell or f"none: {backend.reason}"}
        made["filters"] = [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [header]}}]
    return made


def _rule(router: Router, block: Gateway, rule: Rule) -> Object:
    made: Object = {"matches": [_match(match) for match in rule.matches]}
    if rule.of.filters:
        made["filters"] = [_filter(each) for each in rule.of.filters]
    if rule.backends:
        made["backendRefs"] = [_backend_ref(router, block, backend) for backend in rule.backends]
    if rule.of.timeouts is not None and (timeouts := rule.of.timeouts.to_dict()):
        made["timeouts"] = timeouts
    return made


def _match(match: Match) -> Object:
    made = _said(match.to_dict())
    made.setdefault("path", ROOT.to_dict())
    return made


def _filter(given: Filter) -> Object:
    return {key: _said(value) if isinstance(value, dict) else value for key, value in given.to_dict().items()}


def _said(block: Object) -> Object:
    """Without lists that have nothing in them."""
    return {key: value for key, value in block.items() if value != []}


@dataclass(frozen=True)
class Parents:
    """What the Gateways say of a route as it is now."""

    accepted: int
    """Gateways that have taken it up, in whatever version."""
    current: bool
    """Every Gateway has accepted this very version, and found its backends."""
    refused: str
    """What is refused, by whom and why, with the next step; empty if nothing is."""
    silent: str
    """Gateways that have said nothing yet about this version."""


def parents(route: Object) -> Parents:
    """By the conditions Accepted and ResolvedRefs of each parent, at the route's generation."""
    generation = int(route["metadata"].get("generation") or 0)
    told = (route.get("status") or {}).get("parents") or ()
    accepted, refused, silent = 0, [], []
    for ref in route["spec"].get("parentRefs") or ():
        name = f"Gateway {ref['namespace']}/{ref['name']}"
        mine = [entry for entry in told if _same(entry.get("parentRef") or {}, ref, route)]
        conditions = [{c["type"]: c for c in entry.get("conditions") or ()} for entry in mine]
        accepted += any(of.get("Accepted", {}).get("status") == "True" for of in conditions)
        if not mine:
            silent.append(name)
        for type_ in ("Accepted", "ResolvedRefs"):
            for of in conditions:
                condition = of.get(type_) or {}
                if int(condition.get("observedGeneration") or 0) < generation:
                    silent.append(name)
                elif condition.get("status") != "True":
                    refused.append(_refusal(name, type_, condition, route))
    return Parents(
        accepted,
        not refused and not silent,
        "; ".join(dict.fromkeys(refused)),
        ", ".join(dict.fromkeys(silent)),
    )


def _same(told: Object, ref: Object, route: Object) -> bool:
    """Namespace and group may be left out of a status."""
    filled = {"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": route["metadata"]["namespace"]} | told
    return all(filled.get(key) == ref.get(key) for key in ("group", "kind", "namespace", "name", "sectionName", "port"))


_HINTS = {
    "RefNotPermitted": "let a ReferenceGrant in the Service's namespace allow HTTPRoutes of namespace {namespace}",
    "BackendNotFound": "correct spec.backend.service of the Cell, or make its Service",
    "NotAllowedByListeners": "let the Gateway's listener allow routes of namespace {namespace} (allowedRoutes)",
    "NoMatchingListenerHostname": "correct spec.gateway.hostnames, or the hostname of the Gateway's listener",
    "NoMatchingParent": "correct sectionName and port in spec.gateway.parentRefs",
}


def _refusal(name: str, type_: str, condition: Object, route: Object) -> str:
    reason = str(condition.get("reason") or "no reason")
    said = f": {condition['message']}" if condition.get("message") else ""
    verb = "does not accept the HTTPRoute" if type_ == "Accepted" else "cannot resolve the HTTPRoute's references"
    hint = _HINTS.get(reason, "").format(namespace=route["metadata"]["namespace"])
    return f"{name} {verb} ({reason}{said})" + (f"; {hint}" if hint else "")
