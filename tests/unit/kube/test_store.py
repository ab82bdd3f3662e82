"""The fleet's objects as models: indexes, policies, and what cannot be read."""

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy
from typing import Any, cast

import pytest

from recell.api import Cell, RecoveryPolicy, RecoveryRun, Router
from recell.api.recovery_policy import Mode
from recell.api.recovery_run import TargetKind
from recell.engine.errors import BadInput
from recell.engine.ports import Key
from recell.providers.kube import store as module
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import OWN
from recell.providers.kube.reflector import Reflector
from recell.providers.kube.store import KubeStore
from recell.runtime.clock import SystemClock
from tests.fakes.eventually import eventually
from tests.unit.kube.fake_server import FakeApi, FakeServer


class Fleet:
    def __init__(self, *namespaces: str) -> None:
        self.server = FakeServer()
        self.store = KubeStore(cast(Api, FakeApi(self.server)), SystemClock(), namespaces or ("shop",))

    def put(self, kind: type[Any], name: str, spec: Object, namespace: str = "shop", **metadata: Any) -> Object:
        return self.server.put(
            OWN[kind].path(namespace, name),
            {
                "apiVersion": OWN[kind].api_version,
                "kind": kind.INFO.kind,
                "metadata": {"name": name, "namespace": namespace, "uid": f"u-{name}"} | metadata,
                "spec": spec,
            },
        )

    def cell(self, name: str, router: str = "main", **spec: Any) -> Object:
        backend = {"type": "Service", "service": {"name": f"svc-{name}", "port": 80}}
        workloads = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": f"web-{name}"}]
        return self.put(Cell, name, {"routerRef": {"name": router}, "backend": backend, "workloads": workloads} | spec)

    def router(self, name: str = "main", **spec: Any) -> Object:
        haproxy = {"customerKey": {"type": "Header", "name": "x-customer-id"}}
        return self.put(Router, name, {"type": "HAProxy", "customerData": "Shared", "haproxy": haproxy} | spec)

    def policy(self, name: str, mode: str) -> None:
        self.put(RecoveryPolicy, name, {"mode": mode})

    def run(self, name: str, target: str) -> None:
        self.put(RecoveryRun, name, {"targetRef": {"kind": "Cell", "name": target}})

    async def open(self) -> KubeStore:
        self.store.start()
        await asyncio.wait_for(self.store.wait_synced(), 60)
        return self.store


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    await made.store.stop()


async def test_objects_are_found_by_what_they_name(fleet: Fleet) -> None:
    fleet.router()
    fleet.cell("a")
    fleet.cell("b", namespace="apps")
    fleet.cell("c", router="other")
    for name, target in (("run-1", "a"), ("run-2", "a"), ("run-3", "b")):
        fleet.run(name, target)
    store = await fleet.open()
    assert store.synced
    assert store.blind_for == 0
    assert [*store.cells_of(("shop", "main"))] == ["a", "b"]
    assert [*store.cells_of(("shop", "none"))] == []
    assert store.cells_naming_workload("Deployment", "shop", "web-a") == (("shop", "a"),)
    assert store.cells_naming_workload("Deployment", "shop", "web-b") == ()
    assert store.cells_naming_workload("Deployment", "apps", "web-b") == (("shop", "b"),)
    assert store.cells_naming_service("apps", "svc-b") == (("shop", "b"),)
    assert [r.metadata.name for r in store.runs_of(TargetKind.CELL, ("shop", "a"))] == ["run-1", "run-2"]
    assert [r.metadata.name for r in store.runs_in("shop")] == ["run-1", "run-2", "run-3"]
    assert store.runs_in("elsewhere") == ()
    ended = fleet.server.objects[OWN[RecoveryRun].path("shop", "run-2")] | {"status": {"phase": "Succeeded"}}
    fleet.server.put(OWN[RecoveryRun].path("shop", "run-2"), ended)
    await eventually(lambda: [r.metadata.name for r in store.open_runs("shop")] == ["run-1", "run-3"], "the end of one")
    assert sorted(store.keys(Cell)) == [("shop", "a"), ("shop", "b"), ("shop", "c")]
    cell = store.cell(("shop", "a"))
    assert cell is not None
    assert cell is store.cell(("shop", "a")), "parsed once"
    assert len(store.all(Cell)) == len(store.all(Cell, "shop")) == 3


