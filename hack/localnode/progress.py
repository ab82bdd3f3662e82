"""Progress for a person who waits: one line a step, with the seconds since the command began."""

from __future__ import annotations

import sys
import time


class Progress:
    """Writes to standard error, so that standard output stays a command's result."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print `text` with the elapsed seconds in front."""
        print(f"{time.monotonic() - self._began:6.1f}s  {text}", file=sys.stderr, flush=True)
