"""What the Service of a cell says: its address for the router, its public ones, and its endpoints.

Promises: pure functions over JSON; a Service that cannot work is refused with the field and the
next step.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from recell.domain.observation import Endpoints
from recell.engine.errors import BadInput, NotFound
from recell.providers.kube.api import Object

SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice."""


class Address(NamedTuple):
    """Where the router connects to."""

    host: str
    port: int


def address(service: Object, port: int) -> Address:
    """The ClusterIP. Raises BadInput for a Service that the router cannot use."""
    spec, metadata = service["spec"], service["metadata"]
    name = f"Service {metadata['namespace']}/{metadata['name']}"
    if spec.get("type") == "ExternalName":
        raise BadInput(
            f"spec.backend.service.name: {name} is of type ExternalName: use type ClusterIP, or backend type Address"
        )
    ip = spec.get("clusterIP") or ""
    if ip in ("", "None"):
        raise BadInput(
            f"spec.backend.service.name: {name} is headless (clusterIP None), so the router has no stable address"
            " to connect to: name a Service of type ClusterIP"
        )
    if port_of(service, port) is None:
        ports = ", ".join(str(p["port"]) for p in spec.get("ports") or ()) or "none"
        raise BadInput(f"spec.backend.service.port: {name} has no TCP port {port}; its ports: {ports}")
    return Address(ip, port)


def public_addresses(service: Object, port: int) -> tuple[Address, ...]:
    """Where its load balancer is reached from outside. Raises BadInput for another type, NotFound while it has none."""
    name = f"Service {service['metadata']['namespace']}/{service['metadata']['name']}"
    if service["spec"].get("type") != "LoadBalancer":
        raise BadInput(
            f"spec.backend.service.name: {name} is of type {service['spec'].get('type', 'ClusterIP')}, which has no"
            " public address for a DNS record: use type LoadBalancer, or backend type Address"
        )
    found = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    addresses = tuple(Address(where, port) for entry in found if (where := entry.get("ip") or entry.get("hostname")))
    if not addresses:
        raise NotFound(f"spec.backend.service.name: {name} has no address yet: status.loadBalancer.ingress is empty")
    return addresses


def port_of(service: Object, port: int) -> Mapping[str, Any] | None:
    for entry in service["spec"].get("ports") or ():
        if entry["port"] == port and entry.get("protocol", "TCP") == "TCP":
            found: Mapping[str, Any] = entry
            return found
    return None


def endpoints(service: Object, slices: Sequence[Object], port: int) -> Endpoints | None:
    """None while its EndpointSlices are not known (a Service with a selector always has one)."""
    entry = port_of(service, port)
    if entry is None:
        return Endpoints(service_found=True, port_found=False)
    if not slices:
        return None
    ready: set[str] = set()
    total: set[str] = set()
    for piece in slices:
        serves = any((p.get("name") or "") == (entry.get("name") or "") for p in piece.get("ports") or ())
        for endpoint in piece.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if conditions.get("terminating"):
                continue
            # The same pod stands in one slice per address family.
            target = endpoint.get("targetRef") or {}
            identity = str(target.get("uid") or target.get("name") or endpoint["addresses"][0])
            total.add(identity)
            if serves and conditions.get("ready") is not False:
                ready.add(identity)
    return Endpoints(service_found=True, port_found=True, ready=len(ready), total=len(total))


def slim_service(obj: Object) -> Object:
    spec = obj["spec"]
    names = ("type", "clusterIP", "ports", "selector")
    metadata = obj["metadata"]
    return {
        "metadata": {
            n: metadata[n] for n in ("name", "namespace", "uid", "resourceVersion", "labels") if n in metadata
        },
        "spec": {name: spec[name] for name in names if name in spec},
        "status": {"loadBalancer": (obj.get("status") or {}).get("loadBalancer") or {}},
    }
