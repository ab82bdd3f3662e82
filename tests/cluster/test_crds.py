"""The CRDs on a real API server: what it accepts, fills in, shows and refuses, and in which words."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from kubernetes import client

from recell.api import KINDS, RecoveryPolicy, RecoveryRun, Resource
from recell.api.crd import crd, root_schema
from recell.api.schema import Schema
from tests.cluster.conftest import Kubectl
from tests.unit.api.bounds import Violation, violations
from tests.unit.api.examples import Object, examples, full

GROUP, VERSION = "recell.dev", "v1alpha1"
INFOS = {kind.INFO.kind: kind.INFO for kind in KINDS}
WITH_STATUS = [kind for kind in KINDS if kind.INFO.has_status]

by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.INFO.kind)


class Refused(Exception):
    """The API server's words."""


class Objects:
    """The objects of one namespace, read and written as plain dicts, unknown fields refused."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._custom = client.CustomObjectsApi(api)
        self._namespace = namespace

    def _where(self, kind: str) -> dict[str, Any]:
        return {"group": GROUP, "version": VERSION, "namespace": self._namespace, "plural": INFOS[kind].plural}

    def _call(self, verb: str, obj: Object, dry_run: bool, **arguments: Any) -> Object:
        arguments |= self._where(obj["kind"])
        if dry_run:
            arguments["dry_run"] = "All"
        try:
            made: Object = getattr(self._custom, verb)(
                **arguments, body=obj, field_validation="Strict", _request_timeout=60
            )
        except client.ApiException as error:
            raise Refused(json.loads(error.body)["message"]) from error
        return made

    def create(self, obj: Object, *, dry_run: bool = False) -> Object:
        return self._call("create_namespaced_custom_object", obj, dry_run)

    def replace(self, obj: Object, *, dry_run: bool = False) -> Object:
        return self._call("replace_namespaced_custom_object", obj, dry_run, name=obj["metadata"]["name"])

    def replace_status(self, obj: Object, *, dry_run: bool = False) -> Object:
        return self._call("replace_namespaced_custom_object_status", obj, dry_run, name=obj["metadata"]["name"])

    def get(self, kind: str, name: str) -> Object:
        found: Object = self._custom.get_namespaced_custom_object(**self._where(kind), name=name, _request_timeout=60)
        return found


@pytest.fixture(scope="module")
def objects(api: client.ApiClient, crds: dict[str, Any], namespace: str) -> Objects:
    return Objects(api, namespace)


def named(obj: Object, name: str) -> Object:
    obj["metadata"]["name"] = name
    return obj


# Accepted


@by_kind
def test_the_api_server_has_no_complaint(crds: dict[str, Any], kind: type[Resource]) -> None:
    conditions = {c["type"]: c["status"] for c in crds[kind.INFO.kind]["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


@by_kind
def test_a_cluster_that_never_had_them_accepts_them_without_a_warning(
    api: client.ApiClient, kind: type[Resource]
) -> None:
    """Schema, defaults, rules and the rules' cost are checked in full only when a CRD is new."""
    new = crd(kind)
    new["spec"]["group"] = f"new.{GROUP}"
    new["metadata"]["name"] = f"{kind.INFO.plural}.new.{GROUP}"
    _, status, headers = client.ApiextensionsV1Api(api).create_custom_resource_definition_with_http_info(
        new, dry_run="All", field_validation="Strict", _request_timeout=60
    )
    assert status == 201
    assert "Warning" not in headers


@pytest.mark.parametrize("example", examples(), ids=lambda e: f"{e['kind']}-{e['metadata']['name']}")
def test_a_well_formed_object_survives_unchanged(objects: Objects, example: Object) -> None:
    obj = named(example, f"whole-{example['metadata']['name']}")
    status = obj.pop("status", None)
    created = objects.create(obj)
    if status is not None:
        objects.replace_status({**created, "status": status})
    found = objects.get(obj["kind"], obj["metadata"]["name"])
    assert pruned(found["spec"], obj["spec"]) == obj["spec"]
    assert found.get("status") == status


def pruned(found: Any, given: Any) -> Any:
    """What was found, without the fields that the API server filled in."""
    if isinstance(found, dict):
        return {key: pruned(value, given[key]) for key, value in found.items() if key in given}
    if isinstance(found, list):
        return [pruned(one, other) for one, other in zip(found, given, strict=True)]
    return found


@by_kind
def test_an_object_that_says_everything_gets_nothing_added(objects: Objects, kind: type[Resource]) -> None:
    obj = named(full(kind.INFO.kind), "everything")
    assert objects.create(obj, dry_run=True)["spec"] == obj["spec"]


@pytest.mark.parametrize("kind", WITH_STATUS, ids=lambda kind: kind.INFO.kind)
def test_a_status_that_the_models_write_survives_unchanged(objects: Objects, kind: type[Resource]) -> None:
    """As the operator does it: read into the model, written by to_dict."""
    obj = named(full(kind.INFO.kind), "by-model")
    written = kind.model_validate(obj).to_dict()["status"]
    created = objects.create({key: value for key, value in obj.items() if key != "status"})
    objects.replace_status({**created, "status": written})
    found = objects.get(kind.INFO.kind, "by-model")
    assert found["status"] == written
    assert kind.model_validate(found).to_dict()["status"] == written


@pytest.mark.parametrize("kind", WITH_STATUS, ids=lambda kind: kind.INFO.kind)
def test_an_empty_status_that_the_models_write_survives_unchanged(objects: Objects, kind: type[Resource]) -> None:
    obj = named(full(kind.INFO.kind), "empty-status")
    del obj["status"]
    written = kind.model_validate(obj).to_dict()["status"]
    created = objects.create(obj)
    assert objects.replace_status({**created, "status": written}, dry_run=True)["status"] == written


def test_a_time_to_the_microsecond_is_a_time(objects: Objects) -> None:
    run = RecoveryRun.model_validate(named(full("RecoveryRun"), "microseconds"))
    run.status.started_at = datetime(2026, 1, 31, 12, 0, 0, 987654, tzinfo=UTC)
    written = run.to_dict()["status"]
    created = objects.create({key: value for key, value in full("RecoveryRun").items() if key != "status"})
    assert objects.replace_status({**created, "status": written}, dry_run=True)["status"] == written


@by_kind
def test_a_spec_that_the_models_write_survives_unchanged(objects: Objects, kind: type[Resource]) -> None:
    """Runs and Placement are written from models."""
    for number, example in enumerate(e for e in examples() if e["kind"] == kind.INFO.kind):
        written = kind.model_validate(example).to_dict()["spec"]
        created = objects.create({**named(example, f"spec-by-model-{number}"), "spec": written}, dry_run=True)
        assert created["spec"] == written


