"""Workloads, isolation and what remains of a cell, each in the cell's own cluster.

Promises: the same code does the work in every cluster; here is only said which. What was seen of a cluster that cannot
be reached is told as unknown, with what was seen last (rule 12): never as well, never as gone, never as at zero.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from recell.api import Cell
from recell.api.cell import WorkloadRef
from recell.domain.data import Isolated
from recell.domain.observation import Endpoints, Reach, WorkloadPhase, WorkloadState
from recell.domain.wording import clipped
from recell.engine.errors import Retryable, Unreachable
from recell.engine.ports import Key
from recell.providers.kube.clusters import Clusters
from recell.providers.kube.isolation import KubeIsolation
from recell.providers.kube.remains import CellRemains
from recell.providers.kube.services import Address
from recell.providers.kube.workloads import LOOK_AGAIN, KubeWorkloads

logger = logging.getLogger(__name__)

OUTSIDE = "no connection came about, which proves nothing: the operator is outside of the cell's cluster"


class CellWorkloads:
    """The `Workloads` port for all cells, and what the controllers ask beside it. `on_change` is told the key of each
    Cell that should be given to `ensure_labels` again."""

    def __init__(self, clusters: Clusters, on_change: Callable[[Key], None]) -> None:
        self._clusters = clusters
        self._on_change = on_change

    # Reading

    def reach(self, cell: Cell) -> Reach | None:
        """None for a cell in the operator's own cluster."""
        return self._clusters.reach(cell)

    def states(self, cell: Cell) -> tuple[WorkloadState, ...]:
        """In the order of the Cell's spec."""
        seen, reach = self._clusters.last_seen(cell), self._clusters.reach(cell)
        known = seen.states(cell) if seen is not None else ()
        if reach is None or reach.ok:
            return known
        if not known:
            return tuple(WorkloadState(ref, WorkloadPhase.UNKNOWN, reach.message) for ref in cell.spec.workloads)
        return tuple(_unseen(state, reach) for state in known)

    def endpoints(self, cell: Cell) -> Endpoints | None:
        """None: not known yet, or the backend is a fixed address."""
        return self._home(cell).endpoints(cell)

    def address_of(self, cell: Cell) -> Address:
        """Where the router reaches the cell: see `KubeWorkloads.address_of`. Of another cluster it is in the Cell, so
        a cell goes on being served whatever becomes of its API server."""
        return self._home(cell).address_of(cell)

    def public_addresses_of(self, cell: Cell) -> tuple[Address, ...]:
        """Where customers reach the cell without a router in between: see `KubeWorkloads.public_addresses_of`."""
        return self._home(cell).public_addresses_of(cell)

    def _home(self, cell: Cell) -> KubeWorkloads:
        return self._clusters.home.workloads(cell.workload_namespace)

    # Acting

    async def ensure_labels(self, cell: Cell) -> None:
        """See `KubeWorkloads.ensure_labels`; nothing while another cluster cannot be reached, which `reach` tells."""
        if cell.kubeconfig is None:
            await self._home(cell).ensure_labels(cell)
            return
        try:
            await self._there(cell).ensure_labels(cell)
        except Unreachable:
            return
        except Retryable as error:
            # A cluster that answers badly must not keep the cell from being judged by its traffic.
            logger.info("cell %s: %s", "/".join(cell.key), error)
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._on_change, cell.key)

    async def restart(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """See `KubeWorkloads.restart`. Raises Unreachable."""
        await self._there(cell).restart(cell, ref, token)

    async def scale_to_zero(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """See `KubeWorkloads.scale_to_zero`. Raises Unreachable."""
        await self._there(cell).scale_to_zero(cell, ref, token)

    async def scale_back(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """See `KubeWorkloads.scale_back`. Raises Unreachable."""
        await self._there(cell).scale_back(cell, ref, token)

    def _there(self, cell: Cell) -> KubeWorkloads:
        return self._clusters.of(cell).workloads(cell.workload_namespace)


def _unseen(state: WorkloadState, reach: Reach) -> WorkloadState:
    """What is known of a workload in a cluster that cannot be reached: who wrote what there last, and no more."""
    before = f"; seen last: {state.phase}{f', {state.message}' if state.message else ''}"
    told = reach.message if state.phase is WorkloadPhase.UNKNOWN else reach.message + before
    return replace(
        state,
        phase=WorkloadPhase.UNKNOWN,
        message=clipped(told),
        desired=None,
        ready=None,
        updated=False,
        pods=None,
        since=reach.since,
    )


class CellIsolation:
    """The `Isolation` port for all cells. In another cluster connections that do not come about prove nothing, since
    its pods may be out of reach from here anyway: whoever has to be sure stops what runs."""

    def __init__(self, clusters: Clusters, *, cut_off: Callable[[], bool]) -> None:
        """`cut_off`: whether this process reaches no cell at all."""
        self._clusters = clusters
        self._cut_off = cut_off

    async def isolate(self, cell: Cell) -> None:
        await self._there(cell).isolate(cell)

    async def lift(self, cell: Cell) -> None:
        await self._there(cell).lift(cell)

    async def tried(self, cell: Cell) -> Isolated:
        return await self._there(cell).tried(cell)

    def _there(self, cell: Cell) -> KubeIsolation:
        cluster = self._clusters.of(cell)

        def doubt() -> str:
            if cluster.foreign:
                return OUTSIDE
            return "the operator reaches no cell at all at the moment" if self._cut_off() else ""

        return KubeIsolation(cluster.api, cluster.consent, doubt=doubt)


def remains_of(clusters: Clusters, cell: Cell) -> CellRemains:
    """Raises Unreachable."""
    cluster = clusters.of(cell)
    return CellRemains(cluster.api, cluster.cells, cluster.consent)
