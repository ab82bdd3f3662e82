"""List and watch of one object at the API server, for as long as the process lives.

Promises: what was deleted or restored while the connection was away is seen by the list that
follows; the token is read again for each request, because it rotates; every wait has a limit, and
every failure is told and followed by another try within two seconds.
"""

import asyncio
import contextlib
import json
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CONNECT_WITHIN = 5.0
ANSWER_WITHIN = 10.0
WATCH_SECONDS = 290
SILENT_FOR = 130.0
"""Bookmarks come every minute, now and then after two."""
BACKOFF = (0.2, 0.5, 1.0, 2.0)
LIMIT = 4 * 1024 * 1024
"""Bytes of one object; etcd keeps none above 1.5 MB."""


@dataclass(frozen=True)
class Found:
    """The object as it is now."""

    obj: dict[str, Any]


@dataclass(frozen=True)
class Missing:
    """There is no such object now."""


@dataclass(frozen=True)
class Away:
    """The API server cannot be read; the next try follows."""

    message: str


@dataclass(frozen=True)
class Unreadable:
    """The object is there, but cannot be read."""

    message: str


Event = Found | Missing | Away | Unreadable


class _Failed(Exception):
    """The connection or the answer is no good; list again."""


class PlacementWatch:
    def __init__(self, url: str, credentials: Path, namespace: str, name: str) -> None:
        parts = urlsplit(url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._credentials = credentials
        self._path = f"/apis/recell.dev/v1alpha1/namespaces/{namespace}/placements?fieldSelector=metadata.name%3D{name}"

    async def events(self) -> AsyncIterator[Event]:
        """Never ends."""
        failures = 0
        while True:
            try:
                async for event in self._list_and_watch():
                    failures = 0
                    yield event
            except (OSError, TimeoutError, ValueError, EOFError, _Failed) as error:
                yield Away(f"{type(error).__name__}: {error}" if not isinstance(error, _Failed) else str(error))
                pause = BACKOFF[min(failures, len(BACKOFF) - 1)]
                failures += 1
                await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 - spreads the pods' tries

    async def _list_and_watch(self) -> AsyncIterator[Event]:
        body = bytearray()
        async with self._get(self._path) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > LIMIT:
                    yield Unreadable(f"the object is larger than {LIMIT} bytes")
                    raise _Failed("the answer is too large")
        listed = json.loads(body)
        items = listed.get("items") or []
        yield Found(items[0]) if items else Missing()
        version = listed["metadata"]["resourceVersion"]
        path = f"{self._path}&watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
        async with self._get(path) as chunks:
            async for line in _lines(chunks):
                event = json.loads(line)
                kind = event.get("type")
                if kind in ("ADDED", "MODIFIED"):
                    yield Found(event["object"])
                elif kind == "DELETED":
                    yield Missing()
                elif kind == "ERROR":
                    raise _Failed(f"watch: {str(event.get('object'))[:200]}")

    @contextlib.asynccontextmanager
    async def _get(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with asyncio.timeout(CONNECT_WITHIN):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context(), limit=LIMIT)
        try:
            writer.write(self._request(path))
            await writer.drain()
            async with asyncio.timeout(ANSWER_WITHIN):
                status, headers = await _head(reader)
            chunks = _body(reader, headers)
            if status != 200:
                text = b""
                async for chunk in chunks:
                    text += chunk
                    break
                raise _Failed(f"{status} {text[:200].decode(errors='replace')}")
            yield chunks
        finally:
            writer.close()

    def _context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=str(self._credentials / "ca.crt")) if self._tls else None

    def _request(self, path: str) -> bytes:
        lines = [f"GET {path} HTTP/1.1", f"Host: {self._host}", "Accept: application/json", "Connection: close"]
        token = self._credentials / "token"
        if self._tls:
            lines.append(f"Authorization: Bearer {token.read_text().strip()}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    words = (await reader.readline()).split()
    if len(words) < 2 or not words[1].isdigit():
        raise _Failed("the answer is no HTTP")
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode(errors="replace").partition(":")
        headers[name.lower()] = value.strip()
    return int(words[1]), headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while True:
            async with asyncio.timeout(SILENT_FOR):
                size = int((await reader.readline()).strip() or b"x", 16)
            if size == 0:
                return
            if size > LIMIT:
                raise _Failed(f"a part of {size} bytes")
            async with asyncio.timeout(ANSWER_WITHIN):
                chunk = await reader.readexactly(size)
                await reader.readline()
            yield chunk
    left = int(headers.get("content-length", "-1"))
    while left:
        async with asyncio.timeout(ANSWER_WITHIN):
            chunk = await reader.read(65536 if left < 0 else min(left, 65536))
        if not chunk:
            if left > 0:
                raise _Failed("the answer ended early")
            return
        left -= len(chunk) if left > 0 else 0
        yield chunk


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    buffer = b""
    async for chunk in chunks:
        buffer += chunk
        *whole, buffer = buffer.split(b"\n")
        if len(buffer) > LIMIT:
            raise _Failed(f"an event of more than {LIMIT} bytes")
        for line in whole:
            yield line
