"""A program of this machine whose words are kept."""

import asyncio
import contextlib
from collections.abc import Mapping

KEPT = 200_000
"""Bytes, the newest ones."""


class LoggedProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.log = b""
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, *command: str, env: Mapping[str, str] | None = None) -> "LoggedProcess":
        pipe, out = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        return cls(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=out, env=env))

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    @property
    def words(self) -> str:
        return self.log.decode(errors="replace")

    def signal(self, number: int) -> None:
        if self.runs:
            self._process.send_signal(number)

    async def stop(self, within: float) -> None:
        """Ended by itself when asked to, or killed after so many seconds."""
        if self.runs:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), within)
        if self.runs:
            self._process.kill()
            await self._process.wait()

    async def end(self) -> int:
        """Its exit code, once all that it said is in the log: also what it started has to have ended."""
        await self._reading
        return await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.log = (self.log + line)[-KEPT:]
