"""Other programs, and waiting: every run and every wait has a deadline, every failure says what failed.

Must not: hide what a failed program printed.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class Failure(Exception):
    """Something the person at the keyboard must know; its text is the whole message."""


def run(
    argv: Sequence[str | Path],
    *,
    within: float = 60,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> str:
    """Run `argv`, return its standard output; raise Failure on a non-zero exit or after `within` seconds."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            input=stdin.encode(),
            capture_output=True,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            timeout=within,
            check=False,
        )
    except FileNotFoundError as missing:
        raise Failure(f"{argv[0]} is not installed ({missing.strerror})") from missing
    except subprocess.TimeoutExpired as late:
        raise Failure(f"`{_shown(argv)}` did not end within {within:.0f} s") from late
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise Failure(f"`{_shown(argv)}` ended with {done.returncode}:\n{said[-4000:]}")
    return done.stdout.decode(errors="replace")


def succeeds(argv: Sequence[str | Path], *, within: float = 30, stdin: str = "") -> bool:
    """Whether `argv` exits with 0; a program that is missing or late counts as a no."""
    try:
        run(argv, within=within, stdin=stdin)
    except Failure:
        return False
    return True


def wait_until(what: str, probe: Callable[[], bool], *, within: float, every: float = 0.1) -> None:
    """Return as soon as `probe` is true; raise Failure naming `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not probe():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not after {within:.0f} s")
        time.sleep(every)


def _shown(argv: Sequence[str | Path]) -> str:
    text = " ".join(str(word) for word in argv)
    return text if len(text) < 200 else text[:200] + " ..."