async def test_changes_are_told_and_seen(fleet: Fleet) -> None:
    fleet.cell("a")
    store = await fleet.open()
    told: list[Key] = []
    store.subscribe(Cell, told.append)
    fleet.cell("a", weight=7)
    await eventually(lambda: told == [("shop", "a")], "the change")
    changed = store.cell(("shop", "a"))
    assert changed is not None
    assert changed.spec.weight == 7
    fleet.cell("a", weight=8, routerRef={"name": "new"})
    await eventually(lambda: [*store.cells_of(("shop", "new"))] == ["a"], "another router")
    assert [*store.cells_of(("shop", "main"))] == []
    matters: list[Key] = []
    store.subscribe(Cell, matters.append, when=lambda old, new: new is None)
    fleet.cell("a", weight=9, routerRef={"name": "new"})
    fleet.server.remove(OWN[Cell].path("shop", "a"))
    await eventually(lambda: store.cell(("shop", "a")) is None, "the deletion")
    assert len(told) == 4
    assert matters == [("shop", "a")]
    assert store.raw(Cell, ("shop", "a")) is None


@pytest.mark.parametrize(
    ("named", "router_names", "exists", "mode"),
    [
        (None, None, (), Mode.OBSERVE),
        (None, None, ("default",), Mode.AUTOMATIC),
        (None, "routers", ("default", "routers"), Mode.APPROVE),
        ("cells", "routers", ("default", "routers", "cells"), Mode.AUTOMATIC),
        ("missing", "routers", ("default", "routers"), Mode.OBSERVE),
        (None, "missing", ("default",), Mode.OBSERVE),
    ],
)
async def test_policies(
    fleet: Fleet, named: str | None, router_names: str | None, exists: tuple[str, ...], mode: Mode
) -> None:
    fleet.router(**({"policyRef": {"name": router_names}} if router_names else {}))
    fleet.cell("a", **({"policyRef": {"name": named}} if named else {}))
    for name in exists:
        fleet.policy(name, "Approve" if name == "routers" else "Automatic")
    store = await fleet.open()
    cell = store.cell(("shop", "a"))
    assert cell is not None
    assert store.policy_for(cell).spec.mode == mode
    whole = Mode.AUTOMATIC if "default" in exists else Mode.OBSERVE
    assert store.policy_for_namespace("shop").spec.mode == whole


async def test_a_cell_that_cannot_be_read_is_not_a_cell_that_is_gone(fleet: Fleet) -> None:
    fleet.cell("good")
    fleet.cell("odd", weight="heavy")
    store = await fleet.open()
    with pytest.raises(BadInput, match=r"Cell shop/odd: spec\.weight: "):
        store.cell(("shop", "odd"))
    with pytest.raises(BadInput):
        store.cells_of(("shop", "main"))
    assert store.cell(("shop", "good")) is not None


async def test_a_writes_answer_is_seen_and_never_older(fleet: Fleet) -> None:
    first = fleet.cell("a", weight=1)
    store = await fleet.open()
    newer = deepcopy(first)
    newer["spec"]["weight"] = 2
    newer["metadata"]["resourceVersion"] = "900"
    store.put(Cell, newer)
    store.put(Cell, first)
    found = store.cell(("shop", "a"))
    assert found is not None
    assert found.spec.weight == 2
    store.gone(Cell, first)
    assert store.cell(("shop", "a")) is not None
    store.gone(Cell, newer | {"metadata": newer["metadata"] | {"resourceVersion": "901"}})
    assert store.cell(("shop", "a")) is None


async def test_few_models_are_kept(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PARSED", 10)
    for n in range(40):
        fleet.cell(f"c-{n:02}")
    store = await fleet.open()
    assert len(store.all(Cell)) == 40
    assert len(store._parsed) == 10


async def test_named_namespaces_are_watched_each(fleet: Fleet) -> None:
    both = Fleet("shop", "bank")
    both.cell("a")
    both.put(Cell, "b", both.cell("x")["spec"], namespace="bank")
    both.put(Cell, "c", both.cell("x")["spec"], namespace="unwatched")
    store = await both.open()
    try:
        assert sorted(store.keys(Cell)) == [("bank", "b"), ("shop", "a"), ("shop", "x")]
        answer = both.put(Cell, "d", both.cell("x")["spec"], namespace="bank")
        store.put(Cell, answer)
        assert store.cell(("bank", "d")) is not None
    finally:
        await store.stop()


async def test_a_watch_outlives_whatever_it_meets(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet()
    fleet.cell("a")
    api = FakeApi(fleet.server)
    api.broken = ZeroDivisionError("a fault of nobody's making")
    reflector = Reflector(cast(Api, api), OWN[Cell].collection("shop"), SystemClock())
    reflector.start()
    await eventually(lambda: reflector.trouble is not None, "the fault")
    assert "ZeroDivisionError" in str(reflector.trouble)
    api.broken = None
    await eventually(reflector.synced.is_set, "a whole copy")
    assert len(reflector) == 1
    assert reflector.trouble is None
    await reflector.stop()
    assert "failed unexpectedly" in caplog.text
