"""Has a successor a backup of its own? Asked of the data provider, for a cell that is to go.

Promises: one backup is asked for, under a name that follows from the retired cell and its run; which ones there are is
asked once an hour at most, each time anew. Nothing is decided here: what the answers prove says `domain.decommission`.

A provider that has forgotten an ended request (Jobs are kept for a day) makes another backup after a change of leader.
"""

from dataclasses import dataclass

from recell.api import Cell
from recell.domain.data import Answer, Operation, Progress, Request
from recell.domain.decommission import Backups, Situation
from recell.domain.runs import effect_token
from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound
from recell.engine.ports import Data, Key


@dataclass(frozen=True)
class _Told:
    hour: int
    operation: Operation
    answer: Answer


class Protection:
    def __init__(self, data: Data) -> None:
        self._data = data
        self._told: dict[Key, dict[str, _Told]] = {}
        """What ended, by the cell that is to go and the request's key."""

    def forget(self, cell: Key) -> None:
        self._told.pop(cell, None)

    async def of(self, s: Situation) -> Backups | str:
        """What a provider told; a text: what it is still doing. Raises Retryable and Fenced."""
        here, there = s.cell, s.successor
        if s.shared or there is None:
            return Backups()
        name = there.metadata.name
        made = await self._ask(s, Operation.BACKUP, there, "decommission-backup", 1)
        if made.progress is Progress.RUNNING:
            return f"A backup of Cell {name} is being made"
        theirs = await self._ask(s, Operation.INVENTORY, there, "decommission-list-successor", s.hour + 1)
        if theirs.progress is Progress.RUNNING:
            return f"The backups of Cell {name} are being listed"
        if theirs.progress is not Progress.DONE:
            return Backups(told=f"they could not be listed: {theirs.message}")
        # After the successor's, so that one which is in both places cannot be missing here.
        own = await self._ask(s, Operation.INVENTORY, here, "decommission-list-own", s.hour + 1)
        if own.progress is Progress.RUNNING:
            return f"The backups of Cell {here.metadata.name} itself are being listed"
        if own.progress is not Progress.DONE:
            return Backups(
                theirs.backups, told=f"those of Cell {here.metadata.name} itself could not be listed: {own.message}"
            )
        told = "" if made.progress is Progress.DONE else f"Another one could not be made: {made.message}"
        return Backups(theirs.backups, frozenset(backup.id for backup in own.backups), told)

    async def _ask(self, s: Situation, operation: Operation, of: Cell, step: str, iteration: int) -> Answer:
        key = effect_token(f"{s.cell.metadata.uid}/{s.retirement.by}", step, iteration)
        known = self._told.get(s.cell.key, {})
        told = known.get(key)
        if told is not None and (told.hour == s.hour or told.answer.progress is Progress.DONE):
            return told.answer
        try:
            answer = await self._data.ensure(Request(operation, key, of))
        except (BadInput, Conflict, Forbidden, NotFound) as error:
            return Answer(Progress.FAILED, str(error))
        if answer.progress is not Progress.RUNNING:
            kept = {k: t for k, t in known.items() if t.hour == s.hour or t.operation is Operation.BACKUP}
            self._told[s.cell.key] = kept | {key: _Told(s.hour, operation, answer)}
        return answer
