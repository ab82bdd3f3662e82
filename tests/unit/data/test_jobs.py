"""The provider of Jobs on a cluster in memory: what it asks of the API server, when, and what it says."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from recell.api import Cell
from recell.domain.data import Answer, Operation, Progress, Request
from recell.engine.errors import BadInput, Conflict, Fenced, Forbidden, Retryable
from recell.engine.ports import Key
from recell.providers.data.job_template import FIELDS, made_from
from recell.providers.data.jobs import JobsData
from recell.providers.kube.paths import CRON_JOBS, JOBS, PODS
from tests.contract.conftest import ManualClock
from tests.fakes.job_cluster import Exited, JobApi, JobCluster
from tests.unit.data.requests import MIGRATE, SOURCE, a_cell, of

DONE = Exited(0, json.dumps({"customers": {"expected": 3, "done": 3}}))
JOB = JOBS.path("fleet", MIGRATE.key)


class Script:
    """A program that does what the test says next."""

    def __init__(self) -> None:
        self.exit: Exited | None = None
        self.log: list[str] = []
        self.asked = 0

    async def work(self, environment: Mapping[str, str], log: list[str]) -> Exited | None:
        self.asked += 1
        log.extend(self.log)
        self.log.clear()
        return self.exit

    async def stop(self, environment: Mapping[str, str]) -> None:
        pass


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.script = Script()
        self.cluster = JobCluster(self.clock, self.script)
        for field in FIELDS.values():
            self.cluster.cron_job("fleet", f"shop-{field}")
        self.api = JobApi(self.cluster)
        self.woken: list[Key] = []
        self.consent: Exception | None = None
        self.asked_consent = 0
        self.data = self.provider()

    def provider(self) -> JobsData:
        async def consent(cell: Cell) -> None:
            self.asked_consent += 1
            if self.consent is not None:
                raise self.consent

        return JobsData(
            self.api,  # type: ignore[arg-type]
            self.clock,
            ("fleet",),
            require_consent=consent,
            on_change=self.woken.append,
        )

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def seconds(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock.advance(1)
            await self.cluster.second()
            await self.settled()

    async def at_work(self) -> Answer:
        """Begun, and its pod runs."""
        await self.data.ensure(MIGRATE)
        await self.seconds(3)
        return await self.data.ensure(MIGRATE)

    @property
    def writes(self) -> list[tuple[str, str]]:
        return self.cluster.server.writes

    def calls(self) -> int:
        return self.api.calls


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.data.stop()


# Beginning --------------------------------------------------------------------------------------------


async def test_nothing_is_watched_before_anything_is_asked(world: World) -> None:
    await world.settled()
    assert world.calls() == 0
    assert world.data.reflectors == ()


async def test_a_field_that_is_not_set_costs_no_call(world: World) -> None:
    bare = a_cell("cell-a", data={"type": "Jobs", "jobs": {"restore": "x"}})
    answer = await world.data.ensure(replace(MIGRATE, cell=bare))
    assert answer.progress is Progress.UNSUPPORTED
    assert "Cell fleet/cell-a: spec.data.jobs.migrate is not set" in answer.message
    assert world.calls() == 0


async def test_a_missing_cron_job_is_named_with_its_field(world: World) -> None:
    world.cluster.server.remove(CRON_JOBS.path("fleet", "shop-migrate"))
    with pytest.raises(BadInput) as error:
        await world.data.ensure(MIGRATE)
    assert "Cell fleet/cell-a: spec.data.jobs.migrate: CronJob fleet/shop-migrate does not exist" in str(error.value)
    assert world.writes == []


async def test_without_consent_nothing_begins(world: World) -> None:
    world.consent = Forbidden("namespace fleet does not consent")
    with pytest.raises(Forbidden):
        await world.data.ensure(MIGRATE)
    assert world.writes == []
    world.consent = None
    await world.data.ensure(MIGRATE)
    world.consent = Forbidden("not any more")
    assert (await world.data.ensure(MIGRATE)).progress is Progress.RUNNING, "what was begun may be looked at"
    assert world.asked_consent == 2


async def test_one_that_was_made_meanwhile_is_taken_over(world: World) -> None:
    """The leader before wrote it, and this one's watch has not told yet."""
    await world.data.ensure(of(Operation.INVENTORY))
    await world.settled()
    template = world.cluster.server.objects[CRON_JOBS.path("fleet", "shop-migrate")]

    class Racing(JobApi):
        async def create(self, path: str, body: Any) -> Any:
            await super().create(path, made_from(template, MIGRATE))
            raise Conflict(path)

    world.api.__class__ = Racing
    assert (await world.data.ensure(MIGRATE)).progress is Progress.RUNNING
    assert len(world.cluster.jobs()) == 2


