"""Classes of requests, and when the router spares a cell by itself: from the Deployment to HAProxy's rules. Pure.

What a class is stands in the configuration, which changes with the pods; how much of it is shed, and which circuits
a run has opened, stands in the map, which changes at once and names when it ends.
"""

import json
import re
from dataclasses import dataclass

DEFAULT = "default"
"""The class of what matches no other."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_HEADER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VALUE = re.compile(r"[A-Za-z0-9._~:/@=+-]{1,128}")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]{0,255}")
_METHOD = re.compile(r"[A-Z]{1,16}")
"""What is written into HAProxy's configuration, checked again: none of it can be a word or a quote of its own."""


@dataclass(frozen=True)
class Match:
    """Everything that is named has to be so."""

    header: tuple[str, str] | None = None
    path_prefix: str = ""
    methods: tuple[str, ...] = ()

    @property
    def condition(self) -> str:
        parts = []
        if self.header:
            parts.append(f"{{ req.fhdr({self.header[0]}) -m str {self.header[1]} }}")
        if self.path_prefix:
            # By whole segments, as Gateway API's PathPrefix: the path with one more slash begins with the prefix's.
            parts.append(f"{{ path,concat(/) -m beg {self.path_prefix.rstrip('/')}/ }}")
        if self.methods:
            parts.append(f"{{ method {' '.join(self.methods)} }}")
        return " ".join(parts)


@dataclass(frozen=True)
class RequestClass:
    name: str
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Breaker:
    """The router's own circuit breaker, by what one pod sees of a cell."""

    error_rate: float
    """Part (0..1] of failed requests from which it trips."""
    window: int
    """Milliseconds."""
    minimum_requests: int


def parse_classes(text: str) -> tuple[RequestClass, ...]:
    """From JSON as in Router.spec.shedding.classes; the first that matches counts. Raises ValueError."""
    try:
        listed = json.loads(text) if text else []
        classes = tuple(RequestClass(_checked(_NAME, c["name"]), tuple(map(_match, c["matches"]))) for c in listed)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a list of classes: {type(error).__name__} {error}") from None
    names = [c.name for c in classes]
    if len(set(names)) < len(names) or DEFAULT in names:
        raise ValueError(f"classes need different names, and none is {DEFAULT}: {', '.join(names)}")
    return classes


def class_rules(classes: tuple[RequestClass, ...], map_path: str) -> str:
    """The lines that put the request's class into txn.class, and txn.shed where it is to be turned away.

    The customers who are shed follow from the key alone, by other bytes of its hash than the slot does: nobody is
    let in and turned away by turns, and each cell sheds alike.
    """
    if not classes:
        return ""
    lines = [f"set-var(txn.class) str({DEFAULT})"]
    for named in reversed(classes):  # the last line that holds counts, so the first class of the list does
        lines += [f"set-var(txn.class) str({named.name}) if {match.condition}" for match in named.matches]
    lines += [
        f"set-var(txn.limit) str(shed:),concat(,txn.class),map_str({map_path})",
        "set-var(txn.percent) var(txn.limit),field(1,@),add(0) if { var(txn.limit) -m found }",
        "set-var(txn.dice) var(txn.key),digest(md5),bytes(4,4),hex,hex2i,mod(100) if { var(txn.limit) -m found }",
        "set-var(txn.reason) str(shed) if { var(txn.limit),field(2,@),sub(txn.now) -m int gt 0 }"
        " { var(txn.dice),sub(txn.percent) -m int lt 0 }",
        "track-sc1 var(txn.class) table classes",
        "sc-inc-gpc(0,1)",
    ]
    return "\n".join(f"  http-request {line}" for line in lines)


def breaker_rules(breaker: Breaker | None) -> str:
    """The line that turns nine in ten away from a cell whose requests fail; what begins is counted before it ends."""
    if breaker is None:
        return ""
    rate = round(breaker.error_rate * RATE_UNIT)
    return (
        "  http-request set-var(txn.begun) var(txn.cell),table_http_req_rate(cells) if has-cell\n"
        "  http-request set-var(txn.reason) str(circuit-breaker) if has-cell"
        f" {{ var(txn.begun) -m int ge {breaker.minimum_requests} }}"
        f" {{ var(txn.cell),table_gpc_rate(9,cells),mul({RATE_UNIT}),div(txn.begun) -m int ge {rate} }}"
        " { rand(10) -m int gt 0 }"
    )


RATE_UNIT = 10_000
"""HAProxy counts in whole numbers: rates are compared in hundredths of a percent."""


def cell_counters(breaker: Breaker | None) -> str:
    """What HAProxy keeps of each cell."""
    rates = f",gpc_rate(10,{breaker.window}),http_req_rate({breaker.window})" if breaker else ""
    return f"gpc(10),conn_cur,http_req_cnt{rates}"


def _match(told: dict[str, object]) -> Match:
    header, methods = told.get("header"), told.get("methods") or []
    if header is not None and not isinstance(header, dict):
        raise TypeError("header is not an object")
    if not isinstance(methods, list):
        raise TypeError("methods is not a list")
    match = Match(
        (_checked(_HEADER, header["name"]), _checked(_VALUE, header["value"])) if header else None,
        _checked(_PATH, told["pathPrefix"]) if told.get("pathPrefix") else "",
        tuple(_checked(_METHOD, method) for method in methods),
    )
    if match == Match():
        raise ValueError("a match without header, pathPrefix and methods would match every request")
    return match


def _checked(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not as it has to be: {pattern.pattern}")
    return value
