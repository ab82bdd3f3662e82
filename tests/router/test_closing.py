"""Long connections to a cell that serves nobody any more: closed at once, at a deadline, or not at all."""

import asyncio
import contextlib
import signal
import time

import pytest

from router.agent.runtime_socket import RuntimeSocket
from tests.router.rig import Cells, Opened, PlacementApi, RouterPod, ask, eventually, placement, spread
from tests.router.rig.load import slot_of
from tests.router.rig.opened import STREAM, WEBSOCKET

BOTH = spread(1024, 0, 1)
ONLY_B = spread(1024, 1)
AT_A, AT_B = (next(f"c{n}" for n in range(99) if slot_of(f"c{n}".encode(), 1024) % 2 == cell) for cell in (0, 1))
SLOT_OF_A = str(slot_of(AT_A.encode(), 1024))
SOON = 3.0
"""Seconds after its time in which a connection would be closed; the agent looks once a second."""
LATER = 1.5
"""Seconds after which a deadline that is begun anew is another one: deadlines are whole seconds."""


def timeout(seconds: int) -> dict[str, str]:
    return {"DRAIN_TIMEOUT": str(seconds)}


LONG = timeout(600)
"""What is closed at once is closed long before this."""

both_kinds = pytest.mark.parametrize("path", [STREAM, WEBSOCKET])


@both_kinds
@pytest.mark.parametrize("state", ["Isolated", "Retired", "Quarantined"])
async def test_what_is_open_at_a_cell_that_must_not_serve_is_closed_before_that_counts_as_applied(
    state: str, path: str
) -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=LONG) as pod:
        placed = cells.placed(a=0, b=1)
        api.put(placement(placed, BOTH, generation=1))
        await pod.applied(1)
        async with Opened(pod.port, AT_A, path) as at_a, Opened(pod.port, AT_B, path) as at_b:
            api.put(placement(placed, ONLY_B, generation=2, held={"a": state}))
            await pod.applied(2)
            await eventually(lambda: not at_a.open)
            await at_b.goes_on()
            await pod.later_report()
            await eventually(lambda: pod.told(0, "inFlight") == 0)
            await at_b.goes_on()
        assert (await ask(pod.port, ("x-customer-id", AT_A.encode()))).cell == "b"


@both_kinds
async def test_what_is_open_at_a_drained_cell_is_served_until_the_deadline_and_then_closed(path: str) -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=timeout(5)) as pod:
        placed = cells.placed(a=0, b=1)
        api.put(placement(placed, BOTH, generation=1))
        await pod.applied(1)
        async with Opened(pod.port, AT_A, path) as at_a, Opened(pod.port, AT_B, path) as at_b:
            drained = time.time()
            api.put(placement(placed, ONLY_B, generation=2, held={"a": "Draining"}))
            await pod.applied(2)
            due = await pod.closing()
            assert drained + 5 <= due[0] <= time.time() + 6
            # Whatever else changes meanwhile: it is no later for that.
            await asyncio.sleep(LATER)
            api.put(placement(placed, ONLY_B, generation=3, held={"a": "Draining"}, pins={"vip": 1}))
            await pod.applied(3)
            assert await pod.closing() == due
            await eventually(lambda: not at_a.open)
            assert at_a.ended_at is not None
            assert at_a.ended_at >= due[0]
            await at_b.goes_on()


async def test_a_cell_that_serves_again_before_the_deadline_keeps_what_is_open() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=timeout(12)) as pod:
        placed = cells.placed(a=0, b=1)
        api.put(placement(placed, BOTH, generation=1))
        await pod.applied(1)
        async with Opened(pod.port, AT_A) as at_a:
            api.put(placement(placed, ONLY_B, generation=2))
            await pod.applied(2)
            due = await pod.closing()
            api.put(placement(placed, BOTH, generation=3))
            await pod.applied(3)
            assert await pod.closing() == {}
            await asyncio.sleep(due[0] - time.time() + SOON)
            await at_a.goes_on()
            # And the next drain has its whole time again.
            drained = time.time()
            api.put(placement(placed, ONLY_B, generation=4))
            await pod.applied(4)
            assert (await pod.closing())[0] >= drained + 12
            await at_a.goes_on()


