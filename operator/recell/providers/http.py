"""Asking over HTTP: one GET, one connection, one deadline.

Promises: `ask` never raises for whatever the other side does; redirects are not followed, cookies not kept,
certificates not verified. Must not judge the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp

BODY_SHOWN = 200

Session = aiohttp.ClientSession


@dataclass(frozen=True)
class Answer:
    status: int | None
    """None: no answer."""
    message: str
    connected: bool
    body: str = ""
    """Its first `BODY_SHOWN` bytes."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in any case."""


def session() -> aiohttp.ClientSession:
    """To be closed by whoever opens it."""
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_note_connection)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=False),
        trace_configs=[trace],
        headers={"User-Agent": "recell-operator"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def url(scheme: str, host: str, port: int, path: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}{path}"


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    server_name: str | None = None,
) -> Answer:
    """`timeout` in seconds, for everything together; `server_name` is asked for by TLS if it is not the URL's host."""
    connection = SimpleNamespace(made=False)
    try:
        async with session.get(
            url,
            timeout=aiohttp.ClientTimeout(total=timeout),
            allow_redirects=False,
            headers=headers,
            server_hostname=server_name,
            trace_request_ctx=connection,
        ) as response:
            body = (await response.content.read(BODY_SHOWN)).decode(errors="replace").strip()
            return Answer(
                response.status, f"status {response.status}", connected=True, body=body, headers=response.headers
            )
    except TimeoutError:
        what = "no answer" if connection.made else "no connection"
        return Answer(None, f"{what} within {timeout:g} s", connected=connection.made)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(None, str(error) or type(error).__name__, connected=connection.made)


async def _note_connection(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.made = True
