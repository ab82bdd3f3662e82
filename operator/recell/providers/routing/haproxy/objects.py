"""The Kubernetes objects that make a Router of type HAProxy: what is in the cluster because of its spec.

Promises: pure; the same Router gives the same dictionaries, each with the hash of its content in an
annotation, so that an apply that would change nothing can be left out (`differs`). Everything passes
PodSecurity `restricted`, is owned by the Router and labelled with it.

Must not: touch the Placement. It outlives the Router, so nothing here owns it or is owned by it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recell.api import Router
from recell.api.meta import ANNOTATION_CONTENT, GROUP, LABEL_ROUTER, fraction, seconds
from recell.api.router import CustomerKey, HAProxy
from recell.providers.kube.ownership import controlled_by

Object = dict[str, Any]

CUSTOMERS_PORT = 8080
ADMIN_PORT = 8404
AGENT_PORT = 8405
RUN = "/run/recell"
TEMPLATE = "/etc/recell/haproxy.cfg"
CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
USER = 10001
LABEL_NAME = "app.kubernetes.io/name"
NAME = "recell-router"
OPEN_STILL = 3
"""Seconds in which a leaving pod still serves, so that nobody sends it anything when it stops."""
DRAIN = 30
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
        LABEL_NAME: NAME,
        "app.kubernetes.io/instance": router,
        "app.kubernetes.io/component": "router",
        "app.kubernetes.io/managed-by": "recell",
        LABEL_ROUTER: router,
    }


def selector(router: str) -> dict[str, str]:
    """Labels that pick the Router's pods, and nothing else; they never change."""
    return {LABEL_NAME: NAME, LABEL_ROUTER: router}


def router_objects(
    router: Router, around: Surroundings, reached: Mapping[str, str] | None = None
) -> tuple[Object, ...]:
    """All objects, in the order in which they are applied. Raises ValueError for a Router of another type.

    `reached`: selector of the pods that customers reach through the Service; the Router's own if it is left out.
    """
    block = router.spec.haproxy
    if block is None:
        raise ValueError(f"Router {router.metadata.name}: spec.haproxy is missing")
    name = router.metadata.name
    made = (
        owned(router, "v1", "ServiceAccount", name_of(name), automountServiceAccountToken=False),
        _role(router),
        _role_binding(router),
        network_policy(router, around, name_of(name), selector(name), (ADMIN_PORT, AGENT_PORT)),
        _deployment(router, block, around),
        budget(router, name_of(name), selector(name)),
        service(router, block, router.metadata.name, reached or selector(router.metadata.name)),
    )
    return marked(made)


def marked(objects: Iterable[Object]) -> tuple[Object, ...]:
    """Each with the hash of its content."""
    made = tuple(objects)
    for obj in made:
        obj["metadata"].setdefault("annotations", {})[ANNOTATION_CONTENT] = _hash(obj)
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


def overload_environment(router: Router) -> dict[str, str]:
    """The agent's variables that say which requests may be shed, and when a cell is spared."""
    environment = {}
    shedding, breakers = router.spec.shedding, router.spec.circuit_breakers
    if shedding is not None and shedding.classes:
        told = [{"name": c.name, "matches": [match.to_dict() for match in c.matches]} for c in shedding.classes]
        environment["REQUEST_CLASSES"] = json.dumps(told, separators=(",", ":"))
    if breakers is not None:
        environment["BREAKER_ERROR_RATE"] = str(round(fraction(breakers.error_rate) * 10_000))
        environment["BREAKER_WINDOW"] = str(round(seconds(breakers.window) * 1000))
        environment["BREAKER_MINIMUM_REQUESTS"] = str(breakers.minimum_requests)
        environment["IN_FLIGHT_MAX"] = str(breakers.max_requests_in_flight)
    return environment


def _hash(obj: Object) -> str:
    return hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:32]


