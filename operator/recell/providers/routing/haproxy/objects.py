"""The Kubernetes objects that make a Router of type HAProxy: what is in the cluster because of its spec.

Promises: pure; the same Router gives the same dictionaries, each with the hash of its content in an
annotation, so that an apply that would change nothing can be left out (`differs`). Everything passes
PodSecurity `restricted`, is owned by the Router and labelled with it.

Must not: touch the Placement. It outlives the Router, so nothing here owns it or is owned by it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recell.api import Router
from recell.api.meta import ANNOTATION_CONTENT, API_VERSION, GROUP, LABEL_ROUTER
from recell.api.router import CustomerKey, HAProxy

Object = dict[str, Any]

CUSTOMERS_PORT = 8080
ADMIN_PORT = 8404
AGENT_PORT = 8405
RUN = "/run/recell"
TEMPLATE = "/etc/recell/haproxy.cfg"
CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
USER = 10001
_OPEN_STILL = 3
"""Seconds in which a leaving pod still serves, so that nobody sends it anything when it stops."""
_DRAIN = 30
"""hard-stop-after in haproxy.cfg: requests in flight may end within it."""


@dataclass(frozen=True)
class Surroundings:
    """What the objects need to know beside the Router."""

    image: str
    """For Routers that name none."""
    operator_namespace: str
    operator_labels: Mapping[str, str] = field(
        default_factory=lambda: {"app.kubernetes.io/component": "operator"}, hash=False
    )
    """Labels of the operator's pods, which alone may ask the routers' pods for figures."""


def name_of(router: str) -> str:
    """Name of everything but the customers' Service, which is called like the Router."""
    return f"{router}-router"


def labels(router: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "recell-router",
        "app.kubernetes.io/instance": router,
        "app.kubernetes.io/component": "router",
        "app.kubernetes.io/managed-by": "recell",
        LABEL_ROUTER: router,
    }


def selector(router: str) -> dict[str, str]:
    """Labels that pick the Router's pods, and nothing else; they never change."""
    return {"app.kubernetes.io/name": "recell-router", LABEL_ROUTER: router}


def router_objects(router: Router, around: Surroundings) -> tuple[Object, ...]:
    """All objects, in the order in which they are applied. Raises ValueError for a Router of another type."""
    block = router.spec.haproxy
    if block is None:
        raise ValueError(f"Router {router.metadata.name}: spec.haproxy is missing")
    name = router.metadata.name
    made = (
        _object(router, "v1", "ServiceAccount", name_of(name), automountServiceAccountToken=False),
        _role(router),
        _role_binding(router),
        _network_policy(router, around),
        _deployment(router, block, around),
        _budget(router),
        _service(router, block),
    )
    for obj in made:
        obj["metadata"]["annotations"] = {ANNOTATION_CONTENT: _hash(obj)}
    return made


def differs(live: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether an object has to be applied: it is missing, or something else was applied last."""
    if live is None:
        return True
    annotations = live.get("metadata", {}).get("annotations") or {}
    return bool(annotations.get(ANNOTATION_CONTENT) != wanted["metadata"]["annotations"][ANNOTATION_CONTENT])


def key_environment(key: CustomerKey) -> dict[str, str]:
    """The agent's variables that say where the customer key is."""
    environment = {"CUSTOMER_KEY_TYPE": key.type.value, "CUSTOMER_KEY_WHEN_ABSENT": key.when_absent.value}
    if key.name is not None:
        environment["CUSTOMER_KEY_NAME"] = key.name
    if key.segment is not None:
        environment["CUSTOMER_KEY_SEGMENT"] = str(key.segment)
    return environment


def _hash(obj: Object) -> str:
    return hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:32]


