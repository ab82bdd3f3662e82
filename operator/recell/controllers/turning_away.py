"""What answers in place of the cells of a Gateway: it is there while the Router names classes, and said to be ready.

Promises: a route names it only once it is there, and it goes only once a route that does not name it is in force. The
condition SheddingReady is True only if what a run sheds would really be turned away, and counted.
"""

from typing import Protocol

from recell.api import Placement, Router
from recell.api.gateway import MOST_BACKENDS_SHEDDING
from recell.api.router import RouterType
from recell.controllers.programming import Programming
from recell.controllers.status import Wanted
from recell.domain import observation, placement
from recell.domain.capabilities import SHEDDING_READY
from recell.engine.errors import Forbidden
from recell.engine.ports import Key
from recell.providers.routing.gateway.classes import Unsayable, class_rules


class Pods(Protocol):
    async def ensure_turn_away(self, router: Router) -> None: ...

    async def remove_turn_away(self, router: Router) -> None: ...

    def turn_away(self, router: Key) -> observation.Pods | None: ...


class TurningAway:
    def __init__(self, pods: Pods, programming: Programming) -> None:
        self._pods = pods
        self._programming = programming

    async def ensure(self, router: Router) -> None:
        """Before a route names it. Raises Forbidden with what to grant, Conflict, Retryable."""
        if not _wanted(router):
            return
        try:
            await self._pods.ensure_turn_away(router)
        except Forbidden as error:
            raise Forbidden(f"{error}; features.gatewayShedding of the chart grants what is needed") from error

    async def tidy(self, router: Router) -> None:
        """Takes it away from a Router that does not ask for it any more. Raises as `ensure`."""
        if _wanted(router) or router.spec.type is not RouterType.GATEWAY or not self._programming.in_force(router.key):
            return
        try:
            await self._pods.remove_turn_away(router)
        except Forbidden as error:
            raise Forbidden(f"{error}; features.routerFailover of the chart grants what is needed") from error

    def conditions(self, router: Router, placed: Placement | None) -> dict[str, Wanted]:
        """Of a Router of type Gateway that names classes."""
        return {SHEDDING_READY: self._readiness(router, placed)} if _wanted(router) else {}

    def _readiness(self, router: Router, placed: Placement | None) -> Wanted:
        gateway, shedding = router.spec.gateway, router.spec.shedding
        if gateway is None or gateway.metrics is None or shedding is None:
            why = "without spec.gateway.metrics nobody knows how many requests there are of each class"
            return (False, "NoFigures", f"{why}, so nothing may be shed")
        try:
            class_rules(gateway, shedding)
        except Unsayable as error:
            return (False, "ClassesRefused", str(error))
        slots = placement.served_slots(placed.spec) if placed is not None else {}
        serving = sum(1 for cell in placed.spec.cells if slots[cell.index]) if placed is not None else 0
        if serving > MOST_BACKENDS_SHEDDING:
            return (
                False,
                "TooManyCells",
                f"{serving} cells serve, and a rule of an HTTPRoute has room for {MOST_BACKENDS_SHEDDING} of them"
                " beside what turns requests away: take traffic from a cell (spec.weight 0), or use another Router",
            )
        pods = self._pods.turn_away(router.key)
        if pods is None or not pods.ready:
            return (False, "NotReady", "No pod is ready that would answer what is turned away")
        return (True, "Ready", f"{pods.ready} pods answer what is turned away")


def _wanted(router: Router) -> bool:
    return router.spec.type is RouterType.GATEWAY and router.spec.shedding is not None