@pytest.mark.parametrize("kind", WITH_STATUS, ids=lambda kind: kind.INFO.kind)
def test_status_is_not_for_users(objects: Objects, kind: type[Resource]) -> None:
    created = objects.create(named(full(kind.INFO.kind), "no-status"), dry_run=True)
    assert "status" not in created


def test_two_controllers_keep_their_conditions(kubectl: Kubectl, objects: Objects, namespace: str) -> None:
    obj = named(full("Cell"), "shared")
    del obj["status"]
    objects.create(obj)
    for manager, type in (("recell", "Ready"), ("disk-watcher", "DiskFull")):
        condition = {"type": type, "status": "True", "reason": "Seen", "message": ""}
        applied = {
            "apiVersion": obj["apiVersion"],
            "kind": "Cell",
            "metadata": {"name": "shared"},
            "status": {"conditions": [condition]},
        }
        kubectl(
            *("apply", "--server-side", "--subresource=status", f"--field-manager={manager}"),
            *("-n", namespace, "-f", "-"),
            stdin=yaml.safe_dump(applied),
        )
    found = objects.get("Cell", "shared")["status"]["conditions"]
    assert {condition["type"] for condition in found} == {"Ready", "DiskFull"}


# Defaults

DEFAULTS: dict[str, tuple[Object, Object]] = {
    "Cell": (
        {
            "routerRef": {"name": "shop"},
            "backend": {"type": "Service", "service": {"name": "web", "port": 80}},
            "health": {"probe": {}},
            "data": {"integrity": {"path": "/integrity"}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}],
        },
        {
            "routerRef": {"name": "shop"},
            "weight": 100,
            "backend": {"type": "Service", "service": {"name": "web", "port": 80}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}],
            "priority": 100,
            "capacity": {},
            "health": {"probe": {"path": "/healthz", "scheme": "HTTP", "interval": "5s", "timeout": "2s"}},
            "data": {"integrity": {"path": "/integrity", "interval": "1m", "timeout": "10s", "maxAge": "1h"}},
            "paused": False,
        },
    ),
    "Router": (
        {"type": "HAProxy", "customerData": "Shared", "haproxy": {"customerKey": {"type": "Host"}}},
        {
            "type": "HAProxy",
            "customerData": "Shared",
            "onUnhealthy": "Ignore",
            "haproxy": {
                "customerKey": {"type": "Host", "whenAbsent": "Reject"},
                "slots": 1024,
                "replicas": 2,
                "drainTimeout": "60s",
                "service": {"type": "ClusterIP", "port": 80},
            },
        },
    ),
    "Placement": (
        {"epoch": 1, "slots": 1024, "nextIndex": 0, "homes": "", "serving": ""},
        {"epoch": 1, "slots": 1024, "mode": "Primary", "nextIndex": 0, "homes": "", "serving": ""},
    ),
    "RecoveryRun": (
        {"targetRef": {"kind": "Cell", "name": "cell-a"}, "control": {}},
        {
            "targetRef": {"kind": "Cell", "name": "cell-a"},
            "urgency": "Graceful",
            "startWhen": "TargetUnhealthy",
            "dryRun": False,
            "trigger": "Manual",
            "control": {},
        },
    ),
    "RecoveryPolicy": (
        {},
        {
            "mode": "Observe",
            "builtinRules": "Append",
            "detection": {
                "failedAfter": "10s",
                "healthyAfter": "30s",
                "errorRate": "5%",
                "latency": "1000ms",
                "minimumRequests": 20,
                "window": "10s",
                "multipleCellFailures": 2,
                "multipleCellWindow": "5m",
                "flappingTransitions": 3,
                "flappingWindow": "15m",
                "withoutIntegrityChecks": "Unknown",
            },
            "limits": {
                "maxConcurrentRuns": 1,
                "cooldown": "15m",
                "maxAttempts": 3,
                "attemptsWindow": "24h",
                "capacityHeadroom": "20%",
                "requireCapacity": False,
                "maxMadeCells": 4,
                "approvalExpires": "1h",
                "successfulRunsKept": 20,
                "failedRunsKept": 20,
            },
            "steps": {
                "drainPercent": "50%",
                "drainIncrements": 10,
                "incrementInterval": "30s",
                "drainTolerance": "20%",
                "drainFloor": 1,
                "applyTimeout": "60s",
                "restartTimeout": "10m",
                "healthCheckTimeout": "5m",
                "inconclusiveTimeout": "5m",
                "stabilityDuration": "15m",
                "stabilityTolerance": "10s",
            },
            "replacement": {
                "emergencyCells": 2,
                "provisionTimeout": "30m",
                "dataTimeout": "4h",
                "restoreAttempts": 3,
                "partialSuccess": "Stop",
                "promotionApproval": "Required",
                "decommission": "Retain",
                "retainFor": "168h",
            },
            "manualIntervention": {"corruptedCell": "Leave"},
            "validation": {"duration": "30m", "consistencyDuration": "2h"},
            "objectives": {},
            "cascade": {
                "extraCells": 2,
                "maxEmergencyCells": 4,
                "emergencyCellsAfter": "Keep",
                "expires": "15m",
                "circuitPercent": "90%",
                "stabilityBetween": "5m",
                "recoveryTimeout": "6h",
                "liftIncrements": 10,
                "poisonWindow": "10m",
            },
        },
    ),
    "RecoveryFreeze": (
        {"reason": "release night"},
        {"reason": "release night", "selector": {}, "scope": "AllRuns"},
    ),
    "CellTemplate": ({"cell": {}}, {"cell": {}}),
}
"""Kind -> what a user writes at least, and what then stands in the object."""


@by_kind
def test_what_is_left_out_is_filled_in(objects: Objects, kind: type[Resource]) -> None:
    given, expected = DEFAULTS[kind.INFO.kind]
    obj = {**named(full(kind.INFO.kind), "least"), "spec": given}
    obj.pop("status", None)
    created = objects.create(obj, dry_run=True)
    assert created["spec"] == expected
    assert kind.model_validate(created).to_dict()["spec"] == kind.model_validate(obj).to_dict()["spec"]


def test_a_policy_may_be_empty(objects: Objects) -> None:
    obj = named(full("RecoveryPolicy"), "empty")
    del obj["spec"], obj["status"]
    assert objects.create(obj, dry_run=True)["spec"] == DEFAULTS["RecoveryPolicy"][1]


# Shown


