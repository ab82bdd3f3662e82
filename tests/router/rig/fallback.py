"""A fallback pod: its configuration written from a table as its init container does it, and a real HAProxy."""

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from recell.domain.fallback import Table
from tests.fakes.ports import free_port
from tests.router.rig.pod import HEADER_KEY, ROUTER, eventually


class FallbackPod:
    def __init__(self, table: Table, *, name: str = "fallback-0", key: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.port, self.admin_port = free_port(), free_port()
        self._table = table
        self._folder = tempfile.TemporaryDirectory(prefix="rf", dir="/tmp")
        self.run = Path(self._folder.name)
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROUTER),
            "PYTHONDONTWRITEBYTECODE": "1",
            "POD_NAME": name,
            "NAMESPACE": "fleet",
            "ROUTER": "shop",
            "RUN_DIR": str(self.run),
            "TEMPLATE": str(ROUTER / "fallback.cfg"),
            "TABLE": str(self.run / "table.json"),
            "CUSTOMERS_BIND": f"127.0.0.1:{self.port}",
            "ADMIN_BIND": f"127.0.0.1:{self.admin_port}",
            **(key or HEADER_KEY),
        }
        self._haproxy: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "FallbackPod":
        (self.run / "table.json").write_text(json.dumps(self._table.document()))
        await self._ended(sys.executable, "-S", "-m", "agent.fallback")
        await self._ended("haproxy", "-c", "-f", str(self.run / "haproxy.cfg"))
        with (self.run / "haproxy.log").open("ab") as log:
            self._haproxy = await asyncio.create_subprocess_exec(
                "haproxy", "-db", "-f", str(self.run / "haproxy.cfg"), env=self._environment, stdout=log, stderr=log
            )
        await eventually(self._listens, what=f"{self.name} listens")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._haproxy is not None and self._haproxy.returncode is None:
            self._haproxy.terminate()
            await self._haproxy.wait()
        self._folder.cleanup()

    async def _ended(self, *command: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *command, env=self._environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        told = (await process.communicate())[0].decode()
        assert process.returncode == 0, f"{' '.join(command)}: {told}"
        assert "WARNING" not in told, told

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0
