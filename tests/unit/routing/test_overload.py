"""Classes of requests and circuit breakers: from a Router to the pods' rules, and from the pods' counters back."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from recell.api import Router
from recell.providers.routing.haproxy.objects import overload_environment
from recell.providers.routing.haproxy.report import parse
from router.agent import classes, placement, table
from router.agent.settings import from_environment
from tests.router.rig import placement as placed
from tests.router.rig import spread
from tests.unit.routing import test_streams
from tests.unit.routing.builders import START, cell, line, router

BASE = {"NAMESPACE": "fleet", "ROUTER": "shop", "CUSTOMER_KEY_TYPE": "Host"}
SHEDDING = {
    "classes": [
        {"name": "checkout", "sheddable": False, "matches": [{"pathPrefix": "/checkout/", "methods": ["POST"]}]},
        {"name": "bulk", "matches": [{"header": {"name": "X-Priority", "value": "low"}}, {"pathPrefix": "/"}]},
    ]
}
world = test_streams.world


def with_overload(**spec: Any) -> Router:
    made = router()
    return Router.model_validate({"metadata": made.metadata, "spec": {**made.spec.to_dict(), **spec}})


def test_what_the_router_says_is_what_the_agent_reads() -> None:
    shop = with_overload(shedding=SHEDDING, circuitBreakers={"errorRate": "12.5%", "window": "4s"})
    settings = from_environment({**BASE, **overload_environment(shop)})
    assert [c.name for c in settings.classes] == ["checkout", "bulk"]
    assert settings.breaker == classes.Breaker(0.125, 4000, 20)
    assert settings.in_flight_max == 1000
    assert overload_environment(router()) == {}


def test_priorities_change_nothing_in_the_pods() -> None:
    """Otherwise every change of them would roll the router."""
    other = json.loads(json.dumps(SHEDDING))
    other["classes"][1] |= {"priority": 7, "sheddable": False}
    assert overload_environment(with_overload(shedding=SHEDDING)) == overload_environment(with_overload(shedding=other))


def test_the_first_class_that_matches_counts_and_prefixes_are_whole_segments() -> None:
    parsed = from_environment({**BASE, **overload_environment(with_overload(shedding=SHEDDING))}).classes
    rules = classes.class_rules(parsed, "/run/placement.map").splitlines()
    assert rules[0].endswith("str(default)")
    named = [rule for rule in rules if "str(bulk)" in rule or "str(checkout)" in rule]
    assert "str(checkout)" in named[-1], "the last line that holds counts"
    assert "{ path,concat(/) -m beg /checkout/ } { method POST }" in named[-1]
    assert any("{ path,concat(/) -m beg / }" in rule for rule in named)
    assert classes.class_rules((), "/run/placement.map") == ""


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("nonsense", "not a list of classes"),
        ('[{"name": "a"}]', "not a list of classes: KeyError 'matches'"),
        ('[{"name": "A b", "matches": [{"pathPrefix": "/"}]}]', "'A b' is not as it has to be"),
        ('[{"name": "a", "matches": [{"pathPrefix": "/x } or { always_true"}]}]', "is not as it has to be"),
        ('[{"name": "a", "matches": [{"header": {"name": "x", "value": "a b"}}]}]', "'a b' is not as it has to be"),
        ('[{"name": "a", "matches": [{"methods": []}]}]', "would match every request"),
        ('[{"name": "default", "matches": [{"pathPrefix": "/"}]}]', "none is default"),
    ],
)
def test_what_could_be_a_rule_of_its_own_is_refused(told: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"REQUEST_CLASSES: .*{re.escape(message)}"):
        from_environment({**BASE, "REQUEST_CLASSES": told})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"BREAKER_ERROR_RATE": "10001"}, "BREAKER_ERROR_RATE: 10001 is not from 1"),
        ({"BREAKER_ERROR_RATE": "5000", "BREAKER_WINDOW": "10"}, "BREAKER_WINDOW: 10 is not from 1000"),
    ],
)
def test_a_breaker_that_cannot_work_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_environment({**BASE, **changes})


# --- the Placement


def made(**limits: Any) -> dict[str, Any]:
    return placed({"a": (3, "10.0.0.1", 80)}, spread(1024, 3), generation=1, **limits)


def test_limits_are_in_the_map_with_the_second_of_their_end_and_are_read_back() -> None:
    obj = made(shed={"bulk": (40, "2026-01-01T00:00:10Z")}, circuits={"a": (90, "2026-01-01T00:00:20.9+00:00")})
    decoded = placement.decode(obj)
    second = int(START.timestamp()) + 10
    assert decoded.limits == (
        placement.Limit("shed:bulk", 40, second),
        placement.Limit("circuit:3", 90, second + 10),
    )
    entries = table.entries(decoded, table.assign(decoded, table.Held(), -1), {})
    assert dict(entries)["shed:bulk"] == f"40@{second}"
    assert table.held(entries).limits == decoded.limits
    assert table.in_force(decoded.limits, "shed:", second - 1) == {"bulk": 40}
    assert table.in_force(decoded.limits, "shed:", second) == {}
    assert table.in_force(decoded.limits, "circuit:", second) == {"3": 90}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "A b"}, "spec.shedding[0].class: 'A b' is not a name"),
        ({"percent": 101}, "spec.shedding[0].percent: 101 is not from 0 to 100"),
        ({"expiresAt": "soon"}, "spec.shedding[0].expiresAt: "),
        ({"expiresAt": "2026-01-01T00:00:10"}, "does not say its time zone"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused_whole(change: dict[str, Any], message: str) -> None:
    obj = made(shed={"bulk": (40, "2026-01-01T00:00:10Z")})
    obj["spec"]["shedding"][0] |= change
    with pytest.raises(placement.Refused, match=re.escape(message)):
        placement.decode(obj)


def test_a_class_that_is_given_twice_is_refused() -> None:
    obj = made(shed={"bulk": (40, "2026-01-01T00:00:10Z")})
    obj["spec"]["shedding"] *= 2
    with pytest.raises(placement.Refused, match="is given twice"):
        placement.decode(obj)


# --- figures


def bulk(requests: int, shed: int, failures: int = 0) -> dict[str, Any]:
    return {"classes": {"bulk": {"requests": requests, "shed": shed, "failures": failures}}}


def test_an_older_router_tells_no_classes_and_no_breakers() -> None:
    report = parse(line({0: cell(5)}))
    assert report.classes == {}
    assert not report.cells[0].tripped
    tripped = parse(line({0: {**cell(5), "breaker": "Tripped"}}))
    assert tripped.cells[0].tripped
    assert tripped.facts != report.facts, "somebody is told at once"


async def test_requests_of_a_class_are_summed_over_the_pods(world: test_streams.World) -> None:
    for second in range(11):
        told = line({0: cell(10 * second), 1: cell()}, **bulk(500 + 20 * second, 100 + 5 * second, second))
        await world.tell(told, told, at=second)
    seen = world.traffic.observed(test_streams.KEY, window=10)
    assert seen is not None
    found = seen.classes["bulk"]
    assert (found.requests, found.shed, found.failures) == (400, 100, 20)
    assert found.requests_per_second == pytest.approx(40)
    assert found.error_rate == pytest.approx(20 / 300)
    assert (seen.since, seen.until) == (START, START + timedelta(seconds=10))