COLUMNS = {
    "Cell": {
        "NAME": "columns",
        "ROUTER": "shop",
        "PHASE": "Failed",
        "SHARE": "33.3%",
        "APPLIED": "33.3%",
        "RUN": "cell-a-x7k2p",
    },
    "Router": {"NAME": "columns", "TYPE": "HAProxy", "CELLS": "3", "HEALTHY": "1", "READY": "True"},
    "Placement": {"NAME": "columns", "MODE": "Fallback", "SLOTS": "1024", "GENERATION": "1", "EPOCH": "7"},
    "RecoveryRun": {
        "NAME": "columns",
        "TARGET": "cell-a",
        "STRATEGY": "CellRestart",
        "PHASE": "AwaitingApproval",
        "STEP": "drain-traffic",
    },
    "RecoveryPolicy": {"NAME": "columns", "MODE": "Automatic"},
    "RecoveryFreeze": {
        "NAME": "columns",
        "SCOPE": "NewRuns",
        "UNTIL": "2026-01-31T12:15:00Z",
        "REASON": "release night",
    },
    "CellTemplate": {"NAME": "columns", "ACCEPTED": "True"},
}


@by_kind
def test_columns(objects: Objects, kubectl: Kubectl, namespace: str, kind: type[Resource]) -> None:
    obj = named(full(kind.INFO.kind), "columns")
    status = obj.pop("status", None)
    created = objects.create(obj)
    if status:
        objects.replace_status({**created, "status": status})
    (short,) = kind.INFO.short_names
    heads, row = kubectl("get", short, "columns", "-n", namespace).splitlines()
    shown = dict(zip(re.split(r"\s{2,}", heads.strip()), re.split(r"\s{2,}", row.strip()), strict=True))
    assert re.fullmatch(r"\d+[smh].*", shown.pop("AGE"))
    assert shown == COLUMNS[kind.INFO.kind]


def test_the_category_shows_all_kinds(objects: Objects, kubectl: Kubectl, namespace: str) -> None:
    for kind in INFOS:
        obj = named(full(kind), "in-category")
        obj.pop("status", None)
        objects.create(obj)
    shown = kubectl("get", "recell", "-n", namespace, "-o", "name").split()
    for info in INFOS.values():
        assert f"{info.kind.lower()}.{GROUP}/in-category" in shown


@pytest.mark.parametrize(
    ("kind", "selector", "matches"),
    [
        ("Cell", "status.phase=Failed", True),
        ("Cell", "status.phase=Healthy", False),
        ("Cell", "status.phase!=Healthy,spec.routerRef.name=shop", True),
        ("Cell", "spec.routerRef.name=other", False),
        ("RecoveryRun", "status.phase=AwaitingApproval", True),
        ("RecoveryRun", "status.phase=Succeeded", False),
        ("RecoveryRun", "spec.targetRef.name=cell-a", True),
        ("RecoveryRun", "spec.targetRef.name=cell-b", False),
    ],
)
def test_field_selectors(
    objects: Objects, kubectl: Kubectl, namespace: str, kind: str, selector: str, matches: bool
) -> None:
    name = f"selected-{kind.lower()}"
    plural = INFOS[kind].plural
    if not kubectl("get", plural, name, "-n", namespace, "--ignore-not-found"):
        obj = named(full(kind), name)
        status = obj.pop("status")
        objects.replace_status({**objects.create(obj), "status": status})
    shown = kubectl("get", plural, "-n", namespace, "-o", "name", "--field-selector", selector).split()
    assert (f"{kind.lower()}.{GROUP}/{name}" in shown) == matches


def test_the_selectable_fields_are_all_tried() -> None:
    assert {kind: INFOS[kind].selectable for kind in INFOS if INFOS[kind].selectable} == {
        "Cell": (".status.phase", ".spec.routerRef.name"),
        "RecoveryRun": (".status.phase", ".spec.targetRef.name"),
    }


def test_fields_are_explained(crds: dict[str, Any], kubectl: Kubectl) -> None:
    shown = kubectl("explain", "recoverypolicy.spec.steps.drainTolerance")
    assert "the runbook's 1.2 x" in " ".join(shown.split())


# Refused: bounds


@pytest.fixture(scope="module")
def recorded(objects: Objects) -> dict[str, Object]:
    """An object of each kind with a status, by kind."""
    made = {}
    for kind in WITH_STATUS:
        obj = named(full(kind.INFO.kind), "recorded")
        del obj["status"]
        made[kind.INFO.kind] = objects.create(obj)
    return made


@pytest.mark.parametrize("violation", violations(), ids=lambda v: f"{v.kind}-{v.where}")
def test_bounds(objects: Objects, recorded: dict[str, Object], violation: Violation) -> None:
    obj = deepcopy(violation.obj)
    if violation.of_status and "status" in obj:
        base = recorded[violation.kind]
        with pytest.raises(Refused) as refused:
            objects.replace_status({**base, "status": obj["status"]}, dry_run=True)
    else:
        obj.pop("status", None)
        with pytest.raises(Refused) as refused:
            objects.create(named(obj, "refused"), dry_run=True)
    assert violation.message in str(refused.value)


@pytest.mark.parametrize("kind", list(INFOS))
def test_unknown_fields(objects: Objects, kind: str) -> None:
    """As kubectl asks for it: a misspelt field is not dropped silently."""
    obj = named(full(kind), "refused")
    obj.pop("status", None)
    obj["spec"]["wieght"] = 1
    with pytest.raises(Refused, match=re.escape('unknown field "spec.wieght"')):
        objects.create(obj, dry_run=True)


def test_what_is_read_from_text_is_refused_before_anything_reads_it(objects: Objects) -> None:
    """A duration or percentage that the operator could not read never gets into an object."""
    for field, wrong in (("cooldown", "1d"), ("cooldown", "-5m"), ("capacityHeadroom", "101%"), ("cooldown", "")):
        obj = named(full("RecoveryPolicy"), "refused")
        del obj["status"]
        obj["spec"]["limits"][field] = wrong
        with pytest.raises(Refused, match=f"spec.limits.{field} in body should match"):
            objects.create(obj, dry_run=True)


# Refused: rules

Change = Callable[[Object], Any]


def put(path: str, value: Any) -> Change:
    """Sets spec.<path>."""

    def change(obj: Object) -> None:
        block = obj["spec"]
        *parents, last = path.split(".")
        for name in parents:
            block = block[int(name)] if isinstance(block, list) else block.setdefault(name, {})
        block[last] = deepcopy(value)  # what is put is changed further on

    return change


def drop(path: str) -> Change:
    """Removes spec.<path>."""

    def change(obj: Object) -> None:
        block = obj["spec"]
        *parents, last = path.split(".")
        for name in parents:
            block = block[name]
        del block[last]

    return change


def rename(name: str) -> Change:
    return lambda obj: named(obj, name)


def both(*changes: Change) -> Change:
    def change(obj: Object) -> None:
        for one in changes:
            one(obj)

    return change


