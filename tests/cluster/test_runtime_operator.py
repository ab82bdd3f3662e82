"""The operator as a process on a real API server, with a controller whose one effect can be seen."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from recell.engine.errors import NotFound
from recell.providers.kube.api import Api
from recell.providers.kube.paths import CELLS, CONFIG_MAPS, LEASES, RUNS
from tests.fakes.eventually import eventually
from tests.fakes.operators import LONG_TERMS, OperatorProcess, Operators, operators_in

pytestmark = pytest.mark.usefixtures("crds")


class Fleet:
    """Cells of the namespace, and the ConfigMaps that the controller makes for them."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    async def make(self, name: str, weight: int = 100) -> None:
        spec = {
            "routerRef": {"name": "shop"},
            "weight": weight,
            "backend": {"type": "Service", "service": {"name": name, "port": 80}},
        }
        metadata = {"name": name, "namespace": self.namespace}
        body: dict[str, Any] = {
            "apiVersion": CELLS.api_version,
            "kind": "Cell",
            "metadata": metadata,
            "spec": spec,
        }
        await self.api.create(CELLS.collection(self.namespace), body)

    async def weigh(self, name: str, weight: int) -> None:
        await self.api.merge_patch(CELLS.path(self.namespace, name), {"spec": {"weight": weight}})

    async def remove(self, name: str) -> None:
        await self.api.delete(CELLS.path(self.namespace, name))

    async def echoes(self, **weights: int) -> None:
        """Wait until each of these cells has its ConfigMap with this weight."""

        async def all_there() -> bool:
            return {name: await self.echo(name) for name in weights} == {n: str(w) for n, w in weights.items()}

        await eventually(all_there, f"the controller has seen {weights}")

    async def echo(self, name: str) -> str | None:
        try:
            weight: str = (await self.api.get(CONFIG_MAPS.path(self.namespace, name)))["data"]["weight"]
        except NotFound:
            return None
        return weight

    async def clean(self) -> None:
        for resource in (CELLS, CONFIG_MAPS, LEASES):
            for item in (await self.api.list(resource.collection(self.namespace))).items:
                if item["metadata"]["name"] != "kube-root-ca.crt":
                    await self.api.delete(resource.path(self.namespace, item["metadata"]["name"]))


@pytest.fixture
async def fleet(kubeconfig: Path, namespace: str) -> AsyncIterator[Fleet]:
    api = await Api.connect(str(kubeconfig))
    made = Fleet(api, namespace)
    yield made
    await made.clean()
    await api.close()


@pytest.fixture
async def operators(kubeconfig: Path, namespace: str, tmp_path: Path, fleet: Fleet) -> AsyncIterator[Operators]:
    async with operators_in(kubeconfig, namespace, tmp_path) as made:
        yield made


async def figure(operator: OperatorProcess, name: str) -> float:
    _, text = await operator.get("/metrics")
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"no figure {name}"
    return float(found.group(1))


async def kopf_watches(operator: OperatorProcess) -> None:
    """Its watch of Cells is one that the server has taken."""
    await eventually(
        lambda: any(
            "/cells" in s.path and "sendInitialEvents" not in s.query and "watch=" in s.query and s.status == 200
            for s in operator.proxy.seen
        ),
        "kopf watches too",
    )


async def settles(operator: OperatorProcess) -> None:
    """For two seconds it has asked for nothing but its Lease."""
    loop = asyncio.get_running_loop()

    def quiet() -> bool:
        asked = [seen.at for seen in operator.proxy.seen if "/leases/" not in seen.path]
        return bool(asked) and loop.time() - asked[-1] > 2

    await eventually(quiet, "it has done what there was to do")


async def test_what_is_there_and_what_comes_is_reconciled(operators: Operators, fleet: Fleet) -> None:
    await fleet.make("early", 10)
    operator = await operators.start("solo", "echo", *LONG_TERMS)
    await fleet.echoes(early=10)
    await fleet.make("late", 20)
    await fleet.echoes(early=10, late=20)
    await fleet.weigh("early", 30)
    await fleet.echoes(early=30, late=20)
    assert (await operator.get("/healthz"))[0] == 200
    assert (await operator.get("/readyz"))[0] == 200

    async def counted() -> bool:
        reconciled = await figure(operator, 'recell_reconcile_total{controller="Cell",result="ok"}')
        return reconciled >= 3 and await figure(operator, 'recell_watch_objects{resource="cells"}') == 2

    await eventually(counted, "what was done is counted")
    operator.signal(signal.SIGTERM)
    assert await operator.ended() == 0
    assert operator.logged("stopped")


