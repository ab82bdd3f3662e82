"""A provider that restores volumes as one, on a cluster in memory, in time that the test advances."""

import asyncio
from typing import Any

from recell.api import Cell
from recell.domain.data import Answer, Progress, Request
from recell.engine.errors import Retryable
from recell.engine.ports import Key
from tests.contract.conftest import ManualClock
from tests.fakes.volume_cluster import VolumeApi, VolumeCluster, VolumeWorkloads
from tests.fakes.world import Crash


class WholeWorld:
    """`kind` is the provider's class."""

    kind: Any

    def __init__(self, clock: ManualClock, cluster: VolumeCluster) -> None:
        self.clock = clock
        self.api = VolumeApi(cluster)
        self.woken: list[Key] = []
        self._cluster = cluster
        self.data = self.provider()

    def provider(self) -> Any:
        async def consent(cell: Cell) -> None:
            if self._cluster.consent is not None:
                raise self._cluster.consent

        return self.kind(
            self.api,
            self.clock,
            VolumeWorkloads(self._cluster),
            require_consent=consent,
            is_home=lambda router, cell: cell in self._cluster.home,
            on_change=self.woken.append,
        )

    async def second(self) -> None:
        self.clock.advance(1)
        self._cluster.second()
        for _ in range(20):
            await asyncio.sleep(0)

    async def ended(self, request: Request) -> Answer:
        """A process that is killed is followed by another one."""
        for _ in range(60):
            try:
                answer: Answer = await self.data.ensure(request)
            except (Retryable, Crash) as error:
                if isinstance(error, Crash):
                    await self.data.stop()
                    self.data = self.provider()
            else:
                if answer.progress is not Progress.RUNNING:
                    return answer
            await self.second()
        raise AssertionError(f"{request.operation} does not end: {answer}")

    async def done(self, request: Request) -> Answer:
        answer = await self.ended(request)
        assert answer.progress is Progress.DONE, answer.message
        return answer
