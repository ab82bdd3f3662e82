"""The one writer of each Router's Placement: the `Switchboard` port made real.

Promises
- All changes that wait for the same Placement go into one compare-and-swap on its resourceVersion.
- Each write carries this leader's epoch; a Placement with a higher one is not touched (Fenced), so a
  former leader that wakes up can neither overwrite nor be merged with its successor.
- A change that changes nothing writes nothing. The answer of a write is in the store at once.

Must not decide anything: changes are pure functions that callers bring.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from recell.api import Placement
from recell.api.placement import PlacementSpec
from recell.domain import placement as table
from recell.engine.errors import BadInput, Conflict, Fenced, NotFound, Retryable
from recell.engine.ports import Key, Leadership
from recell.providers.kube.api import Api
from recell.providers.kube.paths import PLACEMENTS
from recell.providers.kube.store import KubeStore

ATTEMPTS = 5
"""Compare-and-swap tries before the caller has to come again."""

Change = Callable[[PlacementSpec], PlacementSpec]


@dataclass
class _Asked:
    change: Change
    answer: asyncio.Future[Placement]


class PlacementSwitchboard:
    def __init__(self, api: Api, store: KubeStore, leadership: Leadership) -> None:
        self._api = api
        self._store = store
        self._leadership = leadership
        self._waiting: dict[Key, list[_Asked]] = {}
        self._writing: dict[Key, asyncio.Task[None]] = {}

    def current(self, router: Key) -> Placement | None:
        return self._store.placement(router)

    async def create(self, router: Key, spec: PlacementSpec) -> Placement:
        """The first Placement of a Router. Raises Conflict when there is one."""
        body = {
            "apiVersion": PLACEMENTS.api_version,
            "kind": PLACEMENTS.kind,
            "metadata": {"name": router[1], "namespace": router[0]},
            "spec": spec.to_dict(),
        }
        created = await self._api.create(PLACEMENTS.collection(router[0]), body)
        self._store.put(Placement, created)
        return Placement.model_validate(created)

    async def change(self, router: Key, change: Change) -> Placement:
        asked = _Asked(change, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(router, []).append(asked)
        if router not in self._writing:
            self._writing[router] = asyncio.create_task(self._write_all(router), name=f"placement {router}")
        return await asked.answer

    async def _write_all(self, router: Key) -> None:
        """Ends, and is known to have ended, in the same moment: what is asked later starts another one."""
        try:
            await self._write_waiting(router)
        finally:
            del self._writing[router]

    async def _write_waiting(self, router: Key) -> None:
        while batch := self._waiting.pop(router, []):
            try:
                await self._write(router, batch)
            except BaseException as error:
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(error if isinstance(error, Exception) else Retryable("stopping"))
                if not isinstance(error, Exception):
                    raise

    async def _write(self, router: Key, batch: list[_Asked]) -> None:
        for _ in range(ATTEMPTS):
            raw = self._store.raw(Placement, router)
            current = self._store.placement(router)
            if raw is None or current is None:
                raise NotFound(f"Placement {router[0]}/{router[1]} is missing: see the conditions of its Router")
            spec = self._changed(current, batch)
            if spec == current.spec:
                return self._answer(batch, current)
            body = {
                "apiVersion": PLACEMENTS.api_version,
                "kind": PLACEMENTS.kind,
                "metadata": raw["metadata"],
                "spec": spec.to_dict(),
            }
            try:
                written = await self._api.replace(PLACEMENTS.path(*router), body)
            except Conflict:
                self._store.put(Placement, await self._api.get(PLACEMENTS.path(*router)))
                continue
            self._store.put(Placement, written)
            return self._answer(batch, Placement.model_validate(written))
        raise Retryable(f"Placement {router[0]}/{router[1]} was changed by others {ATTEMPTS} times in a row")

    def _changed(self, current: Placement, batch: list[_Asked]) -> PlacementSpec:
        """All changes in order; one that fails is answered with its error and left out."""
        spec = current.spec
        if spec.epoch > self._leadership.epoch:
            raise Fenced(
                f"Placement {current.metadata.name} has epoch {spec.epoch}, this leader {self._leadership.epoch}"
            )
        for asked in batch:
            if asked.answer.done():
                continue
            try:
                spec = asked.change(spec)
            except ValueError as error:
                asked.answer.set_exception(BadInput(str(error)))
            except Exception as error:
                asked.answer.set_exception(error)
        return spec if spec == current.spec else table.raise_epoch(spec, self._leadership.epoch)

    @staticmethod
    def _answer(batch: list[_Asked], placement: Placement) -> None:
        for asked in batch:
            if not asked.answer.done():
                asked.answer.set_result(placement)
