"""The operator as a process of its own, with a small fleet in place of the real controllers.

    python -m tests.fakes.operator_process beat|echo NAMESPACE [the operator's own flags]

beat  the leader writes the ConfigMap `beat` over and over: who it is, its epoch, a number.
echo  for each Cell there is a ConfigMap of its name, made anew when it is missing.
SIGUSR1 blocks the event loop for a minute.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from recell.api import Cell, Placement, Resource
from recell.engine.errors import Fenced, NotFound, RecellError
from recell.engine.ports import Key
from recell.providers.kube.paths import CONFIG_MAPS
from recell.providers.platform import Enqueue, Platform
from recell.runtime import logging as logs
from recell.runtime.clock import SystemClock
from recell.runtime.operator import run
from recell.runtime.settings import options, parse
from recell.runtime.workers import Controller


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


class Beat:
    def __init__(self, platform: Platform, namespace: str) -> None:
        self._platform = platform
        self._namespace = namespace
        self._task: asyncio.Task[None] | None = None

    @property
    def controllers(self) -> Mapping[type[Resource], Controller]:
        return {}

    async def open(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, time.sleep, 60)

    async def lead(self) -> None:
        for placement in self._platform.store.all(Placement, self._namespace):
            self._platform.leadership.outrank(placement.spec.epoch)
        self._task = asyncio.create_task(self._beat())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self) -> None:
        api, number = self._platform.api, 0
        while True:
            number += 1
            data = {"by": self._platform.identity, "epoch": str(self._platform.leadership.epoch), "n": str(number)}
            try:
                await api.merge_patch(CONFIG_MAPS.path(self._namespace, "beat"), {"data": data})
            except NotFound:
                await api.create(CONFIG_MAPS.collection(self._namespace), config_map(self._namespace, "beat", **data))
            except Fenced:
                return
            except RecellError:
                pass
            await asyncio.sleep(0.02)


class Echo:
    """Its controller's one effect may be repeated."""

    def __init__(self, platform: Platform, namespace: str) -> None:
        self._platform = platform
        self._namespace = namespace

    @property
    def controllers(self) -> Mapping[type[Resource], Controller]:
        return {Cell: self}

    async def open(self) -> None: ...

    async def lead(self) -> None: ...

    async def close(self) -> None: ...

    async def reconcile(self, key: Key) -> float | None:
        cell = self._platform.store.cell(key)
        if cell is None or key[0] != self._namespace:
            return None
        weight, path = str(cell.spec.weight), CONFIG_MAPS.path(*key)
        try:
            found = await self._platform.api.get(path)
        except NotFound:
            await self._platform.api.create(CONFIG_MAPS.collection(key[0]), config_map(*key, weight=weight))
            return None
        if found["data"].get("weight") != weight:
            swap = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "data": {"weight": weight}}
            await self._platform.api.merge_patch(path, swap)
        return None


@click.command()
@click.argument("fleet", type=click.Choice(["beat", "echo"]))
@click.argument("namespace")
@options
def main(fleet: str, namespace: str, **given: Any) -> None:
    settings = parse(given)
    logs.configure(settings.log_level, settings.log_format)
    made = Beat if fleet == "beat" else Echo

    def build(platform: Platform, enqueue: Enqueue) -> Beat | Echo:
        return made(platform, namespace)

    run(settings, build, SystemClock())


if __name__ == "__main__":
    sys.exit(main())
