"""Customers' resolvers: they keep an answer for its TTL, and ask all the time."""

import asyncio
import contextlib

import dns.asyncresolver
import dns.resolver


class Customers:
    """Resolvers with a cache, one for each name server; they ask all the time."""

    def __init__(self, name: str, *ports: int) -> None:
        self._name = name
        self.resolvers = []
        for port in ports:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers, resolver.port = ["127.0.0.1"], port
            resolver.cache = dns.resolver.LRUCache()
            resolver.lifetime = 3
            self.resolvers.append(resolver)
        self._task: asyncio.Task[None] | None = None

    async def ask(self) -> set[str]:
        """What any of them would be sent to now."""
        found = set()
        for resolver in self.resolvers:
            with contextlib.suppress(dns.resolver.NoAnswer, dns.resolver.NXDOMAIN, dns.resolver.LifetimeTimeout):
                found |= {str(entry.address) for entry in await resolver.resolve(self._name, "A")}
        return found

    async def __aenter__(self) -> "Customers":
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(0.05)
