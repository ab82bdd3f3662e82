"""What clusters that are started beside each other share on the disk, and what one that was killed leaves there."""

import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from hack.localnode import node
from hack.localnode.namespaces import Namespaces
from hack.localnode.progress import Progress
from tests.conftest import ROOT

AT_ONCE = 4

WRITES = """
import sys
from pathlib import Path
from hack.localnode import folders
for _ in range(300):
    folders.write(Path(sys.argv[1]), "x" * 1000)
"""
IMAGE = """
import sys
from pathlib import Path
from hack.localnode import archives
binary, target = map(Path, sys.argv[1:])
print(archives.of_binary(binary, image="localhost/x:1", target=target))
"""


def at_once(program: str, *arguments: str | Path) -> list[str]:
    """Errors of a program that is run several times beside itself."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(AT_ONCE)]
    return [err for err in (each.communicate(timeout=300)[1] for each in running) if err]


def test_the_same_file_can_be_written_by_several(tmp_path: Path) -> None:
    assert at_once(WRITES, tmp_path / "settings") == []
    assert [path.name for path in tmp_path.iterdir()] == ["settings"]


def test_the_same_archive_can_be_needed_by_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECELL_CACHE", str(tmp_path / "cache"))
    binary, target = tmp_path / "pause", tmp_path / "bin" / "pause.tar"
    binary.write_bytes(b"x" * 5_000_000)
    assert at_once(IMAGE, binary, target) == []
    assert [path.name for path in target.parent.iterdir()] == ["pause.tar"]
    with tarfile.open(target) as archive:
        assert "manifest.json" in archive.getnames()


def test_what_an_earlier_node_had_laid_out_counts_for_none_that_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts it may be killed before anything is laid out in it."""
    namespaces = Namespaces(tmp_path)
    done = tmp_path / "run" / "laid-out"
    done.parent.mkdir()
    done.touch()

    def killed(argv: list[str], log: Path) -> None:
        raise KeyboardInterrupt(signal.SIGKILL)

    monkeypatch.setattr(Namespaces, "_start", staticmethod(killed))
    with pytest.raises(KeyboardInterrupt):
        namespaces.ensure(tmp_path / "pause")
    assert not done.exists()


def test_whoever_is_killed_while_a_cluster_is_deleted_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start would take what is left of etcd for the cluster's."""
    monkeypatch.setenv("RECELL_STATE", str(tmp_path))
    monkeypatch.setattr(node, "_require_root", lambda: None)
    monkeypatch.setattr(node, "release_mount_points", lambda: None)
    cluster = node.LocalNode("half", Progress())
    for part in ("etcd", "pki"):
        (cluster.folder / part).mkdir(parents=True)

    def killed(path: Path, *, ignore_errors: bool = False) -> None:
        if path.exists():
            raise KeyboardInterrupt(signal.SIGKILL)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            cluster.down()
    assert not cluster.folder.exists()
    assert any(tmp_path.glob("*/half/etcd"))
    cluster.down()
    assert not any(tmp_path.glob("*/half"))
