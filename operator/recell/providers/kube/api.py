"""The one gateway to a cluster's API server, on plain dictionaries.

Promises: every call has a deadline; whatever goes wrong is raised as one of
`recell.engine.errors`, translated here and nowhere else; right before each write the fence is
asked, so that a process that lost the leadership writes nothing. A write that ends in Retryable
may have been done all the same: writes have to be repeatable.

Must not: retry, cache, or know what the objects mean. Nothing is dropped from an object on the
way, so newer fields survive.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from recell.engine.errors import Retryable
from recell.providers.kube.connection import Answer, Connection
from recell.providers.kube.errors import translate
from recell.providers.kube.paths import parse

Object = dict[str, Any]
"""An API object as JSON."""

FIELD_MANAGER = "recell"
HOLD_MANAGER = "recell-hold"
"""Of what is held for a while against the tool that owns it, so that the tool can be told to leave it alone."""
TIMEOUT = 10.0
WRITE_TIMEOUT = 5.0
"""Not longer than lease duration less renew deadline: a write ends before another leader can begin."""
LIST_TIMEOUT = 60.0
PAGE = 500

CallHook = Callable[[str, str, int], None]
"""Told of each answer: verb, resource, HTTP status (0: none came)."""


@dataclass(frozen=True)
class Listing:
    items: Sequence[Object]
    resource_version: str


@dataclass(frozen=True)
class WatchEvent:
    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    object: Object


class Api:
    """Verbs of one cluster's API server. `fenced()` gives a second view on the same connection."""

    def __init__(
        self, connection: Connection, *, fence: Callable[[], None] | None = None, on_call: CallHook | None = None
    ) -> None:
        self._connection = connection
        self._fence = fence
        self._on_call = on_call

    @classmethod
    async def connect(
        cls, kubeconfig: str | None = None, context: str | None = None, *, on_call: CallHook | None = None
    ) -> "Api":
        """See `Connection.open`. The result is not fenced. Raises BadInput for unusable credentials."""
        return cls(await Connection.open(kubeconfig, context), on_call=on_call)

    def fenced(self, fence: Callable[[], None]) -> "Api":
        """The same connection; `fence` is called right before each write and raises Fenced to forbid it."""
        return Api(self._connection, fence=fence, on_call=self._on_call)

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def skew(self) -> float | None:
        """Seconds that the local clock is certainly ahead of the server's (rule 30); None: not known yet."""
        return self._connection.skew

    async def close(self) -> None:
        await self._connection.close()

    # Reading

    async def get(self, path: str, *, timeout: float = TIMEOUT) -> Object:
        return self._object(await self._call("get", "GET", path, timeout=timeout))

    async def list(self, path: str, *, labels: str = "", fields: str = "") -> Listing:
        """All pages, as of one resourceVersion. Raises Expired when the list took too long: start again."""
        items: list[Object] = []
        params = _selectors(labels, fields) | {"limit": str(PAGE)}
        while True:
            page = self._object(await self._call("list", "GET", path, params=params, timeout=LIST_TIMEOUT))
            kind, api_version = str(page["kind"]).removesuffix("List"), page["apiVersion"]
            items.extend({"kind": kind, "apiVersion": api_version} | item for item in page.get("items") or ())
            more = page["metadata"].get("continue")
            if not more:
                return Listing(items, page["metadata"]["resourceVersion"])
            params["continue"] = more

    async def log(self, path: str, *, container: str, lines: int, most: int) -> str:
        """The last lines of a container's log, at most `most` bytes; `path` is a pod's subresource `log`.

        Raises BadInput while the container has not started, NotFound when the pod is gone.
        """
        params = {"container": container, "tailLines": str(lines), "limitBytes": str(most)}
        answer = await self._call("get", "GET", path, params=params, timeout=TIMEOUT)
        return answer.body.decode(errors="replace")

    @asynccontextmanager
    async def watch(
        self, path: str, *, params: Mapping[str, str], labels: str = "", fields: str = "", idle: float = 130.0
    ) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        """A watch: the context is entered when the server has accepted it, then come the events, in batches
        as they arrive. Raises Expired when the resourceVersion is too old, Retryable when it breaks."""
        query = _selectors(labels, fields) | {"watch": "true", "allowWatchBookmarks": "true"} | dict(params)
        async with self._connection.stream(path, query, idle=idle) as response:
            self._tell("watch", path, response.status)
            if response.status >= 400:
                raise translate("watch", path, response.status, await response.read(), response.headers)
            yield _events(path, response.content.iter_any())

    # Writing

    async def create(self, path: str, body: Object, *, field_manager: str = FIELD_MANAGER) -> Object:
        """Raises Conflict when the object is there already."""
        return await self._write("create", "POST", path, body, params={"fieldManager": field_manager})

    async def replace(self, path: str, body: Object, *, field_manager: str = FIELD_MANAGER) -> Object:
        """`body` should carry the resourceVersion that it was read at; Conflict when that is not the newest."""
        return await self._write("update", "PUT", path, body, params={"fieldManager": field_manager})

    async def merge_patch(self, path: str, body: Object, *, field_manager: str = FIELD_MANAGER) -> Object:
        """With `metadata.resourceVersion` in the body it is a compare-and-swap; a list is replaced whole."""
        return await self._write(
            "patch", "PATCH", path, body, content_type="application/merge-patch+json", params=_manager(field_manager)
        )

    async def json_patch(
        self, path: str, operations: Sequence[Mapping[str, Any]], *, field_manager: str = FIELD_MANAGER
    ) -> Object:
        """A failed `test` operation is BadInput (the server answers 422)."""
        return await self._write(
            "patch",
            "PATCH",
            path,
            [*operations],  # the client sends only a list as a JSON Patch
            content_type="application/json-patch+json",
            params=_manager(field_manager),
        )

    async def apply(self, path: str, body: Object, *, field_manager: str = FIELD_MANAGER, force: bool = True) -> Object:
        """Server-side apply. What this manager applied before and leaves out now is removed; a missing object
        is created unless the body carries a `metadata.uid` (then Conflict) or the path is a subresource."""
        params = {"fieldManager": field_manager, "force": "true" if force else "false"}
        return await self._write(
            "patch", "PATCH", path, body, content_type="application/apply-patch+yaml", params=params
        )

    async def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str = "Background",
    ) -> Object:
        """With `uid` or `resource_version` only that very object; Conflict when it is another one by now."""
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {name: value for name, value in wanted.items() if value}
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if preconditions:
            body["preconditions"] = preconditions
        return await self._write("delete", "DELETE", path, body)

    # How

    async def _write(
        self,
        verb: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Any],
        *,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Object:
        return self._object(
            await self._call(
                verb,
                method,
                path,
                params=params,
                body=body,
                content_type=content_type,
                timeout=WRITE_TIMEOUT,
                before=self._fence,
            )
        )

    async def _call(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        content_type: str = "application/json",
        timeout: float,
        before: Callable[[], None] | None = None,
    ) -> Answer:
        try:
            answer = await self._connection.request(
                method, path, params=params, body=body, content_type=content_type, timeout=timeout, before=before
            )
        except Retryable:
            self._tell(verb, path, 0)
            raise
        self._tell(verb, path, answer.status)
        if answer.status >= 400:
            raise translate(verb, path, answer.status, answer.body, answer.headers)
        return answer

    def _tell(self, verb: str, path: str, status: int) -> None:
        if self._on_call is not None:
            self._on_call(verb, parse(path).resource, status)

    @staticmethod
    def _object(answer: Answer) -> Object:
        try:
            parsed: Object = orjson.loads(answer.body)
        except ValueError as error:
            raise Retryable(f"the API server's answer is not JSON: {answer.body[:200]!r}") from error
        return parsed


def _manager(name: str) -> dict[str, str]:
    return {"fieldManager": name}


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


async def _events(path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[Sequence[WatchEvent]]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        batch = []
        for line in lines:
            if not line:
                continue
            try:
                event = orjson.loads(line)
            except ValueError as error:
                raise Retryable(f"watch {path}: not JSON: {line[:200]!r}") from error
            if event["type"] == "ERROR":
                status = event["object"]
                raise translate("watch", path, int(status.get("code") or 500), orjson.dumps(status), {})
            batch.append(WatchEvent(event["type"], event["object"]))
        if batch:
            yield batch
