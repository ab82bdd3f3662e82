"""Every means of moving the customers of a router with a fallback, and whom they reach by all of them together.

Promises: each switch that a Router names is on its customers' way, so one that leads to the fallback is enough; its
Service is on their way in any case. What is not known yet of one of them is not guessed.
Must not decide who serves.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from recell.api import Router
from recell.api.placement import PlacementMode
from recell.domain import fallback
from recell.engine.ports import Key, Switch


class KeptSwitch(Switch, Protocol):
    async def keep(self, router: Router) -> None:
        """What is switched is there, and leads where it led."""
        ...


class Switches:
    def __init__(self, routers: Callable[[Key], Router | None], *switches: KeptSwitch) -> None:
        self._routers = routers
        self._switches = switches

    @property
    def all(self) -> Sequence[Switch]:
        return self._switches

    def at(self, key: Key) -> PlacementMode | None:
        router = self._routers(key)
        if router is None:
            return None
        return fallback.side(switch.at(key) for switch in fallback.on_the_way(router, self._switches))

    async def keep(self, router: Router) -> None:
        """Raises as the first of them that cannot: BadInput, Conflict, Forbidden, Retryable, Reverted."""
        for switch in fallback.on_the_way(router, self._switches):
            await switch.keep(router)
