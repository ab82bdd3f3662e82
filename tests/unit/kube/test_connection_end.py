"""A session that ends leaves no socket behind, whenever its requests are cancelled."""

import asyncio
import gc
import ssl
from pathlib import Path

import aiohttp

from recell.providers.kube.connection import Connector
from tests.fakes.certificates import self_signed
from tests.fakes.ports import free_port


async def test_requests_that_are_cancelled_while_they_connect_leave_nothing_open(tmp_path: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*self_signed(tmp_path, "kubernetes"))
    server = await asyncio.start_server(_silent, "127.0.0.1", free_port(), ssl=tls)
    host, port = server.sockets[0].getsockname()
    for turns in range(1, 40):  # of the loop: TCP, then TLS, then HTTP
        connector = Connector(tls=False)
        async with aiohttp.ClientSession(connector=connector) as session:
            asked = [asyncio.create_task(_ask(session, f"https://{host}:{port}/")) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            await connector.end()
            assert connector.still_open == [], f"cancelled after {turns} turns"
    server.close()
    gc.collect()  # what is left open is told as a warning, which is an error


async def _ask(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(url):
        pass


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()
