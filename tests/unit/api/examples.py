"""Well-formed objects, as a user writes them and as the operator records them. Together they set every field.

`tests/unit/api/test_crd.py` proves that nothing is left out, so whatever walks over the examples (bounds, round
trips) walks over the whole API.
"""

from copy import deepcopy
from typing import Any

Object = dict[str, Any]

_TIME = "2026-01-31T12:00:00Z"
_LATER = "2026-01-31T12:15:00Z"


def _condition(type: str, status: str = "True") -> Object:
    return {
        "type": type,
        "status": status,
        "reason": "AsExpected",
        "message": "2 of 2 workloads are available",
        "lastTransitionTime": _TIME,
        "observedGeneration": 1,
    }


def _evidence(check: str, vantage: str) -> Object:
    return {
        "check": check,
        "vantage": vantage,
        "verdict": "Failed",
        "message": "12.5% of 480 requests failed in 10s, at most 5% may",
        "since": _TIME,
    }


def _resource(kind: str, name: str, spec: Object, status: Object | None = None) -> Object:
    made: Object = {"apiVersion": "recell.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    if status is not None:
        made["status"] = status
    return made


_CELL = _resource(
    "Cell",
    "cell-a",
    {
        "routerRef": {"name": "shop"},
        "weight": 100,
        "backend": {"type": "Service", "service": {"name": "web", "port": 80}},
        "namespace": "shop-a",
        "workloads": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "database"},
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            {"apiVersion": "batch/v1", "kind": "CronJob", "name": "billing"},
        ],
        "priority": 200,
        "capacity": {"requestsPerSecond": 500, "customers": 10000},
        "health": {
            "probe": {"path": "/ready", "scheme": "HTTPS", "interval": "1s", "timeout": "500ms"},
            "conditions": [
                {"type": "DiskFull", "status": "True", "for": "1m"},
                {"type": "DiskFull", "status": "Unknown", "for": "1h30m"},
            ],
        },
        "data": {
            "integrity": {"path": "/integrity", "interval": "1m", "timeout": "5s", "maxAge": "2h"},
            "type": "Jobs",
            "jobs": {
                "inventory": "cell-a-inventory",
                "accessible": "cell-a-accessible",
                "migrate": "cell-a-migrate",
                "restore": "cell-a-restore",
                "check": "cell-a-check",
                "backup": "cell-a-backup",
                "abandon": "cell-a-abandon",
            },
        },
        "templateRef": {"name": "shop-cell", "parameters": [{"name": "STORAGE", "value": "20Gi"}]},
        "policyRef": {"name": "careful"},
        "paused": True,
    },
    {
        "observedGeneration": 1,
        "phase": "Failed",
        "conditions": [_condition("Accepted"), _condition("Ready", "False")],
        "share": {"asked": "33.3%", "applied": "33.3%"},
        "failure": {
            "type": "SingleCell",
            "impact": "High",
            "dataIntegrity": "Intact",
            "since": _TIME,
            "evidence": [_evidence("http-probe", "Operator"), _evidence("error-rate", "Router")],
        },
        "recovery": {
            "activeRun": "cell-a-x7k2p",
            "lastRun": "cell-a-b4m9q",
            "attempts": 1,
            "nextAllowedAt": _LATER,
            "blocked": {"reason": "Cooldown", "message": "the last run ended 3m ago; the next may start at 12:15"},
        },
    },
)

_REMOTE_CELL = _resource(
    "Cell",
    "cell-b",
    {
        "routerRef": {"name": "shop"},
        "backend": {"type": "Address", "address": {"host": "10.0.0.7", "port": 8080}},
        "cluster": {"kubeconfigSecretRef": {"name": "cluster-b", "key": "value"}},
        "workloads": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web"}],
    },
)


def _small_cell(name: str, data: Object) -> Object:
    backend = {"type": "Service", "service": {"name": name, "port": 80}}
    return _resource("Cell", name, {"routerRef": {"name": "shop"}, "backend": backend, "data": data})


