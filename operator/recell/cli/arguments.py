"""Values that people type: durations and moments, output forms."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_PART = re.compile(r"(\d+)([dhms])")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def duration(context: click.Context, option: click.Parameter, value: str | None) -> timedelta | None:
    """Callback of an option: a length of time such as 90s, 10m, 1h30m or 2d."""
    if value is None:
        return None
    if not re.fullmatch(r"(\d+[dhms])+", value):
        raise click.BadParameter(f"{value!r} is no duration: write 90s, 10m, 1h30m or 2d", context, option)
    return timedelta(seconds=sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(value)))


def duration_or_moment(
    context: click.Context, option: click.Parameter, value: str | None
) -> timedelta | datetime | None:
    """Callback of an option: a length of time from now, or a moment such as 2027-01-31T06:00:00Z."""
    if value is None or re.fullmatch(r"(\d+[dhms])+", value):
        return duration(context, option, value)
    return _moment(context, option, value, "neither a duration (2h) nor a time")


def moment(context: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """Callback of an option: a moment such as 2027-01-31T06:00:00Z."""
    return None if value is None else _moment(context, option, value, "no time")


def _moment(context: click.Context, option: click.Parameter, value: str, wrong: str) -> datetime:
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is {wrong} (2027-01-31T06:00:00Z)", context, option) from None
    if found.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone: add Z for UTC", context, option)
    return found.astimezone(UTC)


def output(*forms: str) -> Decorator:
    """The option -o with these forms."""
    return click.option(
        "-o", "--output", type=click.Choice(forms), metavar="|".join(forms), help="Another form of the output."
    )


YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")

YES_UNASKED = click.option("-y", "--yes", is_flag=True, expose_value=False, hidden=True)
"""For commands that change something and never ask: a script may say --yes to each of them."""
