"""The operator's process is killed in each step of a run."""

from hack.stage import Stage, StageError
from tests.e2e.test_cell_restart import step_of


class Killer:
    """Kills the leading operator once in each step of a run."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage, self._name = stage, name
        self.killed: list[str] = []

    def __call__(self) -> None:
        step = step_of(self._stage, self._name)
        if not step or step in self.killed:
            return
        try:
            self._stage.kill_operator(self._stage.leader())
        except StageError:
            return  # nobody leads yet since the last time
        self.killed.append(step)