_VOLUME_CELL = _small_cell(
    "cell-c",
    {
        "type": "VolumeSnapshots",
        "volumeSnapshots": {"claims": ["data-cell-c-0", "files-cell-c-0"], "className": "fast"},
        "jobs": {"check": "cell-c-check"},
    },
)
_DATABASE_CELL = _small_cell("cell-d", {"type": "CloudNativePG", "cloudNativePG": {"cluster": "cell-d-db"}})
_VELERO_CELL = _small_cell(
    "cell-e",
    {
        "type": "Velero",
        "velero": {
            "claims": ["data-cell-e-0", "files-cell-e-0"],
            "namespace": "backups",
            "storageLocation": "elsewhere",
            "ttl": "168h",
            "schedules": ["nightly"],
        },
    },
)

_ROUTER = _resource(
    "Router",
    "shop",
    {
        "type": "HAProxy",
        "customerData": "InCell",
        "offHome": "ReadOnly",
        "onUnhealthy": "Ignore",
        "policyRef": {"name": "careful"},
        "haproxy": {
            "customerKey": {"type": "Header", "name": "X-Customer-ID", "whenAbsent": "ClientAddress"},
            "slots": 2048,
            "pins": [{"customer": "vip-1", "cell": "cell-a"}, {"customer": "vip-2", "cell": "cell-b"}],
            "initialCells": ["cell-a", "cell-b"],
            "drainTimeout": "5m",
            "image": "registry.example.com/recell-router:1.2.3",
            "replicas": 3,
            "service": {"type": "NodePort", "port": 8080, "nodePort": 30080},
        },
        "shedding": {
            "classes": [
                {
                    "name": "checkout",
                    "priority": 500,
                    "sheddable": False,
                    "matches": [
                        {
                            "header": {"name": "X-Priority", "value": "high"},
                            "pathPrefix": "/checkout",
                            "methods": ["POST", "PUT"],
                        }
                    ],
                },
                {"name": "bulk", "priority": 10, "sheddable": True, "matches": [{"pathPrefix": "/export"}]},
            ],
            "defaultPriority": 50,
            "defaultSheddable": True,
        },
        "circuitBreakers": {
            "errorRate": "40%",
            "window": "5s",
            "minimumRequests": 50,
            "maxRequestsInFlight": 200,
        },
        "fallback": {
            "enabled": True,
            "replicas": 3,
            "switches": [
                {"type": "Service"},
                {
                    "type": "Gateway",
                    "gateway": {
                        "parentRefs": [{"name": "public", "namespace": "ingress", "sectionName": "http", "port": 80}],
                        "hostnames": ["shop.example.com"],
                    },
                },
                {
                    "type": "DNS",
                    "dns": {
                        "hostname": "shop.example.com",
                        "ttl": "10s",
                        "recordType": "A",
                        "routerTargets": ["192.0.2.1"],
                        "fallbackTargets": ["192.0.2.2"],
                        "providerSpecific": [{"name": "aws/evaluate-target-health", "value": "false"}],
                        "nameservers": [{"host": "192.0.2.53", "port": 5353}],
                        "publishTimeout": "1m",
                    },
                },
            ],
        },
    },
    {
        "observedGeneration": 1,
        "mode": "Primary",
        "verification": "Observed",
        "capabilities": ["StickyCustomers", "Pins", "Reject", "ReadOnly", "Shedding", "CircuitBreakers"],
        "cells": {"total": 3, "healthy": 1, "failed": 1, "recovering": 1},
        "failure": {
            "type": "Router",
            "impact": "Critical",
            "dataIntegrity": "Unknown",
            "since": _TIME,
            "evidence": [_evidence("access", "Operator"), _evidence("router-pods", "Cluster")],
        },
        "recovery": {
            "activeRun": "shop-x",
            "lastRun": "shop-w",
            "attempts": 2,
            "nextAllowedAt": _TIME,
            "blocked": {"reason": "Cooldown", "message": "Wait until the cooldown ends, or start a run by hand."},
        },
        "conditions": [_condition("Ready"), _condition("Programmed")],
    },
)

_PATH_ROUTER = _resource(
    "Router",
    "tenants",
    {"type": "HAProxy", "customerData": "Shared", "haproxy": {"customerKey": {"type": "PathSegment", "segment": 2}}},
)

_HEADERS = {
    "set": [{"name": "X-Edge", "value": "yes"}],
    "add": [{"name": "X-Via", "value": "front"}],
    "remove": ["X-Debug"],
}


