from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api import Cell
from recell.api.cell import Failure
from recell.api.failure import DataIntegrity, Evidence, FailureType, Impact, Strategy, Vantage, Verdict
from recell.api.meta import timestamp
from recell.api.placement import HoldState, PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import DecisionInputs, TargetKind
from recell.domain import placement
from recell.domain.failure import data_integrity, derive, impact, not_served, together
from recell.domain.health import STEADY, HealthState, Level
from recell.domain.matrix import decide
from recell.domain.observation import IntegrityResult, RouterTraffic
from tests.unit.domain.builders import (
    NOW,
    candidate,
    cell,
    cell_traffic,
    evidence,
    health,
    held,
    later,
    router_traffic,
    routing,
)

POLICY = RecoveryPolicySpec()
INTACT = RecoveryPolicySpec.model_validate({"detection": {"withoutIntegrityChecks": "Intact"}})
DOWN = [
    evidence("probe", Vantage.OPERATOR, Verdict.FAILED),
    evidence("router-check", Vantage.ROUTER, Verdict.FAILED),
]
ERRORS = [
    evidence("workloads", Vantage.CLUSTER, Verdict.FAILED),
    evidence("error-rate", Vantage.ROUTER, Verdict.FAILED),
    evidence("router-check", Vantage.ROUTER, Verdict.PASSED),
]
AT = later(30)


def fleet(levels: str, *, since: Mapping[str, float] | None = None) -> dict[str, HealthState]:
    """`FHH`: cell-a failed, cell-b and cell-c healthy."""
    by_letter = {"F": Level.FAILED, "H": Level.HEALTHY, "D": Level.DEGRADED, "U": Level.UNKNOWN}
    names = [f"cell-{letter}" for letter in "abcdefghij"]
    return {
        name: health(by_letter[letter], later((since or {}).get(name, 0)))
        for name, letter in zip(names, levels, strict=False)
    }


def table(states: Mapping[str, HealthState], **weights: int) -> PlacementSpec:
    cells = [candidate(name, weights.get(name.replace("-", "_"), 100)) for name in states]
    return placement.initial(routing(), cells, epoch=1)


def failed(
    states: Mapping[str, HealthState],
    seen: list[Evidence] = DOWN,
    *,
    of: Cell | None = None,
    spec: PlacementSpec | None = None,
    traffic: RouterTraffic | None = None,
    policy: RecoveryPolicySpec = POLICY,
    **more: Any,
) -> Failure:
    found = derive(of or cell(), states, seen, spec or table(states), traffic, policy, AT, **more)
    assert found is not None
    return found


# --- is there a failure at all


@pytest.mark.parametrize("level", "HU")
def test_a_healthy_or_unknown_cell_has_no_failure(level: str) -> None:
    states = fleet(f"{level}HH")
    assert derive(cell(), states, DOWN, table(states), None, POLICY, AT) is None
    assert derive(cell("cell-z"), states, DOWN, table(states), None, POLICY, AT) is None


def test_it_begins_with_the_first_evidence() -> None:
    states = {**fleet("FHH"), "cell-a": health(Level.FAILED, later(20), failing_since=later(5))}
    assert failed(states).since == later(5)
    assert failed({**states, "cell-a": health(Level.FAILED, later(3600))}).since == AT, "no time from the future"


def test_what_failed_stands_first_and_there_is_room_for_it() -> None:
    many = [evidence(f"check-{i}", Vantage.CLUSTER, Verdict.PASSED) for i in range(40)] + DOWN
    found = failed(fleet("FHH"), many)
    assert [e.check for e in found.evidence[:2]] == ["probe", "router-check"]
    assert len(found.evidence) == 32


# --- type


@pytest.mark.parametrize(
    ("levels", "kind"),
    [
        ("F", FailureType.SINGLE_CELL),
        ("FH", FailureType.SINGLE_CELL),  # half is not more than half
        ("FHH", FailureType.SINGLE_CELL),
        ("FF", FailureType.SYSTEMIC),
        ("FFH", FailureType.SYSTEMIC),
        ("FFHH", FailureType.MULTIPLE_CELL),
        ("FFFHH", FailureType.SYSTEMIC),
        ("FFUUH", FailureType.MULTIPLE_CELL),  # unknown is not failed
        ("FFFFFHHHHH", FailureType.MULTIPLE_CELL),
        ("FDDDH", FailureType.SINGLE_CELL),
        ("DFFHH", FailureType.SINGLE_CELL),  # about the degraded one
    ],
)
def test_how_many_cells_failed(levels: str, kind: FailureType) -> None:
    assert failed(fleet(levels)).type == kind


