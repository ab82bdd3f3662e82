"""What a step says when it returns. Waiting is a value, never an exception."""

from dataclasses import dataclass
from typing import Any

from recell.api.failure import Strategy
from recell.api.recovery_run import StatedFailure


@dataclass(frozen=True)
class Done:
    """The step has reached what it is for. `message` is kept in the record, with the numbers."""

    message: str
    data: dict[str, Any] | None = None
    """What the step remembers beside what it did before; None adds nothing."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do for `after` seconds, or until a watch wakes the run."""

    after: float
    message: str
    reason: str = ""
    """CamelCase; the record is written when it changes, so the ordinary course of a step has none."""
    data: dict[str, Any] | None = None
    observed: bool = True
    """False: nothing could be seen; the time until the next look counts towards no deadline (rule 30)."""
    stalled: bool = False
    """Nothing goes on before a person changed something: the run shows Stalled, with the reason."""


@dataclass(frozen=True)
class Ask:
    """A person has to open a gate before the step goes on."""

    gate: str
    message: str
    about: str = ""
    """What is decided on, where that may change while the person thinks: another one is asked about anew (rule 21)."""

    @property
    def opened(self) -> str:
        """What stands among the approved gates once this was approved."""
        return f"{self.gate}: {self.about}" if self.about else self.gate


@dataclass(frozen=True)
class Fail:
    """The step cannot reach what it is for."""

    reason: str
    message: str
    escalate_to: Strategy | None = None
    """The strategy that goes on from here; None ends in manual intervention."""
    states: StatedFailure | None = None
    """What the run that goes on has to know of the failure, whatever can still be seen of it by then."""


@dataclass(frozen=True)
class Recovered:
    """The target is well again by itself: what is left of the procedure is not needed, its way back is."""

    message: str


@dataclass(frozen=True)
class Repeat:
    """Go back to an earlier step and go on from there, as a new iteration with new names (rule 24)."""

    step: str
    message: str
    data: dict[str, Any]
    """What that step has to know; recorded before anything is done."""


Outcome = Done | Wait | Ask | Fail | Recovered | Repeat
