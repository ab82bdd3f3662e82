"""Which cells' connections the router's agent closes, and when."""

from typing import Any

import pytest

from recell.api.placement import READ_ONLY, REJECT, HoldState
from recell.domain.placement import FIRM
from router.agent import closing, table
from router.agent.placement import FIRM as AGENTS_FIRM
from router.agent.placement import Placement, decode
from tests.router.rig.placements import placement, spread

NOW = 1795624200.4
CELLS = {"a": (3, "10.0.0.3", 80), "b": (4, "10.0.0.4", 80)}
ONLY_B = spread(1024, 4)


def placed(slots: list[int], **more: Any) -> Placement:
    return decode(placement(CELLS, slots, generation=1, **more))


def test_a_cell_that_serves_nobody_has_a_deadline_of_whole_seconds() -> None:
    assert closing.deadlines(placed(ONLY_B), {}, NOW, 60) == {3: 1795624261}


@pytest.mark.parametrize(
    "serving",
    [
        placed([3, *ONLY_B[1:]]),
        placed([READ_ONLY | 3, *ONLY_B[1:]]),
        placed(ONLY_B, pins={"vip": 3}),
        placed(ONLY_B, pins={"vip": READ_ONLY | 3}),
        placed([3, *ONLY_B[1:]], held={"a": "Isolated"}),
    ],
    ids=["a slot", "a slot for reading", "a pin", "a pin for reading", "the table has the last word"],
)
def test_at_a_cell_that_serves_anybody_nothing_is_closed(serving: Placement) -> None:
    assert closing.deadlines(serving, {3: 1795624210}, NOW, 60) == {}


def test_what_is_turned_away_is_served_by_nobody() -> None:
    assert closing.deadlines(placed([REJECT] * 1024), {}, NOW, 60) == {3: 1795624261, 4: 1795624261}


def test_a_deadline_that_is_known_stays() -> None:
    assert closing.deadlines(placed(ONLY_B), {3: 1795624210, 9: 5}, NOW, 60) == {3: 1795624210}


@pytest.mark.parametrize("state", HoldState)
def test_whoever_must_not_serve_is_closed_at_once(state: HoldState) -> None:
    found = closing.deadlines(placed(ONLY_B, held={"a": state, "b": state}), {3: 1795624210}, NOW, 60)
    assert found == {3: closing.AT_ONCE if state in FIRM else 1795624210}


def test_the_agent_and_the_operator_mean_the_same_by_a_firm_hold() -> None:
    assert set(AGENTS_FIRM) == FIRM


def test_a_firm_hold_above_zero_shuts_nothing() -> None:
    obj = placement(CELLS, ONLY_B, generation=1, held={"a": "Isolated"})
    obj["spec"]["holds"][0]["maxPercent"] = 5
    assert decode(obj).shut == frozenset()


def test_backends_that_nobody_has_any_more_are_closed_like_their_cells() -> None:
    before = table.Held(servers={3: table.Server(7, "a", "10.0.0.3", 80), 5: table.Server(8, "gone", "10.0.0.5", 80)})
    left = closing.left_behind(placed(ONLY_B, held={"gone": "Retired"}), [7, 8, 9], before, {9: 5}, NOW, 60)
    assert left == {7: 1795624261, 8: closing.AT_ONCE, 9: 5}


def test_due_is_what_has_had_its_time() -> None:
    held = table.Held(
        servers={index: table.Server(index + 10, "x", "10.0.0.3", 80) for index in (1, 2, 3)},
        closing={1: closing.AT_ONCE, 2: 1795624200, 3: 1795624201, 4: closing.AT_ONCE},
    )
    assert closing.due(held, {20: closing.AT_ONCE, 21: 1795624201}, NOW) == [11, 12, 20]
