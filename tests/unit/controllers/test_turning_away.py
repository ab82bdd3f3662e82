"""What answers in place of a Gateway's cells: only where classes are named, and ready only if it can really be done."""

from typing import Any

import pytest

from recell.api import Placement, Router
from recell.controllers.turning_away import TurningAway
from recell.domain.capabilities import capabilities, shedding_obstacle
from recell.domain.observation import Pods
from recell.engine.errors import Forbidden
from tests.router.rig import placement
from tests.unit.routing.builders import router as haproxy_router
from tests.unit.routing.played_gateway import router_spec

KEY = ("fleet", "shop")
CLASSES = {"classes": [{"name": "bulk", "matches": [{"pathPrefix": "/export"}]}]}


class Made:
    """The pods, and whether the newest Placement is in force."""

    def __init__(self) -> None:
        self.pods: Pods | None = Pods(2, 2)
        self.asked: list[str] = []
        self.refused: Exception | None = None
        self.current = True

    async def ensure_turn_away(self, router: Router) -> None:
        self._ask("ensure")

    async def remove_turn_away(self, router: Router) -> None:
        self._ask("remove")

    def turn_away(self, router: tuple[str, str]) -> Pods | None:
        return self.pods

    def in_force(self, router: tuple[str, str]) -> bool:
        return self.current

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.refused is not None:
            raise self.refused


def router(shedding: Any = CLASSES, port: int | None = 19001, **gateway: Any) -> Router:
    metadata = {"name": "shop", "namespace": "fleet", "uid": "router-uid"}
    spec = router_spec(port, **gateway) | ({"shedding": shedding} if shedding is not None else {})
    return Router.model_validate({"metadata": metadata, "spec": spec})


def placed(cells: int) -> Placement:
    listed = {f"c{n}": (n, "10.0.0.1", 80) for n in range(cells)}
    return Placement.model_validate(placement(listed, [n % cells for n in range(1024)], generation=1))


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def turning(made: Made) -> TurningAway:
    anything: Any = made
    return TurningAway(anything, anything)


async def test_it_is_there_while_classes_are_named_and_goes_once_no_route_names_it(
    turning: TurningAway, made: Made
) -> None:
    for of in (router(), router(None), haproxy_router()):
        await turning.ensure(of)
    assert made.asked == ["ensure"]
    made.current = False
    await turning.tidy(router(None))
    assert made.asked == ["ensure"]
    made.current = True
    for of in (router(), router(None), haproxy_router()):
        await turning.tidy(of)
    assert made.asked == ["ensure", "remove"]


async def test_a_missing_permission_is_said_with_the_feature(turning: TurningAway, made: Made) -> None:
    made.refused = Forbidden("may not create deployments")
    with pytest.raises(Forbidden, match=r"may not create deployments; features\.gatewayShedding"):
        await turning.ensure(router())
    with pytest.raises(Forbidden, match=r"features\.routerFailover"):
        await turning.tidy(router(None))


@pytest.mark.parametrize(
    ("of", "cells", "pods", "reason", "said"),
    [
        (router(), 14, Pods(2, 1), "Ready", "1 pods answer what is turned away"),
        (router(), 15, Pods(2, 2), "TooManyCells", "15 cells serve, and a rule of an HTTPRoute has room for 14"),
        (router(), 2, Pods(2, 0), "NotReady", "No pod is ready"),
        (router(), 2, None, "NotReady", "No pod is ready"),
        (router(port=None), 2, Pods(2, 2), "NoFigures", "without spec.gateway.metrics nobody knows"),
        (
            router(rules=[{"matches": [{"path": {"type": "RegularExpression", "value": "/v.*"}}]}]),
            2,
            Pods(2, 2),
            "ClassesRefused",
            "spec.gateway.rules: whether the RegularExpression /v.* takes requests for /export too cannot be known",
        ),
    ],
)
async def test_it_is_ready_only_if_what_is_shed_is_turned_away_and_counted(
    turning: TurningAway, made: Made, of: Router, cells: int, pods: Pods | None, reason: str, said: str
) -> None:
    made.pods = pods
    (ready, found, message) = turning.conditions(of, placed(cells))["SheddingReady"]
    assert (ready, found) == (reason == "Ready", reason)
    assert message.startswith(said)


def test_other_routers_have_no_such_condition(turning: TurningAway) -> None:
    assert turning.conditions(router(None), placed(2)) == {}
    assert turning.conditions(haproxy_router(), placed(2)) == {}


def test_what_keeps_a_router_from_shedding_is_told() -> None:
    gateway = router()
    assert shedding_obstacle(haproxy_router()) == ""
    assert shedding_obstacle(router(None)) == ""
    assert shedding_obstacle(gateway) == "the Router's condition SheddingReady is not known yet"
    dns = Router.model_validate(
        {"metadata": {"name": "shop"}, "spec": {"type": "DNS", "customerData": "Shared", "shedding": CLASSES,
         "dns": {"hostname": "shop.example.com", "routingPolicy": "Simple"}}}
    )  # fmt: skip
    assert shedding_obstacle(dns) == "Routers of type DNS have no means for it"
    condition = {"type": "SheddingReady", "status": "False", "reason": "NoFigures", "message": "no figures"}
    told = {**condition, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    shown = gateway.model_validate(gateway.to_dict() | {"status": {"conditions": [told]}})
    assert shedding_obstacle(shown) == "no figures"
    assert capabilities(shown) == ()
