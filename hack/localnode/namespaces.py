"""The node's own process, mount and network namespaces, held open by one tiny init process.

All that a cluster runs lives in here. Ending the init ends every process in it, and the kernel then drops the
mounts, interfaces, routes, iptables rules and ipsets with the namespaces: nothing has to be remembered to be
cleaned up, however the cluster ended. Which processes run is read from the kernel each time, never from pid files,
so a recycled pid is never taken for one of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .command import Failure, run, wait_until

SHADOWED = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers")
"""Paths that components insist on; inside, each is a folder of the cluster's own."""


class Namespaces:
    """The namespaces of the cluster in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._init = folder / "bin" / "recell-node-init"
        self._laid_out = folder / "run" / "laid-out"

    def init_pid(self) -> int | None:
        """The init's pid as the machine sees it, or None when the node is down."""
        wanted = os.fsencode(self._init) + b"\0"
        for pid in _pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted and _state(pid) != "Z":
                    return pid
        return None

    def ensure(self, pause: Path) -> int:
        """Start the init and lay out the mounts inside, unless that is done; return the init's pid."""
        pid = self.init_pid()
        if pid is not None and self._laid_out.exists():
            return pid
        if pid is not None:
            self.end()
        self._init.parent.mkdir(parents=True, exist_ok=True)
        self._init.unlink(missing_ok=True)
        self._init.symlink_to(pause)
        self._laid_out.unlink(missing_ok=True)  # by the one before: whoever is killed from here on leaves none
        unshare = ["unshare", "--net", "--pid", "--fork", "--mount", "--propagation", "private", "--mount-proc"]
        self._start([*unshare, str(self._init)], self.folder / "log" / "init.log")
        wait_until("the node's init process", lambda: self.init_pid() is not None, within=60)
        self._lay_out()
        pid = self.init_pid()
        if pid is None:
            raise Failure(f"the node's init process ended at once; see {self.folder / 'log' / 'init.log'}")
        return pid

    def _lay_out(self) -> None:
        lines = ["mount --make-rshared /"]
        for path in SHADOWED:
            own = self.folder / "node" / path.lstrip("/").replace("/", "-")
            own.mkdir(parents=True, exist_ok=True)
            Path(path).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind '{own}' {path}")
        # Sockets, locks and network namespaces of containers: gone with the node, apart from the machine's own.
        self._laid_out.parent.mkdir(exist_ok=True)
        lines += ["mount -t tmpfs -o mode=0755,nosuid,nodev recell-run /run", "mkdir -p /run/netns /run/lock"]
        lines += ["ip link set lo up"]
        self.run(["sh", "-ec", "\n".join(lines)])
        self._laid_out.touch()

    def inside(self, argv: Sequence[str | Path]) -> list[str]:
        """The command line that runs `argv` inside."""
        pid = self.init_pid()
        if pid is None:
            raise Failure("the cluster's node is not running; `hack/cluster up` starts it")
        return ["nsenter", "-t", str(pid), "--mount", "--net", "--pid", *(str(word) for word in argv)]

    def run(self, argv: Sequence[str | Path], *, within: float = 60, stdin: str = "") -> str:
        """Run a command inside and return what it printed."""
        return run(self.inside(argv), within=within, stdin=stdin)

    def start(self, argv: Sequence[str | Path], log: Path) -> None:
        """Start a long-running program inside; what it prints is appended to `log`."""
        # Left behind as a child of the init, which reaps it: a waiting nsenter would outlive a program it saw stopped.
        self._start(self.inside(["setsid", "sh", "-c", '"$@" &', "sh", *argv]), log).wait(timeout=60)

    def processes(self, program: str | None = None) -> list[int]:
        """The pids inside (as the machine sees them), or only those started as `program`."""
        init = self.init_pid()
        return [] if init is None else [pid for pid in _members(init) if program is None or _program(pid) == program]

    def signal(self, program: str, number: signal.Signals) -> None:
        """Send a signal to every process started as `program`."""
        for pid in self.processes(program):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, program: str) -> None:
        """End every process started as `program`; return when the kernel has closed all that they held open."""
        pids = self.processes(program)
        self.signal(program, signal.SIGKILL)
        # Its command line goes first, its sockets a moment later: only a process that was reaped holds nothing.
        gone = f"the end of {program}"
        wait_until(gone, lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), within=60, every=0.02)

    def end(self) -> None:
        """End everything inside; return when no process is left."""
        init = self.init_pid()
        if init is None:
            return
        members = _members(init)
        os.kill(init, signal.SIGKILL)  # the kernel kills the rest of a pid namespace with its init
        wait_until(
            "the end of the node's processes",
            lambda: all(not Path(f"/proc/{pid}").exists() or _state(pid) in "ZX" for pid in [init, *members]),
            within=120,
        )
        self._laid_out.unlink(missing_ok=True)

    @staticmethod
    def _start(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
            )


def release_mount_points() -> None:
    """Remove the folders under which `SHADOWED` was mounted, where they are empty, so ours or nobody's."""
    for path in SHADOWED:
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _members(init: int) -> list[int]:
    """Every process whose innermost pid namespace is the init's or lies below it."""
    with contextlib.suppress(OSError):
        space = os.readlink(f"/proc/{init}/ns/pid")
        children: dict[int, list[int]] = {}
        ours: set[int] = set()
        for pid in _pids():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
                children.setdefault(int(stat[1]), []).append(pid)
                if os.readlink(f"/proc/{pid}/ns/pid") == space:
                    ours.add(pid)
        queue = list(ours)  # containers have pid namespaces of their own, below ours
        while queue:
            for child in children.get(queue.pop(), []):
                if child not in ours:
                    ours.add(child)
                    queue.append(child)
        return sorted(ours - {init})
    return []


def _program(pid: int) -> str:
    try:
        return os.path.basename(os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0]))
    except OSError:
        return ""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return "X"
