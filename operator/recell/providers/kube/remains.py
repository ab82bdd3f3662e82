"""What there is of a cell beside its Cell, and deleting that, for a cell of which it is proven that nobody needs it.

Promises
- Read from the API server, not from a copy, with the consent of the namespace.
- Only what the Cell names, the claims of its StatefulSets, and what the operator made for it: each by its UID, and as
  it was looked at. What another Cell names as well, or what runs, stops all of it.
- Repeatable: what is gone is no error.

Must not: decide whether it may go; reach into another namespace.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from recell.api import Cell
from recell.api.cell import WorkloadKind
from recell.api.meta import LABEL_CELL, LABEL_FLEET, LABEL_MADE_BY
from recell.domain.decommission import Claim
from recell.engine.errors import BadInput, Conflict, NotFound
from recell.engine.ports import Key
from recell.providers.kube import cron_jobs, kstatus, scaling
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import (
    CLAIMS,
    CONFIG_MAPS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    SERVICES,
    STATEFUL_SETS,
    WORKLOADS,
    Resource,
)
from recell.providers.kube.workloads import CellsByName

logger = logging.getLogger(__name__)

OTHERS = (CLAIMS, SERVICES, CONFIG_MAPS, NETWORK_POLICIES, DISRUPTION_BUDGETS)
"""Kinds, beside workloads, of which the operator looks for what it made, in the order in which that goes: of a
template's further kinds nothing is deleted."""
MOST_CLAIMS = 500
"""They are recorded in an annotation."""
_RESOURCES = {resource.kind: resource for resource in (*WORKLOADS.values(), *OTHERS)}


class Consent(Protocol):
    """Where cells may have workloads."""

    async def ensure(self, cell: Cell) -> None:
        """Raises Forbidden or BadInput unless the namespace of the cell's workloads may be written to."""
        ...


