"""HAProxy's counters as one sample. Pure.

Counters are cumulative since the process started, and by index of the cell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .classes import Breaker
from .placement import REJECT
from .runtime_socket import RunningServer
from .table import Server

BOUNDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds; the buckets are cumulative and one more follows for everything. As in haproxy.cfg."""
_BUCKETS = tuple(f"gpc{number}" for number in range(len(BOUNDS) + 1))
_FAILURES = f"gpc{len(BOUNDS) + 1}"


@dataclass(frozen=True)
class CellFigures:
    requests: int = 0
    """That ended."""
    failures: int = 0
    """Answered with 500 or above, by the cell or, because the cell gave no answer, by HAProxy."""
    in_flight: int = 0
    latency: tuple[int, ...] = (0,) * len(_BUCKETS)
    """Answers of the cell by time until their headers, in cumulative buckets."""
    check: str = "unknown"
    tripped: bool = False
    """The router's own circuit breaker turns nine in ten of its requests away."""


@dataclass(frozen=True)
class ClassFigures:
    requests: int = 0
    """All of them, those that were shed included."""
    shed: int = 0
    failures: int = 0
    """Answered with 500 or above for another reason."""


@dataclass(frozen=True)
class Figures:
    cells: Mapping[int, CellFigures] = field(default_factory=dict)
    rejected: int = 0
    """Requests that were turned away with 503."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """The same by X-Reason."""
    classes: Mapping[str, ClassFigures] = field(default_factory=dict)


TABLES = ("show table cells", "show table classes", "show table reasons")
"""What HAProxy is asked."""


def read(
    tables: str,
    running: Mapping[int, RunningServer],
    servers: Mapping[int, Server],
    breaker: Breaker | None = None,
) -> Figures:
    """From the answers to TABLES and `show servers state`, for the cells that are placed."""
    found = _rows(tables)
    rows = {int(key): row for key, row in found.get("cells", {}).items() if key.isdecimal()}
    cells = {}
    for index, server in servers.items():
        row, has = rows.get(index, {}), running.get(server.backend)
        in_flight = int(row.get("conn_cur", "0"))
        ended = int(row.get("http_req_cnt", "0")) - in_flight
        cells[index] = CellFigures(
            requests=max(0, ended),
            failures=int(row.get(_FAILURES, "0")),
            in_flight=in_flight,
            latency=tuple(int(row.get(name, "0")) for name in _BUCKETS),
            check=has.check if has else "unknown",
            tripped=breaker is not None and _tripped(row, breaker),
        )
    turned_away = rows.get(REJECT, {})
    return Figures(
        cells,
        int(turned_away.get("http_req_cnt", "0")),
        {reason: int(row.get("gpc0", "0")) for reason, row in found.get("reasons", {}).items()},
        {
            name: ClassFigures(*(int(row.get(counter, "0")) for counter in ("gpc0", "gpc1", "gpc2")))
            for name, row in found.get("classes", {}).items()
        },
    )


def _rows(tables: str) -> dict[str, dict[str, dict[str, str]]]:
    """By table and key."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    rows: dict[str, dict[str, str]] = {}
    for line in tables.splitlines():
        if line.startswith("# table: "):
            # # table: cells, type: integer, size:8192, used:3
            rows = found.setdefault(line.removeprefix("# table: ").split(",")[0], {})
            continue
        # 0x55e1: key=3 use=1 exp=86399000 shard=0 gpc0=12 ... conn_cur=1 http_req_cnt=13
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "key" in values:
            rows[values["key"]] = values
    return found


def _tripped(row: Mapping[str, str], breaker: Breaker) -> bool:
    """As the rule in `classes.breaker_rules` says it."""
    failed = int(row.get(f"{_FAILURES}_rate({breaker.window})", "0"))
    begun = int(row.get(f"http_req_rate({breaker.window})", "0"))
    return begun >= breaker.minimum_requests and failed >= begun * breaker.error_rate
