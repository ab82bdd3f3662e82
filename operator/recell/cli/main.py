"""The command `recell`, also as `kubectl recell`."""

import os
import sys

import click

from recell.cli.commands.control import abort, acknowledge, approve, pause, resume
from recell.cli.commands.customers import customers, where
from recell.cli.commands.freeze import freeze, unfreeze
from recell.cli.commands.recover import plan_, recover, watch
from recell.cli.commands.status import runs, status
from recell.cli.commands.traffic import isolate, placement_group, return_
from recell.cli.commands.uninstall import uninstall_check
from recell.cli.session import with_target

COMMANDS = (
    status,
    where,
    customers,
    plan_,
    recover,
    watch,
    runs,
    approve,
    pause,
    resume,
    abort,
    freeze,
    unfreeze,
    isolate,
    return_,
    placement_group,
    acknowledge,
    uninstall_check,
)


class InOrder(click.Group):
    """Commands in the order in which they are needed, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@with_target
def cli() -> None:
    """Bring failed cells back.

    \b
    Exit codes: 0 done; 1 the answer is no, or the run failed; 2 wrong usage;
    3 not found, forbidden, no answer; 4 waits for approval, or timed out;
    5 manual intervention; 6 ended before its work was done; 7 partly succeeded.
    """


for each in COMMANDS:
    cli.add_command(each)


def main() -> None:
    as_plugin = os.path.basename(sys.argv[0]).startswith("kubectl-")
    cli(prog_name="kubectl recell" if as_plugin else "recell")
