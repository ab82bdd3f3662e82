"""One cluster's HTTP session: where it is, who we are, and how far its clock is from ours.

Promises: every request has a deadline; tokens that rotate are read again; a connection whose other
side vanished is noticed by TCP keep-alive. Raises Retryable for whatever fails before an answer.
Must not know verbs or objects: that is `Api`.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode
from weakref import WeakSet

import aiohttp
from aiohttp import AddrInfoType
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from recell.engine.errors import BadInput, Retryable

CONNECT_TIMEOUT = 5.0
CLOSED_WITHIN, LOOKS = 1.0, 200
"""Seconds that sockets may take to close at the end, and how often that is looked at."""
RELOAD_INTERVAL = 10.0
"""Refused credentials are read again at most this often."""
NETWORK = (aiohttp.ClientError, OSError, ssl.SSLError, asyncio.TimeoutError)
"""What a request that got no answer ends with."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Credentials:
    """For another client of the same API server."""

    server: str
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    insecure: bool
    authorization: str | None
    """Value of the header."""


class Connector(aiohttp.TCPConnector):
    """A dead peer is noticed within half a minute, without any API traffic. `end` closes every socket that it opened.

    asyncio loses a connection whose request is cancelled between TCP and TLS (Python 3.11: an SSL transport that was
    not told of its connection yet cannot be closed), and so does whoever asked for it.
    """

    def __init__(self, tls: ssl.SSLContext | bool) -> None:
        super().__init__(limit=0, ssl=tls, keepalive_timeout=75, socket_factory=self._socket)
        self._opened: WeakSet[socket.socket] = WeakSet()

    async def end(self) -> None:
        await self.close()
        for left in self.still_open:
            with contextlib.suppress(OSError):
                left.shutdown(socket.SHUT_RDWR)  # its transport reads the end, and closes it
        for _ in range(LOOKS):
            if not self.still_open:
                return
            await asyncio.sleep(CLOSED_WITHIN / LOOKS)

    @property
    def still_open(self) -> list[socket.socket]:
        return [each for each in self._opened if each.fileno() != -1]

    def _socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        self._opened.add(made)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return made


def client_for(configuration: Configuration, trust: ssl.SSLContext | None = None) -> ApiClient:
    """`trust`: instead of what the configuration says about certificates."""
    configuration.retries = None
    configuration.connection_pool_maxsize = 0  # watches hold connections for long: none may starve a write
    client = ApiClient(configuration)
    client.user_agent = "recell-operator"
    configuration.client_session_kwargs = {"connector": Connector(trust or client.rest_client.ssl_context)}
    return client


class Connection:
    """The session. `open()` makes it; `close()` ends it."""

    def __init__(self, kubeconfig: str | None, context: str | None, wall: Callable[[], float]) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._wall = wall
        self._client: ApiClient | None = None
        self._loaded_at = 0.0
        self.skew: float | None = None
        """Seconds that this machine's clock is certainly ahead (behind: negative) of the API server's, 0 if the
        difference is within what the Date header can tell; None before the first answer."""

    @classmethod
    async def open(
        cls, kubeconfig: str | None = None, context: str | None = None, *, wall: Callable[[], float] = time.time
    ) -> "Connection":
        """From this kubeconfig; else in a pod from its ServiceAccount; else $KUBECONFIG or ~/.kube/config.

        Raises BadInput for a configuration that cannot be used.
        """
        connection = cls(kubeconfig, context, wall)
        await connection._load()
        return connection

    @property
    def host(self) -> str:
        return str(self._ready.configuration.host)

    async def credentials(self) -> Credentials:
        """As they are now; a token is read anew when it was rotated."""
        configuration = self._ready.configuration
        return Credentials(
            server=self.host,
            ca_file=configuration.ssl_ca_cert,
            certificate_file=configuration.cert_file,
            key_file=configuration.key_file,
            insecure=not configuration.verify_ssl,
            authorization=await configuration.get_api_key_with_prefix("BearerToken", alias="authorization"),
        )

    @property
    def _ready(self) -> ApiClient:
        if self._client is None:
            raise Retryable("the connection to the API server is closed")
        return self._client

    async def _load(self) -> None:
        configuration = Configuration()
        try:
            if self._kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                await load_kube_config(  # type: ignore[no-untyped-call]
                    self._kubeconfig, context=self._context, client_configuration=configuration, persist_config=False
                )
            client = client_for(configuration)
        except (ConfigException, OSError, ssl.SSLError, ValueError, KeyError, TypeError) as error:
            source = self._kubeconfig or "the default kubeconfig or the pod's ServiceAccount"
            raise BadInput(f"cluster credentials in {source} cannot be used: {error}") from error
        old, self._client, self._loaded_at = self._client, client, time.monotonic()
        if old is not None:
            await self._shut(old)

    @staticmethod
    async def _shut(client: ApiClient) -> None:
        connector = client.configuration.client_session_kwargs["connector"]
        await client.close()  # type: ignore[no-untyped-call]
        await connector.end()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await self._shut(client)

    async def _headers(self, accept: str, content_type: str) -> dict[str, str]:
        headers = {"Accept": accept, "Content-Type": content_type, **self._ready.default_headers}
        await self._ready.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        return headers

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
        """One request. `before` runs immediately before it is sent, and what it raises is passed on."""
        try:
            async with asyncio.timeout(timeout):
                headers = await self._headers("application/json", content_type)
                if before is not None:
                    before()
                sent = self._wall()
                response = await self._ready.rest_client.request(  # type: ignore[no-untyped-call]
                    method,
                    self._url(path, params),
                    headers=headers,
                    body=body,
                    _request_timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT),
                )
                received = self._wall()
                answer = Answer(response.status, response.headers, await response.read())
        except TimeoutError as error:
            raise Retryable(f"{method} {path}: no answer within {timeout:g} s") from error
        except NETWORK as error:
            raise Retryable(f"{method} {path}: {type(error).__name__}: {error}") from error
        self._compare_clocks(answer.headers, sent, received)
        if answer.status == 401:
            await self._refresh()
        return answer

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, idle: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body comes for long; silence of `idle` seconds ends it with Retryable."""
        response = None
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT + 5):
                headers = await self._headers("application/json", "application/json")
                answer = await self._ready.rest_client.request(  # type: ignore[no-untyped-call]
                    "GET",
                    self._url(path, params),
                    headers=headers,
                    _request_timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=idle),
                )
            response = answer.response
            if response.status == 401:
                await self._refresh()
            yield response
        except TimeoutError as error:
            raise Retryable(f"watch {path}: silent for {idle:g} s") from error
        except NETWORK as error:
            raise Retryable(f"watch {path}: {type(error).__name__}: {error}") from error
        finally:
            if response is not None:
                response.close()

    def _url(self, path: str, params: Mapping[str, str] | None) -> str:
        return f"{self.host}{path}?{urlencode(params)}" if params else f"{self.host}{path}"

    async def _refresh(self) -> None:
        """Credentials were refused: read them again, they may have been renewed."""
        if time.monotonic() - self._loaded_at >= RELOAD_INTERVAL:
            await self._load()

    def _compare_clocks(self, headers: Mapping[str, str], sent: float, received: float) -> None:
        """The server stamped the answer between `sent` and `received`, cut down to the second."""
        try:
            stamped = parsedate_to_datetime(headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return
        at_least, at_most = sent - (stamped + 1), received - stamped
        self.skew = 0.0 if at_least <= 0 <= at_most else min(at_least, at_most, key=abs)
