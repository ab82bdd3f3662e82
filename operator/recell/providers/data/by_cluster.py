"""The `Data` port for all cells: each request is done in the cluster of the cell that it is about.

Promises: a Job of the users' own may write to a cell in another cluster, whose way there is its own matter; what
restores volumes or databases cannot, and says so.
"""

from typing import Protocol

from recell.api.cell import DataType
from recell.domain.data import Answer, Operation, Progress, Request
from recell.engine.errors import Unreachable
from recell.engine.ports import Data
from recell.providers.data.job_template import cron_job_of
from recell.providers.kube.clusters import PerCluster


class Provider(Data, Protocol):
    """That of one cluster."""

    async def stop(self) -> None: ...


class DataByCluster:
    def __init__(self, providers: PerCluster[Provider]) -> None:
        self._providers = providers

    async def ensure(self, request: Request) -> Answer:
        """Raises Unreachable."""
        cell, target = request.cell, request.target
        whole = cell.spec.data.type not in (None, DataType.JOBS) and cron_job_of(request) is None
        if whole and target is not None and target.kubeconfig != cell.kubeconfig:
            return Answer(
                Progress.UNSUPPORTED,
                f"Cell {'/'.join(target.key)}: spec.cluster: {cell.spec.data.type} restores within one cluster, and"
                f" {cell.metadata.name} is in another one: make the new cell there, or restore by a Job"
                " (spec.data.type Jobs)",
            )
        try:
            provider = self._providers.of(cell)
        except Unreachable as error:
            if request.operation is not Operation.ACCESSIBLE:
                raise
            return Answer(Progress.FAILED, str(error))  # nobody can say, and a person decides
        return await provider.ensure(request)

    async def cancel(self, request: Request) -> bool:
        """Raises Unreachable."""
        return await self._providers.of(request.cell).cancel(request)
