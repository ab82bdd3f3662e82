"""The control groups of a cluster's pods, under one folder of its name in every hierarchy (cgroup v1 and v2)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .command import wait_until

ROOT = Path("/sys/fs/cgroup")
WEIGHTS = {"cpu.shares": "8192", "cpu.weight": "800"}
"""Of the pods against everything else here, eight times the default (cgroup v1 and v2): elsewhere a control plane and
whoever builds and tests would be on other machines, and take nothing from what customers wait for."""


def parent(name: str) -> str:
    """The group under which the kubelet makes its own, as the kubelet's --cgroup-root wants it."""
    return f"/recell-{name}"


def ensure(name: str) -> None:
    """Make the parent group in every hierarchy, ready for the kubelet."""
    for hierarchy in _hierarchies():
        group = hierarchy / parent(name).lstrip("/")
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # cgroup v1 leaves these empty, and empty admits nobody
            target = group / setting
            if target.exists() and (hierarchy / "cgroup.sane_behavior").exists() and not target.read_text().strip():
                target.write_text((hierarchy / setting).read_text())
        controllers = hierarchy / "cgroup.controllers"
        if controllers.exists():
            for folder in (hierarchy, group):
                for controller in controllers.read_text().split():
                    with contextlib.suppress(OSError):  # a controller that this kernel cannot delegate
                        (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        for setting, weight in WEIGHTS.items():
            if (group / setting).exists():
                (group / setting).write_text(weight)


def remove(name: str) -> None:
    """Remove the cluster's groups; they are empty once its processes are gone."""
    tops = [h / parent(name).lstrip("/") for h in _hierarchies()]
    wait_until(f"the removal of the control groups {parent(name)}", lambda: all(map(_removed, tops)), within=120)


def _removed(top: Path) -> bool:
    for group, _, _ in os.walk(top, topdown=False):  # which passes over what goes meanwhile
        with contextlib.suppress(OSError):
            os.rmdir(group)
    return not top.exists()


def _hierarchies() -> list[Path]:
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [path for path in sorted(ROOT.iterdir()) if path.is_dir() and not path.is_symlink() and path.is_mount()]
