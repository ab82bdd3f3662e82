"""The copy against a real API server whose watches are cut, expire, stop midway or are refused."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from recell.engine.ports import Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CONFIG_MAPS
from recell.providers.kube.reflector import Reflector
from recell.runtime.clock import SystemClock
from tests.cluster.conftest import Kubectl
from tests.fakes.api_proxy import ApiProxy
from tests.fakes.eventually import eventually

LABEL = "recell-test/copy"


class World:
    """The tested copy behind a proxy, and a straight way to the same server."""

    def __init__(self, proxy: ApiProxy, tested: Api, direct: Api, namespace: str) -> None:
        self.proxy, self.tested, self.direct, self.namespace = proxy, tested, direct, namespace
        self.changes: list[tuple[str, str]] = []
        self.reflector = Reflector(
            tested,
            CONFIG_MAPS.collection(namespace),
            SystemClock(),
            labels=LABEL,
            indexes={"colour": lambda obj: [(obj.get("data") or {}).get("colour")]},
        )
        self.reflector.subscribe(self._changed)

    def _changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        self.changes.append((key[1], "deleted" if new is None else "created" if old is None else "changed"))

    async def make(self, *names: str, **data: str) -> list[Object]:
        bodies: list[dict[str, Any]] = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": self.namespace, "labels": {LABEL: "yes"}},
                "data": data,
            }
            for name in names
        ]
        return [await self.direct.create(CONFIG_MAPS.collection(self.namespace), body) for body in bodies]

    def path(self, name: str) -> str:
        return CONFIG_MAPS.path(self.namespace, name)

    def names(self) -> set[str]:
        return {obj["metadata"]["name"] for obj in self.reflector.objects()}

    async def has(self, *names: str) -> None:
        await eventually(lambda: self.names() == set(names), f"the copy holds {names}")

    async def real(self) -> set[str]:
        listing = await self.direct.list(CONFIG_MAPS.collection(self.namespace), labels=LABEL)
        return {item["metadata"]["name"] for item in listing.items}


@pytest.fixture
async def world(kubeconfig: Path, kubectl: Kubectl, namespace: str, tmp_path: Path) -> AsyncIterator[World]:
    async with ApiProxy.to(kubeconfig, tmp_path) as proxy:
        tested, direct = await Api.connect(str(proxy.kubeconfig)), await Api.connect(str(kubeconfig))
        made = World(proxy, tested, direct, namespace)
        yield made
        await made.reflector.stop()
        for name in await made.real():
            await direct.delete(made.path(name))
        await tested.close()
        await direct.close()


async def test_it_follows_what_happens_and_indexes_it(world: World) -> None:
    await world.make("before", colour="red")
    world.reflector.start()
    await asyncio.wait_for(world.reflector.synced.wait(), 120)
    await world.has("before")
    await world.make("after", colour="blue")
    await world.has("before", "after")
    await world.direct.merge_patch(world.path("after"), {"data": {"colour": "red"}})
    reds = ["after", "before"]
    await eventually(lambda: [o["metadata"]["name"] for o in world.reflector.by("colour", "red")] == reds, "reindexed")
    assert world.reflector.by("colour", "blue") == ()
    await world.direct.delete(world.path("before"))
    await world.has("after")
    assert world.changes == [
        ("before", "created"),
        ("after", "created"),
        ("after", "changed"),
        ("before", "deleted"),
    ]
    assert all("managedFields" not in obj["metadata"] for obj in world.reflector.objects())
    assert world.reflector.blind_for == 0
    assert world.proxy.writes() == []


async def test_deletions_behind_a_cut_and_expired_watch_are_known(world: World) -> None:
    await world.make(*(f"cell-{n}" for n in range(20)))
    world.reflector.start()
    await asyncio.wait_for(world.reflector.synced.wait(), 120)
    await world.has(*(f"cell-{n}" for n in range(20)))

    world.proxy.refusing = True
    world.proxy.cut()
    await eventually(lambda: world.reflector.blind_for > 0, "the cut is noticed")
    for n in range(10):
        await world.direct.delete(world.path(f"cell-{n}"))
    # The server has forgotten the version that the watch was at.
    world.proxy.fail(r"watch=true.*resourceVersion=", 410, reason="Expired", message="too old resource version")
    world.proxy.refusing = False

    await world.has(*(f"cell-{n}" for n in range(10, 20)))
    assert sorted(name for name, what in world.changes if what == "deleted") == [f"cell-{n}" for n in range(10)]
    await eventually(lambda: world.reflector.blind_for == 0, "it sees again")
    assert any(seen.status == 410 for seen in world.proxy.seen)


async def test_a_cut_watch_goes_on_where_it_was(world: World) -> None:
    await world.make("a", "b")
    world.reflector.start()
    await asyncio.wait_for(world.reflector.synced.wait(), 120)
    world.proxy.refusing = True
    world.proxy.cut()
    await world.direct.delete(world.path("a"))
    await world.make("c")
    world.proxy.refusing = False
    await world.has("b", "c")
    lists = [seen for seen in world.proxy.seen if "sendInitialEvents" in seen.query and seen.status == 200]
    assert len(lists) == 1, "an unexpired watch must not list anew"


async def test_an_initial_list_that_is_cut_midway_is_not_taken_for_whole(world: World) -> None:
    await world.make(*(f"m-{n}" for n in range(30)))
    world.proxy.cut_streams_after = 7
    world.reflector.start()
    await asyncio.wait_for(world.reflector.synced.wait(), 120)
    await world.has(*(f"m-{n}" for n in range(30)))
    assert world.reflector.restarts >= 1


async def test_a_server_that_does_not_stream_lists_is_asked_for_pages(world: World) -> None:
    await world.make("paged")
    world.proxy.fail("sendInitialEvents", 422, times=10**6, reason="Invalid", message="sendInitialEvents: forbidden")
    world.reflector.start()
    await world.has("paged")
    await world.make("more")
    await world.has("paged", "more")
    await world.direct.delete(world.path("paged"))
    await world.has("more")


async def test_errors_are_retried_and_shown_meanwhile(world: World) -> None:
    world.proxy.fail("configmaps", 403, times=1, reason="Forbidden", message="cannot watch resource configmaps")
    world.proxy.fail("configmaps", 429, times=2, reason="TooManyRequests", headers={"Retry-After": "1"})
    await world.make("there")
    world.reflector.start()
    await eventually(lambda: world.reflector.trouble is not None, "the refusal is shown")
    assert not world.reflector.synced.is_set()
    await world.has("there")
    assert world.reflector.trouble is None


async def test_the_answer_of_a_write_counts_at_once_and_never_turns_back(world: World) -> None:
    (made,) = await world.make("mine", colour="old")
    world.reflector.start()
    await world.has("mine")
    newer = await world.direct.merge_patch(world.path("mine"), {"data": {"colour": "new"}})

    def colour() -> str:
        found = world.reflector.get((world.namespace, "mine"))
        return found["data"]["colour"] if found else "gone"

    world.reflector.put(newer)
    assert colour() == "new"
    world.reflector.put(made)
    assert colour() == "new"
    await world.direct.delete(world.path("mine"))
    await world.has()
    # The answer of a write that was made before the deletion, and that came late.
    world.reflector.put(newer)
    assert colour() == "gone"
    (again,) = await world.make("mine", colour="again")
    await eventually(lambda: colour() == "again", "made anew")
    # The deletion of the former one, told late by somebody else's watch.
    world.reflector.gone(newer)
    assert colour() == "again"
    world.reflector.gone(again)
    assert colour() == "gone"


async def test_a_listener_that_fails_stops_nothing(world: World) -> None:
    def broken(key: Key, old: Object | None, new: Object | None) -> None:
        raise ValueError("a bug")

    told: list[Key] = []
    world.reflector.subscribe(broken)
    world.reflector.subscribe(lambda key, old, new: told.append(key))
    world.reflector.start()
    await world.make("x")
    await world.has("x")
    assert told == [(world.namespace, "x")]


async def test_many_changes_in_one_go_arrive_in_order(world: World) -> None:
    world.reflector.start()
    await asyncio.wait_for(world.reflector.synced.wait(), 120)
    (made,) = await world.make("busy")
    look: Callable[[], Object | None] = lambda: world.reflector.get((world.namespace, "busy"))  # noqa: E731
    for n in range(30):
        await world.direct.merge_patch(world.path("busy"), {"data": {"n": str(n)}})
    await eventually(lambda: (look() or {}).get("data", {}).get("n") == "29", "the last one")
    assert made["metadata"]["uid"] == (look() or {})["metadata"]["uid"]
