"""Names, tokens and the memory of runs: what makes doing a thing twice the same as doing it once.

Promises: pure and deterministic: the same inputs give the same name in every process.
Must not: call a run new that the target has had under this name with this spec (rule 22).
"""

import hashlib
import json
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from recell.api.cell import Cell
from recell.api.meta import ANNOTATION_RUN_HISTORY, ANNOTATION_STARTED_UID, ANNOTATION_TARGET_UID
from recell.api.placement import Holder
from recell.api.recovery_run import SPEC_FIELDS, RecoveryRun, TargetKind
from recell.api.router import Router

REMEMBERED = 50
"""Runs that a target remembers; the oldest is forgotten first."""

HOLDER = "RecoveryRun"
"""Kind of the holder of what a run holds or reserves in Placement."""

MOST = 63
"""Longest name: it is a label value too."""


@dataclass(frozen=True)
class Replay:
    """Why a run is not executed (again)."""

    reason: str
    message: str


def spec_hash(run: RecoveryRun) -> str:
    """Of everything in the spec that cannot change: `control` is left out.

    So is what has its default, so that a field which a later version adds changes no hash.
    """
    spec = run.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    fixed = {field: spec[field] for field in SPEC_FIELDS if field in spec}
    return _digest(json.dumps(fixed, sort_keys=True, ensure_ascii=False), 20)


def is_replay(run: RecoveryRun, target: Cell | Router | None = None) -> Replay | None:
    """Whether the run is a copy of one that was started before: restored, re-applied, made anew by a hook.

    None for a run that is new, or that is itself the one that was started.
    """
    started = run.metadata.annotations.get(ANNOTATION_STARTED_UID)
    if started == run.metadata.uid:
        return None
    meant = run.metadata.annotations.get(ANNOTATION_TARGET_UID)
    ref = run.spec.target_ref
    if target is not None and meant is not None and meant != target.metadata.uid:
        return Replay(
            "TargetReplaced",
            f"this run was made for the {ref.kind} {ref.name} with UID {meant}; the one that has the name now"
            " is another one; make a run with another name if you mean it",
        )
    if started is not None:
        return Replay(
            "RecordLost",
            f"this is a copy of a run that was started as UID {started}: its record is not here, so it is not executed"
            " again; make a run with another name if you mean it",
        )
    mine = _Remembered(run.metadata.name, spec_hash(run), run.metadata.uid)
    for known in _history(target):
        if (known.name, known.spec) == (mine.name, mine.spec) and known.uid != mine.uid:
            return Replay(
                "Replayed",
                f"{ref.kind} {ref.name} had a run named {run.metadata.name} with the same spec already,"
                " which was deleted and made anew; make a run with another name if you mean it",
            )
    return None


def remembered(target: Cell | Router, run: RecoveryRun) -> str:
    """The target's new value of the annotation `recell.dev/run-history`, with this run in it."""
    mine = _Remembered(run.metadata.name, spec_hash(run), run.metadata.uid)
    others = [known for known in _history(target) if known.name != mine.name]
    return _written([*others, mine][-REMEMBERED:])


@dataclass(frozen=True)
class _Remembered:
    name: str
    spec: str
    uid: str


def _history(target: Cell | Router | None) -> list[_Remembered]:
    """What the annotation holds, oldest first; entries that somebody broke are left out."""
    text = target.metadata.annotations.get(ANNOTATION_RUN_HISTORY, "") if target else ""
    entries = (entry.split("/") for entry in text.split())
    return [_Remembered(*entry) for entry in entries if len(entry) == 3]


def _written(history: Iterable[_Remembered]) -> str:
    return " ".join(f"{known.name}/{known.spec}/{known.uid}" for known in history)


def at_work(holder: Holder, run: RecoveryRun | None) -> bool:
    """Whether the run that has the holder's name is the holder, and has not ended: who has holds nothing on purpose."""
    return run is not None and run.metadata.uid == holder.uid and not run.phase.ended


def automatic_run_name(
    target: str, failing_since: datetime, attempt: int = 1, kind: TargetKind = TargetKind.CELL
) -> str:
    """The name of the automatic run for one failure: `cell-b-20261125184500-1f3a9c`.

    Whoever decides on the same failure makes the same run; a further attempt has another name.
    """
    moment = failing_since.astimezone(UTC)
    mark = _digest(f"{target if kind is TargetKind.CELL else f'{kind} {target}'}/{moment.isoformat()}/{attempt}", 6)
    ending = f"-{moment:%Y%m%d%H%M%S}-{mark}"
    return f"{target[: MOST - len(ending)].rstrip('-')}{ending}"


def next_automatic_run_name(
    target: str, failing_since: datetime, taken: Container[str], kind: TargetKind = TargetKind.CELL
) -> str:
    """The name of the first attempt that is none of these."""
    tries = (automatic_run_name(target, failing_since, attempt, kind) for attempt in count(1))
    return next(name for name in tries if name not in taken)


def effect_token(run_uid: str, step: str, iteration: int = 1) -> str:
    """A name for one effect: `restart-workloads-1-3fa92b7c10`; a DNS label of at most 63 characters."""
    ending = f"-{iteration}-{_digest(f'{run_uid}/{step}/{iteration}', 10)}"
    return f"{step[: MOST - len(ending)].rstrip('-')}{ending}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def line(run: RecoveryRun, find: Callable[[str], RecoveryRun | None]) -> dict[str, RecoveryRun | None]:
    """The runs that this one goes on from or works for, by name, the nearest first; None for one that is gone."""
    found: dict[str, RecoveryRun | None] = {}
    current: RecoveryRun | None = run
    while current is not None and (name := current.spec.escalated_from) and name not in found:
        current = found[name] = find(name)
    return found
