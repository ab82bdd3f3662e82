"""One process writes at a time: killed, stopped, hung, blocked and told to end, on a real API server.

Each process goes through a proxy of its own that records what it sent, so nothing is taken from
anybody's own account.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recell.api import Placement
from recell.engine.errors import NotFound
from recell.providers.kube.api import Api
from recell.providers.kube.paths import CONFIG_MAPS, LEASES, OWN
from tests.fakes.eventually import eventually
from tests.fakes.operators import OperatorProcess, Operators, operators_in
from tests.unit.api.examples import examples

pytestmark = pytest.mark.usefixtures("crds")

LEASE = "recell-test"


@pytest.fixture
async def direct(kubeconfig: Path) -> AsyncIterator[Api]:
    made = await Api.connect(str(kubeconfig))
    yield made
    await made.close()


@pytest.fixture
async def operators(kubeconfig: Path, namespace: str, tmp_path: Path, direct: Api) -> AsyncIterator[Operators]:
    for path in (LEASES.path(namespace, LEASE), CONFIG_MAPS.path(namespace, "beat")):
        await delete(direct, path)
    async with operators_in(kubeconfig, namespace, tmp_path) as made:
        yield made


async def delete(api: Api, path: str) -> None:
    try:
        await api.delete(path)
    except NotFound:
        return


async def beat(api: Api, namespace: str) -> dict[str, str]:
    data: dict[str, str] = (await api.get(CONFIG_MAPS.path(namespace, "beat")))["data"]
    return data


async def pair(operators: Operators) -> tuple[OperatorProcess, OperatorProcess]:
    """A leader that writes, and a standby."""
    first = await operators.start("first", "beat")
    await first.leads()
    second = await operators.start("second", "beat")
    await second.stands_by()
    await eventually(lambda: len(first.writes()) > 10, "the leader writes")
    return first, second


def assert_apart(old: OperatorProcess, new: OperatorProcess) -> None:
    """No write of the old one after the first of the new one."""
    taken_over = new.writes()[0].at
    late = [seen for seen in old.writes() if seen.at >= taken_over]
    assert late == []


async def test_a_standby_writes_nothing(operators: Operators) -> None:
    first, second = await pair(operators)
    before = len(first.writes())
    await eventually(lambda: len(first.writes()) > before + 50, "the leader goes on")
    assert second.proxy.writes() == []
    assert (await second.get("/readyz"))[0] == 200
    assert "recell_leader 0.0" in (await second.get("/metrics"))[1]
    assert "recell_leader 1.0" in (await first.get("/metrics"))[1]


async def test_a_killed_leader_is_followed_under_a_higher_epoch(
    operators: Operators, direct: Api, namespace: str
) -> None:
    first, second = await pair(operators)
    epoch = int((await beat(direct, namespace))["epoch"])
    first.signal(signal.SIGKILL)
    await second.leads()
    await eventually(second.writes, "the new leader writes")
    assert_apart(first, second)
    now = await beat(direct, namespace)
    assert now["by"] == "second"
    assert int(now["epoch"]) > epoch


async def test_a_stopped_leader_that_wakes_writes_nothing(operators: Operators) -> None:
    for _ in range(3):
        first, second = await pair(operators)
        first.signal(signal.SIGSTOP)
        await second.leads()
        await eventually(lambda who=second: len(who.writes()) > 5, "the new leader writes")
        sent = len(first.proxy.writes())
        first.signal(signal.SIGCONT)
        assert await first.ended() != 0
        await asyncio.sleep(0.5)
        assert len(first.proxy.writes()) == sent, "it sent a write after it woke"
        assert_apart(first, second)
        second.signal(signal.SIGTERM)
        assert await second.ended() == 0


async def test_a_leader_that_is_told_to_end_hands_over(operators: Operators, direct: Api, namespace: str) -> None:
    first, second = await pair(operators)
    epoch = int((await beat(direct, namespace))["epoch"])
    first.signal(signal.SIGTERM)
    assert await first.ended() == 0
    assert first.logged("released the Lease")
    await second.leads()
    await eventually(second.writes, "the new leader writes")
    assert_apart(first, second)
    assert int((await beat(direct, namespace))["epoch"]) > epoch


async def test_a_leader_whose_api_server_hangs_ends(operators: Operators) -> None:
    first, second = await pair(operators)
    first.proxy.hanging = True
    assert await first.ended() != 0
    await second.leads()
    await eventually(second.writes, "the new leader writes")
    first.proxy.hanging = False
    await asyncio.sleep(0.5)
    assert_apart(first, second)


async def test_a_leader_whose_event_loop_is_blocked_ends(operators: Operators) -> None:
    first, second = await pair(operators)
    first.signal(signal.SIGUSR1)
    assert await first.ended() == -signal.SIGALRM
    await second.leads()
    await eventually(second.writes, "the new leader writes")
    assert_apart(first, second)


async def test_a_lease_taken_by_somebody_else_ends_the_leader(
    operators: Operators, direct: Api, namespace: str
) -> None:
    first = await operators.start("first", "beat")
    await first.leads()
    path = LEASES.path(namespace, LEASE)
    await direct.merge_patch(path, {"spec": {"holderIdentity": "thief"}})
    assert await first.ended() == 1
    assert first.logged("lost the Lease")


async def test_the_epoch_outranks_what_stands_in_placements(operators: Operators, direct: Api, namespace: str) -> None:
    placement = next(obj for obj in examples() if obj["kind"] == "Placement")
    placement = placement | {"metadata": {"name": "kept", "namespace": namespace}}
    placement["spec"] = placement["spec"] | {"epoch": 70}
    collection = OWN[Placement].collection(namespace)
    await direct.create(collection, placement)
    first = await operators.start("first", "beat")
    await first.leads()
    await eventually(first.writes, "it writes")
    assert int((await beat(direct, namespace))["epoch"]) == 71
    lease = LEASES.path(namespace, LEASE)

    async def recorded() -> bool:
        return (await direct.get(lease))["spec"]["leaseTransitions"] == 70

    await eventually(recorded, "the next renewal carries the epoch into the Lease")
    await direct.delete(OWN[Placement].path(namespace, "kept"))
    first.signal(signal.SIGTERM)
    assert await first.ended() == 0
    second = await operators.start("second", "beat")
    await second.leads()
    await eventually(second.writes, "it writes")
    assert int((await beat(direct, namespace))["epoch"]) == 72