async def test_somebody_elses_job_of_that_name_is_left_alone(world: World) -> None:
    foreign = {"metadata": {"name": MIGRATE.key, "namespace": "fleet"}, "spec": {"template": {}}}
    world.cluster.server.put(JOB, foreign)
    for _ in range(2):
        with pytest.raises(BadInput, match=f"Job fleet/{MIGRATE.key} is not the one of this request"):
            await world.data.ensure(MIGRATE)
        await world.settled()
    assert await world.data.cancel(MIGRATE)
    assert [verb for verb, _ in world.writes if verb == "delete"] == []


async def test_a_lost_leadership_ends_it(world: World) -> None:
    def fence() -> None:
        raise Fenced("not the leader")

    world.api._fence = fence
    with pytest.raises(Fenced):
        await world.data.ensure(MIGRATE)


# At work ----------------------------------------------------------------------------------------------


async def test_looking_costs_nothing_while_the_watches_see(world: World) -> None:
    await world.at_work()
    before = world.calls()
    for _ in range(10):
        assert (await world.data.ensure(MIGRATE)).progress is Progress.RUNNING
    assert world.calls() == before


async def test_while_a_watch_is_cut_the_job_itself_is_read(world: World) -> None:
    await world.at_work()
    world.api.broken = Retryable("down")
    with pytest.raises(Retryable):
        await world.provider().ensure(MIGRATE)
    world.api.broken = None
    fresh = world.provider()
    assert (await fresh.ensure(MIGRATE)).progress is Progress.RUNNING, "before its first list is complete"
    await fresh.stop()
    assert len(world.cluster.jobs()) == 1


async def test_a_log_is_looked_into_every_five_seconds_at_most(world: World) -> None:
    world.script.log = ["hello", 'recell-progress {"done": 1, "of": 3}']
    answer = await world.at_work()
    assert (answer.done, answer.of) == (1, 3)
    assert answer.message == f"Job fleet/{MIGRATE.key} runs"
    assert world.api.logs_read == 1
    world.script.log = ['recell-progress {"done": 2, "of": 3}']
    await world.seconds(4)
    assert (await world.data.ensure(MIGRATE)).done == 1
    await world.seconds(1)
    assert (await world.data.ensure(MIGRATE)).done == 2
    assert world.api.logs_read == 2


async def test_a_log_without_progress_keeps_what_was_told(world: World) -> None:
    world.script.log = ['recell-progress {"done": 1, "of": 3}']
    await world.at_work()
    world.script.log = [f"line {n}" for n in range(50)]
    await world.seconds(6)
    assert (await world.data.ensure(MIGRATE)).done == 1


async def test_a_log_that_cannot_be_read_is_no_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: Any, **__: Any) -> str:
        raise Forbidden('grant verb "get" on resource "pods/log"')

    monkeypatch.setattr(world.api, "log", refused)
    answer = await world.at_work()
    assert (answer.progress, answer.done) == (Progress.RUNNING, None)
    world.script.exit = Exited(3, "from the termination message")
    await world.seconds(6)
    failed = await world.data.ensure(MIGRATE)
    assert failed.progress is Progress.FAILED
    assert "exit code 3. It said last: from the termination message" in failed.message


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError"])
async def test_a_pod_that_cannot_start_is_told_and_wakes(world: World, reason: str) -> None:
    world.cluster.waiting[MIGRATE.key] = reason
    await world.data.ensure(MIGRATE)
    await world.seconds(1)
    await world.data.ensure(MIGRATE)
    await world.settled()
    world.woken.clear()
    await world.seconds(1)
    assert world.woken == [SOURCE.key]
    answer = await world.data.ensure(MIGRATE)
    assert answer.progress is Progress.RUNNING
    assert f"Job fleet/{MIGRATE.key} waits: {MIGRATE.key}-0: {reason}" in answer.message


async def test_each_change_wakes_the_cell_of_the_request(world: World) -> None:
    await world.data.ensure(MIGRATE)
    await world.settled()
    world.woken.clear()
    await world.seconds(1)
    assert set(world.woken) == {SOURCE.key}
    world.script.exit = DONE
    world.woken.clear()
    await world.seconds(1)
    assert set(world.woken) == {SOURCE.key}
    world.woken.clear()
    world.cluster.server.put(JOB, world.cluster.server.objects[JOB])
    await world.settled()
    assert world.woken == [], "it has ended: there is nothing to be told any more"


async def test_pods_are_watched_only_while_the_job_is_at_work(world: World) -> None:
    await world.at_work()
    assert len(world.data.reflectors) == 2
    world.script.exit = DONE
    await world.seconds(1)
    assert len(world.data.reflectors) == 1, "even if nobody asks again"


async def test_a_job_that_somebody_deletes_is_made_again(world: World) -> None:
    await world.at_work()
    await world.api.delete(JOB, propagation="Foreground")
    await world.settled()
    answer = await world.data.ensure(MIGRATE)
    assert answer.progress is Progress.RUNNING
    assert "is being deleted" in answer.message
    await world.seconds(3)
    assert world.cluster.jobs() == []
    await world.data.ensure(MIGRATE)
    assert len(world.cluster.jobs()) == 1