def test_cells_that_failed_long_ago_are_another_failure() -> None:
    assert failed(fleet("FFHHH", since={"cell-b": -301})).type == FailureType.SINGLE_CELL
    assert failed(fleet("FFHHH", since={"cell-b": -300})).type == FailureType.MULTIPLE_CELL
    assert failed(fleet("FFHHH", since={"cell-a": -301})).type == FailureType.SINGLE_CELL
    assert failed(fleet("FFFHH", since={"cell-b": -9999, "cell-c": -9999})).type == FailureType.SYSTEMIC


@pytest.mark.parametrize("state", [HoldState.ISOLATED, HoldState.RETIRED])
def test_cells_that_were_taken_out_are_no_news(state: HoldState) -> None:
    states = fleet("FFHHH")
    spec = placement.hold(table(states), routing(), held("cell-b", 0, state))
    assert failed(states, spec=spec).type == FailureType.SINGLE_CELL
    drained = placement.hold(table(states), routing(), held("cell-b", 0))
    assert failed(states, spec=drained).type == FailureType.MULTIPLE_CELL
    three = fleet("FFH")
    spec = placement.hold(table(three), routing(), held("cell-b", 0, state))
    assert failed(three, spec=spec).type == FailureType.SINGLE_CELL, "one of two that are in service"


def test_corrupted_while_it_serves_or_while_it_is_down() -> None:
    corrupted = [evidence("integrity", Vantage.OPERATOR, Verdict.FAILED)]
    checked = cell(data={"integrity": {"path": "/integrity"}})
    serving = failed(fleet("DHH"), corrupted, of=checked)
    assert (serving.type, serving.data_integrity) == (FailureType.DATA_CORRUPTION, DataIntegrity.CORRUPTED)
    down = failed(fleet("FHH"), corrupted + DOWN, of=checked)
    assert (down.type, down.data_integrity) == (FailureType.SINGLE_CELL, DataIntegrity.CORRUPTED)


# --- impact


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (0.0, Impact.LOW),
        (0.0499, Impact.LOW),
        (0.05, Impact.HIGH),
        (0.4999, Impact.HIGH),
        (0.5, Impact.CRITICAL),
        (1.0, Impact.CRITICAL),
    ],
)
def test_impact(part: float, expected: Impact) -> None:
    assert impact(part) == expected


@pytest.mark.parametrize(
    ("levels", "seen", "traffic", "expected"),
    [
        ("F", DOWN, None, Impact.CRITICAL),
        ("FHH", DOWN, None, Impact.HIGH),
        ("FHH", ERRORS, cell_traffic(1000, 100), Impact.LOW),  # 33.3 % x 10 %
        ("FHH", ERRORS, cell_traffic(1000, 160), Impact.HIGH),  # 33.3 % x 16 %
        ("FH", ERRORS, cell_traffic(1000, 990), Impact.HIGH),  # 50 % x 99 %
        ("FH", ERRORS, cell_traffic(1000, 1000), Impact.CRITICAL),
        ("FHH", ERRORS, cell_traffic(0), Impact.HIGH),  # failed, and nobody gets an answer
        ("DHH", ERRORS, cell_traffic(0), Impact.LOW),  # degraded, and nobody asks
        ("FHH", DOWN, cell_traffic(1000, 0), Impact.HIGH),
        ("FHH", ERRORS, cell_traffic(1000, 0, check_up=False), Impact.HIGH),
        ("FFHH", DOWN, None, Impact.CRITICAL),  # both count
        ("FFHHHHHHHH", DOWN, None, Impact.HIGH),
    ],
)
def test_impact_is_share_times_part_not_served(
    levels: str, seen: list[Evidence], traffic: Any, expected: Impact
) -> None:
    states = fleet(levels)
    figures = router_traffic({"cell-a": traffic}) if traffic else None
    assert failed(states, seen, traffic=figures).impact == expected


def test_no_endpoints_is_down() -> None:
    seen = [evidence("endpoints", Vantage.CLUSTER, Verdict.FAILED)]
    traffic = router_traffic({"cell-a": cell_traffic(1000, 10)})
    assert not_served("cell-a", seen, traffic, health(Level.FAILED)) == 1.0
    assert not_served("cell-a", [], traffic, health(Level.FAILED)) == 0.01
    assert not_served("cell-a", [], None, health(Level.FAILED)) == 1.0
    assert not_served("cell-a", [], None, health(Level.DEGRADED)) == 0.0


