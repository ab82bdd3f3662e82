"""NetworkPolicies around a cell's pods: the `Isolation` port made real.

Promises
- One NetworkPolicy for each workload of the cell denies its pods everything, inwards and outwards, but three
  things: the data jobs of their namespace (label `recell.dev/data-job`), the other pods of the same workload, since
  the replicas of a database are of no use to a data job without each other, and DNS.
- A CronJob's pods are selected by the labels of its pod template. Without any, they count as not isolated while there
  are or may be some.
- So a cell's consumers reach neither their queue nor the cell's own database (rule 5), and nothing leaves a
  corrupted cell. What a database has not archived by then, a data job has to fetch.
- `lift` deletes only what was made here, for this very Cell; both can be repeated.
- `tried` says Passed only if the policies are there, nobody else's policy opens anything to or from these pods
  (NetworkPolicies add up, none takes away what another allows), and no connection came about (rule 29).

Must not: change another's policy or a pod. Whether connections that are open already are cut, is up to the
network plugin: what has to be stopped for certain is scaled to zero.
"""

import asyncio
import errno
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from recell.api import Cell
from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.failure import Verdict
from recell.api.meta import LABEL_CELL, LABEL_DATA_JOB, LABEL_FLEET, LABEL_MADE_BY
from recell.domain.data import Isolated
from recell.domain.wording import listed
from recell.engine.errors import Conflict, NotFound, Retryable
from recell.providers.kube import cron_jobs, kstatus, scaling
from recell.providers.kube.api import Api, Object
from recell.providers.kube.consent import Consent
from recell.providers.kube.paths import NETWORK_POLICIES, PODS, WORKLOADS

logger = logging.getLogger(__name__)

TIMEOUT = 2.0
"""Seconds in which a connection comes about, or counts as denied."""
MOST_TRIED = 64
"""Ports of pods that are tried at once; the first ones of each workload."""
DNS = 53

_JOBS: Object = {"podSelector": {"matchLabels": {LABEL_DATA_JOB: "true"}}}


class _Place(NamedTuple):
    """A port of a container that runs."""

    pod: str
    host: str
    port: int
    on_node: bool
    """In the node's network, where no NetworkPolicy applies."""

    def __str__(self) -> str:
        return f"pod {self.pod} port {self.port}"


