"""Images built from a Dockerfile by buildah, without a registry and without an engine.

An unchanged context is built once; its archive stays in the cache. What the machine needs to reach a package index
(certificates, an index of wheels) is lent to the build's RUN steps and is not in the image.
"""

from __future__ import annotations

import configparser
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import base_image, context, folders, packages
from .command import Failure, run
from .progress import Progress

BUILD_WITHIN = 1200.0
KEPT = 2
"""Archives kept in the cache for each tag."""


def full_name(tag: str) -> str:
    """The name under which every container engine knows `tag`: docker.io and latest where nothing is said."""
    first, slash, _ = tag.partition("/")
    if not slash:
        tag = f"docker.io/library/{tag}"
    elif "." not in first and ":" not in first and first != "localhost":
        tag = f"docker.io/{tag}"
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"


def build(tag: str, dockerfile: Path, folder: Path, arguments: Sequence[str], progress: Progress) -> Path:
    """The docker-archive of the image, built now unless the cache has it."""
    if not dockerfile.is_file() or not folder.is_dir():
        raise Failure(f"no Dockerfile {dockerfile} or no context folder {folder}; see --file and --context")
    name = full_name(tag)
    base = base_image.archive()
    shelf = folders.cache() / "images" / name.replace("/", "+").replace(":", "@")
    archive = shelf / f"{context.digest(folder, dockerfile, name, base.name, *arguments)}.tar"
    # By tag: builds of several images may overlap, and a finished one is found without waiting for any.
    with folders.locked(folders.cache() / "locks" / f"image-{shelf.name}"):
        if archive.exists():
            archive.touch()
            return archive
        packages.ensure(packages.IMAGES, progress)
        progress.say(f"building {name}")
        _Buildah(folders.cache() / "buildah", base_image.ensure(progress)).build(
            name, dockerfile, folder, arguments, archive
        )
        for old in sorted(shelf.glob("*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
            old.unlink()
        progress.say(f"{name}: built")
    return archive


class _Buildah:
    """Buildah with a store of our own, so that neither the machine's settings nor its images play a part."""

    def __init__(self, store: Path, base: Path) -> None:
        self._store = store
        self._base = base
        folders.write(store / "policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}\n')
        folders.write(store / "registries.conf", 'unqualified-search-registries = ["docker.io"]\n')

    def build(self, name: str, dockerfile: Path, folder: Path, arguments: Sequence[str], archive: Path) -> None:
        """Build and write the docker-archive; a failed build leaves none."""
        archive.parent.mkdir(parents=True, exist_ok=True)
        for left in archive.parent.glob("*.partial"):  # of a build that was killed
            left.unlink(missing_ok=True)
        partial = archive.with_suffix(f".{os.getpid()}.partial")  # one that outlives who began it writes to its own
        with tempfile.TemporaryDirectory(prefix="recell-build-") as temporary:
            scratch = Path(temporary)
            known = self._store / "base"
            with folders.locked(folders.cache() / "locks" / "buildah-base"):
                if not known.exists() or known.read_text() != self._base.name:
                    self._run(scratch, "pull", f"docker-archive:{self._base}", within=300)
                    folders.write(known, self._base.name)
            options = ["--isolation", "chroot", "--network", "host", "--pull-never", "--layers", "--format", "docker"]
            for argument in arguments:
                options += ["--build-arg", argument]
            for source, seen_as in _lent(scratch):
                options += ["--volume", f"{source}:{seen_as}:ro"]
            what = ["--tag", name, "--file", str(dockerfile.resolve()), str(folder.resolve())]
            self._run(scratch, "build", *options, *what, within=BUILD_WITHIN)
            self._run(scratch, "push", name, f"docker-archive:{partial}:{name}", within=300)
        partial.replace(archive)

    def _run(self, scratch: Path, command: str, *argv: str, within: float) -> None:
        policy = ["--signature-policy", str(self._store / "policy.json")]
        place = ["--root", str(self._store / "storage"), "--runroot", str(scratch / "run"), "--storage-driver"]
        # In a mount namespace of its own: whatever buildah mounts is gone when it ends, or is ended.
        run(
            ["unshare", "--mount", "buildah", *place, "overlay", command, *policy, *argv],
            within=within,
            env={**os.environ, "CONTAINERS_REGISTRIES_CONF": str(self._store / "registries.conf")},
        )


def _lent(scratch: Path) -> list[tuple[Path, str]]:
    """What RUN steps see of the machine: pip's settings from PIP_* variables, with the files they name."""
    settings = {
        "cert": os.environ.get("PIP_CERT"),
        "find-links": os.environ.get("PIP_FIND_LINKS"),
        "index-url": os.environ.get("PIP_INDEX_URL"),
        "extra-index-url": os.environ.get("PIP_EXTRA_INDEX_URL"),
        "trusted-host": os.environ.get("PIP_TRUSTED_HOST"),
        "timeout": os.environ.get("PIP_DEFAULT_TIMEOUT"),
    }
    lent: list[tuple[Path, str]] = []
    for name in ("cert", "find-links"):
        path = Path(settings[name] or "")
        if path.is_absolute():
            if path.exists():
                settings[name] = f"/run/recell-build/{name}"
                lent.append((path.resolve(), settings[name] or ""))
            else:
                settings[name] = None
    parser = configparser.RawConfigParser()
    parser["global"] = {name: value for name, value in settings.items() if value}
    if parser["global"]:
        text = io.StringIO()
        parser.write(text)
        folders.write(scratch / "pip.conf", text.getvalue())
        lent.append((scratch / "pip.conf", "/etc/pip.conf"))
    return lent