async def test_an_idle_leader_writes_its_lease_and_nothing_else(operators: Operators, fleet: Fleet) -> None:
    await fleet.make("still")
    operator = await operators.start("solo", "echo", *LONG_TERMS)
    await fleet.echoes(still=100)
    await kopf_watches(operator)
    await settles(operator)
    operator.proxy.seen.clear()
    await asyncio.sleep(15)
    assert operator.proxy.writes(r"^(?!.*/leases/)") == []
    assert operator.proxy.writes("/leases/"), "it renews its Lease"
    # The API server ends watches as it likes; each may be taken up once more from where it stood.
    reads = [(seen.path, seen.query) for seen in operator.proxy.seen if not seen.is_write]
    assert all("watch=true" in query and "resourceVersion=" in query for _, query in reads), "no list"
    assert len(reads) == len(set(reads)), "no polling"


async def test_cells_deleted_behind_a_cut_and_expired_watch_are_known(operators: Operators, fleet: Fleet) -> None:
    for n in range(6):
        await fleet.make(f"cell-{n}")
    standby_of = await operators.start("holder", "echo", *LONG_TERMS)
    await standby_of.leads()
    # A standby, since a leader does not outlive an API server that is away.
    operator = await operators.start("standby", "echo", *LONG_TERMS)
    await operator.stands_by()

    async def left(count: int) -> bool:
        return await figure(operator, 'recell_watch_objects{resource="cells"}') == count

    await eventually(lambda: left(6), "the store knows what is there")
    await kopf_watches(operator)

    operator.proxy.refusing = True
    operator.proxy.cut()
    for n in range(4):
        await fleet.remove(f"cell-{n}")
    operator.proxy.fail(r"watch=.*resourceVersion=", 410, times=100, reason="Expired", message="too old")
    operator.proxy.refusing = False

    await eventually(lambda: left(2), "the store knows what is gone")


async def test_each_of_the_two_watches_alone_suffices(operators: Operators, fleet: Fleet) -> None:
    await fleet.make("seen", 1)
    operator = await operators.start("solo", "echo", *LONG_TERMS)
    await fleet.echoes(seen=1)
    await kopf_watches(operator)
    operator.proxy.muted = "recell"
    await fleet.weigh("seen", 2)
    await fleet.echoes(seen=2)
    operator.proxy.muted = "kopf"
    await fleet.weigh("seen", 3)
    await fleet.echoes(seen=3)


async def test_conflicts_and_overload_are_overcome(operators: Operators, fleet: Fleet) -> None:
    await fleet.make("pushed", 1)
    operator = await operators.start("solo", "echo", *LONG_TERMS)
    await fleet.echoes(pushed=1)
    operator.proxy.fail("configmaps/pushed", 409, method="PATCH", times=3, reason="Conflict")
    operator.proxy.fail("configmaps/pushed", 429, method="GET", times=2, headers={"Retry-After": "1"})
    operator.proxy.fail("configmaps/pushed", 500, method="PATCH", times=2)
    await fleet.weigh("pushed", 2)
    await fleet.echoes(pushed=2)
    assert await figure(operator, 'recell_reconcile_total{controller="Cell",result="conflict"}') == 3
    assert await figure(operator, 'recell_reconcile_total{controller="Cell",result="retry"}') == 4


async def test_cut_watches_lose_nothing(operators: Operators, fleet: Fleet) -> None:
    await fleet.make("cut", 1)
    operator = await operators.start("solo", "echo", *LONG_TERMS)
    await fleet.echoes(cut=1)
    for weight in range(2, 6):
        operator.proxy.cut()
        await fleet.weigh("cut", weight)
        await fleet.echoes(cut=weight)
    assert (await operator.get("/healthz"))[0] == 200


async def test_what_is_missing_for_readiness_is_said(operators: Operators, fleet: Fleet) -> None:
    holder = await operators.start("holder", "echo", *LONG_TERMS)
    await holder.leads()
    operator = await operators.start("unready", "echo", *LONG_TERMS)
    operator.proxy.fail(RUNS.plural, 403, times=10**6, reason="Forbidden", message="cannot watch resource recoveryruns")

    async def told() -> bool:
        status, text = await operator.get("/readyz")
        return status == 503 and "recoveryruns" in text and 'grant verb "watch"' in text

    await eventually(told, "it says which permission is missing")
    assert (await operator.get("/healthz"))[0] == 200, "a restart would not help"


async def test_settings_that_cannot_work_are_refused_by_name(operators: Operators, fleet: Fleet) -> None:
    operator = await operators.start("wrong", "echo", "--lease-duration=5", "--renew-deadline=9")
    assert await operator.ended() == 2
    assert operator.logged("lease duration > renew deadline")