def test_the_share_is_of_home_slots_also_while_drained() -> None:
    states = fleet("FHH")
    spec = table(states, cell_a=5, cell_b=100, cell_c=100)
    assert failed(states, spec=spec).impact == Impact.LOW
    drained = placement.hold(table(states), routing(), held("cell-a", 0))
    assert failed(states, spec=drained).impact == Impact.HIGH


def test_without_a_placement_cells_count_alike() -> None:
    found = derive(cell(), fleet("FHH"), DOWN, None, None, POLICY, AT)
    assert found is not None
    assert found.impact == Impact.HIGH


def test_the_other_cells_of_a_failure_count_by_their_own_figures() -> None:
    states = fleet("FFHHHHHHHH")
    low = router_traffic({"cell-a": cell_traffic(1000, 60), "cell-b": cell_traffic(1000, 60)})
    assert failed(states, ERRORS, traffic=low).impact == Impact.LOW
    high = router_traffic({"cell-a": cell_traffic(1000, 60), "cell-b": cell_traffic(1000, 600)})
    assert failed(states, ERRORS, traffic=high).impact == Impact.HIGH


# --- data integrity (rule 16)

CHECKED = cell(data={"integrity": {"path": "/integrity", "maxAge": "1h"}})


@pytest.mark.parametrize(
    ("last", "onset", "now", "expected"),
    [
        (None, 0, 30, DataIntegrity.UNKNOWN),
        (IntegrityResult(True, "", later(-3600)), 0, 30, DataIntegrity.INTACT),
        (IntegrityResult(True, "", later(-3601)), 0, 30, DataIntegrity.UNKNOWN),
        # long dead: its data did not age, it was young at the onset
        (IntegrityResult(True, "", later(-60)), 0, 86400, DataIntegrity.INTACT),
        # a sign of corruption that came since
        (IntegrityResult(False, "", later(20)), 0, 30, DataIntegrity.CORRUPTED),
        (IntegrityResult(False, "", later(-9999)), 0, 30, DataIntegrity.CORRUPTED),
        (IntegrityResult(True, "", later(20)), 0, 30, DataIntegrity.INTACT),
        (IntegrityResult(None, "", later(20)), 0, 30, DataIntegrity.UNKNOWN),
        (IntegrityResult(True, "", later(9999)), 0, 30, DataIntegrity.INTACT),
    ],
)
def test_integrity_of_a_dead_cell(
    last: IntegrityResult | None, onset: float, now: float, expected: DataIntegrity
) -> None:
    found = data_integrity(CHECKED, [], POLICY, onset=later(onset), now=later(now), last=last)
    assert found == expected
    lenient = data_integrity(CHECKED, [], INTACT, onset=later(onset), now=later(now), last=last)
    assert lenient == expected, "a cell with a check counts by its check alone"


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict.PASSED, DataIntegrity.INTACT),
        (Verdict.FAILED, DataIntegrity.CORRUPTED),
        (Verdict.INCONCLUSIVE, DataIntegrity.UNKNOWN),
    ],
)
def test_integrity_by_the_evidence_of_the_moment(verdict: Verdict, expected: DataIntegrity) -> None:
    seen = [evidence("integrity", Vantage.OPERATOR, verdict)]
    assert data_integrity(CHECKED, seen, POLICY, onset=NOW, now=AT) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, DataIntegrity.UNKNOWN),
        ("True", DataIntegrity.INTACT),
        ("False", DataIntegrity.CORRUPTED),
        ("Unknown", DataIntegrity.UNKNOWN),
    ],
)
def test_integrity_of_a_cell_without_a_check(status: str | None, expected: DataIntegrity) -> None:
    told = {"conditions": [{"type": "DataIntact", "status": status}]} if status else {}
    assert data_integrity(cell(status=told), [], POLICY, onset=NOW, now=AT) == expected
    lenient = data_integrity(cell(status=told), [], INTACT, onset=NOW, now=AT)
    assert lenient == (expected if status else DataIntegrity.INTACT), "the policy speaks only where nobody else does"


