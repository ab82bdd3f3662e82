"""What the command line has read of a fleet, as one value, and what follows from it.

Promises: pure, no I/O; the moment is a field. It answers the questions that every command asks
(which cells of which router, which policy, which runs work, is it frozen) by the operator's own
rules, and decides nothing itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Router
from recell.api.placement import Hold, Quarantine
from recell.domain import limits, placement, runs

Key = tuple[str, str]

POLICY_DEFAULT = "default"


@dataclass(frozen=True)
class Fleet:
    """Objects of one namespace, or of all of them."""

    now: datetime
    cells: tuple[Cell, ...] = ()
    routers: tuple[Router, ...] = ()
    placements: tuple[Placement, ...] = ()
    runs: tuple[RecoveryRun, ...] = ()
    policies: tuple[RecoveryPolicy, ...] = ()
    freezes: tuple[RecoveryFreeze, ...] = ()
    templates: tuple[CellTemplate, ...] | None = ()
    """None: they could not be read."""
    _placement_by_key: dict[Key, Placement] = field(init=False, repr=False, compare=False)
    _runs_about: dict[Key, list[RecoveryRun]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_placement_by_key", {found.key: found for found in self.placements})
        object.__setattr__(self, "_runs_about", _by_cell(self.runs))

    def cell(self, key: Key) -> Cell | None:
        return next((cell for cell in self.cells if cell.key == key), None)

    def router(self, key: Key) -> Router | None:
        return next((router for router in self.routers if router.key == key), None)

    def router_of(self, cell: Cell) -> Router | None:
        return self.router(router_key(cell))

    def placement(self, key: Key) -> Placement | None:
        return self._placement_by_key.get(key)

    def run(self, key: Key) -> RecoveryRun | None:
        return next((run for run in self.runs if run.key == key), None)

    def cells_of(self, router: Key) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if router_key(cell) == router)

    def active_run(self, cell: Cell) -> RecoveryRun | None:
        """The run that works on the cell, or waits to."""
        own = (run for run in self.runs_about(cell.key) if target_cell(run) == cell.key)
        return next((run for run in own if not run.phase.ended), None)

    def policy(self, cell: Cell) -> RecoveryPolicy | None:
        """The Cell's, else the Router's, else the one named default; None: the built-in one."""
        router = self.router_of(cell)
        ref = cell.spec.policy_ref or (router.spec.policy_ref if router else None)
        return self._policy((cell.metadata.namespace, ref.name if ref else POLICY_DEFAULT))

    def router_policy(self, router: Key) -> RecoveryPolicy | None:
        found = self.router(router)
        ref = found.spec.policy_ref if found else None
        return self._policy((router[0], ref.name if ref else POLICY_DEFAULT))

    def _policy(self, key: Key) -> RecoveryPolicy | None:
        return next((policy for policy in self.policies if policy.key == key), None)

    def freezes_in(self, namespace: str) -> tuple[RecoveryFreeze, ...]:
        """Freezes of the namespace that are in force."""
        return tuple(f for f in self.freezes if f.metadata.namespace == namespace and self._lasts(f))

    def frozen(self, cell: Cell) -> RecoveryFreeze | None:
        """The freeze that keeps a new run of the cell from starting."""
        router = self.router_of(cell)
        there = [f for f in self.freezes if f.metadata.namespace == cell.metadata.namespace]
        labels = [cell.metadata.labels, router.metadata.labels if router else {}]
        return limits.frozen(there, labels, self.now, running=False)

    def _lasts(self, found: RecoveryFreeze) -> bool:
        return found.spec.until is None or found.spec.until > self.now

    def holds(self, cell: Cell) -> tuple[Hold, ...]:
        found = self.placement(router_key(cell))
        if found is None:
            return ()
        return tuple(hold for hold in found.spec.holds if hold.cell == cell.metadata.name)

    def successor(self, cell: Cell) -> str | None:
        """The cell that has taken this one's place by now; None when none has."""
        found = self.placement(router_key(cell))
        name = cell.metadata.name
        last = placement.successor(found.spec, name) if found else name
        return last if last != name else None

    def template(self, key: Key) -> CellTemplate | None:
        return next((template for template in self.templates or () if template.key == key), None)

    def run_over(self, namespace: str, hold: Hold | Quarantine) -> bool:
        """A run's hold whose run is gone or has ended: nobody but a person releases it."""
        if hold.holder.kind != runs.HOLDER:
            return False
        return not runs.at_work(hold.holder, self.run((namespace, hold.holder.name)))

    def orphaned(self, namespace: str, hold: Hold) -> bool:
        """A hold that its run should have released (rule 25); an isolated or retired cell stays held on purpose."""
        return hold.state not in placement.REMEMBERED and self.run_over(namespace, hold)

    def runs_about(self, cell: Key) -> tuple[RecoveryRun, ...]:
        """Runs that recover the cell or that made it, the newest first."""
        return tuple(self._runs_about.get(cell, ()))


def router_key(cell: Cell) -> Key:
    return (cell.metadata.namespace, cell.spec.router_ref.name)


def target_cell(run: RecoveryRun) -> Key | None:
    """The Cell that the run is about; None for a run on a Router."""
    ref = run.spec.target_ref
    return (run.metadata.namespace, ref.name) if ref.kind == "Cell" else None


def target_router(run: RecoveryRun) -> Key | None:
    """The Router that the run is about; None for a run on a Cell."""
    ref = run.spec.target_ref
    return (run.metadata.namespace, ref.name) if ref.kind == "Router" else None


def _by_cell(runs: Iterable[RecoveryRun]) -> dict[Key, list[RecoveryRun]]:
    """By the cell that each recovers and the one that took its place; those that work now first, then the newest."""
    found: dict[Key, list[RecoveryRun]] = {}
    for run in sorted(runs, key=recency, reverse=True):
        made = run.status.result.replacement if run.status.result else None
        for cell in {target_cell(run), (run.metadata.namespace, made) if made else None}:
            if cell is not None:
                found.setdefault(cell, []).append(run)
    return found


def recency(run: RecoveryRun) -> tuple[bool, float]:
    """Sorts those that work now and the newest last."""
    made = run.metadata.creation_timestamp
    return (not run.phase.ended, made.timestamp() if made else 0.0)
