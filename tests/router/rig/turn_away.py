"""A pod that answers in place of the cells: the configuration as it is in the image, on ports of this machine."""

import asyncio
import os
import socket
import tempfile
from pathlib import Path

from recell.providers.routing.gateway.turn_away import TARGET_PORTS, TurnedAway
from recell.providers.routing.haproxy.objects import ADMIN_PORT
from tests.fakes.ports import free_port
from tests.router.rig.pod import ROUTER, eventually


class TurnAwayPod:
    def __init__(self, address: str = "127.0.0.1", *, name: str = "turn-away-0") -> None:
        self.name = name
        self.address = address
        self.ports = {reason: free_port() for reason in TurnedAway}
        self.admin_port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="ra", dir="/tmp")
        self._environment = {"PATH": os.environ["PATH"], "POD_NAME": name}
        self._haproxy: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "TurnAwayPod":
        text = (ROUTER / "turn-away.cfg").read_text()
        named = {TARGET_PORTS[reason]: port for reason, port in self.ports.items()} | {ADMIN_PORT: self.admin_port}
        for inside, port in named.items():
            assert text.count(f"bind :{inside}\n") == 1
            text = text.replace(f"bind :{inside}\n", f"bind {self.address}:{port}\n")
        configuration = Path(self._folder.name) / "haproxy.cfg"
        configuration.write_text(text)
        with (Path(self._folder.name) / "haproxy.log").open("ab") as log:
            self._haproxy = await asyncio.create_subprocess_exec(
                "haproxy", "-db", "-f", str(configuration), env=self._environment, stdout=log, stderr=log
            )
        await eventually(self._listens, what=f"{self.name} listens")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._haproxy is not None and self._haproxy.returncode is None:
            self._haproxy.terminate()
            await self._haproxy.wait()
        self._folder.cleanup()

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex((self.address, self.admin_port)) == 0
