"""A name server in memory, over real UDP and TCP: answers what a test puts into it, and fails as name servers do."""

import asyncio
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.fakes.ports import free_port

UDP_LIMIT = 512


class NameServer:
    """One zone. `weights` makes an answer name one of several targets, as often as its weight says."""

    def __init__(self, zone: str, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self.zone = dns.name.from_text(zone)
        self.address = address
        self.port = port or free_port()
        self.records: dict[tuple[str, str], tuple[int, Sequence[str]]] = {}
        """(name, type) -> TTL and targets."""
        self.weights: dict[tuple[str, str], Mapping[str, int]] = {}
        self.silent = False
        self.rcode: dns.rcode.Rcode | None = None
        """What it answers instead of the truth."""
        self.asked = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "NameServer":
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(self.address, self.port)
        )
        self._server = await asyncio.start_server(self._stream, self.address, self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._transport is not None
        assert self._server is not None
        self._transport.close()
        self._server.close()
        await self._server.wait_closed()

    def put(self, name: str, record_type: str, *targets: str, ttl: int = 60) -> None:
        self.records[name, record_type] = (ttl, targets)

    def answer(self, raw: bytes) -> dns.message.Message | None:
        """What it says; None while it is silent."""
        self.asked += 1
        if self.silent:
            return None
        question = dns.message.from_wire(raw)
        answer = dns.message.make_response(question)
        if self.rcode is not None:
            answer.set_rcode(self.rcode)
            return answer
        answer.flags |= dns.flags.AA
        asked = question.question[0]
        name, kind = asked.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(asked.rdtype)
        for found in (kind, "CNAME"):
            if (name, found) in self.records:
                ttl, targets = self.records[name, found]
                weights = self.weights.get((name, found))
                if weights:
                    targets = random.choices(list(weights), list(weights.values()))
                answer.answer.append(dns.rrset.from_text_list(asked.name, ttl, "IN", found, list(targets)))
                return answer
        if not any(known == name or known.endswith(f".{name}") for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = self.answer(await reader.readexactly(length))
            if answer is not None:
                wire = answer.to_wire()
                writer.write(struct.pack("!H", len(wire)) + wire)
                await writer.drain()
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self._server.answer(data)
        if answer is None or self._transport is None:
            return
        wire = answer.to_wire()
        if len(wire) > UDP_LIMIT:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
            wire = answer.to_wire()
        self._transport.sendto(wire, addr)
