"""`recell-operator`: the command that a pod runs.

Exit codes: 0 told to stop, 1 lost the leadership or cannot go on (to be started again), 2 cannot start.
"""

from typing import Any

import click

from recell import __version__
from recell.controllers.fleet import Fleet
from recell.runtime import logging as logs
from recell.runtime.clock import SystemClock
from recell.runtime.operator import run
from recell.runtime.settings import options, parse


@click.command()
@click.version_option(__version__)
@options
def main(**given: Any) -> None:
    """Recell's operator. Each option may also be given as an environment variable, RECELL_ and its name."""
    settings = parse(given)
    logs.configure(settings.log_level, settings.log_format)
    run(settings, Fleet, SystemClock())
