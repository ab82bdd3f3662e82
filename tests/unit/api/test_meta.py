"""Text formats, conditions and the models' JSON form."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api.meta import (
    DURATION_PATTERN,
    PERCENT_PATTERN,
    Condition,
    ConditionStatus,
    duration_text,
    find_condition,
    fraction,
    is_true,
    percent_text,
    seconds,
    set_condition,
    timestamp,
)

NOW = datetime(2026, 1, 31, 12, 0, 0, 987654, tzinfo=UTC)
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

parts = st.lists(st.tuples(st.integers(0, 99999), st.sampled_from(sorted(UNITS))), min_size=1, max_size=4)
statuses = st.sampled_from(list(ConditionStatus))
moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))


@st.composite
def conditions(draw: st.DrawFn) -> list[Condition]:
    types = draw(st.lists(st.sampled_from(["Ready", "Accepted", "Stalled", "DiskFull"]), unique=True))
    return [
        Condition(type=type, status=draw(statuses), reason="Before", last_transition_time=draw(moments))
        for type in types
    ]


class TestDurations:
    @given(parts)
    def test_seconds_is_the_sum_of_the_parts(self, pairs: list[tuple[int, str]]) -> None:
        text = "".join(f"{number}{unit}" for number, unit in pairs)
        assert re.fullmatch(DURATION_PATTERN, text)
        assert seconds(text) == pytest.approx(sum(number * UNITS[unit] for number, unit in pairs))

    @pytest.mark.parametrize(
        ("text", "expected"), [("30s", 30), ("15m", 900), ("1h30m", 5400), ("168h", 604800), ("1000ms", 1), ("0s", 0)]
    )
    def test_as_written_in_the_runbook(self, text: str, expected: float) -> None:
        assert seconds(text) == expected

    @pytest.mark.parametrize(
        "text", ["", "5", "s", "-1s", "1.5s", "1 s", "1d", "100000s", "1s1s1s1s1s", "30s\n", " 30s", "30S", "٣s"]
    )
    def test_anything_else_is_refused_with_the_text(self, text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            seconds(text)

    @given(st.integers(0, 99999 * 3600))
    def test_whole_seconds_survive_being_shown(self, value: int) -> None:
        assert seconds(duration_text(value)) == value

    @given(st.floats(0, 99999 * 3600))
    def test_what_is_shown_is_a_duration_close_by(self, value: float) -> None:
        text = duration_text(value)
        assert re.fullmatch(DURATION_PATTERN, text)
        assert abs(seconds(text) - value) <= (0.0005 if value < 1 else 0.5) + 1e-6

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0s"), (0.25, "250ms"), (90, "1m30s"), (3600, "1h"), (59.6, "1m"), (0.9999, "1s"), (0.0001, "0ms")],
    )
    def test_shown_for_people(self, value: float, text: str) -> None:
        assert duration_text(value) == text


class TestPercentages:
    @given(st.integers(0, 10000))
    def test_hundredths_are_read_exactly(self, hundredths: int) -> None:
        text = f"{hundredths / 100:.2f}%"
        assert re.fullmatch(PERCENT_PATTERN, text)
        assert fraction(text) == pytest.approx(hundredths / 10000, abs=1e-12)

    @given(st.floats(0, 1))
    def test_what_is_shown_is_a_percentage_to_a_tenth(self, value: float) -> None:
        text = percent_text(value)
        assert re.fullmatch(PERCENT_PATTERN, text)
        assert abs(fraction(text) - value) <= 0.0005 + 1e-9

    @pytest.mark.parametrize("text", ["", "5", "%", "101%", "100.01%", "1.234%", "-1%", "1e1%", "5 %", ".5%", "5%\n"])
    def test_anything_else_is_refused_with_the_text(self, text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            fraction(text)


class TestSetCondition:
    @given(conditions(), st.sampled_from(["Ready", "DiskFull", "New"]), statuses, moments)
    def test_this_one_is_set_and_the_others_stay(
        self, before: list[Condition], type: str, status: ConditionStatus, now: datetime
    ) -> None:
        copy = [condition.model_copy() for condition in before]
        after = set_condition(before, now, type=type, status=status, reason="Now", message="said", generation=3)

        assert before == copy
        assert [c for c in after if c.type != type] == [c for c in before if c.type != type]
        (new,) = [c for c in after if c.type == type]
        assert (new.status, new.reason, new.message, new.observed_generation) == (status, "Now", "said", 3)
        old = find_condition(before, type)
        if old is not None and old.status == status:
            assert new.last_transition_time == old.last_transition_time
        else:
            assert new.last_transition_time == now.replace(microsecond=0)
        order = [c.type for c in before]
        assert [c.type for c in after] == (order if old is not None else [*order, type])

    @given(conditions(), moments, statuses)
    def test_saying_it_again_later_changes_nothing(
        self, before: list[Condition], now: datetime, status: ConditionStatus
    ) -> None:
        once = set_condition(before, now, type="Ready", status=status, reason="Now")
        later = set_condition(once, now + timedelta(hours=1), type="Ready", status=status, reason="Now")
        assert later == once

    def test_a_truth_value_will_do(self) -> None:
        made = set_condition([], NOW, type="Ready", status=True, reason="Now")
        assert is_true(made, "Ready")
        made = set_condition(made, NOW, type="Ready", status=False, reason="Now")
        assert not is_true(made, "Ready")
        assert not is_true(made, "Absent")

    @given(moments)
    def test_it_is_written_as_the_api_server_writes_times(self, now: datetime) -> None:
        (made,) = set_condition([], now, type="Ready", status=True, reason="Now")
        assert made.to_dict()["lastTransitionTime"] == timestamp(now)
