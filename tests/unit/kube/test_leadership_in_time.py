"""Leadership in virtual time: who holds the Lease when, and never two at once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recell.engine.errors import Fenced, Retryable
from recell.providers.kube.api import Api
from recell.providers.kube.leadership import Leadership, Terms
from tests.unit.kube.fake_server import FakeApi, FakeServer
from tests.unit.runtime.virtual_time import LoopClock, play

PATH = "/apis/coordination.k8s.io/v1/namespaces/system/leases/recell"


class Candidate:
    """A process: its leadership, its own way to the server, and the timer that would kill it."""

    def __init__(self, server: FakeServer, name: str) -> None:
        self.api = FakeApi(server)
        self.kills_at: float | None = None
        self.leadership = Leadership(
            cast(Api, self.api),
            LoopClock(),
            namespace="system",
            name="recell",
            identity=name,
            guard=self._guard,
        )

    def _guard(self, seconds: float) -> None:
        self.kills_at = asyncio.get_running_loop().time() + seconds if seconds else None

    async def run(self) -> None:
        await self.leadership.acquire()
        await self.leadership.hold()


def scene(play_it: Callable[[FakeServer], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        await play_it(FakeServer())

    play(whole())


def test_the_first_takes_the_lease_and_keeps_it() -> None:
    async def story(server: FakeServer) -> None:
        a, b = Candidate(server, "a"), Candidate(server, "b")
        running = [asyncio.create_task(c.run()) for c in (a, b)]
        for _ in range(100):
            await asyncio.sleep(1)
            assert [c.leadership.leading for c in (a, b)] == [True, False]
        assert (a.leadership.epoch, b.leadership.epoch) == (1, 0)
        assert server.objects[PATH]["spec"]["holderIdentity"] == "a"
        a.leadership.check()
        with pytest.raises(Fenced):
            b.leadership.check()
        for task in running:
            task.cancel()

    scene(story)


def test_a_silent_leader_is_followed_after_the_lease_duration_not_before() -> None:
    async def story(server: FakeServer) -> None:
        a, b = Candidate(server, "a"), Candidate(server, "b")
        leading, waiting = asyncio.create_task(a.run()), asyncio.create_task(b.run())
        await asyncio.sleep(20)
        leading.cancel()  # killed
        await asyncio.sleep(12)
        assert not b.leadership.leading
        await asyncio.sleep(6)
        assert b.leadership.leading
        assert b.leadership.epoch == 2
        waiting.cancel()

    scene(story)


def test_a_leader_that_cannot_renew_stops_before_another_begins() -> None:
    async def story(server: FakeServer) -> None:
        a, b = Candidate(server, "a"), Candidate(server, "b")
        leading, waiting = asyncio.create_task(a.run()), asyncio.create_task(b.run())
        await asyncio.sleep(5)
        a.api.broken = Retryable("gone")
        while not b.leadership.leading:
            await asyncio.sleep(0.1)
            assert not (a.leadership.leading and b.leadership.leading)
        assert leading.done(), "hold() returned, so that the process ends"
        assert a.kills_at is not None
        assert a.kills_at < asyncio.get_running_loop().time()
        waiting.cancel()

    scene(story)


def test_a_released_lease_is_taken_at_once() -> None:
    async def story(server: FakeServer) -> None:
        a, b = Candidate(server, "a"), Candidate(server, "b")
        leading, waiting = asyncio.create_task(a.run()), asyncio.create_task(b.run())
        await asyncio.sleep(30)
        leading.cancel()
        await a.leadership.release()
        await asyncio.sleep(0.2)
        assert b.leadership.leading
        assert not a.leadership.leading
        assert a.kills_at is None
        assert (a.leadership.epoch, b.leadership.epoch) == (1, 2)
        waiting.cancel()

    scene(story)


def test_the_epoch_rises_over_every_record_and_stays_in_the_lease() -> None:
    async def story(server: FakeServer) -> None:
        a = Candidate(server, "a")
        leading = asyncio.create_task(a.run())
        await asyncio.sleep(1)
        a.leadership.outrank(41)
        a.leadership.outrank(7)
        assert a.leadership.epoch == 42
        await asyncio.sleep(5)
        assert server.objects[PATH]["spec"]["leaseTransitions"] == 41
        leading.cancel()
        await a.leadership.release()
        b = Candidate(server, "b")
        following = asyncio.create_task(b.run())
        await asyncio.sleep(1)
        assert b.leadership.epoch == 43
        following.cancel()

    scene(story)


def test_a_lost_answer_of_the_take_over_is_found_again() -> None:
    async def story(server: FakeServer) -> None:
        a = Candidate(server, "a")
        server.put(PATH, {"spec": {"holderIdentity": "a", "leaseTransitions": 5, "acquireTime": "then"}})
        leading = asyncio.create_task(a.run())
        await asyncio.sleep(1)
        assert a.leadership.leading
        assert a.leadership.epoch == 6, "the transition was counted by the write whose answer was lost"
        leading.cancel()

    scene(story)


def test_a_deleted_lease_is_made_anew_and_the_epoch_does_not_fall() -> None:
    async def story(server: FakeServer) -> None:
        a = Candidate(server, "a")
        server.put(PATH, {"spec": {"leaseTransitions": 9}})
        leading = asyncio.create_task(a.run())
        await asyncio.sleep(1)
        assert a.leadership.epoch == 11
        server.remove(PATH)
        await asyncio.sleep(10)
        assert a.leadership.leading
        assert a.leadership.epoch == 11
        assert server.objects[PATH]["spec"]["holderIdentity"] == "a"
        leading.cancel()

    scene(story)


def test_a_standby_does_not_take_a_lease_that_was_deleted_under_its_holder() -> None:
    async def story(server: FakeServer) -> None:
        a, b = Candidate(server, "a"), Candidate(server, "b")
        leading, waiting = asyncio.create_task(a.run()), asyncio.create_task(b.run())
        await asyncio.sleep(5)
        a.api.delay = 1.5  # it will know late
        server.remove(PATH)
        for _ in range(300):
            await asyncio.sleep(0.1)
            assert not (a.leadership.leading and b.leadership.leading)
        assert a.leadership.leading
        leading.cancel()
        waiting.cancel()

    scene(story)


def test_a_clock_that_is_wrong_stops_effects_and_says_so() -> None:
    async def story(server: FakeServer) -> None:
        a = Candidate(server, "a")
        for skew, told in ((None, None), (0.0, None), (5.0, None), (6.0, "6 s ahead of"), (-31.0, "31 s behind")):
            a.api.skew = skew
            found = a.leadership.obstacle()
            assert (told or "") in (found or "")
            assert (found is None) == (told is None)

    scene(story)


def test_a_try_that_fails_when_the_lease_runs_out_is_not_repeated_without_end() -> None:
    """Whatever the moments are, to the last bit of their numbers."""

    async def story(server: FakeServer, seen_at: float) -> None:
        a, b = Candidate(server, "a"), Candidate(server, "b")
        leading = asyncio.create_task(a.run())
        await asyncio.sleep(seen_at)
        waiting = asyncio.create_task(b.run())
        await asyncio.sleep(0.5)
        leading.cancel()  # killed
        await asyncio.sleep(5)
        b.api.broken, b.api.calls = Retryable("broken"), 0
        await asyncio.sleep(40)
        assert b.api.calls < 40
        waiting.cancel()

    for tenths in range(1, 200):
        scene(lambda server, at=tenths / 10: story(server, at))  # type: ignore[misc]


@pytest.mark.parametrize("terms", [(10, 10, 2), (15, 10, 10), (15, 10, 0), (5, 10, 2)])
def test_terms_that_contradict_each_other_are_refused(terms: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="lease duration > renew deadline > retry period"):
        Terms(*terms)


fault = st.tuples(
    st.floats(0.1, 20), st.integers(0, 2), st.sampled_from(["break", "mend", "slow", "fast", "kill", "release"])
)


@settings(max_examples=50)
@given(st.lists(fault, min_size=1, max_size=15))
def test_there_are_never_two_and_epochs_only_rise(faults: list[tuple[float, int, str]]) -> None:
    """Three processes; calls break, take long, processes die and begin anew, in any order."""

    async def story(server: FakeServer) -> None:
        count = 0
        epochs: dict[str, int] = {}
        tasks: dict[int, asyncio.Task[None]] = {}
        candidates: dict[int, Candidate] = {}

        def begin(place: int) -> None:
            nonlocal count
            count += 1
            if place in tasks:
                tasks[place].cancel()
            candidates[place] = Candidate(server, f"{count:03}")
            tasks[place] = asyncio.create_task(candidates[place].run())

        def look() -> None:
            now = asyncio.get_running_loop().time()
            leading = [c for c in candidates.values() if c.leadership.leading]
            assert len(leading) <= 1
            for c in leading:
                assert c.kills_at is not None
                assert c.kills_at >= now
                before = epochs.setdefault(c.leadership.identity, c.leadership.epoch)
                assert before == c.leadership.epoch
                others = [epoch for name, epoch in epochs.items() if name != c.leadership.identity]
                assert all(epoch < before for epoch in others), "a later leader has a higher epoch"

        for place in range(3):
            begin(place)
        for wait, place, what in faults:
            until = asyncio.get_running_loop().time() + wait
            while asyncio.get_running_loop().time() < until:
                await asyncio.sleep(0.5)
                look()
            c = candidates[place]
            if what == "break":
                c.api.broken = Retryable("broken")
            elif what == "mend":
                c.api.broken, c.api.delay = None, 0.0
            elif what == "slow":
                c.api.delay = 3.5
            elif what == "fast":
                c.api.delay = 0.0
            elif what == "kill":
                begin(place)
            else:
                tasks[place].cancel()
                await asyncio.gather(tasks[place], return_exceptions=True)
                await c.leadership.release()
                begin(place)
            look()
            for number, task in tasks.items():
                if task.done():  # lost it: the process is started again
                    begin(number)
        for c in candidates.values():
            c.api.broken, c.api.delay = None, 0.0
        await asyncio.sleep(40)
        look()
        assert any(c.leadership.leading for c in candidates.values()), "in the end somebody leads"
        for task in tasks.values():
            task.cancel()

    scene(story)
