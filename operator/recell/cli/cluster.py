"""What the commands read and write, through the gateway to the API server.

Promises: an object that is not there, or that cannot be read, is a CommandError which names it and
says what there is instead. Every change is a compare-and-swap on what was read, tried again when
somebody else was faster. Nothing is written that a command did not ask for.
"""

import asyncio
import difflib
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from recell.api import (
    KINDS,
    Cell,
    CellTemplate,
    Placement,
    RecoveryFreeze,
    RecoveryPolicy,
    RecoveryRun,
    Resource,
    Router,
)
from recell.cli.exits import CommandError, Exit
from recell.cli.fleet import Fleet
from recell.engine.errors import Conflict, Forbidden, NotFound
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import OWN

R = TypeVar("R", bound=Resource)
Key = tuple[str, str]

TRIES = 5
"""Of a compare-and-swap: a command is one person's, so more means that something is wrong."""

EVERYTHING: tuple[type[Resource], ...] = KINDS


class Cluster:
    def __init__(self, api: Api, now: Callable[[], datetime]) -> None:
        self.api = api
        self._now = now

    # Reading

    async def fleet(self, namespace: str, kinds: Iterable[type[Resource]] = EVERYTHING) -> Fleet:
        """Objects of one namespace, or ("") of all."""
        wanted = tuple(kinds)
        lists = await asyncio.gather(
            *(self.templates(namespace) if kind is CellTemplate else self.all(kind, namespace) for kind in wanted)
        )
        found: dict[type[Resource], Any] = dict(zip(wanted, lists, strict=True))
        return Fleet(
            now=self._now(),
            cells=found.get(Cell, ()),
            routers=found.get(Router, ()),
            placements=found.get(Placement, ()),
            runs=found.get(RecoveryRun, ()),
            policies=found.get(RecoveryPolicy, ()),
            freezes=found.get(RecoveryFreeze, ()),
            templates=found.get(CellTemplate, ()),
        )

    async def templates(self, namespace: str) -> tuple[CellTemplate, ...] | None:
        """None where they cannot be read, so that a role that does not name them yet still shows everything else."""
        try:
            return await self.all(CellTemplate, namespace)
        except (CommandError, Forbidden):
            return None

    async def all(self, kind: type[R], namespace: str) -> tuple[R, ...]:
        try:
            listing = await self.api.list(OWN[kind].collection(namespace))
        except NotFound as error:
            raise CommandError(
                f"this cluster does not know {OWN[kind].full_name}: install Recell there (helm install, or kubectl"
                " apply -k manifests), or choose another cluster with --context",
                Exit.CLUSTER,
            ) from error
        return tuple(parsed(kind, item) for item in listing.items)

    async def find(self, kind: type[R], key: Key) -> R | None:
        try:
            return parsed(kind, await self.api.get(OWN[kind].path(*key)))
        except NotFound:
            return None

    async def one(self, kind: type[R], key: Key) -> R:
        """Raises CommandError (CLUSTER) that says which there are."""
        found = await self.find(kind, key)
        if found is None:
            raise await self._missing(kind, key)
        return found

    async def _missing(self, kind: type[R], key: Key) -> CommandError:
        there = sorted(item.metadata.name for item in await self.all(kind, key[0]))
        return missing(kind.INFO.kind, key, there)

    # Writing

    async def create(self, kind: type[R], namespace: str, body: Object) -> R:
        full = {"apiVersion": OWN[kind].api_version, "kind": OWN[kind].kind, **body}
        return parsed(kind, await self.api.create(OWN[kind].collection(namespace), full))

    async def change(self, kind: type[R], key: Key, patch: Callable[[R], Object | None]) -> R:
        """Merge what `patch` makes of the object as it is now; None changes nothing."""
        for _ in range(TRIES):
            found = await self.one(kind, key)
            body = patch(found)
            if body is None:
                return found
            version = {"resourceVersion": found.metadata.resource_version}
            fenced = {**body, "metadata": {**body.get("metadata", {}), **version}}
            try:
                return parsed(kind, await self.api.merge_patch(OWN[kind].path(*key), fenced))
            except Conflict:
                continue
        raise CommandError(
            f"{OWN[kind].kind} {key[1]} in {key[0]} changed {TRIES} times while it was being changed: try again",
            Exit.CLUSTER,
        )

    async def delete(self, kind: type[R], item: R) -> None:
        await self.api.delete(OWN[kind].path(*item.key), uid=item.metadata.uid)


def parsed(kind: type[R], item: Object) -> R:
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        meta = item.get("metadata") or {}
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CommandError(
            f"{kind.INFO.kind} {meta.get('name')} in {meta.get('namespace')} cannot be read: {field}: {first['msg']};"
            " mend it with kubectl edit, or use the recell of the operator's version",
            Exit.CLUSTER,
        ) from error


def missing(kind: str, key: Key, there: list[str]) -> CommandError:
    near = difflib.get_close_matches(key[1], there, n=3) or there[:5]
    instead = f"there is {', '.join(near)}" if near else "there is none; another namespace is chosen with -n"
    return CommandError(f"{kind} {key[1]} not found in namespace {key[0]}: {instead}", Exit.CLUSTER)
