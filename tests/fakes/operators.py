"""Starting, watching and hurting operator processes, each behind a proxy of its own."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.fakes.api_proxy import ApiProxy, Seen
from tests.fakes.eventually import eventually

ROOT = Path(__file__).parents[2]
TERMS = ("--lease-duration=12", "--renew-deadline=10", "--retry-period=0.5")
"""Short, so that a take-over is not waited for long; long enough for a busy machine."""
LONG_TERMS = ("--lease-duration=100", "--renew-deadline=90", "--retry-period=0.5")
"""Where nobody takes over."""


@dataclass
class OperatorProcess:
    name: str
    proxy: ApiProxy
    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 120)

    def writes(self, pattern: str = "configmaps") -> list[Seen]:
        """Those that the server took."""
        return [seen for seen in self.proxy.writes(pattern) if 200 <= seen.status < 300]

    def logged(self, text: str) -> bool:
        return any(re.search(text, line) for line in self.lines)

    async def says(self, text: str) -> None:
        await eventually(lambda: self.logged(text), f"{self.name} logs {text!r}\n" + "".join(self.lines[-30:]))

    async def leads(self) -> None:
        await self.says("leading as")

    async def stands_by(self) -> None:
        await self.says("waiting to lead")

    async def get(self, path: str) -> tuple[int, str]:
        """From its health endpoint."""
        port = await eventually(lambda: self._port(), "the health endpoint is open")
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()

    def _port(self) -> str:
        found = [match for line in self.lines if (match := re.search(r"health and metrics on port (\d+)", line))]
        return found[0].group(1) if found else ""

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())


class Operators:
    """`await operators.start(name, fleet)`; all of them end with the test."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path, stack: AsyncExitStack) -> None:
        self._kubeconfig, self._namespace, self._folder, self._stack = kubeconfig, namespace, folder, stack

    async def start(self, name: str, fleet: str, *flags: str, lease: str = "recell-test") -> OperatorProcess:
        proxy = await self._stack.enter_async_context(ApiProxy.to(self._kubeconfig, self._folder))
        command = [
            *(sys.executable, "-m", "tests.fakes.operator_process", fleet, self._namespace),
            f"--kubeconfig={proxy.kubeconfig}",
            f"--identity={name}",
            f"--namespaces={self._namespace}",
            f"--lease-namespace={self._namespace}",
            f"--lease-name={lease}",
            *("--host=127.0.0.1", "--port=0", "--log-format=text"),
            *(flags if flags else TERMS),
        ]
        process = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env={"PYTHONPATH": f"{ROOT}/operator:{ROOT}"}
        )
        made = OperatorProcess(name, proxy, process)
        reading = asyncio.create_task(made._read())

        async def end() -> None:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading

        self._stack.push_async_callback(end)
        return made


@asynccontextmanager
async def operators_in(kubeconfig: Path, namespace: str, folder: Path) -> AsyncIterator[Operators]:
    async with AsyncExitStack() as stack:
        yield Operators(kubeconfig, namespace, folder, stack)
