"""What the shop's tests run against: a real PostgreSQL and real web processes, all on this machine's loopback.

Promises: everything that is started here is ended by `close`; every wait has a deadline and quotes the log that
tells why it did not come true.
"""

from __future__ import annotations

import http.client
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOP = Path(__file__).resolve().parents[3] / "examples" / "shop"
BINARIES = Path("/usr/lib/postgresql/15/bin")
DEADLINE_SECONDS = 90.0


def wait_until(
    condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS, every: float = 0.05
) -> None:
    """Return once `condition` holds; fail with `what` after `seconds`. Give one that starts a process a rest."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)


class Postgres:
    """A temporary PostgreSQL that listens on a socket in its own folder; it never runs as root."""

    def __init__(self) -> None:
        assert BINARIES.is_dir(), f"{BINARIES} is missing: install Debian's package postgresql-15"
        self.folder = Path(tempfile.mkdtemp(prefix="shop-pg-", dir="/tmp"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._databases = 0
        self._data = self.folder / "data"
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8")
        self.start()

    def start(self) -> None:
        """Start the server and wait for it."""
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off -c full_page_writes=off"
        )
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-t", "90", "-o", options, "start")

    def stop(self) -> None:
        """Stop the server as a crash would: without a goodbye to its clients."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "-t", "90", "stop")

    def create_database(self) -> dict[str, str]:
        """A new, empty database; returns the environment that leads there."""
        self._databases += 1
        name = f"shop{self._databases}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return {"PGHOST": str(self.folder), "PGUSER": "postgres", "PGDATABASE": name}

    def sql(self, database: str, statement: str) -> str:
        """Run a statement by psql; returns what it printed, unaligned."""
        return self._run(
            "psql",
            "-X",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            str(self.folder),
            "-U",
            "postgres",
            "-d",
            database,
            "-c",
            statement,
        ).strip()

    def close(self) -> None:
        """Stop the server and remove its folder."""
        subprocess.run(
            [BINARIES / "pg_ctl", "-D", self._data, "-m", "immediate", "-w", "-t", "90", "stop"],
            capture_output=True,
            check=False,
            timeout=120,
            cwd="/",
            **self._user,
        )
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> str:
        # The server keeps pg_ctl's output open, so a pipe would never end: a file takes it.
        with tempfile.TemporaryFile("w+") as output:
            ended = subprocess.run(
                [str(BINARIES / program), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=120,
                cwd="/",
                **self._user,
            )
            output.seek(0)
            text = output.read()
        assert ended.returncode == 0, f"{program} ended with {ended.returncode}: {text}"
        return text


@dataclass(frozen=True)
class Answer:
    """An answer of a web process."""

    status: int
    headers: dict[str, str]
    body: Any


def ask(
    port: int,
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60.0,
) -> Answer:
    """One request on a connection of its own."""
    return Asked(port, method, path, body, headers, timeout).answer()


class Asked:
    """A request that was sent, on a connection of its own; its answer is read when it is wanted."""

    def __init__(
        self, port: int, method: str, path: str, body: object, headers: dict[str, str] | None, timeout: float
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        payload = None if body is None else json.dumps(body)
        self._connection.request(method, path, payload, headers or {})

    def answer(self) -> Answer:
        """Wait for the answer; raises OSError (also when the connection ends without one)."""
        try:
            response = self._connection.getresponse()
            text = response.read()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, json.loads(text) if text else None)
        finally:
            self._connection.close()


class Web:
    """One web process of a cell. Started again by `restart`, with the same name and database, on new ports."""

    def __init__(self, cell: str, environment: dict[str, str], folder: Path) -> None:
        self.cell = cell
        self.database = environment["PGDATABASE"]
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SHOP / "web"),
            "SHOP_CELL": cell,
            "SHOP_HOST": "127.0.0.1",
            "SHOP_PORT": "0",
            "SHOP_ADMIN_PORT": "0",
            "SHOP_DRAIN_SECONDS": "0",
            "SHOP_STOP_SECONDS": "5",
            **environment,
        }
        self._folder = folder
        self._starts = 0
        self.start()

    def start(self) -> None:
        """Start the process and learn its ports."""
        self._starts += 1
        self._log = self._folder / f"{self.cell}-{id(self)}-{self._starts}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shop"], env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.port = self._port("public")
        self.admin_port = self._port("admin")

    def restart(self) -> None:
        """End the process if it still runs, and start it again."""
        self.end()
        self.start()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        customer: str | None = None,
        key: str | None = None,
        timeout: float = 60.0,
    ) -> Answer:
        """Ask the public port, as a customer and with an idempotency key if they are given."""
        headers = {"x-customer-id": customer, "Idempotency-Key": key}
        named = {name: value for name, value in headers.items() if value is not None}
        return ask(self.port, method, path, body, named, timeout)

    def begin_order(self, customer: str) -> Asked:
        """Send an order and do not wait for its answer."""
        return Asked(self.port, "POST", "/orders", {"item": "tea", "cents": 450}, {"x-customer-id": customer}, 60)

    def order(self, customer: str, item: str = "tea", cents: int = 450, key: str | None = None) -> Answer:
        """Place an order."""
        return self.ask("POST", "/orders", {"item": item, "cents": cents}, customer, key)

    def chaos(self, method: str = "GET", body: object = None, fault: str = "") -> Answer:
        """Ask the admin port."""
        return ask(self.admin_port, method, f"/chaos/{fault}" if fault else "/chaos", body)

    def wait_ready(self) -> Web:
        """Wait until the database answers."""
        wait_until(lambda: self.ask("GET", "/readyz").status == 200, f"{self.cell} is ready; its log: {self.log()}")
        return self

    def wait_ended(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for the process to end by itself; returns its exit code."""
        return self.process.wait(seconds)

    def log(self) -> str:
        """What the process has said since it started."""
        return self._log.read_text()

    def end(self) -> int:
        """End the process in an orderly way, and by force if that takes too long; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait(DEADLINE_SECONDS)

    def _port(self, name: str) -> int:
        found: list[re.Match[str]] = []

        def said() -> bool:
            ended = self.process.poll() is not None  # looked at first: it may say its port, and then crash as ordered
            found.extend(re.finditer(rf"{name} port is (\d+)", self.log()))
            assert found or not ended, f"the process ended at once: {self.log()}"
            return bool(found)

        wait_until(said, f"the process says its {name} port")
        return int(found[0][1])


def run_load(*arguments: str, timeout: float = 180.0) -> subprocess.CompletedProcess[str]:
    """Run the command shop-load as a user would, to its end."""
    with begin_load(*arguments) as running:
        try:
            output, errors = running.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            running.kill()
            raise
    return subprocess.CompletedProcess(running.args, running.returncode, output, errors)


def begin_load(*arguments: str) -> subprocess.Popen[str]:
    """Start the command shop-load. Its customers are patient unless one says otherwise: the machine may be busy."""
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
    patience = () if "--timeout" in arguments else ("--timeout", "60")
    command: Sequence[str | Path] = [SHOP / "bin" / "shop-load", *arguments, *patience]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
