"""How messages for people are put: within the bounds of the API, numbers with their units."""

from collections.abc import Iterable

LIMIT = 1024
"""Longest `api.meta.Message`."""


def clipped(text: str, limit: int = LIMIT) -> str:
    """The text, cut with an ellipsis where it is longer than the API takes."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names in one phrase: `a`, `a and b`, `a, b and 3 more`."""
    every = list(names)
    if len(every) > most:
        return f"{', '.join(every[: most - 1])} and {len(every) - most + 1} more"
    if len(every) < 2:
        return "".join(every)
    return f"{', '.join(every[:-1])} and {every[-1]}"


def percent(part: float) -> str:
    """A fraction of one with at most one decimal: 0.333 -> `33.3 %`."""
    return f"{round(part * 100, 1):g} %"
