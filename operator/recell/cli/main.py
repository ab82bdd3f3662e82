"""The command `recell`, also as `kubectl recell`.

Must not import a command, nor what commands need: each is imported when it is called.
"""

import os
import sys

import click

from recell import __version__
from recell.cli.later import Later
from recell.cli.target import options

COMMANDS = (
    Later("status", "status:status", "Show cells, shares, health and active runs."),
    Later("where", "customers:where", "Say which cell serves a customer, and why."),
    Later("customers", "customers:customers", "Show whose home a cell is, and how far they are moved."),
    Later("plan", "recover:plan_", "Show what recovering a cell or a router would do; change nothing."),
    Later("recover", "recover:recover", "Recover a cell or a router and follow the run to its end."),
    Later("watch", "recover:watch", "Follow a run; the exit code says how it ended."),
    Later("runs", "status:runs", "List recovery runs, the newest first."),
    Later("approve", "control:approve", "Open the gate at which a run waits."),
    Later("pause", "control:pause", "Let a run begin nothing new; undo nothing."),
    Later("resume", "control:resume", "Let a paused run go on."),
    Later("abort", "control:abort", "End a run for good."),
    Later("freeze", "freeze:freeze", "Stop all recoveries of the namespace."),
    Later("unfreeze", "freeze:unfreeze", "Lift these freezes, or all of the namespace."),
    Later("isolate", "traffic:isolate", "Send a cell no traffic until a person returns it."),
    Later("return", "traffic:return_", "Give a cell its traffic back."),
    Later("placement", "traffic:placement_group", "The record of who gets traffic."),
    Later("acknowledge", "control:acknowledge", "Let automatic recovery of a cell or a router go on."),
    Later("uninstall-check", "uninstall:uninstall_check", "Say whether Recell can be uninstalled."),
)


class InOrder(click.Group):
    """Commands in the order in which they are needed, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=InOrder, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
@click.version_option(__version__, message="recell %(version)s")
@options
def cli(**_: str | None) -> None:
    """Bring failed cells back.

    \b
    Exit codes: 0 done; 1 the answer is no, or the run failed; 2 wrong usage;
    3 not found, forbidden, no answer; 4 waits for approval, or timed out;
    5 manual intervention; 6 ended before its work was done; 7 partly succeeded.
    """


def main() -> None:
    as_plugin = os.path.basename(sys.argv[0]).startswith("kubectl-")
    cli(prog_name="kubectl recell" if as_plugin else "recell")
