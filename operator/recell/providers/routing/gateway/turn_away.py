"""The Kubernetes objects of what answers in place of the cells: a tiny HAProxy beside a Router of type Gateway.

Whatever reaches it is answered with 503 and when to come again; an HTTPRoute sends it what is to be turned away. There
is a Service for each reason, so that the answer says why, and whoever counts by Service counts by reason.

Promises: pure. Its configuration is in its image, so that it needs nothing and nobody to serve. As everything of the
Router it passes PodSecurity `restricted`; it has no credentials at all.
"""

from enum import StrEnum

from recell.api import Router
from recell.api.meta import LABEL_ROUTER
from recell.providers.routing.haproxy.objects import (
    ADMIN_PORT,
    LABEL_NAME,
    Object,
    Surroundings,
    budget,
    confined_pod,
    haproxy,
    labels,
    marked,
    network_policy,
    owned,
)

NAME = "recell-turn-away"
CONFIGURATION = "/etc/recell/turn-away.cfg"
PORT = 80
"""Of its Services."""
REPLICAS = 2


class TurnedAway(StrEnum):
    """Why a request is not served; `X-Reason` of the answer."""

    SHED = "shed"
    CIRCUIT_OPEN = "circuit-open"


TARGET_PORTS = {TurnedAway.SHED: 8080, TurnedAway.CIRCUIT_OPEN: 8081}
"""At its pods, by what they answer."""


def turn_away_name(router: str) -> str:
    """Of everything of it but its Services."""
    return f"{router}-turn-away"


def service_name(router: str, reason: TurnedAway) -> str:
    return f"{router}-{reason}"


def turn_away_selector(router: str) -> dict[str, str]:
    """Labels that pick its pods, and nothing else; they never change."""
    return {LABEL_NAME: NAME, LABEL_ROUTER: router}


def turn_away_objects(router: Router, around: Surroundings) -> tuple[Object, ...]:
    """In the order in which they are applied."""
    name = router.metadata.name
    own, pods, outer = turn_away_name(name), turn_away_selector(name), tuple(TARGET_PORTS.values())
    return marked(
        (
            network_policy(router, around, own, pods, (ADMIN_PORT,), outer),
            _deployment(router, around),
            budget(router, own, pods),
            *(_service(router, reason) for reason in TurnedAway),
        )
    )


def _service(router: Router, reason: TurnedAway) -> Object:
    name = router.metadata.name
    port = {"name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORTS[reason]}
    spec = {"type": "ClusterIP", "selector": turn_away_selector(name), "ports": [port]}
    return owned(router, "v1", "Service", service_name(name, reason), spec=spec)


def _deployment(router: Router, around: Surroundings) -> Object:
    name = router.metadata.name
    pods = turn_away_selector(name)
    spec = {
        "replicas": REPLICAS,
        "revisionHistoryLimit": 1,
        "selector": {"matchLabels": pods},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": {"labels": labels(name) | pods | {"app.kubernetes.io/component": "turn-away"}},
            "spec": confined_pod(pods, haproxy(around.image, CONFIGURATION)),
        },
    }
    return owned(router, "apps/v1", "Deployment", turn_away_name(name), spec=spec)
