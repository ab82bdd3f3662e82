"""The way to a cluster that may be away: a `Connection` from a kubeconfig out of a Secret.

Promises
- At most `CALLS` requests wait for it at once, each for `LONGEST` seconds at the most, and none is sent while it is
  known not to answer: whoever works with several clusters is not held up by one of them.
- What it says of a failure is without the content of the Secret.
- Closing it waits a moment for what is on its way, so that new credentials cut no effect off.

Must not: read credentials again; whoever watches the Secret makes a new one.
"""

import asyncio
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from recell.engine.errors import BadInput, Retryable, Unreachable
from recell.providers.kube.connection import NETWORK, Answer, Connection, client_for
from recell.providers.kube.kubeconfig import Kubeconfig

CALLS = 8
LONGEST = 10.0
"""Seconds of one request; watches are not limited by it."""
BEAT_TIMEOUT = 5.0
"""Seconds in which an API server says its version, or it has not answered."""
LOOK_AGAIN = 5.0
"""Seconds after which whoever was refused may ask again."""
CLOSING = 10.0
"""Seconds that what is on its way has to end, when it is closed."""


class RemoteConnection(Connection):
    """Open at once; raises BadInput for certificates that cannot be used."""

    def __init__(self, kubeconfig: Kubeconfig, wall: Callable[[], float] = time.time) -> None:
        super().__init__(None, None, wall)
        self._client = _client(kubeconfig)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.silent: str | None = None
        """Why nothing is sent at present; set by whoever listens for its beat."""

    async def beat(self) -> Answer:
        """Its version: any user may ask that, and wrong credentials are refused. Raises Unreachable with the reason."""
        try:
            return await super().request("GET", "/version", timeout=BEAT_TIMEOUT)
        except Retryable as error:
            raise Unreachable(_why(error)) from error

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        content_type: str = "application/json",
        timeout: float,
        before: Callable[[], None] | None = None,
    ) -> Answer:
        self._admit()
        if self._under_way >= CALLS:
            raise Retryable(f"{method} {path}: {CALLS} requests wait for this cluster already", after=1.0)
        self._under_way += 1
        self._idle.clear()
        try:
            return await super().request(
                method,
                path,
                params=params,
                body=body,
                content_type=content_type,
                timeout=min(timeout, LONGEST),
                before=before,
            )
        except Retryable as error:
            raise _retold(f"{method} {path}", error) from error
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, idle: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        self._admit()
        try:
            async with super().stream(path, params, idle=idle) as response:
                yield response
        except Retryable as error:
            raise _retold(f"watch {path}", error) from error

    def _admit(self) -> None:
        if self.silent is not None:
            raise Unreachable(self.silent, after=LOOK_AGAIN)

    async def close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await self._idle.wait()
        await super().close()

    async def _refresh(self) -> None:
        """The Secret's watch brings new credentials."""


def _client(kubeconfig: Kubeconfig) -> ApiClient:
    configuration = Configuration(host=kubeconfig.server)
    if kubeconfig.token is not None:
        configuration.api_key = {"BearerToken": f"Bearer {kubeconfig.token}"}
    configuration.tls_server_name = kubeconfig.server_name
    return client_for(configuration, _trust(kubeconfig))


def _trust(kubeconfig: Kubeconfig) -> ssl.SSLContext:
    """Raises BadInput; OpenSSL's own words say which byte is wrong, which is nobody's business."""
    try:
        context = ssl.create_default_context(cadata=kubeconfig.authorities)
    except (ssl.SSLError, ValueError):
        raise BadInput("the kubeconfig's clusters[].cluster.certificate-authority-data has no certificate") from None
    if kubeconfig.certificate is not None and kubeconfig.key is not None:
        with tempfile.TemporaryDirectory() as folder:  # OpenSSL reads a key from a file only; for the owner alone
            certificate, key = Path(folder, "certificate"), Path(folder, "key")
            certificate.write_bytes(kubeconfig.certificate)
            key.write_bytes(kubeconfig.key)
            try:
                context.load_cert_chain(certificate, key, password=lambda: b"")
            except (ssl.SSLError, OSError, ValueError):
                raise BadInput(
                    "the kubeconfig's users[].user.client-certificate-data and client-key-data are no pair of a"
                    " certificate and its key without a passphrase"
                ) from None
    return context


def _retold(what: str, error: Retryable) -> Retryable:
    """The same without addresses; what the API server itself said stays as it is."""
    return Retryable(f"{what}: {_why(error)}") if isinstance(error.__cause__, NETWORK) else error


def _why(error: Retryable) -> str:
    """Why there was no answer, without addresses, and the same each time."""
    match error.__cause__:
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "its certificate is not one of certificate-authority-data, or of another name"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return "TLS failed"
        case aiohttp.ClientConnectorDNSError():
            return "its name cannot be resolved"
        case aiohttp.ClientConnectorError() as cause:
            return f"no connection ({type(cause.os_error).__name__})"
        case None:
            return str(error)
        case cause:
            return f"no answer ({type(cause).__name__})"