@pytest.mark.parametrize(("at", "expected"), [(-1, DataIntegrity.UNKNOWN), (0, DataIntegrity.INTACT)])
def test_what_was_found_before_a_restore_says_nothing_about_it(at: float, expected: DataIntegrity) -> None:
    asked: Any = {"onset": later(30), "now": later(30), "not_before": NOW}
    last = IntegrityResult(True, "", later(at))
    assert data_integrity(CHECKED, [], POLICY, last=last, **asked) == expected
    assert data_integrity(CHECKED, [], POLICY, **asked) == DataIntegrity.UNKNOWN
    told = {"type": "DataIntact", "status": "True", "lastTransitionTime": timestamp(later(at))}
    assert data_integrity(cell(status={"conditions": [told]}), [], POLICY, **asked) == expected
    assert data_integrity(cell(), [], INTACT, **asked) == DataIntegrity.INTACT, "the policy speaks for what nobody asks"


# --- into the matrix


@pytest.mark.parametrize(
    ("seen", "traffic", "strategy"),
    [
        (DOWN, None, Strategy.TRAFFIC_DRAIN_AND_REPLACE),
        (ERRORS, cell_traffic(1000, 100), Strategy.CELL_RESTART),
    ],
)
def test_one_of_three_cells_fails(seen: list[Evidence], traffic: Any, strategy: Strategy) -> None:
    figures = router_traffic({"cell-a": traffic}) if traffic else None
    found = failed(fleet("FHH"), seen, traffic=figures, policy=INTACT)
    case = DecisionInputs(type=found.type, impact=found.impact, data_integrity=found.data_integrity)
    assert decide(case, INTACT, TargetKind.CELL).strategy == strategy


@given(
    st.lists(st.sampled_from("FHDU"), min_size=1, max_size=10).map("".join),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=10, max_size=10),
    st.sampled_from([*DataIntegrity, None]),
    st.booleans(),
)
def test_any_fleet_has_an_answer(
    levels: str, figures: list[tuple[int, int]], data: DataIntegrity | None, placed: bool
) -> None:
    states = fleet(levels)
    traffic = router_traffic({name: cell_traffic(r, min(r, f)) for name, (r, f) in zip(states, figures, strict=False)})
    verdicts = {DataIntegrity.INTACT: True, DataIntegrity.CORRUPTED: False, DataIntegrity.UNKNOWN: None}
    last = IntegrityResult(verdicts[data], "", NOW) if data else None
    found = derive(CHECKED, states, ERRORS, table(states) if placed else None, traffic, POLICY, AT, integrity=last)
    assert (found is None) == (levels[0] in "HU")
    if found is not None and levels.count("F") * 2 > len(levels) >= 2 and levels[0] == "F":
        assert found.type == FailureType.SYSTEMIC


# --- several cells as one


def cells(names: Mapping[str, HealthState]) -> dict[str, Cell]:
    return {name: cell(name) for name in names}


@pytest.mark.parametrize(
    ("levels", "level"),
    [("HH", Level.HEALTHY), ("HU", Level.UNKNOWN), ("HDU", Level.DEGRADED), ("HDF", Level.FAILED), ("", Level.UNKNOWN)],
)
def test_together_they_are_as_the_worst_of_them(levels: str, level: Level) -> None:
    states = fleet(levels)
    assert together(cells(states), states, None, AT).level is level


def test_together_they_are_well_since_the_last_of_them_is() -> None:
    states = fleet("HHH", since={"cell-b": 20})
    found = together(cells(states), states, table(states), AT)
    assert (found.level, found.since, found.steady) == (Level.HEALTHY, later(20), None)


def test_a_cell_that_nobody_has_looked_at_is_not_well() -> None:
    states = fleet("HH")
    seen = {"cell-a": states["cell-a"]}
    assert together(cells(states), seen, table(states), AT).level is Level.UNKNOWN


@pytest.mark.parametrize("state", [HoldState.RETIRED, HoldState.ISOLATED])
def test_of_the_cells_together_those_that_are_nobodys_loss_do_not_count(state: HoldState) -> None:
    states = fleet("HHF")
    assert together(cells(states), states, table(states), AT).level is Level.FAILED
    out = placement.hold(table(states), routing(), held("cell-c", 0, state))
    assert together(cells(states), states, out, AT).level is Level.HEALTHY
    unlisted = table(fleet("HH"))
    assert together(cells(states), states, unlisted, AT).level is Level.HEALTHY
    made = cells(states) | {"cell-c": cell("cell-c", metadata={"labels": {"recell.dev/made-by": "recell"}})}
    assert together(made, states, table(states, cell_c=0), AT).level is Level.HEALTHY, "an emergency cell, not used yet"


