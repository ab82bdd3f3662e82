"""Starts the agent: `python3 -m agent.main`.

The files are written before the server listens, so a startup probe on /healthz holds HAProxy back
until there is something to start from.
"""

import asyncio
import os
import signal
import sys

from .api import Away, Found, Missing, PlacementWatch, Unreadable
from .applier import Applier
from .logs import log
from .server import Server, Source
from .settings import Settings, from_environment


async def run(settings: Settings) -> None:
    """Until it is told to stop."""
    stop = asyncio.Event()
    # As process 1 of its container nothing stops it unless it listens.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(settings)
    applier = Applier(settings, server.changed)
    server.show(applier)
    listener = await server.listen(settings.agent_bind)
    log("started", router=settings.router, namespace=settings.namespace)
    tasks = [
        asyncio.create_task(applier.run(), name="applier"),
        asyncio.create_task(follow(settings, applier, server), name="watch"),
        asyncio.create_task(stop.wait(), name="stop"),
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    listener.close()
    for task in done:
        task.result()  # A part that ended by itself is a fault: end loudly, the kubelet starts anew.


async def follow(settings: Settings, applier: Applier, server: Server) -> None:
    """Brings what the API server says to the applier. Never ends."""
    watch = PlacementWatch(settings.api_url, settings.credentials, settings.namespace, settings.router)
    async for event in watch.events():
        match event:
            case Found(obj):
                applier.offer(obj)
                server.set_source(Source("Synced", ""))
            case Missing():
                server.set_source(
                    Source(
                        "Missing", f"there is no Placement {settings.namespace}/{settings.router}; the last one stays"
                    )
                )
            case Unreadable(message):
                applier.refuse_unread(message)
            case Away(message):
                if server.source != Source("Away", message):
                    log("api-away", message=message)
                server.set_source(Source("Away", message))


def main() -> None:
    try:
        settings = from_environment(os.environ)
    except ValueError as error:
        sys.exit(f"The router's Deployment is wrong: {error}")
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
