"""Plays a cascade and its children in virtual time: every run that has not ended is advanced when its time comes."""

from collections.abc import Callable
from typing import Any

from recell.api.failure import DataIntegrity
from recell.engine.engine import Engine
from recell.engine.errors import Conflict, Retryable
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import NAMESPACE, Crash, World

LIMIT = 3 * 3600.0
"""Virtual seconds after which a run that has not ended is stuck."""
SHEDDING = {
    "classes": [
        {"name": "checkout", "priority": 500, "sheddable": False, "matches": [{"methods": ["POST"]}]},
        {"name": "bulk", "priority": 10, "matches": [{"pathPrefix": "/export"}]},
    ],
    "defaultPriority": 50,
    "defaultSheddable": True,
}
QUICK = {
    "detection": {"withoutIntegrityChecks": DataIntegrity.INTACT, "healthyAfter": "10s"},
    "steps": {"incrementInterval": "5s", "drainIncrements": 2, "stabilityDuration": "1m"},
    "cascade": {"stabilityBetween": "20s", "liftIncrements": 4},
    "validation": {"duration": "30s"},
}


def storm(
    *failed: str, cells: int = 6, rps: float = 240.0, capacity: int | None = 100, policy: dict[str, Any] | None = None
) -> World:
    """A fleet of cells that bear `capacity` requests/s each, of which some have failed; a restart mends them."""
    world = World()
    names = [f"cell-{letter}" for letter in "abcdefghijklmnop"[:cells]]
    world.fleet(*names, router={"shedding": SHEDDING}, policy={**QUICK, **(policy or {})})
    if capacity is not None:
        for name in names:
            change(world, name, capacity={"requestsPerSecond": capacity})
    world.template("shop-cell", cell={**_TEMPLATE, "capacity": {"requestsPerSecond": capacity or 100}})
    world.traffic.classes = {"checkout": 0.3, "default": 0.3, "bulk": 0.4}
    world.traffic.rps = rps
    world.tick(60)
    fail(world, *failed)
    return world


_TEMPLATE = {
    "backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}},
    "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(CELL)-web"}],
    "health": {"probe": {}},
    "data": {"integrity": {"path": "/integrity"}},
}


def change(world: World, name: str, **spec: Any) -> None:
    """A field of a Cell's spec is set, as a user writes it."""
    cell = world.cells[NAMESPACE, name]
    made = type(cell).model_validate(
        {"metadata": cell.metadata, "spec": {**cell.spec.to_dict(), **spec}, "status": cell.status}
    )
    world.cells[NAMESPACE, name] = made


def fail(world: World, *names: str, seconds: float = 15) -> None:
    """They refuse connections, until it is believed."""
    for name in names:
        world.traffic.cells[name].down = True
    world.tick(seconds)


def cascade(world: World, name: str = "storm", **spec: Any) -> Key:
    return world.run(name, "shop", kind="Router", strategy="EmergencyScaling", **spec)


async def play(
    world: World,
    *,
    until: Callable[[World], bool] | None = None,
    limit: float = LIMIT,
    then: Callable[[World], None] | None = None,
) -> list[str]:
    """Advance all runs until none is left, or `until` holds; `then` is called before each look. Returns the log: run,
    phase and step, whenever one of them changed."""
    engine = Engine(world.ports(), PROCEDURES)
    log: list[str] = []
    shown: dict[Key, str] = {}
    due: dict[Key, float] = {}
    begun = world.clock.monotonic()
    while True:
        if then is not None:
            then(world)
        for key, run in sorted(world.runs.items()):
            if run.phase.ended or due.get(key, 0.0) > world.clock.monotonic():
                continue
            try:
                again = await engine.advance(key)
            except (Conflict, Retryable):
                again = 0.1
            due[key] = world.clock.monotonic() + min(again if again is not None else 1.0, 2.0)
            now = world.runs[key]
            seen = f"{key[1]} {now.phase} {now.status.step or ''}".strip()
            if shown.get(key) != seen:
                shown[key] = seen
                log.append(seen)
        if until is not None and until(world):
            return log
        if all(run.phase.ended for run in world.runs.values()):
            return log
        if world.clock.monotonic() - begun > limit:
            raise AssertionError("stuck: " + "\n".join(str(run.status.to_dict()) for run in world.runs.values())[:6000])
        world.tick(1.0)


async def play_until_written(world: World, run: str, step: str) -> None:
    """Until the record of this run says that the step runs, and not a moment longer: the process is killed there. A
    step that passes at once cannot be met otherwise."""
    wrote = world.wrote

    def killed(kind: str, what: str) -> None:
        wrote(kind, what)
        if kind == "status" and what.startswith(f"{run} ") and what.endswith(f" {step}"):
            raise Crash(f"in {step}")

    world.wrote = killed  # type: ignore[method-assign]
    try:
        await play(world)
    except Crash:
        world.epoch += 1
        return
    finally:
        world.wrote = wrote  # type: ignore[method-assign]
    raise AssertionError(f"never in {step}")
