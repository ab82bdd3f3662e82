"""HAProxy's configuration from its template. Pure."""

from collections.abc import Mapping

from .classes import breaker_rules, cell_counters, class_rules
from .settings import CustomerKey, Settings
from .table import Server, backends

_FETCH = {
    # fhdr, not hdr: hdr cuts at commas.
    "Header": ["http-request set-var(txn.key) req.fhdr({name})"],
    "Cookie": ["http-request set-var(txn.key) req.cook({name})"],
    "Host": ["http-request set-var(txn.key) req.hdr(host),host_only,lower"],
    # Decoded, so that two spellings of a customer are one; a NUL would end the key early in the map.
    "PathSegment": [
        "http-request return status 400 content-type text/plain hdr X-Reason invalid-customer-key"
        ' string "the path holds %00\\n" if {{ path,lower -m sub %00 }}',
        "http-request set-var(txn.key) path,field({field},/),url_dec",
    ],
}
_TWICE = {
    "Header": "req.fhdr_cnt({name}) gt 1",
    "Cookie": "req.cook_cnt({name}) gt 1",
    "Host": "req.hdr_cnt(host) gt 1",
}
_PLACE = {
    "Header": "header {name}",
    "Cookie": "cookie {name}",
    "Host": "header Host",
    "PathSegment": "path segment {segment}",
}


def key_rules(key: CustomerKey) -> str:
    """The lines that put the customer key into txn.key, or answer 400."""
    words = {"name": key.name, "segment": key.segment, "field": key.segment + 1}
    place = _PLACE[key.type].format(**words)
    lines = [line.format(**words) for line in _FETCH[key.type]]
    if key.type in _TWICE:
        lines.append(
            "http-request return status 400 content-type text/plain hdr X-Reason ambiguous-customer-key"
            f' string "more than one {place}\\n" if {{ {_TWICE[key.type].format(**words)} }}'
        )
    absent = "unless { var(txn.key) -m len gt 0 }"
    if key.when_absent == "ClientAddress":
        lines.append(f"http-request set-var-fmt(txn.key) %[src] {absent}")
    else:
        lines.append(
            "http-request return status 400 content-type text/plain hdr X-Reason no-customer-key"
            f' string "the customer key is missing: {place}\\n" {absent}'
        )
    return "\n".join(f"  {line}" for line in lines)


def render(template: str, settings: Settings, servers: Mapping[int, Server]) -> str:
    """Raises ValueError for a template with a place that nothing fills."""
    fill = {
        "@SOCKET@": str(settings.socket),
        "@MAP@": str(settings.map),
        "@CUSTOMERS_BIND@": settings.customers_bind,
        "@ADMIN_BIND@": settings.admin_bind,
        "@IN_FLIGHT_MAX@": str(settings.in_flight_max),
        "@CUSTOMER_KEY@": key_rules(settings.customer_key),
        "@CLASSES@": class_rules(settings.classes, str(settings.map)),
        "@BREAKER@": breaker_rules(settings.breaker),
        "@CELL_COUNTERS@": cell_counters(settings.breaker),
        "@BACKENDS@": backends(servers),
    }
    return filled(template, fill, settings)


def filled(template: str, texts: Mapping[str, str], settings: Settings) -> str:
    """The template with a text in each place. Raises ValueError for one that lacks a place."""
    for place, text in texts.items():
        if place not in template:
            raise ValueError(f"{settings.template}: {place} is missing")
        template = template.replace(place, text)
    return template
