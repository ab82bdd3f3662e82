"""The archive: where base backups and WAL are kept, outside of the cells. Files by HTTP (WebDAV).

Layout, below /CELL/SYSTEM/ (SYSTEM: the system identifier of the database, which a database made anew has another of):
- wal/SEGMENT.gz: put there by archive-wal;
- base/ID/base.tar.gz, and base/ID/manifest.json, which is put there last: a backup without it is not complete.

Promises: every request ends within its time limit; what is not there is told apart from what cannot be asked.
"""

from __future__ import annotations

import http.client
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shop_data.failure import OperationFailed

_SECONDS = 30.0
_NOT_FOUND = 404


class ArchiveFailed(OperationFailed):
    """The archive cannot be asked, or refused; the message names it."""


class Archive:
    """The archive at a URL. Paths have no slash in front; folders have one at the end."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def names(self, folder: str) -> list[str]:
        """What is in a folder, sorted; nothing if there is no such folder."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """The same with the size of each file (0 for folders)."""
        listed = self.read_json(folder)
        return {entry["name"]: int(entry.get("size", 0)) for entry in listed or ()}

    def read_json(self, path: str) -> Any:
        """The content of a JSON file; None if there is none."""
        try:
            with self._request("GET", path) as answer:
                return json.loads(answer.read())
        except _Absent:
            return None
        except ValueError as wrong:
            raise ArchiveFailed(f"{self.url}/{path} is no JSON: {wrong}") from wrong

    def fetch(self, path: str, to: Path) -> None:
        """Copy a file from the archive."""
        try:
            with self._request("GET", path) as answer, to.open("wb") as file:
                shutil.copyfileobj(answer, file)
                expected = answer.headers.get("Content-Length")
        except _Absent:
            raise ArchiveFailed(f"{self.url}/{path} is not there") from None
        if expected is not None and to.stat().st_size != int(expected):
            raise ArchiveFailed(f"{self.url}/{path} was cut off: repeat the operation")

    def put(self, path: str, file: Path) -> None:
        """Copy a file into the archive, at once and as a whole."""
        with file.open("rb") as content, self._request("PUT", path, content, file.stat().st_size):
            pass

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; it may be gone already."""
        try:
            with self._request("DELETE", path):
                pass
        except _Absent:
            pass

    @contextmanager
    def _request(self, method: str, path: str, body: Any = None, size: int | None = None) -> Iterator[Any]:
        headers = {} if size is None else {"Content-Length": str(size)}
        request = urllib.request.Request(f"{self.url}/{path}", body, headers, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=_SECONDS)
        except urllib.error.HTTPError as refused:
            refused.close()
            if refused.code == _NOT_FOUND:
                raise _Absent from None
            raise ArchiveFailed(f"{self.url}: {method} /{path} was answered with {refused.code}") from refused
        except (OSError, http.client.HTTPException) as fault:
            raise ArchiveFailed(f"{self.url}: {method} /{path}: {fault}; is shop-archive running?") from fault
        with answer:
            try:
                yield answer
            except (OSError, http.client.HTTPException) as fault:
                raise ArchiveFailed(f"{self.url}: {method} /{path} was cut off: {fault}") from fault


class _Absent(Exception):
    """There is no such file or folder."""