@dataclass(frozen=True)
class Case:
    kind: str
    title: str
    change: Change
    message: str
    """Field and message, as the user sees them."""
    before: Change | None = None
    """For rules on updates: what is changed in the object that exists."""


def _nothing(obj: Object) -> None: ...


_DATABASE: Object = {"type": "CloudNativePG", "cloudNativePG": {"cluster": "db"}}
_DATA_BLOCK = (
    "set the block that type names: jobs for Jobs, volumeSnapshots for VolumeSnapshots, cloudNativePG for"
    " CloudNativePG, velero for Velero; jobs may stand beside another one"
)
_CELL_NAME = "a Cell's name is also a label value: at most 63 characters, no dots"
_BLOCK = "set exactly the block that type names: service for Service, address for Address"
_ADDRESS = {"host": "10.0.0.7", "port": 80}
_BY_ADDRESS = {"type": "Address", "address": _ADDRESS}
_CLUSTER = {"kubeconfigSecretRef": {"name": "cluster-a"}}
_ELSEWHERE = both(put("backend", _BY_ADDRESS), put("cluster", _CLUSTER))
_SHARED = both(put("customerData", "Shared"), drop("offHome"), drop("haproxy.initialCells"))
_HAPROXY = both(put("type", "HAProxy"), put("haproxy", {"customerKey": {"type": "Host"}}))
_OF_ANOTHER_TYPE = both(drop("haproxy"), drop("fallback"))
_TO_GATEWAY = both(_OF_ANOTHER_TYPE, put("type", "Gateway"), put("gateway", {"parentRefs": [{"name": "public"}]}))
_GATEWAY = both(_SHARED, _TO_GATEWAY)
_TO_DNS = both(_OF_ANOTHER_TYPE, put("type", "DNS"), put("dns", {"hostname": "shop.example.com"}))
_DNS = both(_SHARED, _TO_DNS)


def _by_dns(**changes: Any) -> dict[str, Any]:
    named = {"hostname": "shop.example.com", "routerTargets": ["192.0.2.1"], "fallbackTargets": ["192.0.2.2"]}
    return {"type": "DNS", "dns": named | changes}


_MANUAL = both(put("trigger", "Manual"), drop("escalatedFrom"))
_SPEC_OF_RUN = {
    "targetRef": {"kind": "Cell", "name": "cell-b"},
    "strategy": "TrafficDrainAndReplace",
    "failure": {"type": "SingleCell"},
    "urgency": "Graceful",
    "startWhen": "TargetUnhealthy",
    "startBefore": "2026-01-31T13:00:00Z",
    "recoveryTarget": {"backupID": "another"},
    "dryRun": False,
    "reason": "another",
    "trigger": "Manual",
    "escalatedFrom": "another",
}
_OPTIONAL_OF_RUN = ("strategy", "failure", "startBefore", "recoveryTarget", "reason", "escalatedFrom")
_UNCONDITIONAL = both(_MANUAL, put("startWhen", "TargetUnhealthy"))
_WITHOUT = {
    field: both(_UNCONDITIONAL, _nothing if field == "escalatedFrom" else drop(field)) for field in _OPTIONAL_OF_RUN
}


def _immutable(field: str) -> str:
    return (
        f"spec.{field}: Invalid value: {field} is immutable: make a new RecoveryRun instead (only control may change)"
    )


