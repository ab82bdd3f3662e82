"""Where cells may have workloads: a namespace other than the Cell's own has to consent (label `recell.dev/fleet`).

Promises: nothing is read for a cell in its own namespace. In another cluster every namespace is another one, whatever
its name, so that a kubeconfig that leads to the wrong cluster finds no consent there. A refusal is read again soon, so
that consent given on its message is seen; consent is kept for `KEPT`, and read anew before each effect (`ensure`).
"""

import asyncio
from collections.abc import Callable, Sequence

from recell.api import Cell
from recell.api.meta import LABEL_FLEET
from recell.engine.errors import BadInput, Forbidden, NotFound, Retryable
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api
from recell.providers.kube.paths import NAMESPACES

KEPT = 300.0
"""Seconds. Consent is read again after that, and before each effect."""
LOOK_AGAIN = 10.0
"""Seconds until a refusal is read again."""


class Consent:
    """`on_change` is told the key of each Cell whose refusal is worth another look."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        namespaces: Sequence[str] = ("",),
        *,
        foreign: bool = False,
        on_change: Callable[[Key], None],
    ) -> None:
        """`namespaces`: those that the operator watches; ("",) is all of them. `foreign`: of another cluster."""
        self._api = api
        self._clock = clock
        self._namespaces = tuple(namespaces)
        self._foreign = foreign
        self._on_change = on_change
        self._known: dict[str, tuple[str, float]] = {}
        """Namespace -> the fleet namespace that it consents to ("" is none), and when that was read."""

    def check(self, cell: Cell) -> None:
        """Without waiting, by what was read last. Raises Forbidden with what to do, BadInput for a namespace that is
        not watched, Retryable while it was not read."""
        fleet, namespace = cell.metadata.namespace, cell.workload_namespace
        if "" not in self._namespaces:
            if namespace not in self._namespaces:
                raise BadInput(
                    f"spec.namespace: the operator does not watch namespace {namespace}; it watches"
                    f" {', '.join(self._namespaces)}"
                )
            return  # whoever installed the operator for these namespaces has consented for them
        if self._own(cell):
            return
        known = self._known.get(namespace)
        if known is None:
            raise Retryable(f"namespace {namespace} has not been asked yet whether it consents to cells of {fleet}")
        if known[0] != fleet:
            where = "in the cell's cluster, " if self._foreign else ""
            raise Forbidden(
                f"spec.namespace: {where}namespace {namespace} does not consent to cells of {fleet}; whoever owns it"
                f" can: kubectl label namespace {namespace} {LABEL_FLEET}={fleet}"
            )

    async def learn(self, cell: Cell, *, max_age: float = KEPT) -> None:
        """Read the namespace's label, unless that was done `max_age` seconds ago or later."""
        namespace, now = cell.workload_namespace, self._clock.monotonic()
        if self._own(cell) or "" not in self._namespaces:
            return
        known = self._known.get(namespace)
        if known is not None and now - known[1] < (max_age if known[0] == cell.metadata.namespace else LOOK_AGAIN):
            return
        try:
            found = await self._api.get(NAMESPACES.path("", namespace))
        except NotFound:
            found = {"metadata": {}}
        fleet = (found["metadata"].get("labels") or {}).get(LABEL_FLEET) or ""
        self._known[namespace] = (fleet, now)
        if fleet != cell.metadata.namespace:
            asyncio.get_running_loop().call_later(LOOK_AGAIN + 0.1, self._on_change, cell.key)

    def _own(self, cell: Cell) -> bool:
        return cell.workload_namespace == cell.metadata.namespace and not self._foreign

    async def ensure(self, cell: Cell) -> None:
        """Read anew, then `check`: to be awaited before each effect in the namespace."""
        await self.learn(cell, max_age=0.0)
        self.check(cell)
