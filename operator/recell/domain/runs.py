"""Names, tokens and the memory of runs: what makes doing a thing twice the same as doing it once.

Promises: pure and deterministic: the same inputs give the same name in every process.
Must not: call a run new that the target has had under this name with this spec (rule 22).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from recell.api.cell import Cell
from recell.api.meta import ANNOTATION_RUN_HISTORY, ANNOTATION_STARTED_UID, ANNOTATION_TARGET_UID
from recell.api.placement import Holder
from recell.api.recovery_run import SPEC_FIELDS, RecoveryRun

REMEMBERED = 50
"""Runs that a cell remembers; the oldest is forgotten first."""

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


def is_replay(run: RecoveryRun, cell: Cell | None = None) -> Replay | None:
    """Whether the run is a copy of one that was started before: restored, re-applied, made anew by a hook.

    None for a run that is new, or that is itself the one that was started.
    """
    started = run.metadata.annotations.get(ANNOTATION_STARTED_UID)
    if started == run.metadata.uid:
        return None
    meant = run.metadata.annotations.get(ANNOTATION_TARGET_UID)
    if cell is not None and meant is not None and meant != cell.metadata.uid:
        return Replay(
            "TargetReplaced",
            f"this run was made for the Cell {run.spec.target_ref.name} with UID {meant}; the one that has the name now"
            " is another one; make a run with another name if you mean it",
        )
    if started is not None:
        return Replay(
            "RecordLost",
            f"this is a copy of a run that was started as UID {started}: its record is not here, so it is not executed"
            " again; make a run with another name if you mean it",
        )
    mine = _Remembered(run.metadata.name, spec_hash(run), run.metadata.uid)
    for known in _history(cell):
        if (known.name, known.spec) == (mine.name, mine.spec) and known.uid != mine.uid:
            return Replay(
                "Replayed",
                f"Cell {run.spec.target_ref.name} had a run named {run.metadata.name} with the same spec already,"
                " which was deleted and made anew; make a run with another name if you mean it",
            )
    return None


def remembered(cell: Cell, run: RecoveryRun) -> str:
    """The Cell's new value of the annotation `recell.dev/run-history`, with this run in it."""
    mine = _Remembered(run.metadata.name, spec_hash(run), run.metadata.uid)
    others = [known for known in _history(cell) if known.name != mine.name]
    return _written([*others, mine][-REMEMBERED:])


@dataclass(frozen=True)
class _Remembered:
    name: str
    spec: str
    uid: str


def _history(cell: Cell | None) -> list[_Remembered]:
    """What the annotation holds, oldest first; entries that somebody broke are left out."""
    text = cell.metadata.annotations.get(ANNOTATION_RUN_HISTORY, "") if cell else ""
    entries = (entry.split("/") for entry in text.split())
    return [_Remembered(*entry) for entry in entries if len(entry) == 3]


def _written(history: Iterable[_Remembered]) -> str:
    return " ".join(f"{known.name}/{known.spec}/{known.uid}" for known in history)


def at_work(holder: Holder, run: RecoveryRun | None) -> bool:
    """Whether the run that has the holder's name is the holder, and has not ended: who has holds nothing on purpose."""
    return run is not None and run.metadata.uid == holder.uid and not run.phase.ended


def automatic_run_name(cell: str, failing_since: datetime, attempt: int = 1) -> str:
    """The name of the automatic run for one failure: `cell-b-20261125184500-1f3a9c`.

    Whoever decides on the same failure makes the same run; a further attempt has another name.
    """
    moment = failing_since.astimezone(UTC)
    mark = _digest(f"{cell}/{moment.isoformat()}/{attempt}", 6)
    ending = f"-{moment:%Y%m%d%H%M%S}-{mark}"
    return f"{cell[: MOST - len(ending)].rstrip('-')}{ending}"


def effect_token(run_uid: str, step: str, iteration: int = 1) -> str:
    """A name for one effect: `restart-workloads-1-3fa92b7c10`; a DNS label of at most 63 characters."""
    ending = f"-{iteration}-{_digest(f'{run_uid}/{step}/{iteration}', 10)}"
    return f"{step[: MOST - len(ending)].rstrip('-')}{ending}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