RULES = [
    # Cell
    Case("Cell", "long name", rename("c" * 64), _CELL_NAME),
    Case("Cell", "dotted name", rename("cell.a"), _CELL_NAME),
    Case("Cell", "service missing", drop("backend.service"), f"spec.backend: Invalid value: {_BLOCK}"),
    Case("Cell", "both blocks", put("backend.address", _ADDRESS), f"spec.backend: Invalid value: {_BLOCK}"),
    Case("Cell", "another block", put("backend.type", "Address"), f"spec.backend: Invalid value: {_BLOCK}"),
    Case(
        "Cell",
        "address that is none",
        put("backend", {"type": "Address", "address": {"host": "10.0.0.300", "port": 80}}),
        "spec.backend.address.host: Invalid value: host must be an IP address, for example 10.0.0.7, or a host name in"
        " lower case",
    ),
    *(
        Case(
            "Cell",
            f"{kind} of {api_version}",
            put("workloads", [{"apiVersion": api_version, "kind": kind, "name": "web"}]),
            "spec.workloads[0].apiVersion: Invalid value: apiVersion must be batch/v1 for a CronJob, and apps/v1 for"
            " every other kind",
        )
        for kind, api_version in (("CronJob", "apps/v1"), ("Deployment", "batch/v1"))
    ),
    Case(
        "Cell",
        "probe too often",
        put("health.probe.interval", "999ms"),
        "spec.health.probe.interval: Invalid value: interval must be at least 1s",
    ),
    Case(
        "Cell",
        "data checked too often",
        put("data.integrity.interval", "0s"),
        "spec.data.integrity.interval: Invalid value: interval must be at least 1s",
    ),
    *(
        Case("Cell", f"data {title}", change, f"spec.data: Invalid value: {_DATA_BLOCK}")
        for title, change in (
            ("jobs without type", drop("data.type")),
            ("type without jobs", drop("data.jobs")),
            ("another type without its block", put("data.type", "VolumeSnapshots")),
            ("another type's block", put("data.cloudNativePG", {"cluster": "db"})),
            ("Velero's block beside Jobs", put("data.velero", {"claims": ["data"]})),
            ("Velero without its block", put("data", {"type": "Velero"})),
        )
    ),
    Case(
        "Cell",
        "a claim twice",
        put("data", {"type": "Velero", "velero": {"claims": ["data", "wal", "data"]}}),
        "spec.data.velero.claims: Invalid value: each claim may be named once",
    ),
    Case(
        "Cell",
        "backups by two means",
        put("data", {**_DATABASE, "jobs": {"restore": "mine"}}),
        "spec.data.jobs: Invalid value: inventory, restore and backup are done by what type names: leave them out of"
        " jobs",
    ),
    Case(
        "Cell",
        "moved although nobody says whether it can be read",
        put("data", {**_DATABASE, "jobs": {"migrate": "mine"}}),
        "spec.data.jobs: Invalid value: jobs.migrate and jobs.accessible go together: customers are moved by Jobs while"
        " the data can be read",
    ),
    Case(
        "Cell",
        "another router",
        put("routerRef.name", "other"),
        "spec.routerRef: Invalid value: routerRef is immutable: make a new Cell instead",
        before=_nothing,
    ),
    *(
        Case(
            "Cell",
            f"namespace {title}",
            change,
            "spec.namespace: Invalid value: namespace is immutable: make a new Cell instead",
            before=before,
        )
        for title, before, change in (
            ("changed", _nothing, put("namespace", "shop-b")),
            ("removed", _nothing, drop("namespace")),
            ("added", drop("namespace"), put("namespace", "shop-a")),
        )
    ),
    Case(
        "Cell",
        "a Service of another cluster",
        put("cluster", _CLUSTER),
        "spec.backend.type: Invalid value: a cell in a cluster of its own needs backend type Address: the router"
        " reaches no Service of another cluster by its name",
    ),
    *(
        Case(
            "Cell",
            f"cluster {title}",
            change,
            "spec.cluster: Invalid value: cluster is immutable: rotate credentials by the content of the Secret, or"
            " make a new Cell",
            before=before,
        )
        for title, before, change in (
            ("by another Secret", _ELSEWHERE, put("cluster.kubeconfigSecretRef.name", "other")),
            ("by another key", _ELSEWHERE, put("cluster.kubeconfigSecretRef.key", "value")),
            ("removed", _ELSEWHERE, drop("cluster")),
            ("added", put("backend", _BY_ADDRESS), put("cluster", _CLUSTER)),
        )
    ),
    # Router
    Case(
        "Router",
        "long name",
        rename("r" * 51),
        "a Router's name is part of its Services' names: at most 50 characters, no dots",
    ),
    Case(
        "Router",
        "dotted name",
        rename("shop.eu"),
        "a Router's name is part of its Services' names: at most 50 characters, no dots",
    ),
    Case("Router", "no block", drop("haproxy"), "spec.haproxy: Invalid value: type HAProxy needs the block haproxy"),
    Case(
        "Router",
        "another type",
        _TO_GATEWAY,
        "spec.type: Invalid value: type is immutable: make a new Router instead",
        before=_SHARED,
    ),
    *(
        Case(
            "Router",
            f"Gateway {title}",
            both(_GATEWAY, change),
            "spec.gateway: Invalid value: type Gateway needs the block gateway, and no other type has it",
        )
        for title, change in (("without its block", drop("gateway")), ("block for HAProxy", _HAPROXY))
    ),
    *(
        Case(
            "Router",
            f"a fallback of {title}",
            both(change, put("fallback", {})),
            "spec.fallback: Invalid value: fallback is for type HAProxy only: what serves with any other type is not"
            " run by the operator",
        )
        for title, change in (("a Gateway", _GATEWAY), ("DNS", _DNS))
    ),
    *(
        Case("Router", f"a switch {title}", put("fallback.switches", switches), f"spec.fallback.switches{told}")
        for title, switches, told in (
            (
                "Gateway without its block",
                [{"type": "Gateway"}],
                "[0].gateway: Invalid value: type Gateway needs the block gateway, and no other type has it",
            ),
            (
                "DNS without its block",
                [{"type": "DNS"}],
                "[0].dns: Invalid value: type DNS needs the block dns, and no other type has it",
            ),
            (
                "twice",
                [{"type": "Service"}, {"type": "Service"}],
                '[1]: Duplicate value: {"type":"Service"}',
            ),
            (
                "DNS with half a second",
                [_by_dns(ttl="1500ms")],
                "[0].dns.ttl: Invalid value: ttl must be whole seconds, from 1s to 1h: for so long customers go where"
                " they went before",
            ),
            (
                "DNS that takes an hour",
                [_by_dns(publishTimeout="1h")],
                "[0].dns.publishTimeout: Invalid value: publishTimeout must be from 10s to 10m",
            ),
            (
                "DNS with targets of one side",
                [{"type": "DNS", "dns": {"hostname": "shop.example.com", "routerTargets": ["192.0.2.1"]}}],
                "[0].dns: Invalid value: name routerTargets and fallbackTargets both, or neither: then they are those"
                " of the two load balancers",
            ),
            (
                "DNS that leads nowhere else",
                [_by_dns(fallbackTargets=["192.0.2.1"])],
                "[0].dns.fallbackTargets: Invalid value: routerTargets and fallbackTargets must differ: they say where"
                " customers are",
            ),
            (
                "DNS with two host names",
                [_by_dns(recordType="CNAME", fallbackTargets=["a.example.com", "b.example.com"])],
                "[0].dns: Invalid value: a name has one CNAME record at most: name one target for each side",
            ),
            (
                "DNS without addresses",
                [{"type": "DNS", "dns": {"hostname": "shop.example.com"}}],
                ": Invalid value: a switch DNS needs addresses: set haproxy.service.type LoadBalancer, or"
                " dns.routerTargets and dns.fallbackTargets",
            ),
        )
    ),
    Case(
        "Router",
        "a switch Gateway for hosts that are customers",
        both(
            put("haproxy.customerKey", {"type": "Host"}),
            put(
                "fallback.switches",
                [{"type": "Gateway", "gateway": {"parentRefs": [{"name": "a"}], "hostnames": ["shop.example.com"]}}],
            ),
        ),
        "spec.fallback.switches: Invalid value: with customerKey Host the hosts are the customers: leave hostnames of"
        " the switch Gateway empty",
    ),
    Case(
        "Router",
        "pins of a Gateway",
        both(_GATEWAY, put("haproxy", {"customerKey": {"type": "Host"}, "pins": [{"customer": "vip", "cell": "a"}]})),
        "spec.haproxy: Invalid value: the block haproxy is for type HAProxy only: no other router has slots, pins or"
        " customer keys of its own",
    ),
    Case(
        "Router",
        "customers' data in the cells of a Gateway",
        both(_GATEWAY, put("customerData", "InCell")),
        "spec.customerData: Invalid value: customerData InCell needs type HAProxy: no other router knows which customer"
        " a request is from",
    ),
    Case(
        "Router",
        "metrics of no pods",
        both(_GATEWAY, put("gateway.metrics", {"type": "Traefik", "podSelector": {}, "port": 8080})),
        "spec.gateway.metrics.podSelector: Invalid value: podSelector must name at least one label: the pods of the"
        " Gateway's implementation and no others",
    ),
    *(
        Case(
            "Router",
            f"filter {title}",
            both(_GATEWAY, put("gateway.rules", [{"filters": [filter]}])),
            "spec.gateway.rules[0].filters[0]: Invalid value: set exactly the block that type names:"
            " requestHeaderModifier, responseHeaderModifier, urlRewrite or extensionRef",
        )
        for title, filter in (
            ("without its block", {"type": "URLRewrite"}),
            (
                "with another one's",
                {"type": "URLRewrite", "urlRewrite": {"hostname": "a"}, "requestHeaderModifier": {"remove": ["X-A"]}},
            ),
        )
    ),
    Case(
        "Router",
        "rewrite without its field",
        both(
            _GATEWAY,
            put(
                "gateway.rules",
                [{"filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath"}}}]}],
            ),
        ),
        "spec.gateway.rules[0].filters[0].urlRewrite.path: Invalid value: set exactly the field that type names:"
        " replaceFullPath or replacePrefixMatch",
    ),
    Case(
        "Router",
        "a try longer than the request",
        both(_GATEWAY, put("gateway.rules", [{"timeouts": {"request": "5s", "backendRequest": "10s"}}])),
        "spec.gateway.rules[0].timeouts.backendRequest: Invalid value: backendRequest must not be longer than request",
    ),
    *(
        Case(
            "Router",
            f"DNS {title}",
            both(_DNS, change),
            "spec.dns: Invalid value: type DNS needs the block dns, and no other type has it",
        )
        for title, change in (("without its block", drop("dns")), ("block for HAProxy", _HAPROXY))
    ),
    *(
        Case(
            "Router",
            f"{field} of DNS changed",
            put(f"dns.{field}", value),
            f"spec.dns.{field}: Invalid value: {field} is immutable: make a new Router",
            before=_DNS,
        )
        for field, value in (("hostname", "other.example.com"), ("recordType", "AAAA"), ("routingPolicy", "Simple"))
    ),
    Case(
        "Router",
        "one record with several host names",
        both(_DNS, put("dns.recordType", "CNAME"), put("dns.routingPolicy", "Simple")),
        "spec.dns.routingPolicy: Invalid value: a name has one CNAME record at most: recordType CNAME needs"
        " routingPolicy Weighted",
    ),
    Case(
        "Router",
        "weights of one record",
        both(_DNS, put("dns.routingPolicy", "Simple"), put("dns.weights", {"max": 100})),
        "spec.dns.weights: Invalid value: weights are for routingPolicy Weighted only",
    ),
    *(
        Case(
            "Router",
            f"TTL of {ttl}",
            both(_DNS, put("dns.ttl", ttl)),
            "spec.dns.ttl: Invalid value: ttl must be whole seconds, from 1s to 1h: no drain is faster than it",
        )
        for ttl in ("0s", "1s500ms", "2h")
    ),
    *(
        Case(
            "Router",
            f"publishing within {timeout}",
            both(_DNS, put("dns.propagation", "1s"), put("dns.publishTimeout", timeout)),
            "spec.dns.publishTimeout: Invalid value: publishTimeout must be from 10s to 1h",
        )
        for timeout in ("9s", "61m")
    ),
    Case(
        "Router",
        "propagation longer than publishing",
        both(_DNS, put("dns.propagation", "5m")),
        "spec.dns.propagation: Invalid value: propagation must be shorter than publishTimeout, within which everything"
        " has to be published",
    ),
    Case(
        "Router",
        "offHome with Shared",
        put("customerData", "Shared"),
        "spec.offHome: Invalid value: offHome says what customers get whose cell is out: it is for customerData InCell"
        " only",
    ),
    *(
        Case(
            "Router",
            f"InCell and {title}",
            change,
            "spec.haproxy.initialCells: Invalid value: customerData InCell needs haproxy.initialCells: say which cells"
            " the customers' data is in",
        )
        for title, change in (
            ("no cells", drop("haproxy.initialCells")),
            ("an empty list of cells", put("haproxy.initialCells", [])),
        )
    ),
    Case(
        "Router",
        "Shift with InCell",
        put("onUnhealthy", "Shift"),
        "spec.onUnhealthy: Invalid value: onUnhealthy Shift needs customerData Shared: other cells do not have the"
        " customers' data",
    ),
    *(
        Case(
            "Router",
            f"customer key {title}",
            put("haproxy.customerKey", key),
            "spec.haproxy.customerKey.name: Invalid value: name is the header's or cookie's name: set it for type"
            " Header and Cookie, and for these only",
        )
        for title, key in (
            ("header without name", {"type": "Header"}),
            ("cookie without name", {"type": "Cookie"}),
            ("host with name", {"type": "Host", "name": "X-Customer-ID"}),
            ("segment with name", {"type": "PathSegment", "segment": 1, "name": "X-Customer-ID"}),
        )
    ),
    *(
        Case(
            "Router",
            f"customer key {title}",
            put("haproxy.customerKey", key),
            "spec.haproxy.customerKey.segment: Invalid value: segment is the number of the path segment: set it for"
            " type PathSegment, and for this only",
        )
        for title, key in (
            ("path without segment", {"type": "PathSegment"}),
            ("host with segment", {"type": "Host", "segment": 1}),
        )
    ),
    Case(
        "Router",
        "a match that matches everything",
        put("shedding.classes.1.matches", [{"methods": []}]),
        "spec.shedding.classes[1].matches[0]: Invalid value: a match needs header, pathPrefix or methods, or it would"
        " match every request",
    ),
    Case(
        "Router",
        "a class named default",
        put("shedding.classes.1.name", "default"),
        "spec.shedding.classes: Invalid value: the class default is what no other class matches: give it"
        " defaultPriority and defaultSheddable instead",
    ),
    *(
        Case(
            "Router",
            f"a breaker with a window of {window}",
            put("circuitBreakers.window", window),
            "spec.circuitBreakers.window: Invalid value: window must be from 1s to 60s",
        )
        for window in ("500ms", "2m")
    ),
    Case(
        "Router",
        "a breaker that lets nothing through",
        put("circuitBreakers.errorRate", "0%"),
        "spec.circuitBreakers.errorRate: Invalid value: errorRate must be more than 0%: a circuit breaker that trips"
        " at 0% lets nothing through",
    ),
    *(
        Case(
            "Router",
            f"drainTimeout {timeout}",
            put("haproxy.drainTimeout", timeout),
            "spec.haproxy.drainTimeout: Invalid value: drainTimeout must be from 1s to 1h",
        )
        for timeout in ("999ms", "1h1s")
    ),
    Case(
        "Router",
        "slots of no power of two",
        put("haproxy.slots", 1025),
        "spec.haproxy.slots: Invalid value: slots must be a power of two from 1024 to 16384",
    ),
    *(
        Case(
            "Router",
            f"slots {title}",
            put("haproxy.slots", slots),
            "spec.haproxy.slots: Invalid value: slots may only double, one doubling at a time",
            before=_nothing,
        )
        for title, slots in (("halved", 1024), ("quadrupled", 8192))
    ),
    *(
        Case(
            "Router",
            f"customerData {title}",
            change,
            "spec.customerData: Invalid value: customerData is immutable: make a new Router instead",
            before=before,
        )
        for title, before, change in (
            ("to Shared", _nothing, _SHARED),
            ("to InCell", _SHARED, both(put("customerData", "InCell"), put("haproxy.initialCells", ["cell-a"]))),
        )
    ),
    # Placement
    *(
        Case(
            "Placement",
            title,
            change,
            "spec.fallback: Invalid value: fallback says who is behind the fallback: set it in mode Fallback, and in"
            " this one only",
        )
        for title, change in (
            ("Fallback without an order", drop("fallback")),
            ("an order in mode Primary", put("mode", "Primary")),
        )
    ),
    # RecoveryRun
    *(
        Case("RecoveryRun", f"{field} changed", put(field, value), _immutable(field), before=_nothing)
        for field, value in _SPEC_OF_RUN.items()
    ),
    *(
        Case("RecoveryRun", f"{field} removed", drop(field), _immutable(field), before=_nothing)
        for field in _OPTIONAL_OF_RUN
    ),
    *(
        Case(
            "RecoveryRun",
            f"{field} added",
            put(field, _SPEC_OF_RUN[field]),
            _immutable(field),
            before=both(
                _MANUAL, put("startWhen", "TargetUnhealthy"), *([drop(field)] if field != "escalatedFrom" else [])
            ),
        )
        for field in _OPTIONAL_OF_RUN
    ),
    *(
        Case(
            "RecoveryRun",
            f"abort {title}",
            change,
            "spec.control.abort: Invalid value: abort cannot be taken back",
            before=put("control.abort", True),
        )
        for title, change in (
            ("set to false", put("control.abort", False)),
            ("removed", drop("control.abort")),
            ("removed with control", drop("control")),
        )
    ),
    *(
        Case(
            "RecoveryRun",
            f"approval {title}",
            change,
            "spec.control.approvals: Invalid value: approvals can only be added",
            before=_nothing,
        )
        for title, change in (
            ("changed", put("control.approvals.0.decisionID", "d-9")),
            ("of another gate", put("control.approvals.0.gate", "promote")),
            ("removed", put("control.approvals", [{"gate": "start", "decisionID": "d-1"}])),
            ("emptied", put("control.approvals", [])),
            ("removed with the list", drop("control.approvals")),
            ("removed with control", drop("control")),
        )
    ),
    Case(
        "RecoveryRun",
        "Always without startBefore",
        drop("startBefore"),
        "spec.startBefore: Invalid value: startWhen Always needs startBefore",
    ),
    *(
        Case(
            "RecoveryRun",
            f"{strategy} for a Router",
            both(put("targetRef.kind", "Router"), put("strategy", strategy)),
            "spec.strategy: Invalid value: this strategy is for a Cell, the target is a Router",
        )
        for strategy in (
            "CellRestart",
            "TrafficDrainAndReplace",
            "IsolateAndRestoreFromBackup",
            "PointInTimeRecovery",
            "ManualIntervention",
        )
    ),
    *(
        Case(
            "RecoveryRun",
            f"{strategy} for a Cell",
            put("strategy", strategy),
            "spec.strategy: Invalid value: this strategy is for a Router, the target is a Cell",
        )
        for strategy in ("ActivateFallbackRouting", "EmergencyScaling")
    ),
    Case(
        "RecoveryRun",
        "a Router's failure of a Cell",
        put("failure.type", "Router"),
        "spec.failure.type: Invalid value: failure Router is a Router's own, the target is a Cell",
    ),
    *(
        Case(
            "RecoveryRun",
            f"{failure} of a Router {title}",
            both(put("targetRef.kind", "Router"), put("failure.type", failure), strategy),
            "spec.failure.type: Invalid value: failures of cells are recovered by a run of each Cell, or together by"
            " strategy EmergencyScaling: state it",
        )
        for failure in ("SingleCell", "MultipleCell", "DataCorruption", "Systemic")
        for title, strategy in (
            ("without a strategy", drop("strategy")),
            ("by its fallback", put("strategy", "ActivateFallbackRouting")),
        )
    ),
    *(
        Case(
            "RecoveryRun",
            f"escalatedFrom {title}",
            change,
            "spec.escalatedFrom: Invalid value: trigger Child needs escalatedFrom, and no other trigger has it",
        )
        for title, change in (("missing", drop("escalatedFrom")), ("of a person", put("trigger", "Manual")))
    ),
    # RecoveryPolicy
    *(
        Case(
            "RecoveryPolicy",
            f"builtinRules None and {title}",
            change,
            "spec.rules: Invalid value: builtinRules None needs at least one rule, or nothing is ever decided",
        )
        for title, change in (("no rules", drop("rules")), ("an empty list of rules", put("rules", [])))
    ),
    *(
        Case(
            "RecoveryPolicy",
            f"{strategy} for failure Router",
            both(put("rules.0.failure", "Router"), put("rules.0.strategy", strategy)),
            "spec.rules[0].strategy: Invalid value: a Router's own failure is answered by ActivateFallbackRouting or"
            " ManualIntervention",
        )
        for strategy in (
            "CellRestart",
            "TrafficDrainAndReplace",
            "IsolateAndRestoreFromBackup",
            "PointInTimeRecovery",
            "EmergencyScaling",
        )
    ),
    *(
        Case(
            "RecoveryPolicy",
            f"ActivateFallbackRouting for failure {failure}",
            both(put("rules.0.failure", failure), put("rules.0.strategy", "ActivateFallbackRouting")),
            "spec.rules[0].failure: Invalid value: ActivateFallbackRouting answers failure Router only",
        )
        for failure in ("SingleCell", "MultipleCell", "DataCorruption", "Systemic")
    ),
    *(
        Case(
            "RecoveryPolicy",
            f"EmergencyScaling for failure {failure}",
            both(put("rules.0.failure", failure), put("rules.0.strategy", "EmergencyScaling")),
            "spec.rules[0].failure: Invalid value: EmergencyScaling answers failures MultipleCell and Systemic only",
        )
        for failure in ("SingleCell", "DataCorruption", "Router")
    ),
    Case(
        "RecoveryPolicy",
        "two rules of one name",
        put("rules.1.name", "corrupted"),
        "spec.rules: Invalid value: two rules have the same name",
    ),
    *(
        Case(
            "RecoveryPolicy",
            f"rules that contradict each other {title}",
            put("rules", [{"name": "a", "strategy": "CellRestart", **row}, {"name": "b", "strategy": other, **row}]),
            "spec.rules: Invalid value: two rules match the same failures but name different strategies",
        )
        for title, other, row in (
            ("on everything", "ManualIntervention", {}),
            ("on a failure", "ManualIntervention", {"failure": "SingleCell"}),
            ("on an impact", "ManualIntervention", {"impact": "High"}),
            ("on integrity", "ManualIntervention", {"dataIntegrity": "Intact"}),
            (
                "on all three",
                "TrafficDrainAndReplace",
                {"failure": "SingleCell", "impact": "High", "dataIntegrity": "Intact"},
            ),
        )
    ),
    Case(
        "RecoveryPolicy",
        "no window",
        put("detection.window", "500ms"),
        "spec.detection.window: Invalid value: window must be at least 1s",
    ),
    Case(
        "RecoveryPolicy",
        "cells without checks taken for corrupted",
        put("detection.withoutIntegrityChecks", "Corrupted"),
        "spec.detection.withoutIntegrityChecks: Invalid value: withoutIntegrityChecks is Unknown or Intact",
    ),
    # CellTemplate
    *(
        Case(
            "CellTemplate",
            f"parameter {name}",
            put("parameters.1.name", name),
            "spec.parameters[1].name: Invalid value: CELL, SOURCE and NAMESPACE are always there: give the parameter"
            " another name",
        )
        for name in ("CELL", "SOURCE", "NAMESPACE")
    ),
    *(
        Case(
            "CellTemplate",
            f"a {kind} among the objects",
            both(put("objects.1.apiVersion", api_version), put("objects.1.kind", kind)),
            "spec.objects[1].apiVersion: Invalid value: a template makes neither permissions nor objects of Recell's"
            " own; the Cell is made from spec.cell",
        )
        for api_version, kind in (("recell.dev/v1alpha1", "Cell"), ("rbac.authorization.k8s.io/v1", "RoleBinding"))
    ),
]