def _gateway_router(name: str, *filters: Object) -> Object:
    match = {
        "path": {"type": "PathPrefix", "value": "/shop"},
        "headers": [{"type": "Exact", "name": "X-Tier", "value": "gold"}],
        "queryParams": [{"type": "RegularExpression", "name": "lang", "value": "de|en"}],
        "method": "GET",
    }
    gateway = {
        "parentRefs": [{"name": "public", "namespace": "ingress", "sectionName": "web", "port": 80}],
        "hostnames": ["shop.example.com", "*.shop.example.com"],
        "rules": [
            {
                "matches": [match],
                "filters": list(filters),
                "timeouts": {"request": "10s", "backendRequest": "5s"},
            }
        ],
        "metrics": {
            "type": "Traefik",
            "namespace": "ingress",
            "podSelector": {"app.kubernetes.io/name": "traefik"},
            "port": 8080,
        },
    }
    return _resource("Router", name, {"type": "Gateway", "customerData": "Shared", "gateway": gateway})


_GATEWAY_ROUTERS = (
    _gateway_router("front", {"type": "RequestHeaderModifier", "requestHeaderModifier": _HEADERS}),
    _gateway_router("front-answers", {"type": "ResponseHeaderModifier", "responseHeaderModifier": _HEADERS}),
    _gateway_router(
        "front-prefix",
        {
            "type": "URLRewrite",
            "urlRewrite": {
                "hostname": "cell.internal",
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"},
            },
        },
    ),
    _gateway_router(
        "front-path",
        {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/shop"}}},
    ),
    _gateway_router(
        "front-limited",
        {"type": "ExtensionRef", "extensionRef": {"group": "traefik.io", "kind": "Middleware", "name": "limit"}},
    ),
)

_DNS_ROUTERS = (
    _resource(
        "Router",
        "names",
        {
            "type": "DNS",
            "customerData": "Shared",
            "dns": {
                "hostname": "shop.example.com",
                "ttl": "30s",
                "recordType": "CNAME",
                "routingPolicy": "Weighted",
                "weights": {"property": "aws/weight", "max": 255, "drained": "ZeroWeight"},
                "providerSpecific": [{"name": "alias", "value": "false"}],
                "nameservers": [{"host": "192.0.2.53", "port": 5353}, {"host": "ns2.example.com"}],
                "propagation": "1m",
                "publishTimeout": "10m",
            },
        },
    ),
    _resource(
        "Router",
        "addresses",
        {
            "type": "DNS",
            "customerData": "Shared",
            "dns": {"hostname": "shop.example.com", "routingPolicy": "Simple"},
        },
    ),
)

_PLACEMENT = _resource(
    "Placement",
    "shop",
    {
        "epoch": 7,
        "slots": 1024,
        "mode": "Fallback",
        "fallback": {
            "order": ["cell-b", "cell-a"],
            "holder": {"kind": "RecoveryRun", "name": "shop-x7k2p", "uid": "2d7e"},
            "since": _TIME,
            "dualRouting": True,
        },
        "nextIndex": 2,
        "cells": [
            {"name": "cell-a", "uid": "0b9c", "index": 0, "address": "10.0.0.7", "port": 80, "weight": 100},
            {"name": "cell-b", "uid": "1c8d", "index": 1, "address": "10.0.0.8", "port": 80, "weight": 50},
        ],
        "homes": "AAAAAQ==",
        "serving": "AAEAAQ==",
        "pins": [{"customer": "vip-1", "home": 0, "serving": 1}],
        "holds": [
            {
                "cell": "cell-a",
                "maxPercent": 50,
                "state": "Draining",
                "holder": {"kind": "RecoveryRun", "name": "cell-a-x7k2p", "uid": "2d7e"},
                "reason": "drain-traffic",
                "since": _TIME,
            }
        ],
        "reservations": [
            {
                "cell": "cell-b",
                "requestsPerSecond": 250,
                "holder": {"kind": "RecoveryRun", "name": "cell-a-x7k2p", "uid": "2d7e"},
            }
        ],
        "successors": [{"cell": "cell-c", "successor": "cell-c-3fa92b"}],
        "quarantine": [
            {
                "slots": "gAE=",
                "holder": {"kind": "RecoveryRun", "name": "shop-x7k2p", "uid": "2d7e"},
                "reason": "their cell failed, and so did the one that took them over",
                "since": _TIME,
            }
        ],
        "shedding": [
            {
                "class": "bulk",
                "percent": 50,
                "expiresAt": _LATER,
                "holder": {"kind": "RecoveryRun", "name": "shop-x7k2p", "uid": "2d7e"},
            }
        ],
        "openCircuits": [
            {
                "cell": "cell-a",
                "percent": 90,
                "expiresAt": _LATER,
                "holder": {"kind": "RecoveryRun", "name": "shop-x7k2p", "uid": "2d7e"},
            }
        ],
    },
)

_RUN = _resource(
    "RecoveryRun",
    "cell-a-x7k2p",
    {
        "targetRef": {"kind": "Cell", "name": "cell-a"},
        "strategy": "CellRestart",
        "failure": {"type": "SingleCell", "impact": "High", "dataIntegrity": "Intact"},
        "urgency": "Immediate",
        "startWhen": "Always",
        "startBefore": _LATER,
        "recoveryTarget": {"time": _TIME, "backupID": "nightly-20260130"},
        "dryRun": True,
        "reason": "goes on from cell-a-b4m9q",
        "trigger": "Child",
        "escalatedFrom": "cell-a-b4m9q",
        "control": {
            "paused": True,
            "abort": False,
            "approvals": [{"gate": "start", "decisionID": "d-1"}, {"gate": "start", "decisionID": "d-2"}],
        },
    },
    {
        "observedGeneration": 2,
        "epoch": 7,
        "phase": "AwaitingApproval",
        "step": "drain-traffic",
        "startedAt": _TIME,
        "finishedAt": _LATER,
        "abortRequested": False,
        "decision": {
            "id": "d-2",
            "strategy": "CellRestart",
            "row": "single-cell-intact",
            "message": "SingleCell, High, Intact: CellRestart by row single-cell-intact",
            "inputs": {"type": "SingleCell", "impact": "High", "dataIntegrity": "Intact"},
            "evidence": [_evidence("http-probe", "Operator")],
        },
        "plan": {
            "procedure": "CellRestart",
            "version": 1,
            "steps": ["check-eligibility", "drain-traffic"],
            "numbers": {"drainPercent": "50%", "incrementInterval": "30s"},
        },
        "steps": [
            {
                "name": "check-eligibility",
                "phase": "Draining",
                "state": "Done",
                "startedAt": _TIME,
                "finishedAt": _TIME,
                "attempts": 0,
                "message": "eligible",
                "data": {"cells": ["cell-b"], "share": {"before": "33.3%"}, "checked": True, "count": 3},
            },
            {"name": "drain-traffic", "phase": "Draining", "state": "Pending", "attempts": 0, "message": ""},
        ],
        "awaiting": {"gate": "start", "decisionID": "d-2", "since": _TIME, "message": "approve the restart of cell-a"},
        "escalation": {"from": "cell-a-b4m9q", "to": "cell-a-c5n8r", "level": 1},
        "supersededBy": "shop-x7k2p",
        "result": {
            "replacement": "cell-a-3fa92b",
            "emergencyCells": ["cell-a-77c0de"],
            "customers": {
                "affected": 120,
                "source": "Migrate",
                "moved": 100,
                "restored": 18,
                "failed": 2,
                "failedNames": ["c-17", "c-99"],
            },
            "recoveryPoint": {"time": _TIME, "backupID": "nightly-20260130"},
            "dataLoss": {"from": _TIME, "to": _LATER},
            "cascade": {"total": 3, "recovered": 2, "quarantinedSlots": 17},
            "conflicts": ["c-12: order 4711 was also written in cell-b"],
            "remains": ["Delete PersistentVolumeClaim shop-a/data-cell-a-db-0"],
        },
        "summary": "cell-a was restarted; no request of another cell failed.",
        "conditions": [_condition("Ready", "Unknown"), _condition("Reconciling")],
    },
)

_POLICY = _resource(
    "RecoveryPolicy",
    "careful",
    {
        "mode": "Automatic",
        "rules": [
            {
                "name": "corrupted",
                "failure": "SingleCell",
                "impact": "Critical",
                "dataIntegrity": "Corrupted",
                "strategy": "ManualIntervention",
            },
            {"name": "else", "strategy": "CellRestart"},
        ],
        "builtinRules": "None",
        "detection": {
            "failedAfter": "15s",
            "healthyAfter": "1m",
            "errorRate": "2.5%",
            "latency": "750ms",
            "minimumRequests": 50,
            "window": "20s",
            "multipleCellWindow": "10m",
            "multipleCellFailures": 3,
            "flappingTransitions": 4,
            "flappingWindow": "30m",
            "withoutIntegrityChecks": "Intact",
        },
        "limits": {
            "maxConcurrentRuns": 2,
            "cooldown": "30m",
            "maxAttempts": 2,
            "attemptsWindow": "12h",
            "capacityHeadroom": "30%",
            "requireCapacity": True,
            "maxMadeCells": 6,
            "approvalExpires": "2h",
            "successfulRunsKept": 10,
            "failedRunsKept": 30,
        },
        "steps": {
            "drainPercent": "100%",
            "drainIncrements": 5,
            "incrementInterval": "10s",
            "drainTolerance": "10%",
            "drainFloor": 0,
            "applyTimeout": "30s",
            "restartTimeout": "5m",
            "healthCheckTimeout": "3m",
            "inconclusiveTimeout": "2m",
            "stabilityDuration": "10m",
            "stabilityTolerance": "5s",
        },
        "replacement": {
            "emergencyCells": 1,
            "provisionTimeout": "20m",
            "dataTimeout": "6h",
            "restoreAttempts": 2,
            "partialSuccess": "Route",
            "promotionApproval": "NotRequired",
            "decommission": "Keep",
            "retainFor": "24h",
        },
        "cascade": {
            "extraCells": 1,
            "maxEmergencyCells": 6,
            "emergencyCellsAfter": "Retire",
            "expires": "10m",
            "circuitPercent": "80%",
            "stabilityBetween": "2m",
            "recoveryTimeout": "4h",
            "liftIncrements": 5,
            "poisonWindow": "15m",
        },
        "manualIntervention": {"corruptedCell": "Isolate"},
        "validation": {"duration": "15m", "consistencyDuration": "1h"},
        "dependencies": [{"name": "database", "host": "db.shop.svc", "port": 5432, "path": "/ready"}],
        "objectives": {"rpo": "5m"},
    },
    {"observedGeneration": 1, "conditions": [_condition("Accepted")]},
)

_FREEZE = _resource(
    "RecoveryFreeze",
    "release-night",
    {
        "selector": {"matchLabels": {"tier": "gold", "empty": ""}},
        "scope": "NewRuns",
        "until": _LATER,
        "reason": "release night",
    },
)

_TEMPLATE = _resource(
    "CellTemplate",
    "shop-cell",
    {
        "parameters": [{"name": "STORAGE", "value": "10Gi"}, {"name": "TIER"}],
        "cell": {
            "backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(CELL)-web"}],
        },
        "objects": [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "cluster": "Cell",
                "metadata": {"name": "$(CELL)-data", "labels": {"tier": "$(TIER)"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "$(STORAGE)"}}},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "$(CELL)"},
                "spec": {"selector": {"app": "$(CELL)"}, "ports": [{"port": 80, "targetPort": 8080}]},
            },
        ],
    },
    {"observedGeneration": 1, "conditions": [_condition("Accepted")]},
)

_ALL = (
    *(_CELL, _REMOTE_CELL, _VOLUME_CELL, _DATABASE_CELL, _VELERO_CELL),
    *(_ROUTER, _PATH_ROUTER, *_GATEWAY_ROUTERS, *_DNS_ROUTERS, _PLACEMENT, _RUN, _POLICY, _FREEZE, _TEMPLATE),
)


def examples() -> list[Object]:
    """Fresh copies of all; the first of a kind is the fullest."""
    return deepcopy(list(_ALL))


def full(kind: str) -> Object:
    """A fresh copy of the fullest of a kind."""
    return next(example for example in examples() if example["kind"] == kind)
