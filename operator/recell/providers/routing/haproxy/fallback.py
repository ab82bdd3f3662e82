"""The Kubernetes objects of a Router's fallback: a second, tiny HAProxy that stands by.

Promises: pure. Its table is part of its pods (an annotation that they read as a file), so that another table is
another pod, rolled out without a pause, and what serves needs nothing but itself. As everything of the Router it
passes PodSecurity `restricted`; it has no credentials at all.

Must not: be what customers reach, unless the Service of the Router says so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recell.api import Router
from recell.api.fallback import Fallback
from recell.api.meta import GROUP, LABEL_ROUTER
from recell.api.router import HAProxy, RouterService, ServiceType
from recell.domain.fallback import Table
from recell.providers.routing.haproxy.objects import (
    ADMIN_PORT,
    CONFINED,
    CUSTOMERS_PORT,
    LABEL_NAME,
    RUN,
    Object,
    Surroundings,
    budget,
    key_environment,
    labels,
    marked,
    name_of,
    network_policy,
    owned,
    pod_of_haproxy,
    selector,
    service,
)

NAME = "recell-fallback"
ANNOTATION_TABLE = f"{GROUP}/fallback-table"
"""On the fallback's pods: the table that they serve from, as JSON. (Pods may have 256 KiB of annotations; the largest
table takes 200.)"""
ANNOTATION_ORDER = f"{GROUP}/fallback-order"
"""On its Deployment: id of that table and names of the cells in their order."""
TEMPLATE = "/etc/recell/fallback.cfg"
TABLE = "/etc/recell/table/table.json"


def fallback_name(router: str) -> str:
    """Of everything that is the fallback's, also of the Service by which it can be tried before it is needed."""
    return f"{router}-fallback"


def fallback_selector(router: str) -> dict[str, str]:
    """Labels that pick the fallback's pods, and nothing else. They differ from the Router's own in one label, so that
    one patch of the customers' Service switches."""
    return {LABEL_NAME: NAME, LABEL_ROUTER: router}


def fallback_objects(router: Router, around: Surroundings, table: Table) -> tuple[Object, ...]:
    """In the order in which they are applied. Raises ValueError for a Router without a fallback."""
    block, wanted, name = router.spec.haproxy, router.spec.fallback, router.metadata.name
    if block is None or wanted is None:
        raise ValueError(f"Router {name} has no fallback")
    inside = block.model_copy(update={"service": RouterService(port=block.service.port)})
    # Customers who are sent there by name connect to the fallback itself.
    named = wanted.dns is not None and wanted.dns.fallback_targets is None
    kind = ServiceType.LOAD_BALANCER if named else ServiceType.CLUSTER_IP
    reached = block.model_copy(update={"service": RouterService(type=kind, port=block.service.port)})
    made = (
        network_policy(router, around, fallback_name(name), fallback_selector(name), (ADMIN_PORT,)),
        _deployment(router, block, wanted, around, table),
        budget(router, fallback_name(name), fallback_selector(name)),
        service(router, reached, fallback_name(name), fallback_selector(name)),
        service(router, inside, name_of(name), selector(name)),
    )
    return marked(made)


@dataclass(frozen=True)
class Rendered:
    """What a Deployment of the fallback says of its table."""

    id: str
    order: tuple[str, ...]


def rendered(deployment: Mapping[str, Any]) -> Rendered | None:
    """None for one that somebody else wrote."""
    try:
        told = json.loads((deployment["metadata"].get("annotations") or {})[ANNOTATION_ORDER])
        return Rendered(str(told["id"]), tuple(str(name) for name in told["order"]))
    except (KeyError, TypeError, ValueError):
        return None


def _labels(router: str) -> dict[str, str]:
    return labels(router) | {LABEL_NAME: NAME, "app.kubernetes.io/component": "fallback"}


def _deployment(router: Router, block: HAProxy, wanted: Fallback, around: Surroundings, table: Table) -> Object:
    name, image = router.metadata.name, block.image or around.image
    annotation: Object = {"fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_TABLE}']"}}
    told = {"name": "table", "downwardAPI": {"items": [{"path": "table.json", **annotation}]}}
    pod = pod_of_haproxy(image, fallback_selector(name), _renderer(router, block, image), told)
    document = json.dumps(table.document(), separators=(",", ":"), sort_keys=True)
    template = {"metadata": {"labels": _labels(name), "annotations": {ANNOTATION_TABLE: document}}, "spec": pod}
    spec = {
        "replicas": wanted.replicas,
        "revisionHistoryLimit": 1,
        "selector": {"matchLabels": fallback_selector(name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": template,
    }
    made = owned(router, "apps/v1", "Deployment", fallback_name(name), spec=spec)
    order = {"id": table.id, "order": list(table.order)}
    made["metadata"]["annotations"] = {ANNOTATION_ORDER: json.dumps(order, separators=(",", ":"))}
    return made


def _renderer(router: Router, block: HAProxy, image: str) -> Object:
    """Writes the configuration and ends; nothing of it is there while the fallback serves."""
    environment = {
        "ROUTER": router.metadata.name,
        "NAMESPACE": router.metadata.namespace,
        **key_environment(block.customer_key),
        "ADMIN_BIND": f":{ADMIN_PORT}",
        "CUSTOMERS_BIND": f":{CUSTOMERS_PORT}",
        "RUN_DIR": RUN,
        "TEMPLATE": TEMPLATE,
        "TABLE": TABLE,
    }
    return {
        "name": "render",
        "image": image,
        "command": ["python3", "-S", "-m", "agent.fallback"],
        "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        "securityContext": CONFINED,
        "volumeMounts": [
            {"name": "run", "mountPath": RUN},
            {"name": "table", "mountPath": TABLE.rpartition("/")[0], "readOnly": True},
        ],
    }