def test_the_onset_is_that_of_the_first_of_the_failed_cells_as_it_was_recorded() -> None:
    states = fleet("DFFH", since={"cell-a": -900, "cell-b": -60, "cell-c": -90, "cell-d": -9000})
    known = cells(states)
    assert together(known, states, None, AT).failing_since == later(-90)
    shown = Failure(type=FailureType.SINGLE_CELL, impact=Impact.LOW, data_integrity=DataIntegrity.INTACT, since=NOW)
    for name, at in {"cell-a": -990, "cell-b": -500}.items():
        known[name].status.failure = shown.model_copy(update={"since": later(at)})
    assert together(known, states, None, AT).failing_since == later(-500), "it outlives a take-over"
    assert together(known, fleet("HHHH"), None, AT).failing_since is None


HOUR = 3600.0


@pytest.mark.parametrize(
    ("spells", "expected"),
    [
        # each cell: since when it is Healthy now, and the last hour or more in which it was and no longer is
        ([(-HOUR, None), (-2 * HOUR, None)], (-HOUR, 0)),
        ([(-HOUR + 1, None), (-2 * HOUR, None)], None),
        ([(None, (-3 * HOUR, -60)), (-2 * HOUR, None)], (-2 * HOUR, -60)),
        ([(None, (-3 * HOUR, -60)), (None, (-2 * HOUR, -90))], (-2 * HOUR, -90)),
        ([(None, (-3 * HOUR, -2 * HOUR)), (None, (-2 * HOUR, -90))], None),
        ([(None, None), (-2 * HOUR, None)], None),
        # the first of two is well again
        ([(-10, (-3 * HOUR, -60)), (None, (-2 * HOUR, -90)), (-9 * HOUR, None)], (-2 * HOUR, -90)),
    ],
)
def test_steady_together(spells: Sequence[Any], expected: tuple[float, float] | None) -> None:
    states = {
        f"cell-{n}": health(
            Level.FAILED if since is None else Level.HEALTHY,
            later(-30 if since is None else since),
            steady=over and (later(over[0]), later(over[1])),
        )
        for n, (since, over) in enumerate(spells)
    }
    found = together(cells(states), states, None, NOW).steady
    assert found == (expected and (later(expected[0]), later(expected[1])))


LIVES = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=8), min_size=1, max_size=4)
"""Of each cell the minutes of its spells, oldest first, of which every second one is of health."""


def remembered(life: Sequence[int]) -> HealthState:
    """As `health.advance` remembers it now."""
    at, steady = NOW - timedelta(minutes=sum(life)), None
    for number, minutes in enumerate(life[:-1]):
        end = at + timedelta(minutes=minutes)
        steady = (at, end) if number % 2 and end - at >= STEADY else steady
        at = end
    return health(Level.FAILED if len(life) % 2 else Level.HEALTHY, at, steady=steady)


def well_at(life: Sequence[int], minutes_ago: float) -> bool:
    left = sum(life) - minutes_ago
    for number, minutes in enumerate(life):
        if 0 <= left < minutes:
            return number % 2 == 1
        left -= minutes
    return False


@given(LIVES)
def test_an_hour_that_cells_were_well_together_is_one_that_there_was(lives: list[list[int]]) -> None:
    states = {f"cell-{n}": remembered(life) for n, life in enumerate(lives)}
    found = together(cells(states), states, None, NOW)
    if found.steady is not None:
        begin, end = ((NOW - moment).total_seconds() / 60 for moment in found.steady)
        assert begin - end >= 60
        for life in lives:
            assert all(well_at(life, minute - 0.5) for minute in range(int(end) + 1, int(begin) + 1))
    wells = [minute for minute in range(1, 2401) if all(well_at(life, minute - 0.5) for life in lives)]
    if wells[:60] == list(range(1, 61)):
        assert found.steady is not None, "the hour that ends now"


@given(LIVES, st.integers(60, 300), st.integers(1, 59))
def test_a_storm_does_not_make_the_hour_before_it_forgotten(lives: list[list[int]], well: int, storm: int) -> None:
    """Whatever was before: all are well for an hour, then some fail, one after another."""
    states = {}
    for n, life in enumerate(lives):
        before = life if len(life) % 2 else life[:-1] or [1]
        fails = [well, storm] if n % 2 else [well + storm]
        states[f"cell-{n}"] = remembered([*before, *fails])
    found = together(cells(states), states, None, NOW)
    assert found.steady is not None
    assert found.steady[1] >= NOW - timedelta(minutes=storm)