class KubeIsolation:
    def __init__(self, api: Api, consent: Consent, *, doubt: Callable[[], str]) -> None:
        """`doubt`: why it would prove nothing that no connection comes about; empty: it would."""
        self._api = api
        self._consent = consent
        self._doubt = doubt

    async def isolate(self, cell: Cell) -> None:
        """NetworkPolicies around the pods of the cell's workloads. Repeatable.

        A workload that does not exist is left out. Raises Forbidden with what to grant, BadInput, Retryable, Fenced.
        """
        await self._consent.ensure(cell)
        present = {made["metadata"]["name"]: made["spec"] for made in await _made(self._api, cell)}
        for ref, workload in await self._workloads(cell):
            selector = _selector(ref, workload)
            if selector is None:
                continue
            body = policy(cell, ref, selector)
            name = body["metadata"]["name"]
            if present.get(name) != body["spec"]:
                await self._api.apply(NETWORK_POLICIES.path(cell.workload_namespace, name), body)
                logger.info("applied NetworkPolicy %s", name, extra={"cell": cell.metadata.name})

    async def lift(self, cell: Cell) -> None:
        """They are gone, those of workloads that the Cell no longer names too. Repeatable. Raises as `isolate`."""
        await self._consent.ensure(cell)
        async for _ in lifted(self._api, cell):
            pass

    async def tried(self, cell: Cell) -> Isolated:
        """What came of trying to connect to every port that the cell's pods declare, `MOST_TRIED` at the most.

        Raises Forbidden, BadInput, Retryable.
        """
        await self._consent.ensure(cell)
        namespace, workloads = cell.workload_namespace, await self._workloads(cell)
        policies = (await self._api.list(NETWORK_POLICIES.collection(namespace))).items
        present = {made["metadata"]["name"] for made in policies}
        wanted = {policy_name(cell, ref) for ref, workload in workloads if _selector(ref, workload) is not None}
        if missing := sorted(wanted - present):
            return Isolated(Verdict.FAILED, f"NetworkPolicy {listed(missing)} of namespace {namespace} is not there")

        pods = [await self._pods(namespace, ref, workload) for ref, workload in workloads]
        places = _spread([[place for pod in found for place in _places(pod)] for found in pods])
        if reached := await _reached(places):
            in_vain = "; no NetworkPolicy applies in the node's network" if any(p.on_node for p in reached) else ""
            return Isolated(Verdict.FAILED, f"connected to {listed(map(str, reached))}{in_vain}")
        labels = [pod["metadata"].get("labels") or {} for found in pods for pod in found]
        labels += [_labels_to_come(workload) for ref, workload in workloads if ref.kind is WorkloadKind.CRON_JOB]
        others = [
            made["metadata"]["name"]
            for made in policies
            if made["metadata"]["name"] not in wanted
            and _opens(made)
            and any(_selects(made["spec"].get("podSelector") or {}, each) for each in labels)
        ]
        if others:
            return Isolated(
                Verdict.FAILED,
                f"NetworkPolicy {listed(others)} of namespace {namespace} lets others reach these pods or be reached by"
                " them, and no other NetworkPolicy can take that away: narrow it, or scale the workloads to zero",
            )
        unselected = [
            str(ref)
            for (ref, workload), found in zip(workloads, pods, strict=True)
            if _selector(ref, workload) is None
            and (not scaling.SUSPEND.stopped(workload) or any(map(kstatus.may_run, found)))
        ]
        if unselected:
            return Isolated(
                Verdict.INCONCLUSIVE,
                f"no NetworkPolicy can select the pods of {listed(unselected)}: their template has no labels",
            )
        if not places:
            return Isolated(Verdict.INCONCLUSIVE, "there is nothing to try: no container that declares a TCP port runs")
        if doubt := self._doubt():
            return Isolated(Verdict.INCONCLUSIVE, doubt)
        return Isolated(Verdict.PASSED, f"no connection within {TIMEOUT:g} s to {listed(map(str, places))}")

    async def _workloads(self, cell: Cell) -> list[tuple[WorkloadRef, Object]]:
        """Those that exist, as they are now."""
        found = []
        for ref in cell.spec.workloads:
            with suppress(NotFound):
                found.append((ref, await self._api.get(WORKLOADS[ref.kind].path(cell.workload_namespace, ref.name))))
        return found

    async def _pods(self, namespace: str, ref: WorkloadRef, workload: Object) -> Sequence[Object]:
        if ref.kind is WorkloadKind.CRON_JOB:
            return await cron_jobs.pods(self._api, workload)
        return (await self._api.list(PODS.collection(namespace), labels=kstatus.selector_of(workload))).items


def _selector(ref: WorkloadRef, workload: Object) -> Mapping[str, Any] | None:
    """None: nothing selects its pods."""
    if ref.kind is WorkloadKind.CRON_JOB:
        return cron_jobs.pod_selector(workload)
    selector: Mapping[str, Any] = workload["spec"]["selector"]
    return selector


def _labels_to_come(cron_job: Object) -> Mapping[str, str]:
    """Of the pods of its next Job: between two of them there is none to look at."""
    selector = cron_jobs.pod_selector(cron_job)
    return {cron_jobs.JOB_NAME: "", **(selector["matchLabels"] if selector else {})}


def policy_name(cell: Cell, ref: WorkloadRef) -> str:
    """The same in every process; another for a Cell of that name in another fleet."""
    digest = hashlib.sha256(f"{cell.metadata.namespace}/{ref.kind}/{ref.name}".encode()).hexdigest()[:8]
    return f"recell-isolates-{cell.metadata.name}-{digest}"


