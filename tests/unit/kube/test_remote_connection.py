"""The way to another API server, on a real socket with real TLS."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from recell.engine.errors import BadInput, Forbidden, Retryable, Unreachable
from recell.providers.kube import remote_connection
from recell.providers.kube.api import Api
from recell.providers.kube.kubeconfig import Kubeconfig, parse
from recell.providers.kube.remote_connection import CALLS, RemoteConnection
from tests.fakes.certificates import self_signed
from tests.unit.kube.kubeconfigs import PEM, text

TOKEN = "tok-1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"), "kubernetes")


@dataclass
class Server:
    url: str
    authorities: str
    asked: list[str]
    answer: Handler | None = None

    def kubeconfig(self, **fields: str) -> Kubeconfig:
        encoded = base64.b64encode(self.authorities.encode()).decode()
        cluster = {"server": self.url, "certificate-authority-data": encoded, **fields}
        return parse(text(cluster=cluster, user={"token": TOKEN}))


@pytest.fixture
async def server(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(remote_connection, "BEAT_TIMEOUT", 60.0)
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trust.load_cert_chain(*certificate)
    made = Server("", certificate[0].read_text(), [])

    async def handle(request: web.Request) -> web.StreamResponse:
        made.asked.append(request.headers.get("Authorization", ""))
        if made.answer is not None:
            return await made.answer(request)
        return web.json_response({"gitVersion": "v1.36.3", "metadata": {"name": "x", "resourceVersion": "1"}})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=trust)
    await site.start()
    made.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def test_it_says_who_it_is_to_whoever_has_the_certificate(server: Server) -> None:
    connection = RemoteConnection(server.kubeconfig())
    assert (await connection.beat()).status == 200
    assert (await Api(connection).get("/api/v1/namespaces/x"))["metadata"]["name"] == "x"
    assert server.asked == [f"Bearer {TOKEN}"] * 2
    named = RemoteConnection(server.kubeconfig(**{"tls-server-name": "kubernetes"}))
    assert (await named.beat()).status == 200
    await connection.close()
    await named.close()


async def test_nobody_else_gets_the_credentials(server: Server) -> None:
    for fields in ({"tls-server-name": "another"}, {"certificate-authority-data": ""}):
        connection = RemoteConnection(server.kubeconfig(**fields))
        with pytest.raises(Unreachable) as unreachable:
            await connection.beat()
        assert str(unreachable.value) == "its certificate is not one of certificate-authority-data, or of another name"
        await connection.close()
    assert server.asked == []


async def test_while_it_is_silent_nothing_is_sent(server: Server) -> None:
    connection = RemoteConnection(server.kubeconfig())
    connection.silent = "it has not answered since yesterday"
    api = Api(connection)
    with pytest.raises(Unreachable, match="since yesterday"):
        await api.get("/api/v1/namespaces/x")
    with pytest.raises(Unreachable, match="since yesterday"):
        async with api.watch("/api/v1/pods", params={}):
            pass
    assert server.asked == []
    assert (await connection.beat()).status == 200, "but for the question whether it is back"
    await connection.close()


async def test_only_so_many_wait_for_it(server: Server) -> None:
    answering = asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        await answering.wait()
        return web.json_response({"metadata": {}})

    server.answer = slowly
    connection = RemoteConnection(server.kubeconfig())
    api = Api(connection)
    waiting = [asyncio.create_task(api.get("/api/v1/namespaces/x")) for _ in range(CALLS)]
    while len(server.asked) < CALLS:
        await asyncio.sleep(0.01)
    with pytest.raises(Retryable, match=f"{CALLS} requests wait for this cluster already"):
        await api.get("/api/v1/namespaces/x")
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0.05)
    assert not closing.done(), "new credentials cut nothing off"
    answering.set()
    assert [await each for each in waiting] == [{"metadata": {}}] * CALLS
    await closing


async def test_what_fails_is_told_without_addresses(server: Server) -> None:
    connection = RemoteConnection(parse(text(cluster={"server": "https://127.0.0.1:1"}, user={"token": TOKEN})))
    api = Api(connection)
    with pytest.raises(Unreachable) as beaten:
        await connection.beat()
    with pytest.raises(Retryable) as asked:
        await api.get("/api/v1/namespaces/x")
    with pytest.raises(Retryable) as watched:
        async with api.watch("/api/v1/pods", params={}):
            pass
    for error in (beaten, asked, watched):
        assert "no connection (ConnectionRefusedError)" in str(error.value)
        assert "127.0.0.1" not in str(error.value)
    await connection.close()


async def test_what_the_server_says_is_passed_on(server: Server) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": "Unauthorized"}, status=401)

    server.answer = refuse
    connection = RemoteConnection(server.kubeconfig())
    assert (await connection.beat()).status == 401
    with pytest.raises(Forbidden, match="Unauthorized"):
        await Api(connection).get("/api/v1/namespaces/x")
    await connection.close()


def test_certificates_that_cannot_be_used_are_refused_without_their_content(certificate: tuple[Path, Path]) -> None:
    made, key = (path.read_bytes() for path in certificate)
    bad = PEM.encode()
    for kubeconfig, field in (
        (Kubeconfig("https://x", authorities=PEM), "certificate-authority-data"),
        (Kubeconfig("https://x", certificate=bad, key=key), "client-certificate-data"),
        (Kubeconfig("https://x", certificate=made, key=bad), "client-key-data"),
    ):
        with pytest.raises(BadInput) as refused:
            RemoteConnection(kubeconfig)
        assert field in str(refused.value)
        assert "c2VjcmV0" not in str(refused.value)
        assert refused.value.__suppress_context__
