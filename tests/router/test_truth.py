"""Which Placement a pod obeys: rising ones only, through restarts of everything around it."""

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from recell.api.placement import READ_ONLY
from tests.router.rig import Cells, Load, PlacementApi, RouterPod, ask, eventually, placement, spread


async def served_by(pod: RouterPod, customer: bytes = b"alice") -> str | None:
    return (await ask(pod.port, ("x-customer-id", customer))).cell


async def test_older_and_foreign_placements_are_refused_and_told() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        both = cells.placed(a=0, b=1)

        async def refused(reason: str) -> None:
            await eventually(lambda: pod.last.get("refused") and reason in pod.last["refused"]["reason"], what=reason)
            assert await served_by(pod) == "a"

        api.put(placement(both, spread(1024, 0), generation=7, epoch=3))
        await pod.applied(7, epoch=3)
        api.put(placement(both, spread(1024, 1), generation=8, epoch=2))
        await refused("older than what is applied")
        api.put(placement(both, spread(1024, 1), generation=6, epoch=3))
        await refused("older than what is applied")
        api.put(placement(both, spread(1024, 1), generation=9, epoch=3, uid="restored"))
        await refused("another object")
        assert pod.last["refused"]["uid"] == "restored"
        # A leader that raised the epoch stands behind it.
        api.put(placement(both, spread(1024, 1), generation=2, epoch=4, uid="restored"))
        await pod.applied(2, epoch=4)
        assert await served_by(pod) == "b"
        assert pod.last["refused"] is None


async def test_a_deleted_placement_changes_nothing_but_is_told() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 0), generation=5))
        await pod.applied(5)
        api.delete()
        await eventually(lambda: pod.last["source"]["state"] == "Missing")
        assert await served_by(pod) == "a"
        assert pod.last["placement"]["generation"] == 5
        # A new one without a higher epoch is a stranger.
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 1), generation=1, uid="anew"))
        await eventually(lambda: pod.last["refused"])
        assert await served_by(pod) == "a"


BROKEN: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda spec: spec.update(serving="not base64!"), "spec.serving: not base64"),
    (lambda spec: spec.update(serving=spec["serving"][:-4]), "spec.serving: 2046 bytes"),
    (lambda spec: spec.update(slots=1000), "spec.slots: 1000"),
    (lambda spec: spec["cells"].pop(), "spec.serving: slot 1: index 1 is no cell"),
    (lambda spec: spec["cells"][0].update(address="cell-a.example"), "spec.cells[0].address"),
    (lambda spec: spec["cells"][1].update(index=0), "spec.cells[1].index: 0 is given twice"),
    (lambda spec: spec.update(cells=spec["cells"] * 410), "820 cells, at most 819"),
    (
        lambda spec: spec.update(pins=[{"customer": "a b", "home": 0, "serving": 0}]),
        "spec.pins[0].customer: 'a b'",
    ),
    (
        lambda spec: spec.update(pins=[{"customer": "x", "home": 0, "serving": READ_ONLY | 9}]),
        "spec.pins[0].serving: index 9",
    ),
    (lambda spec: spec.pop("epoch"), "spec.epoch: missing"),
]


async def test_a_placement_that_cannot_be_served_is_refused_whole() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        both = cells.placed(a=0, b=1)
        generation = 1
        api.put(placement(both, spread(1024, 0), generation=generation))
        await pod.applied(generation)
        for break_it, reason in BROKEN:
            broken = placement(both, spread(1024, 0, 1), generation=generation + 1)
            break_it(broken["spec"])
            api.put(broken)
            await eventually(
                lambda reason=reason: pod.last["refused"] and reason in pod.last["refused"]["reason"], what=reason
            )  # type: ignore[misc]
            assert await served_by(pod) == "a"
            assert pod.last["placement"]["generation"] == generation
            generation += 2
            api.put(placement(both, spread(1024, 0), generation=generation))
            await pod.applied(generation)
            assert pod.last["refused"] is None


async def test_a_pod_without_a_placement_is_not_ready_and_says_so() -> None:
    async with Cells("a") as cells, PlacementApi() as api, RouterPod(api) as pod:
        await eventually(lambda: pod.last.get("haproxy") and pod.last["source"]["state"] == "Missing")
        assert (await pod.get(pod.admin_port, "/healthz"))[0] == 200
        assert (await pod.get(pod.admin_port, "/ready"))[0] == 503
        answer = await ask(pod.port, ("x-customer-id", b"alice"))
        assert (answer.status, answer.reason) == (503, "no-placement")
        api.put(placement(cells.placed(a=0), spread(1024, 0), generation=1))
        await pod.applied(1)
        assert await pod.get(pod.admin_port, "/ready") == (200, "1\n")


