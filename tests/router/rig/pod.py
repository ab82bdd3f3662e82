"""A router pod: a real agent and a real HAProxy, started as the Deployment starts them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from router.agent.runtime_socket import RuntimeSocket
from router.agent.table import held, parse_map
from tests.fakes.ports import free_port
from tests.router.rig.placements import NAME, NAMESPACE, PlacementApi

ROUTER = Path(__file__).parents[3] / "router"
HEADER_KEY = {"CUSTOMER_KEY_TYPE": "Header", "CUSTOMER_KEY_NAME": "x-customer-id"}


async def eventually(condition: Callable[[], Any], within: float = 60.0, what: str = "") -> Any:
    """The condition's first true value, by a last look after so many seconds at the latest."""
    ends = time.monotonic() + within
    while True:
        last_look = time.monotonic() >= ends
        value = condition()
        if value:
            return value
        assert not last_look, f"did not happen within {within} s: {what or condition}"
        await asyncio.sleep(0.02)


class RouterPod:
    def __init__(
        self,
        api: PlacementApi,
        *,
        name: str = "router-0",
        key: Mapping[str, str] | None = None,
        in_flight_max: int = 1000,
        agent_port: int = 0,
        address: str = "127.0.0.1",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.port = free_port()
        self.admin_port = free_port()
        self.agent_port = agent_port or free_port()
        # Short: a unix socket's path may have 107 characters.
        self._folder = tempfile.TemporaryDirectory(prefix="rc", dir="/tmp")
        self.run = Path(self._folder.name)
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROUTER),
            "PYTHONDONTWRITEBYTECODE": "1",
            "POD_NAME": name,
            "NAMESPACE": NAMESPACE,
            "ROUTER": NAME,
            "RUN_DIR": str(self.run),
            "TEMPLATE": str(ROUTER / "haproxy.cfg"),
            "CUSTOMERS_BIND": f"127.0.0.1:{self.port}",
            "ADMIN_BIND": f"127.0.0.1:{self.admin_port}",
            "AGENT_BIND": f"{address}:{self.agent_port}",
            "IN_FLIGHT_MAX": str(in_flight_max),
            "API_URL": api.url,
            **(key or HEADER_KEY),
            **(environment or {}),
        }
        self.agent: asyncio.subprocess.Process | None = None
        self.haproxy: asyncio.subprocess.Process | None = None
        self.reports: list[dict[str, Any]] = []
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "RouterPod":
        await self.start_agent()
        await self.start_haproxy()
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listening:
            self._listening.cancel()
        await self.stop_haproxy()
        await self.stop_agent()
        self._folder.cleanup()

    async def start_agent(self) -> None:
        with (self.run / "agent.log").open("ab") as log:
            self.agent = await asyncio.create_subprocess_exec(
                sys.executable, "-S", "-m", "agent.main", env=self._environment, stdout=log, stderr=log
            )
        # The startup probe: HAProxy is started after it passes.
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://{self.address}:{self.agent_port}/healthz") as answer:
                        if answer.status == 200:
                            return
                assert self.agent.returncode is None, self.log("agent")
                await asyncio.sleep(0.02)

    async def start_haproxy(self) -> None:
        with (self.run / "haproxy.log").open("ab") as log:
            self.haproxy = await asyncio.create_subprocess_exec(
                "haproxy", "-db", "-f", str(self.run / "haproxy.cfg"), env=self._environment, stdout=log, stderr=log
            )

    async def stop_agent(self, how: signal.Signals = signal.SIGTERM) -> None:
        await _end(self.agent, how)
        self.agent = None

    async def stop_haproxy(self, how: signal.Signals = signal.SIGTERM) -> None:
        await _end(self.haproxy, how)
        self.haproxy = None

    def log(self, who: str) -> str:
        path = self.run / f"{who}.log"
        return path.read_text() if path.exists() else ""

    @property
    def last(self) -> dict[str, Any]:
        return self.reports[-1] if self.reports else {}

    def told(self, cell: int, what: str) -> Any:
        """What the last report says of the cell with this index; None where it says nothing of it."""
        return self.last.get("cells", {}).get(str(cell), {}).get(what)

    async def applied(self, generation: int, *, epoch: int = 1, within: float = 60.0) -> dict[str, Any]:
        """The first report that says so."""

        def seen() -> dict[str, Any] | None:
            for who, process in (("agent", self.agent), ("haproxy", self.haproxy)):
                assert process is None or process.returncode is None, f"{who} ended:\n{self.log(who)[-2000:]}"
            held = self.last.get("placement")
            return self.last if held and (held["epoch"], held["generation"]) == (epoch, generation) else None

        report: dict[str, Any] = await eventually(
            seen, within, f"{self.name} applies {epoch}/{generation}; last: {self.last}\n{self.log('agent')[-2000:]}"
        )
        return report

    async def later_report(self) -> dict[str, Any]:
        """A report whose counters were read after this moment: the second that was made since, for the first may
        have counters that were read before it."""
        moment = time.time()

        def found() -> dict[str, Any] | None:
            later = [report for report in self.reports if report["at"] > moment]
            return next((report for report in later[1:] if report["rejected"] is not None), None)

        report: dict[str, Any] = await eventually(found, what="a report with counters")
        return report

    async def counted(self) -> dict[str, Any]:
        """The same once no request is under way: HAProxy ends one a little after its customer has the answer."""
        await self.later_report()

        def none() -> bool:
            return bool(self.last["cells"]) and all(cell["inFlight"] == 0 for cell in self.last["cells"].values())

        await eventually(none, what="no request is under way")
        return self.last

    async def ready(self) -> None:
        """HAProxy says that it serves a Placement."""
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    if (await self.get(self.admin_port, "/ready"))[0] == 200:
                        return
                await asyncio.sleep(0.02)

    async def closing(self) -> Mapping[int, int]:
        """By index of the cell, the second since 1970 from which its connections are closed, as HAProxy has it."""
        entries = await RuntimeSocket(self.run / "haproxy.sock").map_entries(self.run / "placement.map")
        return held(parse_map(entries)).closing

    async def cli(self, command: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self.run / "haproxy.sock")
        writer.write(command.encode() + b"\n")
        text = (await asyncio.wait_for(reader.read(-1), 60)).decode()
        writer.close()
        return text

    async def get(self, port: int, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}", timeout=aiohttp.ClientTimeout(total=60)) as answer,
        ):
            return answer.status, await answer.text()

    async def _listen(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 22) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"http://{self.address}:{self.agent_port}/watch") as answer:
                        async for line in answer.content:
                            self.reports.append(json.loads(line))
                await asyncio.sleep(0.05)


async def _end(process: asyncio.subprocess.Process | None, how: signal.Signals) -> None:
    if process is None or process.returncode is not None:
        return
    process.send_signal(how)
    try:
        await asyncio.wait_for(process.wait(), 30)
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def pods(*started: RouterPod) -> AsyncIterator[tuple[RouterPod, ...]]:
    async with contextlib.AsyncExitStack() as stack:
        for pod in started:
            await stack.enter_async_context(pod)
        yield started