def owned(router: Router, api_version: str, kind: str, name: str, **rest: Any) -> Object:
    """An object that goes when the Router goes."""
    metadata = {
        "name": name,
        "namespace": router.metadata.namespace,
        "labels": labels(router.metadata.name),
        "ownerReferences": [controlled_by(router)],
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
    return owned(router, "rbac.authorization.k8s.io/v1", "Role", name_of(router.metadata.name), rules=[rule])


def _role_binding(router: Router) -> Object:
    name = name_of(router.metadata.name)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": router.metadata.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    return owned(router, "rbac.authorization.k8s.io/v1", "RoleBinding", name, roleRef=role, subjects=[subject])


def network_policy(
    router: Router,
    around: Surroundings,
    name: str,
    pods: Mapping[str, str],
    inner: Sequence[int],
    outer: Sequence[int] = (CUSTOMERS_PORT,),
) -> Object:
    """Everybody may reach the `outer` ports; the `inner` ones are for the operator alone."""
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": around.operator_namespace}},
        "podSelector": {"matchLabels": dict(around.operator_labels)},
    }
    spec = {
        "podSelector": {"matchLabels": dict(pods)},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": [{"protocol": "TCP", "port": port} for port in outer]},
            {
                "from": [operator],
                "ports": [{"protocol": "TCP", "port": port} for port in inner],
            },
        ],
    }
    return owned(router, "networking.k8s.io/v1", "NetworkPolicy", name, spec=spec)


def budget(router: Router, name: str, pods: Mapping[str, str]) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": dict(pods)}}
    return owned(router, "policy/v1", "PodDisruptionBudget", name, spec=spec)


def service(router: Router, block: HAProxy, name: str, pods: Mapping[str, str]) -> Object:
    port: Object = {"name": "http", "protocol": "TCP", "port": block.service.port, "targetPort": CUSTOMERS_PORT}
    if block.service.node_port is not None:
        port["nodePort"] = block.service.node_port
    spec = {"type": block.service.type.value, "selector": dict(pods), "ports": [port]}
    return owned(router, "v1", "Service", name, spec=spec)


def _deployment(router: Router, block: HAProxy, around: Surroundings) -> Object:
    name = router.metadata.name
    image = block.image or around.image
    credentials: Object = {
        "name": "credentials",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ]
        },
    }
    pod = {
        "serviceAccountName": name_of(name),
        **pod_of_haproxy(image, selector(name), _agent(router, block, image), credentials),
    }
    spec = {
        "replicas": block.replicas,
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": selector(name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": labels(name)}, "spec": pod},
    }
    return owned(router, "apps/v1", "Deployment", name_of(name), spec=spec)


UNPRIVILEGED: Object = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONFINED: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod_of_haproxy(image: str, pods: Mapping[str, str], before: Object, volume: Object) -> Object:
    """HAProxy with what is started before it, and the volume that this needs."""
    return {
        **confined_pod(
            pods, haproxy(image, f"{RUN}/haproxy.cfg") | {"volumeMounts": [{"name": "run", "mountPath": RUN}]}
        ),
        "initContainers": [before],
        "volumes": [{"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}, volume],
    }


def confined_pod(pods: Mapping[str, str], container: Object) -> Object:
    """It gets no token by itself."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": OPEN_STILL + DRAIN + 7,
        "securityContext": UNPRIVILEGED,
        "topologySpreadConstraints": [spread(pods)],
        "containers": [container],
    }


def spread(pods: Mapping[str, str]) -> Object:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(pods)},
    }


def _agent(router: Router, block: HAProxy, image: str) -> Object:
    """A native sidecar: it lays the files before HAProxy starts, and ends after it."""
    environment = {
        "ROUTER": router.metadata.name,
        **key_environment(block.customer_key),
        **overload_environment(router),
        "DRAIN_TIMEOUT": str(math.ceil(seconds(block.drain_timeout))),
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
        "securityContext": CONFINED,
        "volumeMounts": [
            {"name": "run", "mountPath": RUN},
            {"name": "credentials", "mountPath": CREDENTIALS, "readOnly": True},
        ],
    }


def haproxy(image: str, configuration: str) -> Object:
    """Ready once it can serve. A hung process is replaced within seconds."""
    return {
        "name": "haproxy",
        "image": image,
        "command": ["haproxy", "-db", "-f", configuration],
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
        "lifecycle": {"preStop": {"sleep": {"seconds": OPEN_STILL}}},
        "resources": {"requests": {"cpu": "100m", "memory": "96Mi"}},
        "securityContext": CONFINED,
    }
