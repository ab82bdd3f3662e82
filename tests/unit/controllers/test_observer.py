"""The observer between looks: which cells the router's figures are worth another look at."""

from datetime import UTC, datetime, timedelta
from typing import Any

from recell.api import Cell, Placement, RecoveryPolicy
from recell.api.cell import Data
from recell.api.placement import PlacementSpec
from recell.controllers.observer import CellObserver
from recell.domain import placement
from recell.domain.capacity import Load
from recell.domain.health import Level
from recell.domain.observation import CellTraffic, RouterTraffic
from tests.unit.domain.builders import candidate, held, routing

ROUTER = ("fleet", "shop")
START = datetime(2026, 11, 25, 3, tzinfo=UTC)


class Scene:
    """Two cells of one Router; the figures are what the test says."""

    def __init__(self) -> None:
        self.at = START
        self.placed: PlacementSpec | None = None
        self.figures: dict[str, CellTraffic] | None = {"a": served(100), "b": served(100)}
        self.policy = RecoveryPolicy.model_validate({"metadata": {}, "spec": {"detection": {"failedAfter": "1s"}}})
        self.cells = {name: cell(name) for name in "ab"}
        anything: Any = self
        self.observer = CellObserver(anything, anything, anything, anything, anything, anything, anything)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def policy_for(self, cell: Cell) -> RecoveryPolicy:
        return self.policy

    def cells_of(self, router: Any) -> dict[str, Cell]:
        return self.cells

    def broken(self, router: Any) -> tuple[str, ...]:
        return ()

    def states(self, cell: Cell) -> tuple[Any, ...]:
        return ()

    def endpoints(self, cell: Cell) -> None:
        return None

    def reach(self, cell: Cell) -> None:
        return None

    def probe(self, cell: Any) -> None:
        return None

    def integrity(self, cell: Any) -> None:
        return None

    def last_intact(self, cell: Any) -> datetime | None:
        return START

    def current(self, router: Any) -> Placement | None:
        if self.placed is None:
            return None
        return Placement.model_validate({"metadata": {"name": "shop", "namespace": "fleet"}, "spec": self.placed})

    def observed(self, router: Any, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        if self.figures is None:
            return None
        return RouterTraffic(self.at - timedelta(seconds=window), self.at, 2, self.figures)

    def look(self) -> None:
        for one in self.cells.values():
            self.observer.look(one)


def cell(name: str) -> Cell:
    spec = {"routerRef": {"name": "shop"}, "backend": {"type": "Address", "address": {"host": "10.0.0.1", "port": 80}}}
    return Cell.model_validate({"metadata": {"name": name, "namespace": "fleet", "uid": name}, "spec": spec})


def served(requests: int, failures: int = 0) -> CellTraffic:
    rate = failures / requests
    return CellTraffic(requests, requests / 10, failures, 0, 0.05, pod_error_rates=(rate, rate), check_up=True)


def test_other_numbers_with_the_same_verdicts_are_no_news() -> None:
    scene = Scene()
    scene.look()
    scene.figures = {"a": served(500), "b": served(90, failures=1)}
    assert scene.observer.changed(ROUTER) == []


def test_a_cell_that_errs_is_looked_at_and_no_other() -> None:
    scene = Scene()
    scene.look()
    scene.figures = {"a": served(100), "b": served(100, failures=50)}
    assert scene.observer.changed(ROUTER) == [("fleet", "b")]
    scene.look()
    assert scene.observer.changed(ROUTER) == []


def test_figures_that_stop_coming_are_news_about_every_cell() -> None:
    scene = Scene()
    scene.look()
    scene.figures = None
    assert scene.observer.changed(ROUTER) == [("fleet", "a"), ("fleet", "b")]


def test_a_cell_that_is_not_well_is_known_until_it_is_well_or_gone() -> None:
    scene = Scene()
    scene.figures = {"a": served(100), "b": served(100, failures=50)}
    scene.look()
    scene.at += timedelta(seconds=2)
    scene.look()
    assert scene.observer.failing(ROUTER) == [("fleet", "b")]
    scene.observer.forget(("fleet", "b"))
    assert scene.observer.failing(ROUTER) == []
    scene.observer.forget(("fleet", "a"))
    assert scene.observer.routers == []


def test_a_process_that_begins_takes_no_cell_for_healthy_that_was_failing_a_moment_ago() -> None:
    scene = Scene()
    failure = {
        "type": "SingleCell", "impact": "High", "dataIntegrity": "Intact", "since": START.isoformat(), "evidence": [],
    }  # fmt: skip
    scene.cells["a"] = Cell.model_validate({**cell("a").model_dump(), "status": {"failure": failure}})
    scene.look()
    levels = {name: scene.observer.look(one)[0].level for name, one in scene.cells.items()}
    assert levels == {"a": Level.UNKNOWN, "b": Level.HEALTHY}
    scene.at += timedelta(seconds=29)
    assert scene.observer.look(scene.cells["a"])[0].level is Level.UNKNOWN
    scene.at += timedelta(seconds=1)
    assert scene.observer.look(scene.cells["a"])[0].level is Level.HEALTHY


def checked_by_another(status: str, since: datetime) -> Cell:
    told = {"type": "DataIntact", "status": status, "reason": "Fsck", "lastTransitionTime": since.isoformat()}
    return Cell.model_validate({**cell("a").model_dump(), "status": {"conditions": [told]}})


def test_data_that_another_controller_checks_was_intact_when_it_last_became_so() -> None:
    scene = Scene()
    later = START + timedelta(hours=1)
    assert scene.observer.last_intact(cell("a")) is None
    scene.observer.look(checked_by_another("True", START))
    assert scene.observer.last_intact(checked_by_another("True", START)) == START
    corrupted = checked_by_another("False", later)
    scene.observer.look(corrupted)
    assert scene.observer.last_intact(corrupted) == START, "not when it was found to be corrupted"
    scene.observer.forget(corrupted.key)
    assert scene.observer.last_intact(corrupted) is None, "a cell of that name made anew has other data"


def test_data_that_the_operator_checks_was_intact_when_a_check_last_passed() -> None:
    scene = Scene()
    told = checked_by_another("True", START + timedelta(hours=1))
    spec = told.spec.model_copy(update={"data": Data.model_validate({"integrity": {"path": "/integrity"}})})
    assert scene.observer.last_intact(told.model_copy(update={"spec": spec})) == START


def placed(*names: str) -> PlacementSpec:
    return placement.initial(routing(), [candidate(name) for name in names], epoch=1)


def looked_at_for(scene: Scene, minutes: int) -> None:
    """As the Cell controller does while nothing happens."""
    for _ in range(minutes):
        scene.look()
        scene.at += timedelta(minutes=1)
    scene.look()


def test_what_a_cell_got_while_it_was_well_is_known_after_it_failed() -> None:
    scene = Scene()
    scene.placed = placed("a", "b")
    looked_at_for(scene, 5)
    slots = placement.served_slots(scene.placed)
    assert scene.observer.loads(ROUTER) == {"a": Load(10, slots[0]), "b": Load(10, slots[1])}
    scene.figures = {"a": served(100), "b": served(20, failures=20)}
    scene.look()
    scene.figures = {"a": served(180), "b": served(20, failures=20)}
    looked_at_for(scene, 2)
    assert scene.observer.loads(ROUTER) == {"a": Load(18, slots[0]), "b": Load(10, slots[1])}
    scene.observer.forget(("fleet", "b"))
    assert scene.observer.loads(ROUTER).keys() == {"a"}


def test_figures_from_while_a_cell_served_other_slots_are_not_taken_for_what_it_gets() -> None:
    scene = Scene()
    scene.placed = placed("a", "b")
    looked_at_for(scene, 5)
    whole = scene.observer.loads(ROUTER)["b"]
    scene.placed = placement.hold(scene.placed, routing(), held("b", 10))
    looked_at_for(scene, 4)
    assert scene.observer.loads(ROUTER)["b"] == whole
    scene.at += timedelta(minutes=1)
    scene.look()
    assert scene.observer.loads(ROUTER)["b"].slots < whole.slots


def test_a_process_that_begins_knows_no_load_of_a_cell_that_had_failed() -> None:
    scene = Scene()
    scene.placed = placed("a", "b")
    scene.figures = {"a": served(100), "b": served(20, failures=20)}
    looked_at_for(scene, 10)
    assert scene.observer.loads(ROUTER).keys() == {"a"}
