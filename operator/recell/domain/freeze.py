"""Freezes: does a RecoveryFreeze forbid this? Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from recell.api import RecoveryFreeze
from recell.api.recovery_freeze import FreezeScope


def frozen_by(
    freezes: Iterable[RecoveryFreeze], labels: Mapping[str, str], now: datetime, *, new_run: bool
) -> RecoveryFreeze | None:
    """The freeze that covers a target with these labels; scope NewRuns covers only what has not started."""
    for freeze in freezes:
        spec = freeze.spec
        if spec.until is not None and spec.until <= now:
            continue
        if spec.scope is FreezeScope.NEW_RUNS and not new_run:
            continue
        if all(labels.get(name) == value for name, value in spec.selector.match_labels.items()):
            return freeze
    return None


def message(freeze: RecoveryFreeze) -> str:
    until = f" until {freeze.spec.until.isoformat()}" if freeze.spec.until else ""
    return f"RecoveryFreeze {freeze.metadata.name}{until}: {freeze.spec.reason}"
