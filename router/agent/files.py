"""The map and the configuration on disk, from which a (re)started HAProxy serves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .config import render
from .settings import Settings
from .table import Held, Server, held, map_text, parse_map


class Files:
    """Each file is replaced whole, so HAProxy never reads half of one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._template = settings.template.read_text(encoding="utf-8")
        self._servers: Mapping[int, Server] | None = None
        """What the configuration on disk was made for."""

    def prepare(self) -> Held:
        """Before HAProxy starts: go on from the map that is there, or lay an empty one. Raises OSError."""
        if not self._settings.map.exists():
            self._replace(self._settings.map, "")
        known = held(parse_map(self._settings.map.read_text(encoding="utf-8")))
        self._configure(known.servers)
        return known

    def write(self, entries: Sequence[tuple[str, str]], servers: Mapping[int, Server]) -> None:
        """Configuration first: a table may not name a backend that has no address. Raises OSError."""
        self._configure(servers)
        self._replace(self._settings.map, map_text(entries))

    def _configure(self, servers: Mapping[int, Server]) -> None:
        if servers != self._servers:
            self._replace(self._settings.config, render(self._template, self._settings, servers))
            self._servers = dict(servers)

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        new = path.with_suffix(path.suffix + ".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
