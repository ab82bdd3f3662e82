"""HAProxy's counters as one sample. Pure.

Counters are cumulative since the process started, and by index of the cell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Figures:
    cells: Mapping[int, CellFigures] = field(default_factory=dict)
    rejected: int = 0
    """Requests that were turned away with 503."""


def read(table: str, running: Mapping[int, RunningServer], servers: Mapping[int, Server]) -> Figures:
    """From the answers to `show table cells` and `show servers state`, for the cells that are placed."""
    rows: dict[int, dict[str, str]] = {}
    for line in table.splitlines():
        # 0x55e1: key=3 use=1 exp=86399000 shard=0 gpc0=12 ... conn_cur=1 http_req_cnt=13
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if values.get("key", "").isdecimal():
            rows[int(values["key"])] = values
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
        )
    turned_away = rows.get(REJECT, {})
    return Figures(cells, int(turned_away.get("http_req_cnt", "0")))
