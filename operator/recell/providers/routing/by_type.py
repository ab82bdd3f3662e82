"""The data planes of all Routers: each is asked of the one that its Router's type names. The `Traffic` port made real.

Promises: a Router that is not known has applied nothing and has no figures. It decides nothing about traffic.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from recell.api import Placement, Router
from recell.api.router import RouterType
from recell.domain.observation import Applied, RouterTraffic
from recell.engine.errors import BadInput
from recell.engine.ports import Key, Traffic


class Plane(Traffic, Protocol):
    """What carries out the Placements of one type of Router; see `controllers.router.DataPlane` too."""

    def start(self) -> None:
        """Begin to watch."""
        ...

    async def wait_synced(self) -> None:
        """What may be missing in a cluster is not waited for."""
        ...

    async def stop(self) -> None: ...

    async def ensure(self, router: Router) -> None: ...

    async def tell(self, router: Key, placement: Placement | None) -> None: ...

    def serving(self, router: Key) -> int: ...

    def complaint(self, router: Key) -> str: ...

    def unseen(self, router: Key) -> str: ...

    def progress(self, router: Key) -> str: ...


class Routers(Protocol):
    def router(self, key: Key) -> Router | None: ...


class DataPlaneByType:
    """A data plane for every type of Router."""

    def __init__(self, routers: Routers, planes: Mapping[RouterType, Plane]) -> None:
        self._routers = routers
        self._planes = dict(planes)

    def start(self) -> None:
        for plane in self._planes.values():
            plane.start()

    async def wait_synced(self) -> None:
        await asyncio.gather(*(plane.wait_synced() for plane in self._planes.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(plane.stop() for plane in self._planes.values()))

    async def ensure(self, router: Router) -> None:
        """Raises BadInput for a type that this operator does not know, and what the plane raises."""
        plane = self._planes.get(router.spec.type)
        if plane is None:
            raise BadInput(f"spec.type: this operator has no data plane for type {router.spec.type}")
        await plane.ensure(router)

    async def tell(self, router: Key, placement: Placement | None) -> None:
        """A Router that is gone is dropped by every plane: its type is not known any more."""
        mine = self._of(router)
        for plane in self._planes.values() if placement is None else [mine] if mine else []:
            await plane.tell(router, placement)

    def serving(self, router: Key) -> int:
        plane = self._of(router)
        return plane.serving(router) if plane else 0

    def complaint(self, router: Key) -> str:
        plane = self._of(router)
        return plane.complaint(router) if plane else ""

    def unseen(self, router: Key) -> str:
        plane = self._of(router)
        return plane.unseen(router) if plane else ""

    def progress(self, router: Key) -> str:
        plane = self._of(router)
        return plane.progress(router) if plane else ""

    def applied(self, router: Key) -> Applied | None:
        plane = self._of(router)
        return plane.applied(router) if plane else None

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        plane = self._of(router)
        return plane.observed(router, window=window, not_before=not_before) if plane else None

    def _of(self, router: Key) -> Plane | None:
        found = self._routers.router(router)
        return self._planes.get(found.spec.type) if found else None
