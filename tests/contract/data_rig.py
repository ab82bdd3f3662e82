"""The Data port of one provider, in time that the test advances: what its contracts are tried on."""

from recell.domain.data import Answer, Progress, Request
from recell.engine.ports import Data
from tests.contract.conftest import ManualClock


class DataRig:
    """What makes the port, and what is behind it, is up to the provider's own rig."""

    port: Data

    def __init__(self) -> None:
        self.clock = ManualClock()

    async def another_process(self) -> None:
        """The one that asked is gone, with its memory."""

    async def second(self) -> None:
        self.clock.advance(1)

    async def stop(self) -> None:
        pass

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            await self.second()

    async def ended(self, request: Request) -> Answer:
        for _ in range(300):
            answer = await self.port.ensure(request)
            if answer.progress is not Progress.RUNNING:
                return answer
            await self.second()
        raise AssertionError(f"{request.operation} does not end: {answer}")

    async def done(self, request: Request) -> Answer:
        answer = await self.ended(request)
        assert answer.progress is Progress.DONE, answer.message
        return answer
