"""A way to a real API server that misbehaves on demand: cut, refuse, hang, answer with an error.

It speaks plain HTTP to the tested side and the kubeconfig's TLS to the server, and keeps a record of
every request and its answer.
"""

import asyncio
import re
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from recell.providers.kube.connection import Connector

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HOP = frozenset({"transfer-encoding", "connection", "content-length", "keep-alive", "content-encoding"})


@dataclass
class Seen:
    """A request that came by, and how it was answered (0: not at all)."""

    method: str
    path: str
    query: str
    at: float
    status: int = 0

    @property
    def is_write(self) -> bool:
        return self.method in WRITES


@dataclass
class Fault:
    """An answer in place of the server's, for the next `times` requests that match."""

    method: str
    path: str
    status: int
    times: int
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class ApiProxy:
    """`async with ApiProxy.to(kubeconfig, folder) as proxy`."""

    server: str
    tls: ssl.SSLContext
    kubeconfig: Path
    """For the tested side."""
    seen: list[Seen] = field(default_factory=list)
    refusing: bool = False
    """Every connection is closed without an answer."""
    hanging: bool = False
    """No request gets an answer."""
    muted: str = ""
    """Watches of clients whose User-Agent begins so get nothing more."""
    cut_streams_after: int | None = None
    """The next stream is cut after so many lines."""
    _faults: list[Fault] = field(default_factory=list)
    _open: list[web.Request] = field(default_factory=list)
    _upstream: aiohttp.ClientSession | None = None

    @classmethod
    @asynccontextmanager
    async def to(cls, kubeconfig: Path, folder: Path) -> AsyncIterator["ApiProxy"]:
        server, tls = _credentials(kubeconfig)
        proxy = cls(server, tls, folder / f"proxy-{id(object()):x}.yaml")
        connector = Connector(tls)  # its requests are cancelled whenever the tested side goes away
        proxy._upstream = aiohttp.ClientSession(connector=connector, auto_decompress=False, read_bufsize=2**21)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", proxy._handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        proxy.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "proxy",
                    "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
                    "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                    "users": [{"name": "proxy", "user": {}}],
                }
            )
        )
        try:
            yield proxy
        finally:
            proxy.cut()
            await runner.cleanup()
            await proxy._upstream.close()
            await connector.end()

    # What a test asks for

    def cut(self) -> None:
        """Break every connection that waits for something, watches above all."""
        for request in [*self._open]:
            if request.transport is not None:
                request.transport.abort()

    def fail(
        self,
        path: str,
        status: int,
        *,
        method: str = "GET",
        times: int = 1,
        reason: str = "",
        message: str = "injected",
        headers: dict[str, str] | None = None,
    ) -> None:
        """`path` is a regular expression that path?query has to contain."""
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": status,
            "reason": reason,
            "message": message,
        }
        self._faults.append(Fault(method, path, status, times, body, headers or {}))

    def writes(self, pattern: str = "") -> list[Seen]:
        return [seen for seen in self.seen if seen.is_write and re.search(pattern, seen.path)]

    # How

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.method, request.path, request.query_string, asyncio.get_running_loop().time())
        self.seen.append(seen)
        if self.refusing and request.transport is not None:
            request.transport.abort()
        fault = self._fault_for(request)
        if fault is not None:
            seen.status = fault.status
            return web.json_response(fault.body, status=fault.status, headers=fault.headers)
        self._open.append(request)
        try:
            while self.hanging:
                await asyncio.sleep(0.02)
            return await self._forward(request, seen)
        except (aiohttp.ClientError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._open.remove(request)

    def _is_muted(self, request: web.Request) -> bool:
        agent = request.headers.get("User-Agent", "")
        return bool(self.muted) and "watch=true" in request.query_string and agent.startswith(self.muted)

    def _fault_for(self, request: web.Request) -> Fault | None:
        for fault in self._faults:
            if fault.times > 0 and fault.method == request.method and re.search(fault.path, request.path_qs):
                fault.times -= 1
                return fault
        return None

    async def _forward(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        assert self._upstream is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {"host", "accept-encoding", *_HOP}}
        async with self._upstream.request(
            request.method,
            self.server + request.path_qs,
            headers=headers,
            data=await request.read() or None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        ) as answer:
            seen.status = answer.status
            response = web.StreamResponse(
                status=answer.status, headers={k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            )
            await response.prepare(request)
            lines, limit = 0, None
            if "watch=true" in request.query_string:
                limit, self.cut_streams_after = self.cut_streams_after, None
            async for chunk in answer.content.iter_any():
                while self.hanging or self._is_muted(request):
                    await asyncio.sleep(0.02)
                if limit is not None:
                    kept = chunk.split(b"\n")[: max(0, limit - lines)]
                    lines += chunk.count(b"\n")
                    if lines >= limit:
                        await response.write(b"\n".join(kept) + b"\n")
                        if request.transport is not None:
                            request.transport.close()
                        return response
                await response.write(chunk)
            await response.write_eof()
            return response


def _credentials(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    config = yaml.safe_load(kubeconfig.read_text())
    context = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
    cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
    user = next(u["user"] for u in config["users"] if u["name"] == context["user"])
    with TemporaryDirectory() as folder:

        def file(block: dict[str, Any], name: str) -> str | None:
            if f"{name}-data" in block:
                path = Path(folder) / name
                path.write_bytes(b64decode(block[f"{name}-data"]))
                return str(path)
            value: str | None = block.get(name)
            return value

        tls = ssl.create_default_context(cafile=file(cluster, "certificate-authority"))
        certificate = file(user, "client-certificate")
        if certificate:
            tls.load_cert_chain(certificate, file(user, "client-key"))
    return cluster["server"], tls
