from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.domain.ramp import increments, next_value

PERCENT = st.integers(0, 100)


@pytest.mark.parametrize(
    ("start", "target", "count", "values"),
    [
        (100, 50, 10, (95, 90, 85, 80, 75, 70, 65, 60, 55, 50)),  # the runbook's drain
        (50, 100, 10, (55, 60, 65, 70, 75, 80, 85, 90, 95, 100)),  # and its way back
        (100, 0, 1, (0,)),
        (100, 0, 3, (67, 33, 0)),
        (100, 97, 10, (99, 98, 97)),  # whole percents do not suffice for 10
        (40, 40, 10, ()),
    ],
)
def test_increments(start: int, target: int, count: int, values: tuple[int, ...]) -> None:
    assert increments(start, target, count) == values


@given(PERCENT, PERCENT, st.integers(1, 100))
def test_every_ramp_is_strictly_monotone_and_ends_at_its_target(start: int, target: int, count: int) -> None:
    values = increments(start, target, count)
    assert len(values) == min(count, abs(target - start))
    way = (start, *values)
    assert way[-1] == target
    steps = [b - a for a, b in pairwise(way)]
    assert all(step * (target - start) > 0 for step in steps)
    assert max(map(abs, steps), default=0) - min(map(abs, steps), default=0) <= 1, "increments of one size"


def test_a_ramp_without_increments_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one increment"):
        increments(100, 50, 0)


@given(PERCENT, PERCENT, st.integers(1, 20), PERCENT)
def test_from_any_value_the_ramp_is_walked_to_its_end(start: int, target: int, count: int, current: int) -> None:
    ramp = increments(start, target, count)
    seen = []
    value: int | None = current
    while (value := next_value(value, target, ramp)) is not None:
        seen.append(value)
        assert len(seen) <= 100
    way = (current, *seen)
    assert way[-1] == target
    assert all((b - a) * (target - current) > 0 for a, b in pairwise(way))


def test_a_crash_between_increments_goes_on_from_the_value_in_force() -> None:
    ramp = increments(100, 50, 10)
    assert next_value(100, 50, ramp) == 95
    assert next_value(95, 50, ramp) == 90
    assert next_value(93, 50, ramp) == 90  # another plan's value
    assert next_value(50, 50, ramp) is None
    assert next_value(30, 50, ramp) == 50  # somebody drained further
    back = increments(50, 100, 10)
    assert next_value(50, 100, back) == 55
    assert next_value(57, 100, back) == 60
    assert next_value(100, 100, back) is None
