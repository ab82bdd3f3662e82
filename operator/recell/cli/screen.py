"""Where output goes: a terminal, or a pipe.

Promises: decides once which of the two looks is used (plain when standard output is no terminal,
when NO_COLOR is set or TERM is dumb), and writes nothing but what it is given. Questions and notes
go to standard error, so that standard output stays what a script expects.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

import orjson
import yaml
from rich.console import Console, RenderableType

from recell.cli.exits import CommandError, Exit
from recell.cli.look import Look

UNBOUNDED = 10_000
"""Columns of a plain console: a table's row is never folded."""


class Screen:
    def __init__(
        self, out: IO[str], err: IO[str], environ: Mapping[str, str], *, ask: Callable[[], str] | None
    ) -> None:
        """`ask` reads a person's answer; None when nobody is there to answer."""
        plain = not out.isatty() or bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
        self.look = Look(plain)
        self._out, self._err, self._ask = out, err, ask
        self.console = (
            Console(file=out, width=UNBOUNDED, force_terminal=False, color_system=None, highlight=False)
            if plain
            else Console(file=out, highlight=False)
        )

    @classmethod
    def standard(cls) -> "Screen":
        return cls(sys.stdout, sys.stderr, os.environ, ask=_answer if sys.stdin.isatty() else None)

    @property
    def plain(self) -> bool:
        return self.look.plain

    def show(self, renderable: RenderableType) -> None:
        if not self.plain:
            self.console.print(renderable)
            return
        with self.console.capture() as captured:
            self.console.print(renderable)
        self.line("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def line(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """A word to the person, beside the output."""
        self._err.write(f"{text}\n")
        self._err.flush()

    def data(self, value: Any, form: str) -> None:
        """JSON or YAML; `value` is made of plain types."""
        if form == "json":
            self.line(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
        else:
            self.line(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip())

    def confirm(self, question: str, *, yes: bool) -> None:
        """Returns when a person agreed. Raises CommandError: NEGATIVE if not, USAGE if nobody can be asked."""
        if yes:
            return
        if self._ask is None:
            raise CommandError("standard input is no terminal, so nobody can be asked: add --yes", Exit.USAGE)
        self._err.write(f"{question} [y/N] ")
        self._err.flush()
        if self._ask().strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was changed", Exit.NEGATIVE)


def _answer() -> str:
    """A line from the keyboard. Ctrl-C ends it at once: the event loop's own handler would wait for the line first."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, before)
