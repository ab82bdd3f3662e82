"""The `Data` port made real: each request goes to the provider that its cell names.

Promises: a cell that names none is told so with the field to set. Beside another provider, what `spec.data.jobs` names
is done by Jobs. Nothing of a cell without a provider can run, so there is nothing to cancel.
"""

from collections.abc import Mapping
from typing import Protocol

from recell.api.cell import DataType
from recell.domain.data import Answer, Progress, Request
from recell.engine.ports import Data
from recell.providers.data.job_template import cron_job_of


class Provider(Data, Protocol):
    """That of one type."""

    async def stop(self) -> None: ...


class DataByType:
    """A provider for every type that a Cell can name."""

    def __init__(self, providers: Mapping[DataType, Provider]) -> None:
        self._providers = dict(providers)

    async def stop(self) -> None:
        for provider in self._providers.values():
            await provider.stop()

    async def ensure(self, request: Request) -> Answer:
        provider = self._provider(request)
        if provider is None:
            return Answer(
                Progress.UNSUPPORTED,
                f"Cell {'/'.join(request.cell.key)}: spec.data.type is not set, so that people move and restore its"
                " data: set it to Jobs, and name your CronJobs in spec.data.jobs, or to what makes its backups",
            )
        return await provider.ensure(request)

    async def cancel(self, request: Request) -> bool:
        provider = self._provider(request)
        return provider is None or await provider.cancel(request)

    def _provider(self, request: Request) -> Data | None:
        type_ = request.cell.spec.data.type
        if type_ is None:
            return None
        return self._providers[DataType.JOBS if cron_job_of(request) is not None else type_]
