"""The base under a Dockerfile's FROM, made from the distribution's packages where no registry is to be had.

It holds the packages that our Dockerfiles install, so their apt-get finds nothing left to do.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from . import archives, folders, packages, versions
from .command import run
from .progress import Progress

LEFT_OUT = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")
ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


def archive() -> Path:
    """Where the cache holds the base as a docker-archive, made or not; the name changes with the recipe."""
    recipe = hashlib.sha256(repr((versions.DEBIAN_SUITE, versions.BASE_PACKAGES, LEFT_OUT)).encode()).hexdigest()[:12]
    return folders.cache() / "base" / f"{versions.DEBIAN_SUITE}-{recipe}.tar"


def ensure(progress: Progress) -> Path:
    """The base's docker-archive, made now unless the cache has it."""
    target = archive()
    with folders.locked(folders.cache() / "locks" / "base"):
        if not target.exists():
            packages.ensure(packages.IMAGES, progress)
            progress.say(f"making the base image ({versions.DEBIAN_SUITE}: {', '.join(versions.BASE_PACKAGES)})")
            _make(target)
            progress.say("base image: ready")
    return target


def _make(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    layer = target.with_suffix(".layer.tar")
    layer.unlink(missing_ok=True)
    include = ",".join(versions.BASE_PACKAGES)
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={include}", *options, versions.DEBIAN_SUITE, layer],
        within=900,
        # Alike on every machine: no locale of the caller's, and times no later than the packages'.
        env={**os.environ, "LC_ALL": "C"},
        cwd=Path("/"),
    )
    settings = {"Env": ENVIRONMENT, "Cmd": ["bash"]}
    archives.of_layer(layer, image=versions.BASE_IMAGE, target=target, settings=settings)
    layer.unlink()
