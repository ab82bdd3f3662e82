"""A build context's identity: a digest of everything in it that a build can see."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path


def digest(context: Path, dockerfile: Path, *more: str) -> str:
    """Equal for equal Dockerfile, file names, modes and contents; what .dockerignore leaves out does not count."""
    found = hashlib.sha256()
    for part in (dockerfile.read_bytes(), *(text.encode() for text in more)):
        found.update(hashlib.sha256(part).digest())
    for path in _seen(context):
        name = os.fsencode(path.relative_to(context))
        mode = stat.S_IMODE(path.lstat().st_mode)
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        found.update(b"%b\0%o\0" % (name, mode) + hashlib.sha256(content).digest())
    return found.hexdigest()


def _seen(context: Path) -> Iterator[Path]:
    rules = _rules(context / ".dockerignore")
    for folder, folders, files in os.walk(context):
        folders.sort()
        folders[:] = [name for name in folders if name != ".git"]
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*files, *linked]):
            path = Path(folder) / name
            if not _ignored(path.relative_to(context).as_posix(), rules):
                yield path


def _ignored(name: str, rules: list[tuple[re.Pattern[str], bool]]) -> bool:
    ignored = False
    for pattern, leaves_out in rules:  # the last rule that matches wins
        if pattern.match(name):
            ignored = leaves_out
    return ignored


def _rules(file: Path) -> list[tuple[re.Pattern[str], bool]]:
    rules = []
    for line in file.read_text().splitlines() if file.exists() else []:
        text = line.strip()
        if text and not text.startswith("#"):
            glob = text.removeprefix("!").strip().strip("/")
            rules.append((re.compile(_expression(glob) + r"(/.*)?\Z"), not text.startswith("!")))
    return rules


def _expression(glob: str) -> str:
    """A .dockerignore pattern as a regular expression: `**/` any depth, `*` and `?` within one name."""
    translated = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob)
    return "".join(translated.get(p, p if p.startswith("[") else re.escape(p)) for p in parts)