# The end ----------------------------------------------------------------------------------------------


async def test_the_result_is_read_after_another_attempt(world: World) -> None:
    await world.at_work()
    world.script.exit = Exited(1)
    await world.seconds(1)
    again = await world.data.ensure(MIGRATE)
    assert again.message == f"Job fleet/{MIGRATE.key} runs, attempt 2"
    world.script.exit = DONE
    await world.seconds(2)
    answer = await world.data.ensure(MIGRATE)
    assert answer.progress is Progress.DONE
    assert answer.customers.complete


async def test_a_failure_tells_reason_exit_code_and_the_log(world: World) -> None:
    await world.at_work()
    world.script.log = ["connecting", 'recell-progress {"done": 1, "of": 3}', "pg_restore: error: no space left"]
    world.script.exit = Exited(3)
    await world.seconds(6)
    answer = await world.data.ensure(MIGRATE)
    assert answer == Answer(
        Progress.FAILED,
        f"Job fleet/{MIGRATE.key} failed: BackoffLimitExceeded (Job has reached the specified backoff limit); the last"
        " attempt ended with exit code 3 and said nothing",
    )
    last = PODS.path("fleet", f"{MIGRATE.key}-2")
    world.cluster.logs[last] = ["connecting", 'recell-progress {"done": 1, "of": 3}', "error: no space left"]
    assert (await world.data.ensure(MIGRATE)).message.endswith("It said last: connecting | error: no space left")


async def test_a_result_that_cannot_be_used_is_a_failure(world: World) -> None:
    await world.at_work()
    world.script.exit = Exited(0, "done")
    await world.seconds(1)
    answer = await world.data.ensure(MIGRATE)
    assert answer.progress is Progress.FAILED
    assert "it is not JSON" in answer.message


async def test_a_pod_that_is_gone_took_the_result_with_it(world: World) -> None:
    await world.at_work()
    world.script.exit = DONE
    await world.seconds(1)
    world.cluster.server.remove(PODS.path("fleet", f"{MIGRATE.key}-0"))
    answer = await world.data.ensure(MIGRATE)
    assert answer.progress is Progress.FAILED
    assert "its pod is gone" in answer.message


async def test_a_job_that_ran_too_long_has_no_pods_left(world: World) -> None:
    await world.at_work()
    world.cluster.server.remove(PODS.path("fleet", f"{MIGRATE.key}-0"))
    late = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "was active too long"}
    job = world.cluster.server.objects[JOB]
    world.cluster.server.put(JOB, job | {"status": {"failed": 1, "conditions": [late]}})
    await world.settled()
    answer = await world.data.ensure(MIGRATE)
    assert answer.progress is Progress.FAILED
    assert "failed: DeadlineExceeded (was active too long). None of its pods is left" in answer.message


# Cancelling -------------------------------------------------------------------------------------------


async def test_it_is_cancelled_when_its_pods_are_gone(world: World) -> None:
    await world.at_work()
    assert not await world.data.cancel(MIGRATE)
    world.woken.clear()
    assert not await world.data.cancel(MIGRATE)
    assert [path for verb, path in world.writes if verb == "delete"] == [JOB], "deleted once"
    await world.seconds(3)
    assert SOURCE.key in world.woken
    assert await world.data.cancel(MIGRATE)
    assert world.cluster.jobs() == []


async def test_a_pod_that_outlives_its_job_still_runs(world: World) -> None:
    await world.at_work()
    world.cluster.server.remove(JOB)
    assert not await world.data.cancel(MIGRATE)
    world.cluster.server.remove(PODS.path("fleet", f"{MIGRATE.key}-0"))
    assert await world.data.cancel(MIGRATE)


async def test_another_process_can_cancel_it(world: World) -> None:
    await world.at_work()
    other = world.provider()
    assert not await other.cancel(MIGRATE)
    await world.seconds(3)
    assert await other.cancel(MIGRATE)
    await other.stop()


async def test_what_has_ended_is_kept_for_people(world: World) -> None:
    await world.at_work()
    world.script.exit = DONE
    await world.seconds(1)
    assert await world.data.cancel(MIGRATE)
    assert len(world.cluster.jobs()) == 1


async def test_different_effects_go_on_side_by_side(world: World) -> None:
    requests: list[Request] = [MIGRATE, replace(of(Operation.INVENTORY), key="inventory-1")]
    for request in requests:
        await world.data.ensure(request)
    await world.seconds(3)
    assert len(world.cluster.jobs()) == 2
    await world.data.cancel(requests[1])
    await world.seconds(3)
    assert [job["metadata"]["name"] for job in world.cluster.jobs()] == [MIGRATE.key]
