"""Which strategy answers which failure: the policy's rules, then the runbook's matrix.

Promises: an answer for every input, with the row that gave it and why the rows before did not.
The built-in rows are the runbook's; an impact above a row's is covered by it, so that a worse
failure never gets less of an answer. What nothing covers is work for a person.

Must not: count unknown data integrity as intact, answer a Systemic failure by a rule that does
not name it (rule 10), or give a target a strategy that is not for it.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from recell.api.failure import FOR_ROUTERS, DataIntegrity, FailureType, Impact, Strategy
from recell.api.recovery_policy import BuiltinRules, MatrixRule, RecoveryPolicySpec
from recell.api.recovery_run import DecisionInputs, TargetKind, TargetRef
from recell.domain.wording import clipped, listed

_SEVERITY = {Impact.LOW: 0, Impact.HIGH: 1, Impact.CRITICAL: 2}

NOTHING: Mapping[Strategy, str] = MappingProxyType({})

_Key = tuple[FailureType, Impact, DataIntegrity]

OTHERWISE = "otherwise"
"""Name of the row for what no other row covers."""


@dataclass(frozen=True)
class Row:
    """One row of the matrix; None matches anything."""

    name: str
    failure: FailureType | None
    impact: Impact | None
    data_integrity: DataIntegrity | None
    strategy: Strategy
    and_above: bool = False
    """The row covers a worse impact than its own too."""
    note: str = ""
    """What a person should know about the row, beside its columns."""

    def mismatch(self, inputs: DecisionInputs, target: TargetKind) -> str:
        """What of the inputs the row does not cover; empty when it matches."""
        if self.failure is None and inputs.type == FailureType.SYSTEMIC:
            return "does not name Systemic"
        if self.failure not in (None, inputs.type):
            return f"is for failure {self.failure}"
        if not self._covers(inputs.impact):
            return f"is for impact {self.impact}{' and above' if self.and_above else ''}"
        if self.data_integrity not in (None, inputs.data_integrity):
            return f"needs data {self.data_integrity}"
        return _unsuited(self.strategy, inputs.type, target)

    def _covers(self, impact: Impact) -> bool:
        if self.impact is None:
            return True
        worse = self.and_above and _SEVERITY[impact] > _SEVERITY[self.impact]
        return worse or impact == self.impact


BUILTIN: tuple[Row, ...] = (
    Row(
        "single-cell-low-intact",
        FailureType.SINGLE_CELL,
        Impact.LOW,
        DataIntegrity.INTACT,
        Strategy.CELL_RESTART,
    ),
    Row(
        "single-cell-high-intact",
        FailureType.SINGLE_CELL,
        Impact.HIGH,
        DataIntegrity.INTACT,
        Strategy.TRAFFIC_DRAIN_AND_REPLACE,
        and_above=True,
    ),
    Row(
        "single-cell-corrupted",
        FailureType.SINGLE_CELL,
        None,
        DataIntegrity.CORRUPTED,
        Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
    ),
    Row(
        "multiple-cell-high-intact",
        FailureType.MULTIPLE_CELL,
        Impact.HIGH,
        DataIntegrity.INTACT,
        Strategy.EMERGENCY_SCALING,
        and_above=True,
    ),
    Row(
        "multiple-cell-low-intact",
        FailureType.MULTIPLE_CELL,
        Impact.LOW,
        DataIntegrity.INTACT,
        Strategy.CELL_RESTART,
        note="the cells are restarted one by one",
    ),
    Row(
        "router-high",
        FailureType.ROUTER,
        Impact.HIGH,
        None,
        Strategy.ACTIVATE_FALLBACK_ROUTING,
        and_above=True,
    ),
    Row(
        "data-corruption",
        FailureType.DATA_CORRUPTION,
        None,
        DataIntegrity.CORRUPTED,
        Strategy.POINT_IN_TIME_RECOVERY,
    ),
    Row(
        "systemic",
        FailureType.SYSTEMIC,
        None,
        None,
        Strategy.MANUAL_INTERVENTION,
        note="most cells fail at once, so the cause is likely shared, and nothing is done unasked",
    ),
)


@dataclass(frozen=True)
class Choice:
    """A strategy and why."""

    strategy: Strategy
    row: str
    message: str
    """One sentence or two for people, at most 1,024 characters."""


def decide(
    inputs: DecisionInputs,
    policy: RecoveryPolicySpec,
    target: TargetKind,
    *,
    unavailable: Mapping[Strategy, str] = NOTHING,
) -> Choice:
    """The first row that matches decides; there is always an answer.

    Rows whose strategy is not for the target, or `unavailable`, are passed over, with the reason.
    """
    passed: list[str] = []
    for row in _rows(policy):
        mismatch = row.mismatch(inputs, target) or unavailable.get(row.strategy, "")
        if not mismatch:
            return Choice(row.strategy, row.name, clipped(_reason(inputs, row, passed)))
        passed.append(f"{row.name} {mismatch}")
    return Choice(Strategy.MANUAL_INTERVENTION, OTHERWISE, clipped(_unanswered(inputs, policy, passed)))


def decision_id(choice: Choice, inputs: DecisionInputs | None, target: TargetRef) -> str:
    """A stable name of the decision: another strategy, row, input or target is another decision."""
    facts = [
        choice.strategy,
        choice.row,
        [inputs.type, inputs.impact, inputs.data_integrity] if inputs else None,
        [target.kind, target.name],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def validate_policy(policy: RecoveryPolicySpec) -> list[str]:
    """What is wrong with the policy's rules: each that can never decide, and what stands before it."""
    problems = []
    taken: dict[_Key, str] = {}
    for rule in policy.rules:
        row = _row(rule)
        mine = [key for key in _every_input() if not row.mismatch(_inputs(key), _has(key[0]))]
        new = [key for key in mine if key not in taken]
        if not mine:
            problems.append(
                f"spec.rules: rule {rule.name!r} never decides: {rule.strategy} does not answer failure {rule.failure};"
                " name another strategy or delete it"
            )
        elif not new:
            deciding = {taken[key] for key in mine}
            before = [earlier.name for earlier in policy.rules if earlier.name in deciding]
            problems.append(
                f"spec.rules: rule {rule.name!r} never decides: {listed(map(repr, before))} before it"
                f" {'matches' if len(before) == 1 else 'match'} everything that it matches;"
                " move it up or delete it"
            )
        taken.update(dict.fromkeys(new, rule.name))
    return problems


