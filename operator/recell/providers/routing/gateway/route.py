"""The HTTPRoute of a Router of type Gateway: what it is to be, and what the Gateways say of it. Pure.

Promises: the same Router, Placement and cells give the same dictionary, whole, with what the API server would fill in
written out, so that no tool sees a difference. Shares are whole weights: the slots that each cell serves. Weights are
never all zero, which implementations answer differently: cells without a share are left out, and while nobody may
serve, the rules have no backends, which the Gateway API answers with 500.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recell.api import Cell, Placement, Router
from recell.api.gateway import MOST_BACKENDS, Filter, Gateway, GatewayMetricsType, Match, ParentRef, RouteRule
from recell.api.meta import LABEL_ROUTER
from recell.api.placement import PlacementSpec
from recell.domain import placement
from recell.engine.errors import BadInput
from recell.providers.kube.ownership import controlled_by
from recell.providers.routing.version import ANNOTATION_PLACEMENT, Version

Object = dict[str, Any]

GATEWAY_GROUP = "gateway.networking.k8s.io"
CELL_HEADER = "X-Recell-Cell"
"""Set on requests where the implementation counts a cell's requests apart only if they are treated apart."""


@dataclass(frozen=True)
class Backend:
    """A cell that gets requests."""

    cell: str
    namespace: str
    service: str
    port: int
    weight: int


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


def http_route(router: Router, placed: Placement, cells: Mapping[str, Cell]) -> Object:
    """Raises BadInput as `backends` does, and for a Router of another type."""
    block = router.spec.gateway
    if block is None:
        raise BadInput(f"Router {router.metadata.name}: spec.gateway is missing")
    refs = [_backend_ref(router, block, backend) for backend in backends(placed.spec, cells)]
    name, namespace = router.metadata.name, router.metadata.namespace
    spec: Object = {"parentRefs": [parent_ref(ref, namespace) for ref in block.parent_refs]}
    if block.hostnames:
        spec["hostnames"] = list(block.hostnames)
    spec["rules"] = [_rule(rule, refs) for rule in block.rules or [RouteRule()]]
    return {
        "apiVersion": f"{GATEWAY_GROUP}/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "recell", LABEL_ROUTER: name},
            "annotations": {ANNOTATION_PLACEMENT: str(Version.of(placed))},
            "ownerReferences": [controlled_by(router)],
        },
        "spec": spec,
    }


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
        header = {"name": CELL_HEADER, "value": backend.cell}
        made["filters"] = [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [header]}}]
    return made


def _rule(rule: RouteRule, refs: Sequence[Object]) -> Object:
    made: Object = {"matches": [_match(match) for match in rule.matches or [Match()]]}
    if rule.filters:
        made["filters"] = [_filter(each) for each in rule.filters]
    if refs:
        made["backendRefs"] = list(refs)
    if rule.timeouts is not None and (timeouts := rule.timeouts.to_dict()):
        made["timeouts"] = timeouts
    return made


def _match(match: Match) -> Object:
    made = _said(match.to_dict())
    made.setdefault("path", {"type": "PathPrefix", "value": "/"})
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