class CellRemains:
    def __init__(self, api: Api, store: CellsByName, consent: Consent) -> None:
        self._api = api
        self._store = store
        self._consent = consent

    # Reading

    async def workloads(self, cell: Cell) -> list[Object]:
        """Those that the Cell names, in its order, then others that were made for it; without what is gone.

        Raises BadInput for one that another Cell names too, Conflict for one that was started, Forbidden, Retryable.
        """
        await self._consent.ensure(cell)
        namespace = cell.workload_namespace
        found = []
        for ref in cell.spec.workloads:
            self._require_alone(cell, WORKLOADS[ref.kind], ref.name)
            with suppress(NotFound):
                found.append(await self._stopped(await self._api.get(WORKLOADS[ref.kind].path(namespace, ref.name))))
        known = {(obj["kind"], obj["metadata"]["name"]) for obj in found}
        for resource in WORKLOADS.values():
            made = await self._made(cell, resource)
            found.extend(obj for obj in made if (resource.kind, obj["metadata"]["name"]) not in known)
        return found

    async def _stopped(self, workload: Object) -> Object:
        """The workload. Raises Conflict where somebody runs it: what can be stopped was, when the cell was replaced."""
        kind, metadata = workload["kind"], workload["metadata"]
        name = f"{kind} {metadata['namespace']}/{metadata['name']}"
        if kind == WorkloadKind.DAEMON_SET or metadata.get("deletionTimestamp"):
            return workload
        if kind == WorkloadKind.CRON_JOB:
            suspended = scaling.SUSPEND.stopped(workload)
            if not suspended or any(map(kstatus.may_run, await cron_jobs.pods(self._api, workload))):
                told = "has pods" if suspended else "is not suspended"
                raise Conflict(f"{name} {told}: nothing is deleted while it runs; suspend it if nobody uses it")
            return workload
        wanted = scaling.REPLICAS.now(workload)
        pods = int((workload.get("status") or {}).get("replicas") or 0)
        if wanted or pods:
            raise Conflict(
                f"{name} has spec.replicas {wanted} and {pods} pods: nothing is deleted while it runs; scale it down if"
                " nobody uses it"
            )
        return workload

    async def claims(self, cell: Cell, workloads: Sequence[Object]) -> list[Claim]:
        """Of the StatefulSets that the Cell names: by the names of their claim templates and an ordinal, and only what
        their selector selects. Raises BadInput for more than `MOST_CLAIMS`, Forbidden, Retryable."""
        names = _stateful_sets(cell)
        found: list[Object] = []
        for workload in workloads:
            if workload["kind"] == STATEFUL_SETS.kind and workload["metadata"]["name"] in names:
                found.extend(await self._claims_of(cell, workload))
        if len(found) > MOST_CLAIMS:
            raise BadInput(
                f"Cell {cell.metadata.name} has {len(found)} volume claims, and at most {MOST_CLAIMS} are deleted by"
                " the operator: delete the Cell and what belongs to it yourself"
            )
        claims = [Claim(name=obj["metadata"]["name"], uid=obj["metadata"]["uid"]) for obj in found]
        return sorted(claims, key=lambda claim: claim.name)

    async def others(self, cell: Cell) -> list[Object]:
        """What else the operator made for the cell."""
        found: list[Object] = []
        for resource in OTHERS:
            found.extend(await self._made(cell, resource))
        return found

    async def _made(self, cell: Cell, resource: Resource) -> list[Object]:
        labels = f"{LABEL_CELL}={cell.metadata.name},{LABEL_MADE_BY}=recell"
        listing = await self._api.list(resource.collection(cell.workload_namespace), labels=labels)
        # Two fleets may have a cell of one name, with workloads in one namespace.
        made = [obj for obj in listing.items if _labels(obj).get(LABEL_FLEET, cell.key[0]) == cell.key[0]]
        for obj in made:
            self._require_alone(cell, resource, obj["metadata"]["name"])
        return made

    async def _claims_of(self, cell: Cell, stateful_set: Object) -> list[Object]:
        spec, name = stateful_set["spec"], stateful_set["metadata"]["name"]
        templates = [template["metadata"]["name"] for template in spec.get("volumeClaimTemplates") or ()]
        selector = kstatus.selector_of(stateful_set)
        if not templates or not selector:
            return []
        named = re.compile(f"({_any(templates)})-{re.escape(name)}-[0-9]+")
        listing = await self._api.list(CLAIMS.collection(cell.workload_namespace), labels=selector)
        return [
            obj
            for obj in listing.items
            if named.fullmatch(obj["metadata"]["name"])
            and _labels(obj).get(LABEL_CELL, cell.metadata.name) == cell.metadata.name
        ]

    def _require_alone(self, cell: Cell, resource: Resource, name: str) -> None:
        namespace = cell.workload_namespace
        keys: Sequence[Key] = ()
        if resource is SERVICES:
            keys = self._store.cells_naming_service(namespace, name)
        elif resource in WORKLOADS.values():
            keys = self._store.cells_naming_workload(resource.kind, namespace, name)
        if others := sorted(key for key in keys if key != cell.key):
            raise BadInput(
                f"{resource.kind} {namespace}/{name} is named by Cell {'/'.join(others[0])} too: nothing is deleted"
                " until only one of them names it"
            )

    # Deleting

    async def delete(self, obj: Object) -> None:
        """A workload or another object, if it still is as it was read; a workload is there until its pods are gone.

        Raises Conflict when it was changed meanwhile, Forbidden, Retryable, Fenced.
        """
        metadata, resource = obj["metadata"], _RESOURCES[obj["kind"]]
        if metadata.get("deletionTimestamp"):
            return
        workload = resource in WORKLOADS.values()
        with suppress(NotFound):
            await self._api.delete(
                resource.path(metadata["namespace"], metadata["name"]),
                uid=metadata["uid"],
                resource_version=metadata["resourceVersion"],
                propagation="Foreground" if workload else "Background",
            )
            logger.info("deleted %s %s/%s", obj["kind"], metadata["namespace"], metadata["name"])

    async def delete_claim(self, cell: Cell, claim: Claim) -> None:
        """That very claim; another one of its name stays, and so does one that no StatefulSet of the Cell can have:
        who may write annotations may not delete anybody's claims by that. Raises Forbidden, Retryable, Fenced."""
        if not re.fullmatch(f".+-({_any(_stateful_sets(cell))})-[0-9]+", claim.name):
            return
        with suppress(NotFound, Conflict):
            await self._api.delete(CLAIMS.path(cell.workload_namespace, claim.name), uid=claim.uid)
            logger.info("deleted claim %s/%s", cell.workload_namespace, claim.name)


def _stateful_sets(cell: Cell) -> list[str]:
    return [ref.name for ref in cell.spec.workloads if ref.kind is WorkloadKind.STATEFUL_SET]


def _any(names: Sequence[str]) -> str:
    return "|".join(map(re.escape, names))


def _labels(obj: Object) -> dict[str, str]:
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels
