"""The CellTemplate controller: says on the template itself why no cell can be made from it.

What depends on the values of one cell stands on that Cell, and what only the API server knows (kinds, permissions,
quotas) in the run that makes a cell.
"""

from recell.api.cell_template import CellTemplateStatus
from recell.controllers import status
from recell.domain import provisioning
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api
from recell.providers.kube.store import KubeStore


class CellTemplateController:
    def __init__(self, clock: Clock, api: Api, store: KubeStore) -> None:
        self._clock = clock
        self._api = api
        self._store = store

    async def reconcile(self, key: Key) -> float | None:
        template = self._store.template(key)
        if template is None:
            return None
        problem = provisioning.problem(template)
        reason, message = ("UnfitTemplate", problem) if problem else ("Accepted", "")
        generation = template.metadata.generation
        wanted = CellTemplateStatus(
            observed_generation=generation,
            conditions=status.conditions(
                template.status.conditions,
                {"Accepted": (problem is None, reason, message), "Stalled": (problem is not None, reason, message)},
                generation,
                self._clock.now(),
            ),
        )
        await status.show(self._api, self._store, template, wanted)
        return None
