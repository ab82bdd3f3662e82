"""Where things are kept: the cache (by version, shared) and the state (by cluster, removed with it).

Must not: put anything into the source tree.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def cache() -> Path:
    """The folder of built binaries and images, kept across clusters."""
    return _folder("RECELL_CACHE", Path.home() / ".cache" / "recell")


def programs() -> Path:
    """The folder with what a machine may lack to use a cluster: kubectl. It is meant for the end of the PATH."""
    return cache() / "path"


def clusters() -> Path:
    """The folder with one folder for each cluster."""
    return _folder("RECELL_STATE", Path.home() / ".local" / "state" / "recell") / "clusters"


def removed() -> Path:
    """The folder into which a cluster's own is moved before it is deleted, so that nobody meets half a cluster."""
    return clusters().parent / "removed"


def sources() -> Path:
    """The Go programs that belong to this package."""
    return Path(__file__).resolve().parent / "go"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; whoever comes second waits, for the first one ends within its own deadlines.

    The holder may remove the file: who waited for it then takes the lock anew.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if _is_at(held.fileno(), path):
                yield
                return


def made_once(path: Path, lock: str, make: Callable[[], None]) -> Path:
    """The path, made now unless the cache has it; whoever comes second waits and finds it."""
    if not path.exists():
        with locked(cache() / "locks" / lock):
            if not path.exists():
                make()
    return path


def link(path: Path, target: Path) -> None:
    """Let the path lead to the target; a reader, or somebody who does the same beside us, never meets it missing."""
    if path.is_symlink() and path.readlink() == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # of one that was killed, and whose number is ours now
    partial.symlink_to(target)
    partial.replace(path)


def write(path: Path, content: str, mode: int = 0o644) -> None:
    """Write a whole file or nothing: a reader, a crash, or who writes the same beside us, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(content)
    partial.chmod(mode)
    partial.replace(path)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().resolve()