def _object(router: Router, api_version: str, kind: str, name: str, **rest: Any) -> Object:
    owner = {
        "apiVersion": API_VERSION,
        "kind": "Router",
        "name": router.metadata.name,
        "uid": router.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    metadata = {
        "name": name,
        "namespace": router.metadata.namespace,
        "labels": labels(router.metadata.name),
        "ownerReferences": [owner],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def _role(router: Router) -> Object:
    """Its own Placement and nothing else; a list or watch by this name needs the field selector."""
    rule = {
        "apiGroups": [GROUP],
        "resources": ["placements"],
        "resourceNames": [router.metadata.name],
        "verbs": ["get", "list", "watch"],
    }
    return _object(router, "rbac.authorization.k8s.io/v1", "Role", name_of(router.metadata.name), rules=[rule])


def _role_binding(router: Router) -> Object:
    name = name_of(router.metadata.name)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": router.metadata.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    return _object(router, "rbac.authorization.k8s.io/v1", "RoleBinding", name, roleRef=role, subjects=[subject])


def _network_policy(router: Router, around: Surroundings) -> Object:
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": around.operator_namespace}},
        "podSelector": {"matchLabels": dict(around.operator_labels)},
    }
    spec = {
        "podSelector": {"matchLabels": selector(router.metadata.name)},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": [{"protocol": "TCP", "port": CUSTOMERS_PORT}]},
            {
                "from": [operator],
                "ports": [{"protocol": "TCP", "port": ADMIN_PORT}, {"protocol": "TCP", "port": AGENT_PORT}],
            },
        ],
    }
    return _object(router, "networking.k8s.io/v1", "NetworkPolicy", name_of(router.metadata.name), spec=spec)


def _budget(router: Router) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": selector(router.metadata.name)}}
    return _object(router, "policy/v1", "PodDisruptionBudget", name_of(router.metadata.name), spec=spec)


def _service(router: Router, block: HAProxy) -> Object:
    port: Object = {"name": "http", "protocol": "TCP", "port": block.service.port, "targetPort": CUSTOMERS_PORT}
    if block.service.node_port is not None:
        port["nodePort"] = block.service.node_port
    spec = {"type": block.service.type.value, "selector": selector(router.metadata.name), "ports": [port]}
    return _object(router, "v1", "Service", router.metadata.name, spec=spec)


def _deployment(router: Router, block: HAProxy, around: Surroundings) -> Object:
    name = router.metadata.name
    image = block.image or around.image
    volumes: list[Object] = [
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        {
            "name": "credentials",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                ]
            },
        },
    ]
    pod = {
        "serviceAccountName": name_of(name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _OPEN_STILL + _DRAIN + 7,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(name)},
            }
        ],
        "initContainers": [_agent(router, block, image)],
        "containers": [_haproxy(image)],
        "volumes": volumes,
    }
    spec = {
        "replicas": block.replicas,
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": selector(name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": labels(name)}, "spec": pod},
    }
    return _object(router, "apps/v1", "Deployment", name_of(name), spec=spec)


_CONFINED: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _agent(router: Router, block: HAProxy, image: str) -> Object:
    """A native sidecar: it lays the files before HAProxy starts, and ends after it."""
    environment = {
        "ROUTER": router.metadata.name,
        **key_environment(block.customer_key),
        "AGENT_BIND": f":{AGENT_PORT}",
        "ADMIN_BIND": f":{ADMIN_PORT}",
        "CUSTOMERS_BIND": f":{CUSTOMERS_PORT}",
        "RUN_DIR": RUN,
        "TEMPLATE": TEMPLATE,
    }
    alive = {"path": "/healthz", "port": AGENT_PORT}
    return {
        "name": "agent",
        "image": image,
        "restartPolicy": "Always",
        "command": ["python3", "-S", "-m", "agent.main"],
        "env": [
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            *({"name": name, "value": value} for name, value in sorted(environment.items())),
        ],
        "ports": [{"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"}],
        "startupProbe": {"httpGet": alive, "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {"httpGet": alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "resources": {"requests": {"cpu": "20m", "memory": "48Mi"}},
        "securityContext": _CONFINED,
        "volumeMounts": [
            {"name": "run", "mountPath": RUN},
            {"name": "credentials", "mountPath": CREDENTIALS, "readOnly": True},
        ],
    }


def _haproxy(image: str) -> Object:
    """Ready once it holds a Placement. A hung process is replaced within seconds."""
    return {
        "name": "haproxy",
        "image": image,
        "command": ["haproxy", "-db", "-f", f"{RUN}/haproxy.cfg"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [
            {"name": "http", "containerPort": CUSTOMERS_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": ADMIN_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": ADMIN_PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
            "terminationGracePeriodSeconds": 1,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": _OPEN_STILL}}},
        "resources": {"requests": {"cpu": "100m", "memory": "96Mi"}},
        "securityContext": _CONFINED,
        "volumeMounts": [{"name": "run", "mountPath": RUN}],
    }
