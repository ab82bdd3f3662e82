"""Is the newest Placement of a Router in force in its pods, and if not, for how long?

Promises: a change that the pods apply within a moment is shown once, when it is in force, and not
twice: for a drain in ten increments that halves the writes. Reading only.
"""

from recell.api import Placement
from recell.engine.ports import Clock, Key, Switchboard, Traffic

MOMENT = 1.0
"""Seconds; pods were measured to apply a change in 10 to 17 ms."""


class Programming:
    def __init__(self, clock: Clock, traffic: Traffic, switchboard: Switchboard) -> None:
        self._clock = clock
        self._traffic = traffic
        self._switchboard = switchboard
        self._seen: dict[Key, tuple[tuple[str, int, int], float]] = {}
        """The version that was newest, and since when."""

    def in_force(self, router: Key) -> bool:
        """Has every serving pod applied it?"""
        placed, applied = self._switchboard.current(router), self._traffic.applied(router)
        return placed is not None and applied is not None and applied.covers(*_version(placed))

    def under_way(self, router: Key) -> bool:
        """It is not in force yet, and new enough that this needs no telling."""
        placed = self._switchboard.current(router)
        if placed is None or self.in_force(router):
            return False
        now, version = self._clock.monotonic(), _version(placed)
        known = self._seen.get(router)
        if known is None or known[0] != version:
            known = self._seen[router] = (version, now)
        return now - known[1] < MOMENT

    def forget(self, router: Key) -> None:
        """The Router is gone."""
        self._seen.pop(router, None)


def _version(placed: Placement) -> tuple[str, int, int]:
    return placed.metadata.uid, placed.spec.epoch, placed.metadata.generation
