"""Objects of which every word of the spec is Recell's: made from a Router, and others act on them.

Promises: written when it says something else than it should, by compare-and-swap on what was read; one that somebody
else made is left alone, and said; one that somebody changed is put back a few times, then it is said by whom (rule 31).

Must not: decide what it should say.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from recell.api import Router
from recell.api.meta import LABEL_ROUTER
from recell.engine.errors import BadInput, Forbidden, NotFound, RecellError, Reverted
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.ownership import is_of_router, last_manager
from recell.providers.kube.paths import Resource

log = logging.getLogger(__name__)

REVERTS = 2
"""So often an object that somebody changed is put back."""
FORGIVEN_AFTER = timedelta(minutes=10)


class Copies(Protocol):
    """A live copy of the objects, kept by a watch."""

    def get(self, key: Key) -> Object | None: ...

    def put(self, obj: Object) -> None: ...


class KeptObjects:
    """One kind of them, each with the name of its Router."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        resource: Resource,
        copies: Callable[[Key], Copies],
        *,
        field: str,
        explained: Callable[[RecellError], RecellError],
    ) -> None:
        """`field` of the spec tells who changed it; `explained` says what to do about NotFound and Forbidden."""
        self._api = api
        self._clock = clock
        self._resource = resource
        self._copies = copies
        self._field = field
        self._explained = explained
        self._written: dict[Key, tuple[Object, str]] = {}
        """Spec that this process wrote last, and the object's UID."""
        self._reverted: dict[Key, list[datetime]] = {}

    def forget(self, router: Key) -> None:
        self._written.pop(router, None)
        self._reverted.pop(router, None)

    async def keep(self, router: Router, wanted: Object) -> Object:
        """The object as it is then. Raises BadInput, Conflict, Forbidden, Retryable, Reverted."""
        key = router.key
        live = self._copies(key).get(key) or await self._unseen(key)
        if live is not None:
            if not is_of_router(live, router):
                raise BadInput(
                    f"{self._name(key)} is there already and was not made for this Router: delete it, name the Router"
                    f" otherwise, or hand it over with the label {LABEL_ROUTER}={key[1]}"
                )
            if _says(live, wanted):
                return live
            if self._written.get(key) == (wanted["spec"], live["metadata"]["uid"]):
                await self._was_reverted(key)
            metadata = {**wanted["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}
            wanted = {**wanted, "metadata": metadata}
        try:
            made = await self._api.apply(self._resource.path(*key), wanted)
        except (Forbidden, NotFound) as error:
            raise self._explained(error) from error
        self._written[key] = (wanted["spec"], made["metadata"]["uid"])
        self._copies(key).put(made)
        log.info("applied %s", self._name(key))
        return made

    async def _unseen(self, key: Key) -> Object | None:
        """One that the watch does not show may be there without the label."""
        try:
            return await self._api.get(self._resource.path(*key))
        except NotFound:
            return None
        except Forbidden as error:
            raise self._explained(error) from error

    async def _was_reverted(self, key: Key) -> None:
        """Raises Reverted, with by whom, when it was put back often enough."""
        now = self._clock.now()
        recent = [at for at in self._reverted.get(key, []) if now - at < FORGIVEN_AFTER]
        if len(recent) >= REVERTS:
            manager = last_manager(await self._api.get(self._resource.path(*key)), self._field)
            raise Reverted(
                f"{self._name(key)} was put back {REVERTS} times and changed again, last by {manager}: it is left as it"
                " is. Let that tool leave it alone, for the operator writes it from the Router"
            )
        self._reverted[key] = [*recent, now]

    def _name(self, key: Key) -> str:
        return f"{self._resource.kind} {'/'.join(key)}"


def _says(live: Object, wanted: Object) -> bool:
    noted, meant = (obj["metadata"].get("annotations") or {} for obj in (live, wanted))
    return bool(live["spec"] == wanted["spec"]) and meant.items() <= noted.items()
