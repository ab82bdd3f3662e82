"""The contract of the Traffic port, with writing a Placement: the fake and real routers keep it alike."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from recell.api import Placement
from recell.api.placement import REJECT
from recell.domain.observation import RouterTraffic
from tests.contract.conftest import CHECKS, FIGURES, FREEZING, IN_FLIGHT, REJECTING, ROUTER, SHEDDING, Plane

EVEN = [slot % 2 for slot in range(1024)]
ALL_B = [1] * 1024
WINDOW = 4.0
FAR = "2100-01-01T00:00:00Z"


async def applied(plane: Plane, written: Placement) -> None:
    meta, spec = written.metadata, written.spec

    def covered() -> bool:
        seen = plane.traffic.applied(ROUTER)
        return seen is not None and seen.covers(meta.uid, spec.epoch, meta.generation)

    await plane.until(covered)
    await asyncio.sleep(plane.lag)


def needs(plane: Plane, ability: str) -> None:
    if ability in plane.lacks:
        pytest.skip(f"this data plane has no {ability}")


async def a_is_reached_still(plane: Plane) -> None:
    """As far as requests are counted; else time passes in which it might be otherwise."""
    begin = plane.now()
    if FIGURES in plane.lacks:
        await plane.until(lambda: plane.now() - begin > timedelta(seconds=WINDOW))
    else:
        await window_after_now(plane, lambda seen: seen.cells["a"].requests > 0)


async def window_after_now(plane: Plane, so: Callable[[RouterTraffic], bool] = lambda seen: True) -> RouterTraffic:
    """Traffic of a whole window that begins now, or later where it is not so yet: what was under way has to end first,
    and a busy machine asks little for a moment."""
    begin = plane.now()

    def found() -> RouterTraffic | None:
        seen = plane.traffic.observed(ROUTER, window=WINDOW, not_before=begin)
        whole = plane.now() - begin > timedelta(seconds=WINDOW)
        return seen if whole and seen is not None and so(seen) else None

    seen: RouterTraffic = await plane.until(found)
    assert seen.since >= begin
    assert seen.until <= plane.now()
    return seen


async def test_nothing_is_known_before_anything_was_written(plane: Plane) -> None:
    assert plane.traffic.applied(("elsewhere", "none")) is None
    assert plane.traffic.observed(("elsewhere", "none"), window=WINDOW) is None
    assert plane.traffic.applied(ROUTER) is None
    assert plane.traffic.observed(ROUTER, window=WINDOW) is None


async def test_applied_means_every_serving_pod(plane: Plane) -> None:
    begin = plane.now()
    await applied(plane, plane.write(EVEN, generation=3))
    seen = plane.traffic.applied(ROUTER)
    assert seen is not None
    assert (seen.uid, seen.epoch, seen.generation, seen.pods) == ("placement-1", 1, 3, 2)
    assert begin <= seen.at <= plane.now()
    assert not seen.covers("placement-1", 1, 4)
    assert not seen.covers("placement-1", 2, 1)
    assert not seen.covers("another", 1, 3)


async def test_traffic_goes_where_the_table_says_and_a_drained_cell_gets_none(plane: Plane) -> None:
    needs(plane, FIGURES)
    await applied(plane, plane.write(EVEN, generation=1))

    def divided(seen: RouterTraffic) -> bool:
        """The pods told as often as each other, or the rate is none of the whole window."""
        return 0.3 < seen.cells["a"].requests / max(1, seen.requests) < 0.7 and all(
            cell.requests > 20 and abs(cell.requests_per_second * seen.window - cell.requests) < 0.35 * cell.requests
            for cell in seen.cells.values()
        )

    even = await window_after_now(plane, divided)
    assert set(even.cells) == {"a", "b"}
    assert even.pods == 2
    for cell in even.cells.values():
        assert cell.failures == 0
        assert cell.error_rate == 0
        assert cell.latency_p95 is not None
        assert cell.check_up in (True, None)
    assert even.rejected == 0
    await applied(plane, plane.write(ALL_B, generation=2))
    at = plane.traffic.applied(ROUTER)
    assert at is not None
    # Nothing is told of a window that has only begun.
    assert plane.traffic.observed(ROUTER, window=60, not_before=at.at) is None
    drained = await window_after_now(
        plane, lambda seen: seen.cells["a"].requests == 0 and seen.cells["b"].requests > 40
    )
    assert drained.cells["a"].error_rate is None
    assert drained.cells["a"].latency_p95 is None
    assert drained.cells["a"].in_flight == (None if IN_FLIGHT in plane.lacks else 0)


async def test_failures_are_counted_for_the_cell_that_fails(plane: Plane) -> None:
    needs(plane, FIGURES)
    await applied(plane, plane.write(EVEN, generation=1))
    plane.failing("a")
    seen = await window_after_now(
        plane, lambda seen: (seen.cells["a"].error_rate or 0) > 0.9 and seen.cells["b"].requests > 0
    )
    assert seen.cells["b"].error_rate == 0


async def test_a_hung_cell_shows_requests_in_flight_and_none_that_ended(plane: Plane) -> None:
    needs(plane, FIGURES)
    await applied(plane, plane.write(EVEN, generation=1))
    plane.hung("a")

    def waiting(seen: RouterTraffic | None) -> bool:
        in_flight = seen.cells["a"].in_flight if seen else None
        return IN_FLIGHT in plane.lacks or (in_flight is not None and in_flight >= 5)

    await plane.until(lambda: waiting(plane.traffic.observed(ROUTER, window=WINDOW)))
    seen = await window_after_now(plane, lambda seen: waiting(seen) and seen.cells["a"].requests == 0)
    assert seen.cells["a"].error_rate is None


async def test_a_dead_cell_fails_at_once_and_every_pod_sees_it_down(plane: Plane) -> None:
    needs(plane, FIGURES)
    await applied(plane, plane.write(EVEN, generation=1))
    await plane.down("a")
    if CHECKS not in plane.lacks:
        await plane.until(
            lambda: (seen := plane.traffic.observed(ROUTER, window=WINDOW)) and seen.cells["a"].check_up is False
        )
    seen = await window_after_now(
        plane,
        lambda seen: seen.cells["a"].failures == seen.cells["a"].requests > 0 and seen.cells["b"].requests > 0,
    )
    assert seen.cells["b"].check_up is (None if CHECKS in plane.lacks else True)
    assert seen.cells["b"].error_rate == 0


async def test_turned_away_requests_are_the_routers_and_no_cells(plane: Plane) -> None:
    needs(plane, FIGURES)
    needs(plane, REJECTING)
    await applied(plane, plane.write([REJECT if slot % 2 else 1 for slot in range(1024)], generation=1))
    seen = await window_after_now(plane, lambda seen: seen.rejected > 20 and seen.cells["a"].requests == 0)
    assert seen.cells["b"].failures == 0


async def test_what_is_shed_is_counted_for_its_class_and_for_no_cell_and_ends_when_it_is_lifted(plane: Plane) -> None:
    needs(plane, SHEDDING)
    await applied(plane, plane.write(EVEN, generation=1, shed={"default": (40, FAR)}))

    def in_part(seen: RouterTraffic) -> bool:
        told = seen.classes.get("default")
        return (
            told is not None
            and 0.3 < told.shed / max(1, told.requests) < 0.5
            and abs(seen.rejected - told.shed) <= 0.1 * told.shed
            and abs(seen.requests + told.shed - told.requests) <= 0.1 * told.requests
            and 0.3 < seen.cells["a"].requests / max(1, seen.requests) < 0.7
        )

    shedding = await window_after_now(plane, in_part)
    assert shedding.classes["default"].failures == 0
    assert {name: cell.failures for name, cell in shedding.cells.items()} == {"a": 0, "b": 0}
    await applied(plane, plane.write(EVEN, generation=2))
    lifted = await window_after_now(plane, lambda seen: seen.requests > 40 and seen.rejected == 0)
    assert lifted.classes["default"].shed == 0


async def test_an_open_circuit_spares_its_cell_and_no_other(plane: Plane) -> None:
    needs(plane, SHEDDING)
    await applied(plane, plane.write(EVEN, generation=1, circuits={"a": (90, FAR)}))
    seen = await window_after_now(
        plane,
        lambda seen: 0 < seen.cells["a"].requests < 0.3 * seen.cells["b"].requests and seen.rejected > 20,
    )
    assert seen.cells["b"].failures == 0
    assert seen.classes["default"].shed == 0


async def test_what_the_pods_have_not_heard_of_is_not_applied(plane: Plane) -> None:
    needs(plane, FREEZING)
    await applied(plane, plane.write(EVEN, generation=1))
    await plane.freeze()
    newer = plane.write(ALL_B, generation=2)
    await a_is_reached_still(plane)
    still = plane.traffic.applied(ROUTER)
    assert still is not None
    assert still.generation == 1
    await plane.thaw()
    await applied(plane, newer)


async def test_older_and_foreign_placements_do_not_get_applied(plane: Plane) -> None:
    await applied(plane, plane.write(EVEN, generation=5, epoch=3))
    for generation, epoch, uid in ((6, 2, "placement-1"), (4, 3, "placement-1"), (7, 3, "restored")):
        plane.write(ALL_B, generation=generation, epoch=epoch, uid=uid)
        await a_is_reached_still(plane)
        still = plane.traffic.applied(ROUTER)
        assert still is not None
        assert (still.uid, still.epoch, still.generation) == ("placement-1", 3, 5)
    await applied(plane, plane.write(ALL_B, generation=8, epoch=4, uid="restored"))


async def test_silence_is_no_figure_and_no_zero(plane: Plane) -> None:
    await applied(plane, plane.write(EVEN, generation=1))
    await a_is_reached_still(plane)
    plane.silence()
    await plane.until(lambda: plane.traffic.observed(ROUTER, window=WINDOW) is None)
    # What a pod has applied it keeps, heard or not.
    seen = plane.traffic.applied(ROUTER)
    assert seen is not None
    assert seen.generation == 1
    plane.speak()
    if FIGURES not in plane.lacks:
        await plane.until(lambda: plane.traffic.observed(ROUTER, window=WINDOW) is not None)


async def test_without_a_serving_pod_nothing_is_known(plane: Plane) -> None:
    needs(plane, FIGURES)
    await applied(plane, plane.write(EVEN, generation=1))
    await window_after_now(plane)
    plane.serving(0)
    await plane.until(
        lambda: plane.traffic.applied(ROUTER) is None and plane.traffic.observed(ROUTER, window=WINDOW) is None
    )
    plane.serving(1)
    seen = await plane.until(lambda: plane.traffic.applied(ROUTER))
    assert seen.pods == 1
