"""Ports of this machine for servers that a test starts, or that nobody is to listen on.

Promises: tests that run at the same time, in whatever process, are never given the same one. A port that the kernel
picks and that is let go again is soon somebody else's: another test's, or a connection's.
"""

import fcntl
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 22_000, 29_999
"""Above those of the clusters' own programs, and below NodePorts (30000) and the kernel's own choice (32768)."""
TAKEN = Path(tempfile.gettempdir()) / "recell-tests.port"
"""Holds the one that was given last."""


def free_port() -> int:
    """Raises RuntimeError when all are in use."""
    with TAKEN.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = int(file.read() or LAST)
        for offset in range(1, LAST - FIRST + 2):
            port = FIRST + (last - FIRST + offset) % (LAST - FIRST + 1)
            if _free(port):
                file.truncate(0)
                file.write(str(port))
                return port
    raise RuntimeError(f"all ports from {FIRST} to {LAST} are in use")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