ONE_VALUE = frozenset({"type is immutable: make a new Router instead"})
"""Rules that cannot be broken while their field has one possible value; the enum refuses every other."""


@pytest.mark.parametrize("case", RULES, ids=lambda c: f"{c.kind}-{c.title}")
def test_rules(objects: Objects, case: Case) -> None:
    obj = full(case.kind)
    obj.pop("status", None)
    if case.before is not None:
        case.before(obj)
        name = re.sub(r"[^a-z0-9]+", "-", case.title.lower())
        obj = objects.create(named(obj, f"rule-{name}"))
    case.change(obj)
    with pytest.raises(Refused) as refused:
        objects.create(obj, dry_run=True) if case.before is None else objects.replace(obj, dry_run=True)
    assert case.message in said(str(refused.value))


def said(message: str) -> str:
    """Without the value, which the API server shows in a form that depends on its type."""
    return re.sub(r"Invalid value: (\"[^\"]*\"|\w+|\{.*?\}|\[.*?\]): ", "Invalid value: ", message)


def test_each_rule_is_tried() -> None:
    def messages(schema: Schema) -> set[str]:
        found = {rule["message"] for rule in schema.get("x-kubernetes-validations", ())}
        for child in (*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])):
            found |= messages(child)
        return found

    for kind in KINDS:
        tried = [case.message for case in RULES if case.kind == kind.INFO.kind]
        for message in messages(root_schema(kind)) - ONE_VALUE:
            assert any(one.endswith(message) for one in tried), message


