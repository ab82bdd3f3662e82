"""Slots as text, there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.domain.data import MOST_SLOTS, from_ranges, ranges


@given(st.sets(st.integers(0, MOST_SLOTS - 1), max_size=50))
def test_there_and_back(slots: set[int]) -> None:
    assert from_ranges(ranges(slots)) == tuple(sorted(slots))


def test_as_people_write_them() -> None:
    assert ranges([700, *range(512)]) == "0-511,700"
    assert from_ranges("700,0-2,1-3,") == (0, 1, 2, 3, 700)
    assert from_ranges("") == ()


@pytest.mark.parametrize("part", ["a", "1-", "-1", "5-3", "16384", "0-99999", "1 2", "²", "1-2-3"])
def test_what_is_no_slot_is_named(part: str) -> None:
    with pytest.raises(ValueError, match="neither a slot nor a range") as error:
        from_ranges(f"1,{part}")
    assert repr(part) in str(error.value)


def test_a_long_text_costs_no_more_than_its_slots() -> None:
    assert len(from_ranges(",".join(["0-16383"] * 500))) == MOST_SLOTS
