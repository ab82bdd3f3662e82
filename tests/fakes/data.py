"""A behaving fake of the Data port: cells with customers and their records, backups and corruption, in time.

It moves and restores customer by customer while the clock goes on, so that what is stopped half-way is half done; it
stops a customer's writes at the source before copying, and does nothing twice. Everything is computed when it is read
or changed: an effect is as far as the clock says.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any, Protocol

from recell.domain.data import Answer, Backup, Customers, Operation, Progress, Request
from recell.domain.placement import slot_of
from recell.engine.errors import BadInput

LOOK, MOVE = 2.0, 60.0
"""Seconds that an effect takes, unless a test says otherwise."""
_NOT_WHOLE = (Operation.MIGRATE, Operation.ABANDON, Operation.CHECK)
_MOVES = (Operation.MIGRATE, Operation.RESTORE, Operation.ABANDON)


class Now(Protocol):
    def now(self) -> datetime: ...


@dataclass
class FakeStore:
    """The data of one cell."""

    customers: dict[str, list[datetime]] = field(default_factory=dict)
    """Of each customer the records, as the moments at which they were committed."""
    stopped: set[str] = field(default_factory=set)
    """Customers who cannot write here: they were copied elsewhere."""
    copied: set[str] = field(default_factory=set)
    """Customers who came here by a migration."""
    corrupted_at: datetime | None = None
    accessible: bool = True
    archiving: bool = False
    """Continuous archiving: every point since a backup can be restored to."""


@dataclass(frozen=True)
class FakeBackup:
    id: str
    cell: str
    at: datetime
    customers: dict[str, tuple[datetime, ...]]
    corrupted: bool
    complete: bool = True
    verified: bool = False


@dataclass
class _Effect:
    request: Request
    began: datetime
    takes: float
    names: tuple[str, ...] = ()
    """Customers that it is about, in the order in which they are done; who they are is settled when it begins."""
    handled: int = 0
    stopped: datetime | None = None
    """When it was told to stop."""
    answer: Answer | None = None

    @property
    def asked(self) -> tuple[Any, ...]:
        return _asked(self.request)


class _Stores(dict[str, FakeStore]):
    def __missing__(self, name: str) -> FakeStore:
        self[name] = FakeStore()
        return self[name]


class FakeData:
    """Implements `recell.engine.ports.Data`. `wrote` is told of each effect once it has begun or was told to stop;
    `guard` is asked before, and raises to forbid it."""

    def __init__(
        self,
        clock: Now,
        *,
        wrote: Callable[[str, str], None] = lambda kind, what: None,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._wrote = wrote
        self._guard = guard
        self._effects: dict[str, _Effect] = {}
        self.cells = _Stores()
        """Data by cell name."""
        self.backups: list[FakeBackup] = []
        self.takes = {operation: MOVE if operation in _MOVES else LOOK for operation in Operation}
        """Seconds from the beginning of an effect to its end."""
        self.stopping = 3.0
        """Seconds from `cancel` until nothing runs any more."""
        self.whole = False
        """Everything is restored as one, and nobody is moved: what a provider of volumes or databases does."""
        self.unsupported: set[Operation] = set()
        self.fails: dict[Operation, str] = {}
        """Operations that fail at their end, and why."""
        self.failing: set[str] = set()
        """Customers that can neither be copied nor restored."""

    # What a test sets and sees

    def populate(self, cell: str, customers: int, slots: Iterable[int], *, slot_count: int = 1024) -> tuple[str, ...]:
        """Invent customers of these slots, with a record each, committed now."""
        wanted = set(slots)
        names: list[str] = []
        for number in count():
            if len(names) == customers:
                break
            name = f"{cell}-{number}"
            if slot_of(name, slot_count) in wanted:
                self.cells[cell].customers[name] = [self._clock.now()]
                names.append(name)
        return tuple(names)

    def write(self, cell: str, customer: str) -> bool:
        """A customer commits a record; False where the cell does not take it."""
        self.settle()
        store = self.cells[cell]
        if not store.accessible or customer in store.stopped:
            return False
        store.customers.setdefault(customer, []).append(self._clock.now())
        return True

    def corrupt(self, cell: str) -> None:
        """From now on its data is corrupted, and so is every backup that is made of it."""
        self.settle()
        self.cells[cell].corrupted_at = self._clock.now()

    def back_up(self, cell: str, id: str, *, complete: bool = True, verified: bool = False) -> FakeBackup:
        """Somebody makes a backup of the cell as it is now."""
        self.settle()
        return self._copy(cell, id, complete=complete, verified=verified)

    def _copy(self, cell: str, id: str, *, complete: bool = True, verified: bool = False) -> FakeBackup:
        store = self.cells[cell]
        made = FakeBackup(
            id,
            cell,
            self._clock.now(),
            {name: tuple(records) for name, records in store.customers.items()},
            store.corrupted_at is not None,
            complete,
            verified,
        )
        self.backups.append(made)
        return made

    # The port

    async def ensure(self, request: Request) -> Answer:
        if request.cell.spec.data.type is None or request.operation in self.unsupported:
            return Answer(Progress.UNSUPPORTED, f"{request.operation} is not supported: set spec.data")
        if self.whole and request.operation in _NOT_WHOLE:
            return Answer(Progress.UNSUPPORTED, f"{request.operation} is not supported: set spec.data.jobs")
        if self.whole and request.operation is Operation.ACCESSIBLE:
            return Answer(Progress.DONE, "nobody is moved one by one", accessible=False, when_stopped=True)
        self.settle()
        effect = self._effects.get(request.key)
        if effect is None:
            self._guard()
            now = self._clock.now()
            effect = _Effect(request, now, self.takes[request.operation], self._customers(request, now))
            self._effects[request.key] = effect
            self._wrote("data", _described(request))
            self.settle()
        if effect.asked != _asked(request):
            raise BadInput(f"{request.key} is another request: {_described(effect.request)}")
        if effect.answer is not None:
            return effect.answer
        done, of = (effect.handled, len(effect.names)) if effect.names else (None, None)
        return Answer(Progress.RUNNING, "stopping" if effect.stopped else "at work", done=done, of=of)

    async def cancel(self, request: Request) -> bool:
        self.settle()
        effect = self._effects.get(request.key)
        if effect is None or effect.answer is not None:
            return True
        if effect.stopped is None:
            self._guard()
            effect.stopped = self._clock.now()
            self._wrote("data", f"cancel {_described(request)}")
        return False

    # The passing of time

    def settle(self) -> None:
        """Everything is as far as it should be by now."""
        now = self._clock.now()
        for key, effect in list(self._effects.items()):
            if effect.stopped is not None:
                self._advance(effect, effect.stopped)
                if (now - effect.stopped).total_seconds() >= self.stopping:
                    del self._effects[key]
            elif effect.answer is None:
                self._advance(effect, now)
                if (now - effect.began).total_seconds() >= effect.takes:
                    effect.answer = self._ended(effect)

    def _advance(self, effect: _Effect, to: datetime) -> None:
        part = min(1.0, (to - effect.began).total_seconds() / effect.takes) if effect.takes else 1.0
        handled = int(part * len(effect.names))
        for name in effect.names[effect.handled : handled]:
            self._handle(effect, name)
        effect.handled = max(effect.handled, handled)

    def _handle(self, effect: _Effect, name: str) -> None:
        """One customer is moved, restored or let go."""
        request = effect.request
        source, target = self._source(request), self._target(request)
        if request.operation is Operation.ABANDON:
            source.stopped.discard(name)
            if name in target.copied:
                target.copied.discard(name)
                target.customers.pop(name, None)
            return
        if self._obstacle(request):
            return
        if request.operation is Operation.MIGRATE:
            source.stopped.add(name)  # before the copy, which may fail
        if name in self.failing or name in target.customers:
            return  # whoever is there already may have written since
        if request.operation is Operation.MIGRATE:
            target.copied.add(name)
            target.customers[name] = list(source.customers[name])
            spoilt = source.corrupted_at is not None
        else:
            backup, point = self._backup(request), self._point(request, effect.began)
            assert backup is not None
            target.customers[name] = self._as_of(backup, name, point)
            spoilt = backup.corrupted or (source.corrupted_at is not None and source.corrupted_at <= point)
        if spoilt and target.corrupted_at is None:
            target.corrupted_at = self._clock.now()

    def _as_of(self, backup: FakeBackup, name: str, point: datetime) -> list[datetime]:
        records = [moment for moment in backup.customers.get(name, ()) if moment <= point]
        since = self.cells[backup.cell].customers.get(name, ())
        return records + [moment for moment in since if backup.at < moment <= point]

    def _ended(self, effect: _Effect) -> Answer:
        request = effect.request
        if why := self.fails.get(request.operation) or self._obstacle(request):
            return Answer(Progress.FAILED, why)
        store, name = self._source(request), request.cell.metadata.name
        if request.operation is Operation.INVENTORY:
            mine = sorted((b for b in self.backups if b.cell == name), key=lambda b: b.at, reverse=True)
            return Answer(
                Progress.DONE,
                backups=tuple(Backup(b.id, b.at, b.complete, b.verified) for b in mine[:20]),
                until=self._clock.now() if store.archiving else None,
            )
        if request.operation is Operation.ACCESSIBLE:
            return Answer(
                Progress.DONE, "" if store.accessible else f"{name} does not answer", accessible=store.accessible
            )
        if request.operation is Operation.CHECK:
            intact = store.corrupted_at is None
            return Answer(Progress.DONE, "" if intact else f"the data of {name} is corrupted", intact=intact)
        if request.operation is Operation.BACKUP:
            made = self._copy(name, request.key)
            return Answer(Progress.DONE, backups=(Backup(made.id, made.at),))
        if request.operation is Operation.ABANDON:
            return Answer(Progress.DONE)
        return self._restored(effect) if self.whole else self._moved(effect)

    def _restored(self, effect: _Effect) -> Answer:
        """All of the backup, and nothing that was there before."""
        request, target = effect.request, self._target(effect.request)
        backup, point = self._backup(request), self._point(request, effect.began)
        assert backup is not None
        target.customers = {name: self._as_of(backup, name, point) for name in backup.customers}
        target.corrupted_at = self._clock.now() if backup.corrupted else None
        return Answer(Progress.DONE, customers=Customers(whole=True), recovery_point=point)

    def _moved(self, effect: _Effect) -> Answer:
        request, target = effect.request, self._target(effect.request)
        there = [name for name in effect.names if name in target.customers]
        missing = [name for name in effect.names if name not in target.customers]
        return Answer(
            Progress.DONE,
            customers=Customers(
                expected=len(effect.names),
                done=len(there),
                failed=len(missing),
                names=tuple(missing[:20]),
                slots=tuple(sorted({slot_of(name, request.slot_count) for name in missing})),
            ),
            records=sum(len(target.customers[name]) for name in there),
            recovery_point=self._point(request, effect.began) if request.operation is Operation.RESTORE else None,
        )

    # What a request means

    def _obstacle(self, request: Request) -> str:
        source, name = self._source(request), request.cell.metadata.name
        reads = (Operation.MIGRATE, Operation.ABANDON, Operation.CHECK, Operation.BACKUP)
        if request.operation in reads and not source.accessible and not self.whole:
            return f"the data of {name} cannot be read"
        if request.target is not None and not self._target(request).accessible:
            return f"the data of {request.target.metadata.name} cannot be written"
        if request.operation is not Operation.RESTORE:
            return ""
        backup = self._backup(request)
        if backup is None:
            return f"{name} has no backup {request.backup}"
        if not backup.complete:
            return f"backup {backup.id} is not complete"
        if request.not_after is not None and backup.at > request.not_after:
            return f"backup {backup.id} is later than {request.not_after.isoformat()}"
        return ""

    def _customers(self, request: Request, began: datetime) -> tuple[str, ...]:
        names: Iterable[str] = ()
        if self.whole:
            return ()
        if request.operation is Operation.RESTORE and (backup := self._backup(request)) is not None:
            point = self._point(request, began)
            known = {*backup.customers, *self._source(request).customers}
            names = [name for name in known if self._as_of(backup, name, point)]
        elif request.operation is Operation.MIGRATE:
            names = self._source(request).customers
        elif request.operation is Operation.ABANDON:
            names = {*self._source(request).stopped, *self._target(request).copied}
        slots = set(request.slots)
        return tuple(sorted(name for name in names if slot_of(name, request.slot_count) in slots))

    def _backup(self, request: Request) -> FakeBackup | None:
        name = request.cell.metadata.name
        return next((b for b in self.backups if b.cell == name and b.id == request.backup), None)

    def _point(self, request: Request, began: datetime) -> datetime:
        """What a restore brings back to."""
        backup = self._backup(request)
        assert backup is not None
        if not self._source(request).archiving:
            return backup.at
        return began if request.not_after is None else min(began, request.not_after)

    def _source(self, request: Request) -> FakeStore:
        return self.cells[request.cell.metadata.name]

    def _target(self, request: Request) -> FakeStore:
        assert request.target is not None, f"{request.operation} without a target"
        return self.cells[request.target.metadata.name]


def _asked(request: Request) -> tuple[Any, ...]:
    """What makes a request another one: not what the cells' status says."""
    target = request.target.key if request.target else None
    return (
        request.operation,
        request.cell.key,
        target,
        request.slots,
        request.slot_count,
        request.backup,
        request.not_after,
    )


def _described(request: Request) -> str:
    target = f" to {request.target.metadata.name}" if request.target else ""
    backup = f" from {request.backup}" if request.backup else ""
    return f"{request.operation} {request.cell.metadata.name}{target}{backup}"
