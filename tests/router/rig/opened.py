"""A connection that stays open: an answer or a WebSocket that goes on for as long as somebody lets it."""

import asyncio
import contextlib
import time

STREAM, WEBSOCKET = "/stream", "/websocket"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Opened:
    """Entered once something of the answer came."""

    def __init__(self, port: int, customer: str, path: str = STREAM) -> None:
        self._port = port
        self._customer = customer
        self._path = path
        self.received = 0
        """Bytes of the answer beside its head."""
        self.ended_at: float | None = None
        """Second since 1970; None while it is open."""

    async def __aenter__(self) -> "Opened":
        self._reading = asyncio.create_task(self._read())
        await self.goes_on()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.wait({self._reading})

    @property
    def open(self) -> bool:
        return self.ended_at is None

    async def goes_on(self) -> None:
        """Something more arrives. Fails the test where it has ended, or nothing comes."""
        before, deadline = self.received, time.monotonic() + 60
        while self.received == before:
            assert self.open, f"the connection of {self._customer} has ended"
            assert time.monotonic() < deadline, f"nothing comes to {self._customer}"
            await asyncio.sleep(0.02)

    async def _read(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        upgrade = UPGRADE if self._path == WEBSOCKET else ""
        head = f"GET {self._path} HTTP/1.1\r\nHost: shop.example\r\nx-customer-id: {self._customer}\r\n{upgrade}\r\n"
        try:
            writer.write(head.encode())
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                status = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                while status in (b"200", b"101") and (data := await reader.read(4096)):
                    self.received += len(data)
        finally:
            self.ended_at = time.time()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
