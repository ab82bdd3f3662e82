"""Workers in virtual time: results, retries, deadlines, and the end."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from recell.controllers.queue import WorkQueue
from recell.engine.errors import BadInput, Conflict, Fenced, Forbidden, NotFound, Retryable
from recell.engine.ports import Key
from recell.runtime.metrics import Metrics
from recell.runtime.workers import DEADLINE, Workers
from tests.unit.runtime.virtual_time import LoopClock, play

KEY = ("shop", "a")
Step = Exception | float | None


class Scripted:
    """A controller that raises, waits or returns as it is told; `float` is the time until the next look."""

    def __init__(self, *steps: Step, takes: float = 0.0) -> None:
        self.steps, self.takes = [*steps], takes
        self.begun: list[float] = []
        self.finished = 0

    async def reconcile(self, key: Key) -> float | None:
        self.begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes)
        self.finished += 1
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, Exception):
            raise step
        return step


class Crew:
    def __init__(self, controller: Scripted) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(jitter=lambda: 1.0)
        self.metrics = Metrics()
        self.fenced: list[str] = []
        self.workers = Workers(
            "Cell", controller, self.queue, LoopClock(), self.metrics, count=2, on_fenced=self.fenced.append
        )
        self.workers.start()

    def count(self, result: str) -> float:
        labels = {"controller": "Cell", "result": result}
        return self.metrics.registry.get_sample_value("recell_reconcile_total", labels) or 0.0


def scene(controller: Scripted, story: Callable[[Crew], Any]) -> None:
    async def whole() -> None:
        crew = Crew(controller)
        await story(crew)
        await crew.workers.stop(1)

    play(whole())


def test_it_comes_again_when_the_controller_says() -> None:
    controller = Scripted(30.0, None)

    async def story(crew: Crew) -> None:
        crew.queue.add(KEY)
        await asyncio.sleep(1000)
        assert controller.begun == [0, 30]
        assert crew.count("ok") == 2

    scene(controller, story)


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (Conflict("changed"), "conflict"),
        (Retryable("busy"), "retry"),
        (NotFound("gone"), "retry"),
        (Forbidden("no"), "refused"),
        (BadInput("wrong"), "refused"),
        (ValueError("a bug"), "error"),
    ],
)
def test_whatever_it_raises_is_counted_and_tried_again(error: Exception, result: str) -> None:
    controller = Scripted(error, error, None)

    async def story(crew: Crew) -> None:
        crew.queue.add(KEY)
        await asyncio.sleep(100)
        assert len(controller.begun) == 3
        first, second, third = controller.begun
        assert third - second > second - first > 0
        assert (crew.count(result), crew.count("ok")) == (2, 1)
        assert crew.fenced == []

    scene(controller, story)


def test_the_wait_that_the_server_asked_for_is_kept() -> None:
    controller = Scripted(Retryable("overload", after=45.0), None)

    async def story(crew: Crew) -> None:
        crew.queue.add(KEY)
        await asyncio.sleep(100)
        assert controller.begun == [0, 45]

    scene(controller, story)


def test_a_fenced_process_says_so_and_does_not_try_again() -> None:
    controller = Scripted(Fenced("another leads"))

    async def story(crew: Crew) -> None:
        crew.queue.add(KEY)
        await asyncio.sleep(100)
        assert crew.fenced == ["another leads"]
        assert len(controller.begun) == 1

    scene(controller, story)


def test_a_reconcile_that_never_ends_is_ended() -> None:
    controller = Scripted(takes=10_000)

    async def story(crew: Crew) -> None:
        crew.queue.add(KEY)
        await asyncio.sleep(DEADLINE + 5)
        assert crew.count("timeout") == 1
        assert len(controller.begun) == 2

    scene(controller, story)


def test_thousands_of_quick_reconciles_keep_nobody_else_from_running() -> None:
    controller = Scripted()

    async def quick(key: Key) -> float | None:
        controller.finished += 1
        return None

    controller.reconcile = quick  # type: ignore[method-assign]

    async def story(crew: Crew) -> None:
        for n in range(5000):
            crew.queue.add(("shop", str(n)))
        turns = 0
        while controller.finished < 5000:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 1000

    scene(controller, story)


def test_at_the_end_what_runs_is_finished_and_nothing_new_begins() -> None:
    controller = Scripted(takes=5)

    async def story(crew: Crew) -> None:
        for name in "abcd":
            crew.queue.add(("shop", name))
        await asyncio.sleep(1)
        await crew.workers.stop(grace=20)
        assert controller.finished == len(controller.begun) == 2

    scene(controller, story)


def test_the_end_does_not_wait_longer_than_its_grace() -> None:
    controller = Scripted(takes=60)

    async def story(crew: Crew) -> None:
        crew.queue.add(KEY)
        await asyncio.sleep(1)
        await crew.workers.stop(grace=10)
        assert asyncio.get_running_loop().time() == 11
        assert controller.finished == 0

    scene(controller, story)
