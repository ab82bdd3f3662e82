"""The RecoveryRun controller: who gets a run to the engine, and who does not."""

from typing import Any

import pytest

from recell.api import RecoveryRun
from recell.api.meta import FINALIZER
from recell.controllers.recovery_run import RecoveryRunController
from recell.engine.ports import Key
from tests.unit.controllers.server import Server

KEY = ("fleet", "r")


class Scene:
    """A run at work; the engine says when it is asked, and never comes to an end."""

    def __init__(self, *finalizers: str) -> None:
        self.server = Server()
        self.asked: list[Key] = []
        target = {"targetRef": {"kind": "Cell", "name": "b"}}
        self.server.add(RecoveryRun, "r", target, finalizers=list(finalizers))
        started = self.server.clock.now().isoformat()
        self.server.change(RecoveryRun, "r", {"status": {"phase": "Draining", "startedAt": started}})
        anything: Any = self
        server: Any = self.server
        self.controller = RecoveryRunController(server.clock, server, server, anything)

    async def advance(self, key: Key) -> float | None:
        if self.server.run(key) is None:
            return None
        self.asked.append(key)
        return 1.0


@pytest.mark.parametrize("others", [(), ("example.com/keep",)])
async def test_in_a_namespace_that_ends_a_run_holds_nothing_up(others: tuple[str, ...]) -> None:
    scene = Scene(FINALIZER, *others)
    scene.server.terminating.add("fleet")
    scene.server.delete_softly(RecoveryRun, "r")
    for _ in range(2):
        assert await scene.controller.reconcile(KEY) is None
    run = scene.server.run(KEY)
    assert (run.metadata.finalizers if run else []) == list(others)
    assert scene.asked == [], "an abort there might never end"
    assert scene.server.writes == ["patch recoveryruns/r"]


async def test_a_run_that_is_deleted_anywhere_else_is_aborted_first() -> None:
    scene = Scene(FINALIZER)
    scene.server.delete_softly(RecoveryRun, "r")
    assert await scene.controller.reconcile(KEY) == 1.0
    assert scene.asked == [KEY]
    assert scene.server.run(KEY) is not None


async def test_a_run_that_is_not_deleted_costs_no_further_question() -> None:
    scene = Scene(FINALIZER)
    scene.server.terminating.add("fleet")
    assert await scene.controller.reconcile(KEY) == 1.0
    assert scene.asked == [KEY]
