"""Plays runs in virtual time on the fakes: advance, let time pass, advance again."""

from collections.abc import AsyncIterator

from recell.api.recovery_run import RunPhase
from recell.engine.engine import Engine
from recell.engine.errors import Conflict, Fenced, Retryable
from recell.engine.ports import Key
from recell.procedures import PROCEDURES
from tests.fakes.world import Crash, World

LIMIT = 4 * 3600.0
"""Virtual seconds after which a run that has not ended is stuck."""


async def play(world: World, key: Key, *, until: RunPhase | str | None = None, limit: float = LIMIT) -> list[str]:
    """Advance a run until it has ended, or has the phase or step `until`. A crash starts a new engine.

    Returns the log of what was seen: phase and step whenever they changed.
    """
    engine = Engine(world.ports(), PROCEDURES)
    log: list[str] = []
    spent = 0.0
    while True:
        again: float | None
        try:
            again = await engine.advance(key)
        except (Conflict, Retryable):
            again = 0.1
        except Crash:
            engine = Engine(world.ports(), PROCEDURES)
            world.epoch += 1
            again = 15.0  # the Lease of a killed leader has to expire
        run = world.runs[key]
        seen = f"{run.phase} {run.status.step or ''}".strip()
        if not log or log[-1] != seen:
            log.append(seen)
        if run.phase.ended or (until is not None and until in (run.phase, run.status.step)):
            return log
        wait = again if again is not None else 1.0
        if spent > limit:
            raise AssertionError(f"stuck for {spent:.0f} s: {run.status.to_dict()}")
        world.tick(wait)
        spent += wait


async def killed_after_each_write(world: World, key: Key) -> AsyncIterator[tuple[World, str]]:
    """Play a run to its end; then, for each write on the way, a world in which the process was killed right after it,
    played to the end by another one. Tells after which write."""
    world.left = []
    await play(world, key)
    for write, left in zip(world.writes[-len(world.left) :], world.left, strict=True):
        take_over(left)
        await play(left, key)
        yield left, f"killed after {write}"


def take_over(world: World) -> None:
    """Another process leads, once the Lease of the killed one has expired."""
    world.epoch += 1
    world.tick(15.0)


async def play_fenced(world: World, *keys: Key, looks: int = 60) -> int:
    """Another process leads, and this one does not know it yet: it goes on with its runs. Returns how often it was
    refused; that nothing changes, and that each refusal ends what it was about, is asserted here."""
    writes, placements = len(world.writes), dict(world.placements)
    world.fenced, world.refusals = True, 0
    world.epoch = max(world.runs[key].status.epoch or 0 for key in keys)  # it is the one that has led until now
    engine = Engine(world.ports(), PROCEDURES)
    for _ in range(looks):
        for key in keys:
            before = world.refusals
            try:
                await engine.advance(key)
            except Fenced:
                assert world.refusals == before + 1, "it stops, and tries nothing more"
            except (Conflict, Retryable):
                assert world.refusals == before
            else:
                assert world.refusals == before, "a refusal was taken for something else"
        world.tick(2.0)
    assert [str(write) for write in world.writes[writes:]] == []
    assert world.placements == placements
    world.fenced = False
    return world.refusals


async def play_until_written(world: World, key: Key, step: str, *, limit: float = LIMIT) -> None:
    """Advance a run until the record says that this step runs, and not a moment longer: the process is killed there.

    A step that passes at once cannot be met otherwise.
    """
    engine, spent = Engine(world.ports(), PROCEDURES), 0.0
    wrote = world.wrote

    def killed(kind: str, what: str) -> None:
        wrote(kind, what)
        if kind == "status" and what.endswith(f" {step}"):
            raise Crash(f"in {step}")

    world.wrote = killed  # type: ignore[method-assign]
    try:
        while spent < limit:
            try:
                wait = await engine.advance(key) or 1.0
            except (Conflict, Retryable):
                wait = 0.1
            world.tick(wait)
            spent += wait
    except Crash:
        world.epoch += 1
        return
    finally:
        world.wrote = wrote  # type: ignore[method-assign]
    raise AssertionError(f"never in {step}: {world.runs[key].status.to_dict()}")