@pytest.mark.parametrize("left", ["a slot", "a slot for reading", "a pin"])
async def test_a_cell_that_serves_anybody_keeps_what_is_open(left: str) -> None:
    """HAProxy does not know by which slot a connection came."""
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=timeout(1)) as pod:
        placed = cells.placed(a=0, b=1)
        api.put(placement(placed, BOTH, generation=1))
        await pod.applied(1)
        async with Opened(pod.port, AT_A) as at_a:
            one = {"a slot": 0, "a slot for reading": 0x8000}.get(left, 1)
            pins = {"vip": 0} if left == "a pin" else {}
            api.put(placement(placed, [one, *ONLY_B[1:]], generation=2, pins=pins))
            await pod.applied(2)
            await asyncio.sleep(1 + SOON)
            await at_a.goes_on()


@pytest.mark.parametrize("api_server", ["there", "away"])
async def test_a_deadline_outlives_the_agent_with_or_without_the_api_server(api_server: str) -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=timeout(5)) as pod:
        placed = cells.placed(a=0, b=1)
        api.put(placement(placed, BOTH, generation=1))
        await pod.applied(1)
        async with Opened(pod.port, AT_A) as at_a, Opened(pod.port, AT_B) as at_b:
            api.put(placement(placed, ONLY_B, generation=2))
            await pod.applied(2)
            due = await pod.closing()
            await pod.stop_agent(signal.SIGKILL)
            if api_server == "away":
                await api.away()
            await asyncio.sleep(LATER)
            await pod.start_agent()
            await eventually(lambda: not at_a.open)
            assert at_a.ended_at is not None
            assert at_a.ended_at >= due[0]
            assert await pod.closing() == due, "not begun anew by the agent that started"
            await at_b.goes_on()


@pytest.mark.parametrize("restarted", [False, True])
async def test_who_was_on_the_way_to_an_isolated_cell_is_closed_too(restarted: bool) -> None:
    """A request for which the cell was chosen before the change and which reached it after."""
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=LONG) as pod:
        placed = cells.placed(a=0, b=1)
        api.put(placement(placed, BOTH, generation=1))
        await pod.applied(1)
        haproxy, table, slot = RuntimeSocket(pod.run / "haproxy.sock"), pod.run / "placement.map", SLOT_OF_A
        before = (await haproxy.map_values(table, slot))[0]
        assert before is not None
        api.put(placement(placed, ONLY_B, generation=2, held={"a": "Isolated"}))
        await pod.applied(2)
        if restarted:
            await pod.stop_agent(signal.SIGKILL)
            await api.away()
            await pod.start_agent()
        # The agent sleeps until the request has reached the cell, or it would be closed before there is an answer.
        assert pod.agent is not None
        pod.agent.send_signal(signal.SIGSTOP)
        await haproxy.set_in_map(table, [(slot, before)])
        async with Opened(pod.port, AT_A) as late, Opened(pod.port, AT_B) as at_b:
            pod.agent.send_signal(signal.SIGCONT)
            await eventually(lambda: not late.open)
            await at_b.goes_on()


async def test_an_isolation_that_the_agent_slept_through_closes_as_well() -> None:
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api, environment=LONG) as pod:
        placed = cells.placed(a=0, b=1)
        api.put(placement(placed, BOTH, generation=1))
        await pod.applied(1)
        async with Opened(pod.port, AT_A, WEBSOCKET) as at_a, Opened(pod.port, AT_B, WEBSOCKET) as at_b:
            await pod.stop_agent(signal.SIGKILL)
            api.put(placement(placed, ONLY_B, generation=2, held={"a": "Isolated"}))
            await at_a.goes_on()
            await pod.start_agent()
            await eventually(lambda: not at_a.open)
            await at_b.goes_on()


@pytest.mark.parametrize("isolated", [False, True])
async def test_what_is_open_at_a_cell_that_leaves_or_moves_is_closed_too(isolated: bool) -> None:
    drains = LONG if isolated else timeout(4)
    async with Cells("a", "b", "moved") as cells, PlacementApi() as api, RouterPod(api, environment=drains) as pod:
        placed = cells.placed(a=0, b=1)
        api.put(placement(placed, BOTH, generation=1))
        await pod.applied(1)
        async with contextlib.AsyncExitStack() as stack:
            at_a = await stack.enter_async_context(Opened(pod.port, AT_A))
            at_b = await stack.enter_async_context(Opened(pod.port, AT_B))
            changed = time.time()
            # a goes; b is at another address and serves everybody there.
            there = {"b": (1, cells["moved"].address, cells["moved"].port)}
            held = {"a": "Isolated"} if isolated else {}
            api.put(placement(there, ONLY_B, generation=2, held=held))
            await pod.applied(2)
            await eventually(lambda: not at_a.open)
            if isolated:
                await at_b.goes_on()
            else:
                await eventually(lambda: not at_b.open)
                for ended in (at_a.ended_at, at_b.ended_at):
                    assert ended is not None
                    assert ended - changed >= 4
