"""Cells as in the cluster, on this machine: for each a PostgreSQL that the image's own entrypoint starts, beside an
archive (nginx), and the data program to be run against them.

Promises: everything that is started here is ended by `close`, and none of it runs as root.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fakes.ports import free_port
from tests.unit.shop.processes import BINARIES, SHOP, Web, wait_until

POSTGRES = SHOP / "postgres"
NGINX = "/usr/sbin/nginx"
PYTHON = "/usr/bin/python3"  # the images' kind
SLOT_COUNT = 1024
ALL_SLOTS = f"0-{SLOT_COUNT - 1}"


def as_nobody() -> dict[str, Any]:
    """How a process is started that must not be root's."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@dataclass(frozen=True)
class Done:
    """The data program, after its end."""

    code: int
    result: dict[str, Any]
    output: str


class Cells:
    """A place for cells: their databases, the archive, and a folder for temporary files."""

    def __init__(self, *names: str) -> None:
        for program, package in ((NGINX, "nginx"), (PYTHON, "python3")):
            assert Path(program).exists(), f"{program} is missing: install Debian's package {package}"
        self.folder = Path(tempfile.mkdtemp(prefix="shop-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._own(self.folder)
        self.scratch = self._make("scratch")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self.archive_url = self._start_archive()
        # A copy, because the user that is not root may not be able to read where the checkout is.
        self.image = self.folder / "image"
        shutil.copytree(POSTGRES, self.image, ignore=shutil.ignore_patterns("__pycache__"))
        (self.image / "conf.d").mkdir()
        for name in names:
            self._make(name)
            self.start(name)

    # --- databases -------------------------------------------------------------------------------

    def start(self, cell: str) -> None:
        """Start the cell's database, and wait for it."""
        options = (
            "listen_addresses=",
            f"unix_socket_directories={self.folder / cell}",
            "fsync=off",
            "archive_timeout=1s",
            "autovacuum=off",  # its commits would be the last ones that can be restored
        )
        arguments = [word for option in options for word in ("-c", option)]
        with (self.folder / f"{cell}.log").open("ab") as log:
            self._processes[cell] = subprocess.Popen(
                [self.image / "entrypoint", *arguments], env=self.environment(cell), cwd="/", stdout=log, stderr=log,
                start_new_session=True, **as_nobody(),
            )  # fmt: skip
        wait_until(lambda: self._answers(cell), f"{cell}'s database answers: {self.log(cell)}", every=0.2)

    def stop(self, cell: str) -> None:
        """End the cell's database as a crash would."""
        self._processes[cell].send_signal(signal.SIGQUIT)
        self._processes[cell].wait(90)

    def lose_volume(self, cell: str) -> None:
        """End the cell's database, and its data with it."""
        self.stop(cell)
        shutil.rmtree(self.folder / cell / "data")

    def log(self, cell: str) -> str:
        return (self.folder / f"{cell}.log").read_text(errors="replace")[-4000:]

    def sql(self, cell: str, statement: str) -> str:
        """Run a statement as the superuser; returns what psql printed, unaligned."""
        ended = subprocess.run(
            [BINARIES / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "shop", "-c", statement],
            env=self.environment(cell), cwd="/", capture_output=True, text=True, check=False, timeout=60, **as_nobody(),
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def now(self, cell: str) -> datetime:
        """The database's time."""
        return datetime.fromisoformat(self.sql(cell, "SELECT clock_timestamp()")).astimezone(UTC)

    def web_environment(self, cell: str) -> dict[str, str]:
        """What leads the cell's web app to its database."""
        return {"PGHOST": str(self.folder / cell), "PGUSER": "shop", "PGDATABASE": "shop"}

    def reset(self, web: Web) -> None:
        """Empty the cell (start its database if it is down), forget its backups; the web app makes the schema anew."""
        if self._processes[web.cell].poll() is not None:
            self.start(web.cell)
        self.sql(web.cell, "DROP SCHEMA IF EXISTS shop CASCADE")
        shutil.rmtree(self.archived(web.cell), ignore_errors=True)
        if web.process.poll() is not None:
            web.start()
        web.wait_ready()

    # --- archive ---------------------------------------------------------------------------------

    def archived(self, cell: str) -> Path:
        """The cell's folder in the archive."""
        return self.folder / "archive" / "files" / cell

    def wait_archived(self, cell: str) -> None:
        """Wait until all that was committed in the cell so far is in the archive."""
        self.sql(cell, "SELECT pg_logical_emit_message(false, 'tests', '')")  # an empty segment is not switched from
        last = self.sql(cell, "SELECT pg_walfile_name(pg_switch_wal())")
        wait_until(
            lambda: self.sql(cell, f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver") == "t",
            f"{cell} archives {last}: {self.log(cell)}",
            every=0.2,
        )

    def _start_archive(self) -> str:
        folder = self._make("archive")
        port = free_port()
        config = self.folder / "nginx.conf"
        text = (SHOP / "archive" / "nginx.conf").read_text()
        assert "listen 8080;" in text
        config.write_text(text.replace("listen 8080;", f"listen 127.0.0.1:{port};"))
        with (self.folder / "archive.log").open("wb") as log:
            self._processes["archive"] = subprocess.Popen(
                [NGINX, "-e", "stderr", "-p", folder, "-c", config], stdout=log, stderr=log, cwd="/", **as_nobody()
            )

        def answers() -> bool:
            with socket.socket() as trying:
                return trying.connect_ex(("127.0.0.1", port)) == 0

        wait_until(answers, "the archive listens")
        return f"http://127.0.0.1:{port}"

    # --- the data program ------------------------------------------------------------------------

    def data(self, operation: str, cell: str = "cell-a", target: str = "", timeout: float = 240, **more: str) -> Done:
        """Run the data program to its end. Further variables are named without RECELL_."""
        result = self.scratch / f"result-{time.monotonic_ns()}"
        process = self.begin_data(operation, cell, target, result, **more)
        output, _ = process.communicate(timeout=timeout)
        text = result.read_text() if result.exists() else "{}"
        return Done(process.returncode, json.loads(text), output.decode())

    def begin_data(
        self, operation: str, cell: str, target: str, result: Path | None = None, **more: str
    ) -> subprocess.Popen[bytes]:
        """Start the data program; its output is on a pipe."""
        variables = {"OPERATION": operation, "CELL": cell, "TARGET": target, "KEY": f"key-{time.monotonic_ns()}"}
        if target:
            variables |= {"SLOTS": ALL_SLOTS, "SLOT_COUNT": str(SLOT_COUNT)}
        environment = {
            **self.environment(cell),
            **{f"RECELL_{name.upper()}": value for name, value in {**variables, **more}.items()},
            "SHOP_DATABASE_HOST": str(self.folder / "{cell}"),
            "SHOP_RESULT_FILE": str(result or self.scratch / "no-result"),
        }
        process = subprocess.Popen(
            [self.image / "bin" / "shop-data"], env=environment, cwd="/", stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, **as_nobody(),
        )  # fmt: skip
        self._running.append(process)
        return process

    def begin_keeping(self, cell: str) -> subprocess.Popen[bytes]:
        """Start what stays beside the cell's database."""
        process = subprocess.Popen(
            [self.image / "bin" / "shop-data", "keep-backups"], env=self.environment(cell), cwd="/",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **as_nobody(),
        )  # fmt: skip
        self._running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End a program, and what it started, as the loss of its node would."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(90)

    # ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything and remove the folder."""
        for process in self._running:
            if process.poll() is None:
                self.kill(process)
            if process.stdout is not None:
                process.stdout.close()
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
                process.wait(90)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self, cell: str) -> bool:
        assert self._processes[cell].poll() is None, self.log(cell)
        command = [BINARIES / "pg_isready", "-q"]
        return subprocess.run(command, env=self.environment(cell), check=False, timeout=60).returncode == 0

    def environment(self, cell: str) -> dict[str, str]:
        """The environment of the containers of the cell's database, and of a Job about it."""
        return {
            "PATH": f"{BINARIES}:{self.image / 'bin'}:{os.environ['PATH']}",
            "PYTHON": PYTHON,
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.scratch),
            "PGDATA": str(self.folder / cell / "data"),
            "PGHOST": str(self.folder / cell),
            "PGUSER": "postgres",
            "SHOP_CELL": cell,
            "SHOP_ARCHIVE_URL": self.archive_url,
            "SHOP_DB_PASSWORD": "it's a test's",
            "SHOP_POSTGRES_CONFIG": str(self.image / "postgresql.conf"),
        }

    def _make(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        self._own(folder)
        return folder

    def _own(self, folder: Path) -> None:
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(folder, account.pw_uid, account.pw_gid)
