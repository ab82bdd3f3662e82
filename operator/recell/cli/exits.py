"""Exit codes of the command line, and the error that carries one.

Promises: a script can tell the answers apart by the code alone; the codes are documented in
docs/cli.md and never change their meaning. A message is one line that names the object and says
what to do next.
"""

from enum import IntEnum

from recell.api.recovery_run import RunPhase


class Exit(IntEnum):
    DONE = 0
    """Done; or the run has succeeded."""
    NEGATIVE = 1
    """The answer is no, or the run has failed."""
    USAGE = 2
    """The command line itself is wrong."""
    CLUSTER = 3
    """Not found, forbidden, or the API server does not answer."""
    WAITING = 4
    """It waits for a person's approval, or the time given was not enough."""
    MANUAL = 5
    """The run ended and asks for manual intervention."""
    NOT_EXECUTED = 6
    """The run ended before its work was done: Skipped, Superseded or Aborted."""
    PARTIAL = 7
    """The run has succeeded in part: some customers are left, and the run says which."""
    INTERRUPTED = 130
    """Ctrl-C. What runs in the cluster goes on."""


_OF_PHASE = {
    RunPhase.SUCCEEDED: Exit.DONE,
    RunPhase.PARTIALLY_SUCCEEDED: Exit.PARTIAL,
    RunPhase.FAILED: Exit.NEGATIVE,
    RunPhase.ESCALATED: Exit.NEGATIVE,
    RunPhase.MANUAL_INTERVENTION_REQUIRED: Exit.MANUAL,
    RunPhase.SKIPPED: Exit.NOT_EXECUTED,
    RunPhase.SUPERSEDED: Exit.NOT_EXECUTED,
    RunPhase.ABORTED: Exit.NOT_EXECUTED,
}


def exit_of(phase: RunPhase) -> Exit:
    """The code for a run in this phase; a run that has not ended is WAITING."""
    return _OF_PHASE.get(phase, Exit.WAITING)


class CommandError(Exception):
    """Ends the command with one line for the person and a code for the script."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code
