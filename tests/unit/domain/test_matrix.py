"""The matrix against the runbook's table, over every input, and under every kind of policy."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api.failure import DataIntegrity, FailureType, Impact, Strategy
from recell.api.recovery_policy import BuiltinRules, MatrixRule, RecoveryPolicySpec
from recell.api.recovery_run import DecisionInputs, TargetKind, TargetRef
from recell.domain import matrix
from recell.domain.matrix import BUILTIN, Choice, decision_id, validate_policy

PRODUCT = list(itertools.product(FailureType, Impact, DataIntegrity))
TARGET = TargetRef(kind=TargetKind.CELL, name="cell-a")


def inputs(failure: str, impact: str, integrity: str) -> DecisionInputs:
    return DecisionInputs(type=FailureType(failure), impact=Impact(impact), data_integrity=DataIntegrity(integrity))


def every() -> list[DecisionInputs]:
    return [DecisionInputs(type=f, impact=i, data_integrity=d) for f, i, d in PRODUCT]


def rule(name: str, strategy: Strategy = Strategy.CELL_RESTART, **columns: str) -> MatrixRule:
    return MatrixRule.model_validate({"name": name, "strategy": strategy, **columns})


def decide(case: DecisionInputs, policy: RecoveryPolicySpec) -> Choice:
    """For a target that can have such a failure."""
    kind = TargetKind.ROUTER if case.type == FailureType.ROUTER else TargetKind.CELL
    return matrix.decide(case, policy, kind)


TABLE = {
    # the runbook's rows
    ("SingleCell", "Low", "Intact"): Strategy.CELL_RESTART,
    ("SingleCell", "High", "Intact"): Strategy.TRAFFIC_DRAIN_AND_REPLACE,
    ("SingleCell", "Low", "Corrupted"): Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
    ("SingleCell", "High", "Corrupted"): Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
    ("SingleCell", "Critical", "Corrupted"): Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
    ("MultipleCell", "High", "Intact"): Strategy.EMERGENCY_SCALING,
    ("Router", "Critical", "Intact"): Strategy.ACTIVATE_FALLBACK_ROUTING,
    ("Router", "Critical", "Corrupted"): Strategy.ACTIVATE_FALLBACK_ROUTING,
    ("Router", "Critical", "Unknown"): Strategy.ACTIVATE_FALLBACK_ROUTING,
    ("DataCorruption", "Low", "Corrupted"): Strategy.POINT_IN_TIME_RECOVERY,
    ("DataCorruption", "High", "Corrupted"): Strategy.POINT_IN_TIME_RECOVERY,
    ("DataCorruption", "Critical", "Corrupted"): Strategy.POINT_IN_TIME_RECOVERY,
    # its holes
    ("SingleCell", "Critical", "Intact"): Strategy.TRAFFIC_DRAIN_AND_REPLACE,
    ("MultipleCell", "Critical", "Intact"): Strategy.EMERGENCY_SCALING,
    ("MultipleCell", "Low", "Intact"): Strategy.CELL_RESTART,
    ("Router", "High", "Intact"): Strategy.ACTIVATE_FALLBACK_ROUTING,
    ("Router", "High", "Corrupted"): Strategy.ACTIVATE_FALLBACK_ROUTING,
    ("Router", "High", "Unknown"): Strategy.ACTIVATE_FALLBACK_ROUTING,
}


@pytest.mark.parametrize("key", PRODUCT, ids="-".join)
def test_every_input_has_its_answer(key: tuple[FailureType, Impact, DataIntegrity]) -> None:
    """What is neither the runbook's nor covered by it is a person's work: unknown data, and Systemic always."""
    choice = decide(inputs(*key), RecoveryPolicySpec())
    assert choice.strategy == TABLE.get((key[0].value, key[1].value, key[2].value), Strategy.MANUAL_INTERVENTION)
    assert choice.row
    assert all(word in choice.message for word in key)
    assert len(choice.message) <= 1024


def test_the_explanation_names_the_row_and_why_earlier_ones_did_not_match() -> None:
    choice = decide(inputs("SingleCell", "Critical", "Intact"), RecoveryPolicySpec())
    assert choice.row == "single-cell-high-intact"
    assert choice.message == (
        "SingleCell failure, impact Critical, data Intact: row single-cell-high-intact says TrafficDrainAndReplace"
        " (made for impact High, it covers what is worse). Rows before it: single-cell-low-intact is for impact Low."
    )


def test_unknown_data_says_what_to_do_about_it() -> None:
    choice = decide(inputs("SingleCell", "Low", "Unknown"), RecoveryPolicySpec())
    assert choice.row == "otherwise"
    assert "spec.data.integrity" in choice.message
    assert "withoutIntegrityChecks" in choice.message
    assert "single-cell-low-intact needs data Intact" in choice.message


def test_cells_of_a_small_failure_of_several_are_restarted_one_by_one() -> None:
    assert "one by one" in decide(inputs("MultipleCell", "Low", "Intact"), RecoveryPolicySpec()).message


def test_the_policys_rules_come_first_and_what_they_leave_out_matches_anything() -> None:
    policy = RecoveryPolicySpec(
        rules=[
            rule("big", Strategy.MANUAL_INTERVENTION, impact="Critical"),
            rule("any-single", Strategy.CELL_RESTART, failure="SingleCell"),
        ]
    )
    assert decide(inputs("SingleCell", "Critical", "Intact"), policy).row == "big"
    choice = decide(inputs("SingleCell", "High", "Unknown"), policy)
    assert (choice.row, choice.strategy) == ("any-single", Strategy.CELL_RESTART)
    assert "big is for impact Critical" in choice.message
    assert decide(inputs("MultipleCell", "High", "Intact"), policy).row == "multiple-cell-high-intact"


def test_a_rules_impact_is_exact() -> None:
    policy = RecoveryPolicySpec(rules=[rule("high", impact="High")])
    assert decide(inputs("SingleCell", "Critical", "Intact"), policy).row != "high"


def test_a_systemic_failure_has_to_be_named() -> None:
    policy = RecoveryPolicySpec(rules=[rule("everything")])
    choice = decide(inputs("Systemic", "Critical", "Intact"), policy)
    assert (choice.row, choice.strategy) == ("systemic", Strategy.MANUAL_INTERVENTION)
    assert "everything does not name Systemic" in choice.message
    named = RecoveryPolicySpec(rules=[rule("all-down", Strategy.EMERGENCY_SCALING, failure="Systemic")])
    assert decide(inputs("Systemic", "Critical", "Intact"), named).strategy == Strategy.EMERGENCY_SCALING


def test_without_the_builtin_rows_everything_else_is_manual() -> None:
    policy = RecoveryPolicySpec(rules=[rule("only", failure="SingleCell")], builtin_rules=BuiltinRules.NONE)
    choice = decide(inputs("Router", "Critical", "Intact"), policy)
    assert (choice.strategy, choice.row) == (Strategy.MANUAL_INTERVENTION, "otherwise")
    assert "spec.builtinRules is None" in choice.message


CELLS = {
    Strategy.CELL_RESTART,
    Strategy.TRAFFIC_DRAIN_AND_REPLACE,
    Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
    Strategy.POINT_IN_TIME_RECOVERY,
    Strategy.MANUAL_INTERVENTION,
}


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        (Strategy.CELL_RESTART, "says CellRestart, which is for cells"),
        (Strategy.EMERGENCY_SCALING, "says EmergencyScaling, which is for cells"),
    ],
)
def test_a_rule_that_answers_everything_gives_a_router_nothing_that_is_for_cells(strategy: Strategy, why: str) -> None:
    alone = RecoveryPolicySpec(rules=[rule("everything", strategy)], builtin_rules=BuiltinRules.NONE)
    choice = decide(inputs("Router", "Critical", "Unknown"), alone)
    assert (choice.strategy, choice.row) == (Strategy.MANUAL_INTERVENTION, "otherwise")
    assert f"Rows: everything {why}." in choice.message
    before_the_others = RecoveryPolicySpec(rules=[rule("everything", strategy)])
    choice = decide(inputs("Router", "Critical", "Unknown"), before_the_others)
    assert (choice.strategy, choice.row) == (Strategy.ACTIVATE_FALLBACK_ROUTING, "router-high")
    assert f"everything {why}; single-cell-low-intact is for failure SingleCell" in choice.message


def test_a_rule_that_answers_everything_gives_a_cell_nothing_that_is_for_others() -> None:
    policy = RecoveryPolicySpec(rules=[rule("everything", Strategy.ACTIVATE_FALLBACK_ROUTING)])
    choice = decide(inputs("SingleCell", "Low", "Intact"), policy)
    assert choice.strategy == Strategy.CELL_RESTART
    assert "everything says ActivateFallbackRouting, which is for a Router" in choice.message
    policy = RecoveryPolicySpec(rules=[rule("everything", Strategy.EMERGENCY_SCALING)])
    assert decide(inputs("MultipleCell", "Low", "Unknown"), policy).strategy == Strategy.EMERGENCY_SCALING
    choice = decide(inputs("SingleCell", "Low", "Intact"), policy)
    assert choice.strategy == Strategy.CELL_RESTART
    assert "says EmergencyScaling, which is for several cells that failed together" in choice.message


RULES = st.builds(
    MatrixRule,
    name=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=63),
    failure=st.none() | st.sampled_from(FailureType),
    impact=st.none() | st.sampled_from(Impact),
    data_integrity=st.none() | st.sampled_from(DataIntegrity),
    strategy=st.sampled_from(Strategy),
)
POLICIES = st.builds(
    RecoveryPolicySpec,
    rules=st.lists(RULES, max_size=64, unique_by=lambda r: r.name),
    builtin_rules=st.sampled_from(BuiltinRules),
)


@given(POLICIES)
def test_any_policy_answers_everything(policy: RecoveryPolicySpec) -> None:
    rows = {r.name for r in policy.rules} | {row.name for row in BUILTIN} | {"otherwise"}
    for case in every():
        choice = decide(case, policy)
        assert choice.row in rows
        assert 0 < len(choice.message) <= 1024


@given(POLICIES, st.sampled_from(TargetKind))
def test_whatever_is_stated_of_it_no_target_gets_what_is_not_for_it(
    policy: RecoveryPolicySpec, target: TargetKind
) -> None:
    for case in every():
        strategy = matrix.decide(case, policy, target).strategy
        if target is TargetKind.ROUTER:
            assert strategy in (Strategy.ACTIVATE_FALLBACK_ROUTING, Strategy.MANUAL_INTERVENTION)
        elif case.type in (FailureType.MULTIPLE_CELL, FailureType.SYSTEMIC):
            assert strategy in CELLS | {Strategy.EMERGENCY_SCALING}
        else:
            assert strategy in CELLS


@given(POLICIES)
def test_exactly_the_rules_that_never_decide_are_reported(policy: RecoveryPolicySpec) -> None:
    deciding = {decide(case, RecoveryPolicySpec(rules=policy.rules, builtin_rules="None")).row for case in every()}
    never = [r.name for r in policy.rules if r.name not in deciding]
    reports = validate_policy(policy)
    assert len(reports) == len(never)
    assert all(repr(name) in report for name, report in zip(never, reports, strict=True))


def test_a_rule_that_others_shadow_together_is_named_with_them() -> None:
    policy = RecoveryPolicySpec(
        rules=[
            rule("low", impact="Low"),
            rule("rest", impact="High"),
            rule("worst", impact="Critical"),
            rule("single", failure="SingleCell"),
        ]
    )
    assert validate_policy(policy) == [
        "spec.rules: rule 'single' never decides: 'low', 'rest' and 'worst' before it match everything that it matches;"
        " move it up or delete it"
    ]
    assert validate_policy(RecoveryPolicySpec()) == []


def test_a_rule_whose_strategy_is_not_for_its_failure_never_decides() -> None:
    policy = RecoveryPolicySpec(rules=[rule("routers", failure="Router"), rule("cells", failure="SingleCell")])
    assert validate_policy(policy) == [
        "spec.rules: rule 'routers' never decides: CellRestart does not answer failure Router;"
        " name another strategy or delete it"
    ]


def test_a_decision_has_a_name_that_changes_with_it() -> None:
    case = inputs("SingleCell", "Low", "Intact")
    choice = Choice(Strategy.CELL_RESTART, "single-cell-low-intact", "one wording")
    same = Choice(Strategy.CELL_RESTART, "single-cell-low-intact", "another wording")
    assert decision_id(choice, case, TARGET) == decision_id(same, case, TARGET) == "e5aacdd708cd6c89"
    others = [
        decision_id(Choice(Strategy.MANUAL_INTERVENTION, choice.row, ""), case, TARGET),
        decision_id(Choice(choice.strategy, "mine", ""), case, TARGET),
        decision_id(choice, inputs("SingleCell", "High", "Intact"), TARGET),
        decision_id(choice, inputs("SingleCell", "Low", "Unknown"), TARGET),
        decision_id(choice, None, TARGET),
        decision_id(choice, case, TargetRef(kind=TargetKind.CELL, name="cell-b")),
        decision_id(choice, case, TargetRef(kind=TargetKind.ROUTER, name="cell-a")),
    ]
    assert len({decision_id(choice, case, TARGET), *others}) == 8
