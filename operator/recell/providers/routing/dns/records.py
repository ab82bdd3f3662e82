"""From a Placement to the records that ExternalDNS is to publish: one DNSEndpoint for each Router of type DNS.

Promises: pure; the same Placement gives the same object. Only cells that serve somebody have a record with a
weight above 0, so a cell that is drained, isolated or not listed is in no answer. Never are all weights 0, which
providers take for "all equal". A weight is a whole number from 1 to the provider's greatest, in proportion to the
slots that the cell serves; the cell with the most has the greatest, so that nothing is coarser than it has to be.

Must not: look at anything but Placement and Router, or decide who serves.
"""

import hashlib
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass

from recell.api import Placement, Router
from recell.api.dns import DNS, Drained, RoutingPolicy, Weights
from recell.api.meta import ANNOTATION_CONTENT, seconds
from recell.api.placement import PlacementSpec
from recell.domain import placement
from recell.providers.kube.api import Object
from recell.providers.kube.ownership import of_router
from recell.providers.kube.paths import DNS_ENDPOINTS
from recell.providers.routing.version import ANNOTATION_PLACEMENT, Version


@dataclass(frozen=True)
class Record:
    """One record set of the Router's name."""

    targets: tuple[str, ...]
    """Addresses, or one host name."""
    cell: str = ""
    """Whose it is; empty for the one record of all cells."""
    weight: int | None = None
    """None for the one record of all cells."""


def records(spec: PlacementSpec, dns: DNS) -> tuple[Record, ...]:
    """What is to be published; nothing while no cell may serve anybody."""
    served = placement.served_slots(spec)
    serving = [cell for cell in spec.cells if served[cell.index] > 0]
    if dns.routing_policy is RoutingPolicy.SIMPLE:
        return (Record(tuple(sorted({cell.address for cell in serving}))),) if serving else ()
    weights = dns.weights or Weights()
    most = max((served[cell.index] for cell in serving), default=0)
    found = [
        Record((cell.address,), cell.name, max(1, round(served[cell.index] * weights.max / most))) for cell in serving
    ]
    if found and weights.drained is Drained.ZERO_WEIGHT:
        shut = {hold.cell for hold in spec.holds if hold.state in placement.FIRM}
        found += [
            Record((cell.address,), cell.name, 0)
            for cell in spec.cells
            if not served[cell.index] and cell.name not in shut
        ]
    return tuple(sorted(found, key=lambda record: record.cell))


def answered(found: Iterable[Record]) -> frozenset[str]:
    """The targets that an answer may name, each in its one form."""
    return frozenset(canonical(target) for record in found if record.weight != 0 for target in record.targets)


def canonical(target: str) -> str:
    """Of an address or host name, so that what is asked for and what is answered can be compared."""
    try:
        return ipaddress.ip_address(target).compressed
    except ValueError:
        return target.rstrip(".").lower()


def endpoint(router: Router, placed: Placement, dns: DNS) -> Object:
    """The DNSEndpoint, with the hash of what it says and the Placement that it was made from."""
    endpoints = [_endpoint(record, dns) for record in records(placed.spec, dns)]
    content = hashlib.sha256(json.dumps(endpoints, sort_keys=True).encode()).hexdigest()[:16]
    noted = {ANNOTATION_CONTENT: content, ANNOTATION_PLACEMENT: str(Version.of(placed))}
    return of_router(router, DNS_ENDPOINTS, {"endpoints": endpoints}, noted)


def _endpoint(record: Record, dns: DNS) -> Object:
    properties = [{"name": setting.name, "value": setting.value} for setting in dns.provider_specific]
    if record.weight is not None:
        properties.append({"name": (dns.weights or Weights()).property, "value": str(record.weight)})
    return {
        "dnsName": dns.hostname,
        "recordType": str(dns.record_type),
        "recordTTL": int(seconds(dns.ttl)),
        "targets": list(record.targets),
        **({"setIdentifier": record.cell} if record.cell else {}),
        **({"providerSpecific": properties} if properties else {}),
    }
