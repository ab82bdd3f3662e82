"""A PostgreSQL server, by way of psql and the other programs of PostgreSQL's.

Promises: every call ends within its time limit. A server that does not answer is a ServerUnreachable, every other
fault a ServerFailed; both name the server and quote what it said. Passwords come from the environment (PGPASSWORD)
and are never part of a command line.

Must not: hold a session between calls.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import IO, Any

from shop_data.failure import OperationFailed

STATEMENT_SECONDS = 60
LOCK_SECONDS = 10
_CONNECT_SECONDS = 5
_NO_CONNECTION = 2  # psql's exit code
_QUOTED = 600


class ServerFailed(OperationFailed):
    """The server answered, and not as it should. `output` is what the program printed before it ended with `code`."""

    def __init__(self, message: str, code: int, output: str) -> None:
        super().__init__(message)
        self.code = code
        self.output = output


class ServerUnreachable(OperationFailed):
    """The server did not answer, or stopped to."""


class Server:
    """The database `shop` of the server at `host` (a host name, or the folder of a socket); `name` is for people."""

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.host = host

    def ask(self, statements: str, seconds: float = STATEMENT_SECONDS, **values: object) -> Any:
        """Run statements; returns the last line that they print, read as JSON (None if it is empty).
        `:name` stands for a value."""
        return _last_line(self._psql(["-f", "-"], values, seconds, text=statements))

    def ask_by_file(self, script: IO[bytes], seconds: float, **values: object) -> Any:
        """The same with a script in a file, which may hold data for COPY."""
        return _last_line(self._psql(["-f", "-"], values, seconds, stdin=script))

    def copy_out(self, query: str, file: IO[bytes], seconds: float) -> None:
        """Append the rows of a query to a file, as COPY writes them."""
        self._psql(["-c", f"COPY ({query}) TO STDOUT"], {}, seconds, stdout=file)

    def run(self, program: str, *arguments: str, seconds: float) -> str:
        """Run another program of PostgreSQL's with this server; returns what it printed."""
        return self._run([program, "-h", self.host, *arguments], seconds)

    def _psql(
        self,
        arguments: Sequence[str],
        values: dict[str, object],
        seconds: float,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        text: str | None = None,
    ) -> str:
        variables = [word for name, value in values.items() for word in ("-v", f"{name}={value}")]
        command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.host, "-d", "shop", *variables, *arguments]
        return self._run(command, seconds, stdin, stdout, text)

    def _run(
        self,
        command: Sequence[str],
        seconds: float,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        text: str | None = None,
    ) -> str:
        limits = f"-c statement_timeout={int(seconds * 1000)} -c lock_timeout={LOCK_SECONDS * 1000}"
        environment = {
            **os.environ,
            "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS),
            "PGOPTIONS": limits,
            "PGTZ": "UTC",
            "PGAPPNAME": "shop-data",
        }
        given = {"input": text.encode()} if text is not None else {"stdin": stdin}
        try:
            ended = subprocess.run(
                command, stdout=stdout, stderr=subprocess.PIPE, env=environment, check=False,
                timeout=seconds + _CONNECT_SECONDS, **given,  # type: ignore[call-overload]
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise ServerUnreachable(f"{self.name}: {command[0]} did not end within {seconds:g} s") from late
        output = (ended.stdout or b"").decode(errors="replace")
        if ended.returncode == 0:
            return output
        said = " ".join(ended.stderr.decode(errors="replace").split())[-_QUOTED:]
        message = f"{self.name}: {command[0]}: {said or f'exit code {ended.returncode}'}"
        if command[0] == "psql" and ended.returncode == _NO_CONNECTION:
            raise ServerUnreachable(message)
        raise ServerFailed(message, ended.returncode, output)


def _last_line(output: str) -> Any:
    lines = output.splitlines()
    return json.loads(lines[-1]) if lines and lines[-1] else None
