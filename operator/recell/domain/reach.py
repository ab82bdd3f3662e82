"""Which cells a Router of a type can send requests to. Pure."""

import ipaddress

from recell.api.cell import BackendType, Cell
from recell.api.dns import RecordType
from recell.api.router import Router, RouterType

_KINDS = {RecordType.A: "an IPv4 address", RecordType.AAAA: "an IPv6 address", RecordType.CNAME: "a host name"}


def out_of_reach(router: Router, cell: Cell) -> str | None:
    """Why the Router's data plane cannot send requests to the cell, with the next step; None if it can."""
    if router.spec.type is RouterType.GATEWAY and cell.spec.backend.type is BackendType.ADDRESS:
        return (
            f"Cell {cell.metadata.name}: spec.backend.type is Address, but an HTTPRoute sends requests to Services"
            " only: name a Service (one without selector, with an EndpointSlice of yours, can stand for an address)"
        )
    return None


def unfit(router: Router, cell: Cell, address: str) -> str | None:
    """Why the Router cannot send requests to the cell at this address or host name, with the next step."""
    kind, name = record_type(address), cell.metadata.name
    if router.spec.dns is None:
        if kind is RecordType.CNAME:
            return f"Cell {name}: spec.backend.address.host is a host name, but this Router needs an IP address"
        return None
    if kind is router.spec.dns.record_type:
        return None
    published = router.spec.dns.record_type
    return (
        f"Cell {name}: {address} is {_KINDS[kind]}, but the Router publishes {published} records, for"
        f" {_KINDS[published]}: correct spec.backend, or make a Router with spec.dns.recordType {kind}"
    )


def record_type(address: str) -> RecordType:
    """The type of DNS record that can name this address or host name."""
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return RecordType.CNAME
    return RecordType.A if version == 4 else RecordType.AAAA
