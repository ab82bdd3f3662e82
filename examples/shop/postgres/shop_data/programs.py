"""Other programs, run to their end. Promises: one that fails, or is not done in time, is an OperationFailed."""

from __future__ import annotations

import os
import subprocess

from shop_data.failure import OperationFailed

_QUOTED = 400


def run(command: list[str], what: str, seconds: float) -> None:
    """Run a program; `what` says for whom, in the message."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        raise OperationFailed(f"{what}: {command[0]} was not done within {seconds:g} s") from late
    if ended.returncode != 0:
        said = " ".join((ended.stderr or ended.stdout).split())[-_QUOTED:]
        raise OperationFailed(f"{what}: {os.path.basename(command[0])} failed: {said}")