async def test_haproxy_killed_after_a_drain_comes_back_with_the_drained_table() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=1))
        first = await pod.applied(1)
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 1), generation=2))
        await pod.applied(2)
        reached = cells["a"].total
        async with Load((pod.port,), clients=4) as load:
            await eventually(lambda: load.statuses[200] > 50)
            await pod.stop_haproxy(signal.SIGKILL)
            await eventually(lambda: pod.last["haproxy"] is None)
            assert pod.last["placement"] is None, "nothing is applied where nothing runs"
            await pod.start_haproxy()
            again = await pod.applied(2)
            count = len(load.answers)
            await eventually(lambda: len(load.answers) > count + 50)
        assert again["haproxy"]["instance"] != first["haproxy"]["instance"]
        assert cells["a"].total == reached
        assert load.errors != [], "the kill was seen"
        assert set(load.statuses) == {200}
        # And it goes on from there.
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 0), generation=3))
        await pod.applied(3)
        assert await served_by(pod) == "a"


async def test_the_fence_survives_the_agent_and_the_whole_pod() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        both = cells.placed(a=0, b=1)
        api.put(placement(both, spread(1024, 0), generation=9, epoch=5))
        await pod.applied(9, epoch=5)
        for also_haproxy in (False, True):
            await pod.stop_agent(signal.SIGKILL)
            if also_haproxy:
                await pod.stop_haproxy(signal.SIGKILL)
            api.put(placement(both, spread(1024, 1), generation=10, epoch=4))
            began = time.time()
            await pod.start_agent()
            if also_haproxy:
                await pod.start_haproxy()
                await pod.ready()
            told = await eventually(
                lambda began=began: (
                    pod.last["at"] > began and pod.last["refused"] and pod.last["placement"] and pod.last
                )
            )  # type: ignore[misc]
            assert told["placement"]["epoch"] == 5
            assert await served_by(pod) == "a"


async def test_an_agent_that_restarts_finds_what_runs_and_goes_on() -> None:
    async with Cells("a", "b", "c") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(a=3, b=1), spread(1024, 3, 1), generation=1))
        first = await pod.applied(1)
        async with Load((pod.port,), clients=4) as load:
            await eventually(lambda: load.statuses[200] > 50)
            await pod.stop_agent(signal.SIGKILL)
            pod.reports.clear()
            await pod.start_agent()
            again = await pod.applied(1)
            assert again["haproxy"]["instance"] == first["haproxy"]["instance"]
            api.put(placement(cells.placed(c=8, b=1), spread(1024, 8, 1), generation=2))
            await pod.applied(2)
            count = len(load.answers)
            await eventually(lambda: len(load.answers) > count + 50)
        assert load.errors == []
        assert set(load.statuses) == {200}
        later = await pod.later_report()
        assert set(later["cells"]) == {"8", "1"}


async def test_without_the_api_server_it_serves_on_and_catches_up_later() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        both = cells.placed(a=0, b=1)
        api.put(placement(both, spread(1024, 0), generation=1))
        await pod.applied(1)
        await api.away()
        await eventually(lambda: pod.last["source"]["state"] == "Away")
        assert await served_by(pod) == "a"
        # Everything restarts without it.
        await pod.stop_agent()
        await pod.stop_haproxy()
        await pod.start_agent()
        await pod.start_haproxy()
        await pod.ready()
        assert await served_by(pod) == "a"
        await eventually(lambda: (pod.last.get("placement") or {}).get("generation") == 1)
        api.put(placement(both, spread(1024, 1), generation=2))
        await api.back()
        await pod.applied(2)
        assert await served_by(pod) == "b"


async def test_a_watch_that_breaks_misses_nothing() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        both = cells.placed(a=0, b=1)
        for generation in range(1, 6):
            api.put(placement(both, spread(1024, generation % 2), generation=generation))
            await pod.applied(generation)
            api.cut()
        assert await served_by(pod) == "b"
        assert api.lists >= 2


async def test_a_pod_that_is_told_to_stop_answers_what_it_has_begun() -> None:
    async with Cells("a") as cells, PlacementApi() as api, RouterPod(api) as pod:
        api.put(placement(cells.placed(a=0), spread(1024, 0), generation=1))
        await pod.applied(1)
        cells["a"].hung = True
        asked = asyncio.create_task(ask(pod.port, ("x-customer-id", b"alice")))
        await eventually(lambda: cells["a"].total == 1)
        assert pod.haproxy is not None
        pod.haproxy.send_signal(signal.SIGUSR1)
        await eventually(lambda: not listens(pod.port))
        cells["a"].hung = False
        assert (await asked).status == 200
        # Before HAProxy is tired of waiting for the agent's connection (hard-stop-after).
        assert await asyncio.wait_for(pod.haproxy.wait(), 25) == 0
        assert pod.agent is not None
        pod.agent.send_signal(signal.SIGUSR1)
        assert await asyncio.wait_for(pod.agent.wait(), 60) == 0


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
