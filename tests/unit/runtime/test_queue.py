"""The work queue in virtual time."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recell.controllers.queue import Closed, WorkQueue
from tests.unit.runtime.virtual_time import play


def now() -> float:
    return asyncio.get_running_loop().time()


def queue(**options: float) -> WorkQueue[str]:
    return WorkQueue(jitter=lambda: 1.0, **options)  # type: ignore[arg-type]


def test_a_key_added_often_is_given_out_once_in_order() -> None:
    async def scene() -> None:
        q = queue()
        for key in ("a", "b", "a", "c", "a"):
            q.add(key)
        assert [await q.get() for _ in range(3)] == ["a", "b", "c"]
        assert len(q) == 0

    play(scene())


def test_a_key_that_is_worked_on_is_given_out_again_only_afterwards() -> None:
    async def scene() -> None:
        q = queue()
        q.add("a")
        assert await q.get() == "a"
        q.add("a")
        q.add("a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(q.get(), 100)
        q.done("a")
        assert await q.get() == "a"
        q.done("a")
        assert len(q) == 0

    play(scene())


def test_later_is_not_sooner_and_an_earlier_moment_wins() -> None:
    async def scene() -> None:
        q = queue()
        q.add_after("late", 30)
        q.add_after("late", 50)
        q.add_after("soon", 10)
        assert await q.get() == "soon"
        assert now() == 10
        q.add_after("late", 5)
        assert await q.get() == "late"
        assert now() == 15
        q.done("soon")
        q.done("late")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(q.get(), 1000)

    play(scene())


def test_what_happens_now_replaces_what_was_planned() -> None:
    async def scene() -> None:
        q = queue()
        q.add_after("a", 30)
        q.add("a")
        assert await q.get() == "a"
        assert now() == 0
        q.done("a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(q.get(), 1000)
        q.add_after("a", 0)
        assert await q.get() == "a"

    play(scene())


def test_a_planned_moment_during_work_waits_for_its_end() -> None:
    async def scene() -> None:
        q = queue()
        q.add("a")
        await q.get()
        q.add_after("a", 5)
        await asyncio.sleep(20)
        assert len(q) == 0
        q.done("a")
        assert await q.get() == "a"

    play(scene())


def test_failures_wait_ever_longer_up_to_the_most_and_success_forgets() -> None:
    async def scene() -> list[float]:
        q = queue(first=1.0, most=8.0)
        waits = [q.retry("a") for _ in range(6)]
        q.forget("a")
        waits.append(q.retry("a"))
        waits.append(q.retry("a", at_least=30.0))
        return waits

    assert play(scene()) == [1, 2, 4, 8, 8, 8, 1, 30]


def test_jitter_takes_away_at_most_half() -> None:
    async def scene() -> float:
        return WorkQueue(first=4.0, jitter=lambda: 0.0).retry("a")

    assert play(scene()) == 2.0


def test_a_closed_queue_gives_out_nothing_and_lets_work_finish() -> None:
    async def scene() -> None:
        q = queue()
        q.add("a")
        q.add("b")
        await q.get()
        waiting = [asyncio.create_task(q.get())]
        await asyncio.sleep(0)
        assert waiting[0].done(), "b"
        waiting.append(asyncio.create_task(q.get()))
        await asyncio.sleep(1)
        q.add_after("c", 5)
        q.close()
        with pytest.raises(Closed):
            await waiting[1]
        with pytest.raises(Closed):
            await q.get()
        q.add("d")
        assert len(q) == 0
        draining = asyncio.create_task(q.drained())
        q.done("a")
        await asyncio.sleep(1)
        assert not draining.done()
        q.add("b")
        q.done("b")
        await asyncio.wait_for(draining, 1)

    play(scene())


def test_a_waiter_that_is_cancelled_takes_no_key_with_it() -> None:
    async def scene() -> None:
        q = queue()
        impatient, patient = asyncio.create_task(q.get()), asyncio.create_task(q.get())
        await asyncio.sleep(0)
        q.add("a")  # wakes the impatient one
        impatient.cancel()
        assert await asyncio.wait_for(patient, 1) == "a"

    play(scene())


def test_waits_and_work_are_measured() -> None:
    async def scene() -> None:
        waits: list[float] = []
        q: WorkQueue[str] = WorkQueue(on_latency=waits.append)
        q.add("a")
        q.add("b")
        await asyncio.sleep(3)
        assert q.longest_wait == 3
        await q.get()
        await asyncio.sleep(4)
        assert q.longest_work == 4
        await q.get()
        assert waits == [3, 7]
        assert q.later == 0
        q.add_after("c", 9)
        assert q.later == 1

    play(scene())


def test_overtaken_plans_do_not_pile_up() -> None:
    async def scene() -> None:
        q = queue()
        for n in range(5000):
            q.add_after("a", 1e6 + n)
            q.add("a")
            await q.get()
            q.done("a")
        assert len(q._heap) < 200

    play(scene())


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["now", "later", "retry"]), st.integers(0, 20)), max_size=40
    ),
    st.integers(1, 4),
)
def test_no_key_is_ever_with_two_workers_and_none_is_lost(plan: list[tuple[str, str, int]], workers: int) -> None:
    """Whatever is added, and whenever: each key is worked on after it was added last, by one worker at a time."""

    async def scene() -> None:
        q: WorkQueue[str] = WorkQueue()
        busy: set[str] = set()
        added: dict[str, float] = {}
        begun: dict[str, float] = {}

        async def work() -> None:
            while True:
                key = await q.get()
                assert key not in busy
                busy.add(key)
                begun[key] = now()
                await asyncio.sleep(3)
                busy.discard(key)
                q.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        for key, how, delay in plan:
            await asyncio.sleep(delay % 4)
            added[key] = now()
            if how == "now":
                q.add(key)
            elif how == "later":
                q.add_after(key, delay)
            else:
                q.retry(key)
        await asyncio.sleep(10_000)
        assert all(not task.done() for task in tasks)
        assert {key for key, at in added.items() if begun.get(key, -1) < at} == set()
        for task in tasks:
            task.cancel()

    play(scene())
