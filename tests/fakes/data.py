"""A stand-in until the behaving fake of the data port is there."""

from collections.abc import Callable
from typing import Any

from recell.domain import data


class FakeData:
    def __init__(self, clock: Any, *, wrote: Callable[[str, str], None], guard: Callable[[], None]) -> None:
        self.answers: dict[data.Operation, data.Answer] = {}

    async def ensure(self, request: data.Request) -> data.Answer:
        return self.answers.get(request.operation, data.Answer(data.Progress.UNSUPPORTED, "no provider"))

    async def cancel(self, request: data.Request) -> bool:
        return True
