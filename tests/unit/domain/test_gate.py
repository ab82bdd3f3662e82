import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api.failure import Evidence, Vantage, Verdict
from recell.domain.gate import health_gate
from tests.unit.domain.builders import evidence

CHECKS = {
    "workloads": Vantage.CLUSTER,
    "endpoints": Vantage.CLUSTER,
    "probe": Vantage.OPERATOR,
    "integrity": Vantage.OPERATOR,
    "router-check": Vantage.ROUTER,
    "error-rate": Vantage.ROUTER,
    "condition-x": Vantage.DECLARED,
}


def seen(**verdicts: str) -> list[Evidence]:
    long = {"P": Verdict.PASSED, "F": Verdict.FAILED, "I": Verdict.INCONCLUSIVE}
    names = {name.replace("_", "-"): long[letter] for name, letter in verdicts.items()}
    return [evidence(name, CHECKS[name], verdict) for name, verdict in names.items()]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (seen(), Verdict.INCONCLUSIVE),
        (seen(workloads="P", endpoints="P"), Verdict.INCONCLUSIVE),  # nobody saw an answer
        (seen(workloads="P", integrity="P"), Verdict.INCONCLUSIVE),
        (seen(workloads="P", probe="P"), Verdict.PASSED),
        (seen(probe="I", router_check="P"), Verdict.PASSED),
        (seen(workloads="I", probe="P", router_check="P"), Verdict.INCONCLUSIVE),  # a rollout that goes on
        (seen(probe="P", error_rate="F"), Verdict.FAILED),
        (seen(probe="P", integrity="F"), Verdict.FAILED),
        (seen(workloads="I", condition_x="F"), Verdict.FAILED),
    ],
)
def test_health_gate(found: list[Evidence], verdict: Verdict) -> None:
    assert health_gate(found).verdict == verdict


@pytest.mark.parametrize(
    ("found", "alone"),
    [
        (seen(probe="F", router_check="P", error_rate="I"), True),
        (seen(probe="F", router_check="I"), False),  # nobody else sees anything
        (seen(probe="F", router_check="P", error_rate="F"), False),
        (seen(probe="F", router_check="P", workloads="F"), False),
        (seen(error_rate="F", router_check="P"), False),
        (seen(probe="P", router_check="P"), False),
    ],
)
def test_what_only_the_probe_says_against_the_router_is_told_apart(found: list[Evidence], alone: bool) -> None:
    assert health_gate(found).from_one_place is alone


def test_what_stands_in_the_way_is_said() -> None:
    assert health_gate(seen(probe="P", error_rate="F")).message == "error-rate: error-rate Failed"
    assert health_gate(seen(workloads="I", probe="P")).message == "workloads: workloads Inconclusive"
    assert "neither a probe nor the router" in health_gate([]).message


@given(st.dictionaries(st.sampled_from(list(CHECKS)), st.sampled_from(list(Verdict))))
def test_a_gate_passes_only_on_what_was_seen(found: dict[str, Verdict]) -> None:
    result = health_gate([evidence(name, CHECKS[name], verdict) for name, verdict in found.items()])
    assert (result.verdict == Verdict.FAILED) == (Verdict.FAILED in found.values())
    if result.verdict == Verdict.PASSED:
        answers = {"probe", "router-check", "error-rate"}
        assert any(found.get(name) == Verdict.PASSED for name in answers)
    assert result.message
