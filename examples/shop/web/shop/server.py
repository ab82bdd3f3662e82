"""The process: both ports, the faults, and an orderly end.

Promises: on SIGTERM or SIGINT readiness goes first; requests are still served for `drain_seconds`, so that whoever
routes here can notice; then no connection is taken any more, requests in flight may end within `stop_seconds`, and
the process ends with 0. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal

from aiohttp import web

from shop.admin import make_admin_app
from shop.database import Database
from shop.faults import Faults
from shop.faults_store import FaultsStore
from shop.integrity import Integrity
from shop.orders import Orders
from shop.public import Readiness, make_public_app
from shop.settings import Settings

CRASH_STATUS = 70

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Serve until told to end."""
    loop = asyncio.get_running_loop()
    database = await Database.open()
    orders = Orders(database, settings.cell)
    faults = Faults(random.Random(), _crash)
    store = FaultsStore(database, faults, settings.cell, loop.time())
    ready = Readiness()
    public = await _listen(
        make_public_app(settings, orders, Integrity(database), faults, ready),
        settings.host,
        settings.port,
        settings.stop_seconds,
        "public",
    )
    admin = await _listen(
        make_admin_app(settings.cell, settings.pod, orders, faults, store),
        settings.host,
        settings.admin_port,
        settings.stop_seconds,
        "admin",
    )
    following = asyncio.create_task(store.follow())
    try:
        await _until_told_to_end(following)
        ready.stopping = True
        logger.info("stopping: not ready, serving for %g s more", settings.drain_seconds)
        await asyncio.sleep(settings.drain_seconds)
        logger.info("stopping: finishing requests in flight, %g s at most", settings.stop_seconds)
        await public.cleanup()
    finally:
        following.cancel()
        await admin.cleanup()
        database.close()
    logger.info("stopped")


async def _until_told_to_end(following: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def end() -> None:
        if told.is_set():
            os._exit(1)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({waiting, following}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if following.done():
        # It never returns; if it broke, a restart is better than a process that follows no orders.
        following.result()


async def _listen(app: web.Application, host: str, port: int, stop_seconds: float, name: str) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=stop_seconds)
    await runner.setup()
    await web.TCPSite(runner, host, port, reuse_address=True).start()
    logger.info("%s port is %d", name, runner.addresses[0][1])
    return runner


def _crash(fault: str) -> None:
    logger.critical("crashing as ordered by fault %s", fault)
    logging.shutdown()
    os._exit(CRASH_STATUS)
