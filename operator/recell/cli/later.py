"""A command that is imported when it is called.

Promises: until then its name and its line in the group's help are known, so that the help, a mistyped
command and completion in a shell cost nothing; from then on everything is done by the command itself.
"""

import gc
from functools import cached_property
from importlib import import_module
from typing import Any

import click


class Later(click.Command):
    def __init__(self, name: str, place: str, line: str) -> None:
        """`place` is MODULE:ATTRIBUTE within recell.cli.commands, `line` the first one of the command's own help."""
        super().__init__(name, help=line)
        self._place = place

    @cached_property
    def command(self) -> click.Command:
        module, _, attribute = self._place.partition(":")
        # What is imported stays: to look for garbage in it, now and at the end, takes a good part of a command's time.
        gc.disable()
        try:
            found: click.Command = getattr(import_module(f"recell.cli.commands.{module}"), attribute)
        finally:
            gc.freeze()
            gc.enable()
        return found

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return self.command.make_context(info_name, args, parent, **extra)
