"""Times as texts: RFC 3339, in UTC, with microseconds, because commits are that close to one another."""

from __future__ import annotations

from datetime import UTC, datetime


def write(time: datetime) -> str:
    """The text of a time."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def read(text: str) -> datetime:
    """The time of a text that `write` made, or PostgreSQL's; ValueError if it is none."""
    return datetime.fromisoformat(text).astimezone(UTC)
