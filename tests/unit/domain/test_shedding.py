"""What is shed: the least important first, never more than is lacking, never what may not be."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from recell.api.shedding import Shedding
from recell.domain import placement, shedding
from recell.domain.observation import ClassTraffic, RouterTraffic
from tests.unit.domain.builders import NOW, OTHER_RUN, RUN, candidate, later, routing

CLASSES = Shedding.model_validate(
    {
        "classes": [
            {"name": "checkout", "priority": 500, "sheddable": False, "matches": [{"methods": ["POST"]}]},
            {"name": "browse", "priority": 50, "matches": [{"pathPrefix": "/"}]},
            {"name": "bulk", "priority": 10, "matches": [{"pathPrefix": "/export"}]},
        ],
        "defaultPriority": 50,
        "defaultSheddable": True,
    }
)


def seen(**requests: int) -> RouterTraffic:
    classes = {name: ClassTraffic(count, count / 10, 0, 0) for name, count in requests.items()}
    return RouterTraffic(NOW - timedelta(seconds=10), NOW, 2, classes=classes)


def test_the_order_is_by_priority_and_of_equals_the_last_first() -> None:
    assert shedding.order(CLASSES) == ("bulk", "default", "browse")
    assert shedding.order(CLASSES.model_copy(update={"default_sheddable": False})) == ("bulk", "browse")
    assert shedding.order(None) == ()


def test_a_class_is_shed_whole_before_the_next_one_is_touched() -> None:
    plan = shedding.plan(shedding.order(CLASSES), seen(checkout=500, browse=300, bulk=100, default=100), 0.25)
    assert plan is not None
    assert plan.percents == {"bulk": 100, "default": 100, "browse": 17}
    assert plan.enough
    assert (
        plan.message
        == "100 % of bulk, 100 % of default and 17 % of browse is shed, 25.1 % of all requests, for 25 % are too many"
    )


def test_what_no_class_may_give_is_said() -> None:
    plan = shedding.plan(("bulk",), seen(checkout=900, bulk=100), 0.3)
    assert plan is not None
    assert (plan.percents, plan.enough) == ({"bulk": 100}, False)
    assert plan.message.endswith("no class may give the other 20 %")
    none = shedding.plan((), seen(checkout=900), 0.3)
    assert none is not None
    assert (none.percents, none.missing) == ({}, 0.3)


def test_nothing_is_shed_on_missing_figures_nor_for_a_trifle() -> None:
    assert shedding.plan(("bulk",), None, 0.3) is None
    assert shedding.plan(("bulk",), seen(), 0.3) is None
    trifle = shedding.plan(("bulk",), None, 0.001)
    assert trifle is not None
    assert (trifle.percents, trifle.enough) == ({}, True)


@given(
    st.dictionaries(st.sampled_from(["bulk", "default", "browse", "checkout"]), st.integers(0, 5000), min_size=1),
    st.floats(0, 1),
)
def test_any_plan_sheds_enough_or_all_it_may_in_order_and_no_more(requests: dict[str, int], part: float) -> None:
    order = shedding.order(CLASSES)
    plan = shedding.plan(order, seen(**requests), part)
    total = sum(requests.values())
    if plan is None:
        assert total == 0
        return
    assert set(plan.percents) <= set(order), "what may not be shed never is"
    assert all(1 <= percent <= 100 for percent in plan.percents.values())
    shed = sum(requests[name] * percent / 100 for name, percent in plan.percents.items()) / max(1, total)
    assert abs(shed - plan.relieved) < 1e-6
    present = [name for name in order if requests.get(name)]
    touched = [name for name in present if name in plan.percents]
    assert touched == present[: len(touched)]
    assert all(plan.percents[name] == 100 for name in touched[:-1]), "the next one only when this one is shed whole"
    if not plan.enough:
        assert all(plan.percents.get(name) == 100 for name in present)
    if touched:
        last = requests[touched[-1]] / total
        assert shed <= part + last / 100 + 1e-6, "at most a whole percent of the last class too much"


@given(st.integers(1, 20), st.dictionaries(st.sampled_from(["bulk", "default", "browse"]), st.integers(0, 100)))
def test_lifting_ends_and_what_was_shed_last_comes_back_first(increments: int, percents: dict[str, int]) -> None:
    order = shedding.order(CLASSES)
    left, steps = percents, 0
    while left:
        before, left = left, shedding.lifted(left, order, increments)
        held = [name for name in order if before.get(name)]
        changed = [name for name in order if before.get(name, 0) != left.get(name, 0)]
        assert not held or changed == held[-1:]
        steps += 1
    assert steps <= 3 * (increments + 1) + 1


def test_in_placement_each_class_has_one_entry_that_is_renewed_only_when_it_is_time() -> None:
    spec = placement.initial(routing(), [candidate("a"), candidate("b")], epoch=1)

    def shed(spec: placement.PlacementSpec, at: float, **wanted: int) -> placement.PlacementSpec:
        return shedding.shed(spec, wanted, holder=RUN, until=later(at + 900), renew_before=later(at + 450))

    first = shed(spec, 0, bulk=50, default=10)
    assert shedding.percents(first, RUN) == {"bulk": 50, "default": 10}
    assert shed(first, 300, bulk=50, default=10) is first, "nothing is written while there is time"
    renewed = shed(first, 500, bulk=50, default=10)
    assert {item.expires_at for item in renewed.shedding} == {later(1400)}
    less = shed(first, 10, bulk=20)
    assert [(item.class_, item.percent) for item in less.shedding] == [("bulk", 20)]
    theirs = shedding.shed(first, {"bulk": 5}, holder=OTHER_RUN, until=later(60), renew_before=NOW)
    assert sorted((item.class_, item.percent) for item in theirs.shedding) == [("bulk", 5), ("default", 10)]
    assert shedding.without_expired(theirs, later(61)).shedding == [
        item for item in theirs.shedding if item.holder == RUN
    ]
    assert shedding.without_expired(theirs, later(1)) is theirs
    assert first.serving == spec.serving, "who is served where is not touched"


def test_open_circuits_are_those_that_were_asked_for() -> None:
    spec = placement.initial(routing(), [candidate("a"), candidate("b")], epoch=1)

    def opened(spec: placement.PlacementSpec, *cells: str, at: float = 0) -> placement.PlacementSpec:
        return shedding.open_circuits(spec, cells, 90, holder=RUN, until=later(at + 900), renew_before=later(at + 450))

    both = opened(spec, "a", "b")
    assert [item.cell for item in both.open_circuits] == ["a", "b"]
    assert opened(both, "a", "b", at=100) is both
    assert [item.cell for item in opened(both, "b").open_circuits] == ["b"]
    assert opened(both).open_circuits == []
    assert shedding.without_expired(both, later(900)).open_circuits == []