def _unsuited(strategy: Strategy, failure: FailureType, target: TargetKind) -> str:
    """Why the matrix may not give it to such a target; empty: it may.

    That several cells of a Router are recovered together is never decided for the Router, but by each cell's failure.
    """
    if target is TargetKind.ROUTER:
        for_it = strategy in (Strategy.ACTIVATE_FALLBACK_ROUTING, Strategy.MANUAL_INTERVENTION)
        return "" if for_it else f"says {strategy}, which is for cells"
    if strategy is Strategy.EMERGENCY_SCALING and failure in (FailureType.MULTIPLE_CELL, FailureType.SYSTEMIC):
        return ""
    if strategy is Strategy.EMERGENCY_SCALING:
        return f"says {strategy}, which is for several cells that failed together"
    return f"says {strategy}, which is for a Router" if strategy in FOR_ROUTERS else ""


def _has(failure: FailureType) -> TargetKind:
    """Who can have such a failure."""
    return TargetKind.ROUTER if failure is FailureType.ROUTER else TargetKind.CELL


def _rows(policy: RecoveryPolicySpec) -> Iterator[Row]:
    yield from map(_row, policy.rules)
    if policy.builtin_rules == BuiltinRules.APPEND:
        yield from BUILTIN


def _row(rule: MatrixRule) -> Row:
    return Row(rule.name, rule.failure, rule.impact, rule.data_integrity, rule.strategy)


def _every_input() -> Iterator[_Key]:
    return itertools.product(FailureType, Impact, DataIntegrity)


def _inputs(key: _Key) -> DecisionInputs:
    return DecisionInputs(type=key[0], impact=key[1], data_integrity=key[2])


def _told(inputs: DecisionInputs) -> str:
    return f"{inputs.type} failure, impact {inputs.impact}, data {inputs.data_integrity}"


def _reason(inputs: DecisionInputs, row: Row, passed: Sequence[str]) -> str:
    text = f"{_told(inputs)}: row {row.name} says {row.strategy}"
    if row.note:
        text += f" ({row.note})"
    if row.and_above and inputs.impact != row.impact:
        text += f" (made for impact {row.impact}, it covers what is worse)"
    return f"{text}. {_before(passed)}".rstrip()


def _before(passed: Sequence[str]) -> str:
    return f"Rows before it: {'; '.join(passed)}." if passed else ""


def _unanswered(inputs: DecisionInputs, policy: RecoveryPolicySpec, passed: Sequence[str]) -> str:
    text = f"{_told(inputs)}: no row covers it, so a person has to decide."
    if inputs.data_integrity == DataIntegrity.UNKNOWN:
        text += (
            " The data is not known to be intact: give the Cell spec.data.integrity, or, if its data cannot be"
            " damaged, set the policy's spec.detection.withoutIntegrityChecks to Intact."
        )
    elif policy.builtin_rules == BuiltinRules.NONE:
        text += " The policy's spec.builtinRules is None: the built-in rows are not asked."
    return f"{text} {'Rows: ' + '; '.join(passed) + '.' if passed else ''}".rstrip()
