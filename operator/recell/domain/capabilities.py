"""What a Router can do beside dividing requests among cells, and what keeps it from shedding. Pure.

Promises: what can be done with any other type only under conditions is told only once they hold: whether a Router of
type Gateway can turn requests away stands in its condition SheddingReady.
"""

from collections.abc import Sequence

from recell.api import Router
from recell.api.meta import Condition, find_condition, is_true
from recell.api.router import Capability, RouterSpec, RouterType

SHEDDING_READY = "SheddingReady"
"""Condition of a Router of type Gateway that has `spec.shedding`."""


def capabilities(router: Router) -> tuple[Capability, ...]:
    return capabilities_with(router.spec, router.status.conditions)


def capabilities_with(spec: RouterSpec, conditions: Sequence[Condition]) -> tuple[Capability, ...]:
    """With these conditions in its status."""
    if spec.type is RouterType.HAPROXY:
        return tuple(Capability)
    if spec.type is RouterType.GATEWAY and spec.shedding is not None and is_true([*conditions], SHEDDING_READY):
        return (Capability.SHEDDING, Capability.CIRCUIT_BREAKERS)
    return ()


def shedding_obstacle(router: Router) -> str:
    """Why the Router cannot shed although it names classes, or its type never can; empty if neither is so."""
    if Capability.SHEDDING in capabilities(router):
        return ""
    if router.spec.type is not RouterType.GATEWAY:
        return f"Routers of type {router.spec.type} have no means for it"
    if router.spec.shedding is None:
        return ""
    told = find_condition(router.status.conditions, SHEDDING_READY)
    return told.message if told is not None else f"the Router's condition {SHEDDING_READY} is not known yet"
