"""The distribution's packages that the local node stands on, installed when missing and only then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import folders
from .command import Failure, run
from .progress import Progress

NODE = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "modprobe": "kmod",
}
"""What must be found (a command, or a file) -> the package that brings it."""
IMAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "runc": "runc"}
GO = {"go": "golang-go", "/etc/ssl/certs/ca-certificates.crt": "ca-certificates"}


def ensure(needs: dict[str, str], progress: Progress) -> None:
    """Install the packages of what is missing in `needs`; say nothing and do nothing when all is there."""
    if not _missing(needs):
        return
    with folders.locked(folders.cache() / "locks" / "packages"):  # the package manager serves one at a time
        if missing := _missing(needs):
            _install(missing, progress)


def _missing(needs: dict[str, str]) -> list[str]:
    return sorted({package for what, package in needs.items() if not _found(what)})


def _install(missing: list[str], progress: Progress) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failure(f"these packages are needed and cannot be installed from here: {' '.join(missing)}")
    progress.say(f"installing {' '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # An installation that was killed may go on for a while, and leaves packages that have to be set up first.
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    install = ["apt-get", *wait, "install", "-y", "--no-install-recommends", *missing]
    run(["dpkg", "--configure", "-a"], within=600, env=env, check=False)
    try:
        run(install, within=600, env=env)
    except Failure:
        # The lists may be absent or old; a foreign source that fails to update must not stop Debian's own.
        run(["apt-get", "update"], within=300, env=env, check=False)
        run(install, within=600, env=env)


def _found(what: str) -> bool:
    if what.startswith("/"):
        return Path(what).exists()
    search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(what, path=search) is not None
