"""kopf, the operator's frame: log-in, start-up, clean-up, and handlers for Recell's own kinds.

Promises: handlers do nothing but hand the object to the store, which triggers what is to be done;
kopf writes nothing (no finalizers, no annotations, no events). It runs in a thread with an event
loop of its own, because at its end it cancels every task that began after it, and takes the
signals. What it misses (deletions across a cut watch), the store's own watches know
(docs/decisions/0001-store-and-kopf.md).
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import kopf

from recell.api.meta import GROUP, VERSION, Resource
from recell.providers.kube.api import Object
from recell.providers.kube.connection import Connection

logger = logging.getLogger(__name__)

RESTART_AFTER = 30.0

Deliver = Callable[[type[Resource], str, Object], None]
"""kind, type of the event (None on kopf's listing, ADDED, MODIFIED, DELETED), object."""


def configure(settings: kopf.OperatorSettings) -> None:
    """Watch, and write nothing (figures and reasons: docs/decisions/0001-store-and-kopf.md)."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = 500
    settings.networking.error_backoffs = (0.2, 0.5, *([1.0] * 600))
    settings.networking.request_timeout = 60
    settings.queueing.idle_timeout = 0.1


class Frame:
    """`start()` when the kinds are known to exist; `stop()` at the end."""

    def __init__(
        self, connection: Connection, kinds: Sequence[type[Resource]], namespaces: Sequence[str], deliver: Deliver
    ) -> None:
        """`deliver` is called in the event loop that called `start()`."""
        self._connection = connection
        self._kinds = kinds
        self._namespaces = namespaces
        self._deliver = deliver
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="kopf", daemon=True)
        self._thread.start()

    async def stop(self, timeout: float) -> None:
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, timeout)

    def _run(self, home: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._operate(home))
            except Exception:
                logger.exception("the frame ended, starting it again in %g s", RESTART_AFTER)
            self._stop.wait(RESTART_AFTER)

    async def _operate(self, home: asyncio.AbstractEventLoop) -> None:
        everywhere = "" in self._namespaces
        await kopf.operator(
            registry=self._registry(home),
            standalone=True,
            identity=cast(Any, "recell"),  # else it asks for the user's name, which an image need not know
            clusterwide=everywhere,
            namespaces=() if everywhere else [*self._namespaces],
            stop_flag=self._stop,
        )

    def _registry(self, home: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.startup(registry=registry)
        async def start_up(settings: kopf.OperatorSettings, **_: Any) -> None:
            configure(settings)

        @kopf.on.login(registry=registry)
        async def log_in(**_: Any) -> kopf.ConnectionInfo:
            found = await self._connection.credentials()
            scheme, _space, token = (found.authorization or "").partition(" ")
            return kopf.ConnectionInfo(
                server=found.server,
                ca_path=found.ca_file,
                certificate_path=found.certificate_file,
                private_key_path=found.key_file,
                insecure=found.insecure,
                scheme=scheme.capitalize() or None,
                token=token or None,
            )

        for kind in self._kinds:
            kopf.on.event(GROUP, VERSION, kind.INFO.plural, registry=registry, id=kind.INFO.plural)(
                self._handler(kind, home)
            )
        return registry

    def _handler(self, kind: type[Resource], home: asyncio.AbstractEventLoop) -> Callable[..., Any]:
        async def seen(event: dict[str, Any], **_: Any) -> None:
            home.call_soon_threadsafe(self._deliver, kind, event["type"] or "", dict(event["object"]))

        return seen
