"""Whose connections are closed, and when. Pure.

A table moves requests. What was begun stays where it is: a long answer, a stream, a WebSocket. HAProxy knows at
which cell that is and not by which slot it came, so nothing is closed at a cell that serves anybody at all.
"""

import math
from collections.abc import Iterable, Mapping

from .placement import READ_ONLY, REJECT, Placement
from .table import Held

AT_ONCE = 0
"""A second that has always passed."""


def deadlines(placement: Placement, known: Mapping[int, int], now: float, timeout: int) -> dict[int, int]:
    """By index of each cell that serves nobody: the second (since 1970) from which its connections are closed.

    One that is known stays, whatever else changes, until the cell serves again. `timeout` is in seconds.
    """
    targets = {*placement.serving, *(target for _, target in placement.pins)} - {REJECT}
    serving = {target & ~READ_ONLY for target in targets}
    until = _after(now, timeout)
    return {
        cell.index: AT_ONCE if cell.name in placement.shut else known.get(cell.index, until)
        for cell in placement.cells
        if cell.index not in serving
    }


def left_behind(
    placement: Placement, backends: Iterable[int], before: Held, known: Mapping[int, int], now: float, timeout: int
) -> dict[int, int]:
    """The same by number of each backend that no cell has any more: its cell went, or has another address.

    `before` is what was held until then.
    """
    names = {server.backend: server.name for server in before.servers.values()}
    until = _after(now, timeout)
    return {
        backend: AT_ONCE if names.get(backend) in placement.shut else known.get(backend, until) for backend in backends
    }


def due(held: Held, left: Mapping[int, int], now: float) -> list[int]:
    """Backends whose connections are to be closed by now."""
    cells = [held.servers[index].backend for index, at in held.closing.items() if at <= now and index in held.servers]
    return cells + [backend for backend, at in left.items() if at <= now]


def _after(now: float, timeout: int) -> int:
    return math.ceil(now) + timeout
