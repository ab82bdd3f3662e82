"""Placements and blocks of DNS routers, as their tests need them."""

from collections.abc import Mapping
from typing import Any

from recell.api import Placement, Router
from recell.api.dns import DNS
from recell.api.placement import REJECT
from tests.router.rig.placements import placement

NAME = "shop.example.com"
KEY = ("fleet", "shop")


def block(**more: Any) -> DNS:
    return DNS.model_validate({"hostname": NAME} | more)


def dns_router(dns: Mapping[str, Any] | None = None) -> Router:
    return Router.model_validate(
        {
            "metadata": {"name": "shop", "namespace": "fleet", "uid": "r1"},
            "spec": {"type": "DNS", "customerData": "Shared", "dns": {"hostname": NAME} | dict(dns or {})},
        }
    )


def placed(
    slots: Mapping[str, int],
    *,
    generation: int = 1,
    epoch: int = 1,
    uid: str = "placement-1",
    addresses: Mapping[str, str] | None = None,
    holds: list[dict[str, Any]] | None = None,
) -> Placement:
    """`slots`: how many of the 1,024 each cell serves; the rest is turned away."""
    cells = {name: (index, (addresses or {}).get(name, f"192.0.2.{index + 1}"), 80) for index, name in enumerate(slots)}
    table = [index for index, count in enumerate(slots.values()) for _ in range(count)]
    table += [REJECT] * (1024 - len(table))
    made = placement(cells, table, generation=generation, epoch=epoch, uid=uid)
    made["spec"]["holds"] = holds or []
    return Placement.model_validate(made)


def hold(cell: str, state: str, percent: int = 0) -> dict[str, Any]:
    return {
        "cell": cell,
        "maxPercent": percent,
        "state": state,
        "holder": {"kind": "Person", "name": "kim"},
        "reason": "",
        "since": "2026-01-01T00:00:00Z",
    }
