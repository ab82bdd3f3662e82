"""Container images made without an engine: one static binary, or one root file system, as a docker-archive.

Equal input gives an equal archive: no times, no random ids.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import folders

ARCHITECTURE = "arm64" if os.uname().machine == "aarch64" else "amd64"


def of_binary(binary: Path, *, image: str, target: Path) -> Path:
    """An image of `binary` alone, started as its entry point, at `target`; made now unless it is there."""

    def make() -> None:
        layer = target.with_suffix(".layer")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(layer, "w") as tar:
            member = tarfile.TarInfo(binary.name)
            member.size, member.mode = binary.stat().st_size, 0o755
            with binary.open("rb") as content:
                tar.addfile(member, content)
        of_layer(layer, image=image, target=target, settings={"Entrypoint": [f"/{binary.name}"]})
        layer.unlink()

    # Clusters that come up for the first time beside each other all need it at once.
    return folders.made_once(target, f"archive-{target.name}", make)


def of_layer(layer: Path, *, image: str, target: Path, settings: Mapping[str, Sequence[str]]) -> None:
    """Wrap the uncompressed tar `layer` as the image `image`, with `settings` as its run-time configuration."""
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z"}],
    }
    encoded = json.dumps(config).encode()
    name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [image], "Layers": [f"{digest}/layer.tar"]}]
    partial = target.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        tar.add(layer, arcname=f"{digest}/layer.tar", filter=_plain)
        for path, data in ((name, encoded), ("manifest.json", json.dumps(manifest).encode())):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    partial.replace(target)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member
