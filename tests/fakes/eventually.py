"""Waiting for what will be so, with a generous deadline; never a measure of speed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 120.0


async def eventually(look: Callable[[], T | Awaitable[T]], what: str, *, deadline: float = DEADLINE) -> T:
    """Until `look` gives something true, by a last look after the deadline at the latest. An AssertionError from it
    counts as not yet."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + deadline
    last: object = None
    while True:
        last_look = loop.time() >= ends
        try:
            found = look()
            found = await found if isinstance(found, Awaitable) else found
            if found:
                return found
            last = found
        except AssertionError as error:
            last = error
        if last_look:
            raise AssertionError(f"not within {deadline:g} s: {what}; the last look gave {last!r}")
        await asyncio.sleep(0.05)