def policy(cell: Cell, ref: WorkloadRef, selector: Mapping[str, Any]) -> Object:
    """The NetworkPolicy of one workload, as it is applied; pure."""
    allowed = [_JOBS, {"podSelector": selector}]
    dns = [{"protocol": protocol, "port": DNS} for protocol in ("UDP", "TCP")]
    return {
        "apiVersion": NETWORK_POLICIES.api_version,
        "kind": NETWORK_POLICIES.kind,
        "metadata": {
            "name": policy_name(cell, ref),
            "namespace": cell.workload_namespace,
            "labels": _labels(cell),
        },
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": allowed}],
            "egress": [{"to": allowed}, {"ports": dns}],
        },
    }


async def _made(api: Api, cell: Cell) -> Sequence[Object]:
    """The policies that are around this cell."""
    labels = ",".join(f"{name}={value}" for name, value in _labels(cell).items())
    return (await api.list(NETWORK_POLICIES.collection(cell.workload_namespace), labels=labels)).items


async def lifted(api: Api, cell: Cell) -> AsyncIterator[str]:
    """Take the policies around this cell away; the name of each that is gone. Repeatable. Raises Forbidden."""
    for made in await _made(api, cell):
        metadata = made["metadata"]
        with suppress(NotFound, Conflict):  # gone, or another one by now, which the next look finds
            await api.delete(NETWORK_POLICIES.path(metadata["namespace"], metadata["name"]), uid=metadata["uid"])
        yield metadata["name"]


def _labels(cell: Cell) -> dict[str, str]:
    return {
        "app.kubernetes.io/component": "isolation",
        LABEL_MADE_BY: "recell",
        LABEL_CELL: cell.metadata.name,
        LABEL_FLEET: cell.metadata.namespace,
    }


# What others' policies allow


def _opens(made: Object) -> bool:
    """Does the policy let anything in or out but DNS?"""
    spec = made["spec"]
    types = spec.get("policyTypes") or (("Ingress", "Egress") if spec.get("egress") else ("Ingress",))
    inwards = "Ingress" in types and bool(spec.get("ingress"))
    outwards = "Egress" in types and any(not _only_dns(rule) for rule in spec.get("egress") or ())
    return inwards or outwards


def _only_dns(rule: Mapping[str, Any]) -> bool:
    ports = rule.get("ports") or ()
    return bool(ports) and all(port.get("port") == DNS and "endPort" not in port for port in ports)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A label selector, as the API server understands it."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for expression in selector.get("matchExpressions") or ():
        value, values = labels.get(expression["key"]), expression.get("values") or ()
        fits = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[expression["operator"]]
        if not fits:
            return False
    return True


# Trying


def _places(pod: Object) -> Iterable[_Place]:
    spec, status = pod["spec"], pod.get("status") or {}
    statuses = (status.get("containerStatuses") or []) + (status.get("initContainerStatuses") or [])
    running = {each["name"] for each in statuses if "running" in (each.get("state") or {})}
    host = status.get("podIP")
    for container in (spec.get("containers") or []) + (spec.get("initContainers") or []):
        if not host or container["name"] not in running:
            continue
        for port in container.get("ports") or ():
            if port.get("protocol", "TCP") == "TCP":
                name, on_node = pod["metadata"]["name"], bool(spec.get("hostNetwork"))
                yield _Place(name, host, port["containerPort"], on_node)


def _spread(groups: Sequence[Sequence[_Place]]) -> list[_Place]:
    """At most `MOST_TRIED`, from each group about as many."""
    longest = max(map(len, groups), default=0)
    in_turn = (group[n] for n in range(longest) for group in groups if n < len(group))
    return [*dict.fromkeys(in_turn)][:MOST_TRIED]


async def _reached(places: Sequence[_Place]) -> list[_Place]:
    answers = await asyncio.gather(*(_connects(place.host, place.port) for place in places))
    return [place for place, answered in zip(places, answers, strict=True) if answered]


async def _connects(host: str, port: int) -> bool:
    """A refusal is none: network plugins refuse in the pod's name, and a port that nobody listens on is no way in."""
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise Retryable(f"cannot try to connect to {host} port {port}: {error}") from error
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