# Changes that are fine


@pytest.mark.parametrize(
    ("kind", "before", "change"),
    [
        pytest.param("Cell", _nothing, put("weight", 0), id="a weight of nothing"),
        pytest.param("Cell", drop("policyRef"), put("policyRef", {"name": "other"}), id="a policy added"),
        pytest.param("Cell", _nothing, put("backend.service.name", "web-2"), id="another Service"),
        pytest.param("Cell", _ELSEWHERE, put("backend.address.port", 81), id="another address of a cell elsewhere"),
        pytest.param("Router", _nothing, put("haproxy.slots", 4096), id="slots doubled"),
        pytest.param("Router", _nothing, put("haproxy.pins", []), id="pins removed"),
        pytest.param("RecoveryRun", _nothing, put("control.paused", False), id="a run resumed"),
        pytest.param("RecoveryRun", _nothing, drop("control.paused"), id="a run resumed by removal"),
        pytest.param("RecoveryRun", _nothing, put("control.abort", True), id="a run aborted"),
        pytest.param("RecoveryRun", drop("control"), put("control", {"abort": True}), id="a run aborted at once"),
        pytest.param(
            "RecoveryRun",
            _nothing,
            put(
                "control.approvals",
                [
                    {"gate": "start", "decisionID": "d-2"},
                    {"gate": "promote", "decisionID": "d-2"},
                    {"gate": "start", "decisionID": "d-1"},
                ],
            ),
            id="an approval added, in another order",
        ),
        pytest.param("RecoveryPolicy", _nothing, put("mode", "Observe"), id="automation switched off"),
        pytest.param("Placement", _nothing, put("epoch", 8), id="another leader"),
        pytest.param("Placement", _nothing, both(put("mode", "Primary"), drop("fallback")), id="back to the router"),
        pytest.param("Router", _nothing, drop("fallback"), id="no fallback any more"),
        pytest.param("RecoveryFreeze", _nothing, drop("until"), id="a freeze without end"),
        pytest.param("Cell", drop("templateRef"), put("templateRef", {"name": "other"}), id="a template added"),
        pytest.param("CellTemplate", _nothing, put("objects", []), id="a template without objects"),
        pytest.param(
            "CellTemplate",
            _nothing,
            put("objects", [{"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": "x"}}]),
            id="an object of a kind that is not there",
        ),
    ],
)
def test_changes_that_are_fine(
    objects: Objects, request: pytest.FixtureRequest, kind: str, before: Change, change: Change
) -> None:
    obj = full(kind)
    obj.pop("status", None)
    before(obj)
    obj = objects.create(named(obj, "fine-" + re.sub(r"[^a-z0-9]+", "-", request.node.callspec.id)))
    change(obj)
    replaced = objects.replace(obj, dry_run=True)
    assert replaced["spec"] == obj["spec"]


def test_a_policy_of_rows_that_differ_in_one_word_is_fine(objects: Objects) -> None:
    rows = [
        {"failure": "SingleCell", "strategy": "CellRestart"},
        {"failure": "MultipleCell", "strategy": "EmergencyScaling"},
        {"failure": "SingleCell", "impact": "High", "strategy": "TrafficDrainAndReplace"},
        {"failure": "SingleCell", "impact": "Low", "strategy": "CellRestart"},
        {"dataIntegrity": "Corrupted", "strategy": "ManualIntervention"},
        {"strategy": "ManualIntervention"},
    ]
    obj = named(full("RecoveryPolicy"), "rows")
    del obj["status"]
    obj["spec"]["rules"] = [{"name": f"row-{number}", **row} for number, row in enumerate(rows)]
    objects.create(obj, dry_run=True)
    assert RecoveryPolicy.model_validate(obj).spec.rules[5].failure is None
