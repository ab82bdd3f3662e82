"""The values that a share passes on its way down or up, as pure arithmetic.

Promises: whole percents, strictly monotone, the last value is the target. The runbook drains by
50 % in 10 increments and goes back up the same way.
"""

from collections.abc import Sequence


def increments(start_percent: int, target_percent: int, count: int) -> tuple[int, ...]:
    """Values after each increment: 100 -> 50 in 10 gives 95, 90, ..., 50.

    Fewer than `count` where whole percents do not suffice; none if start and target are equal.
    """
    if count < 1:
        raise ValueError(f"a ramp needs at least one increment, not {count}")
    span = target_percent - start_percent
    sign = 1 if span > 0 else -1
    offsets = {sign * ((2 * abs(span) * i + count) // (2 * count)) for i in range(1, count + 1)} - {0}
    return tuple(start_percent + offset for offset in sorted(offsets, reverse=sign < 0))


def next_value(current: int, target: int, ramp: Sequence[int]) -> int | None:
    """The next value from `current` towards `target` along the ramp; None when it is reached.

    `current` need not be a value of the ramp (another hold, an earlier plan): the nearest one on the
    way is taken, else the target itself.
    """
    if current == target:
        return None
    if target > current:
        return min((value for value in ramp if current < value <= target), default=target)
    return max((value for value in ramp if target <= value < current), default=target)
