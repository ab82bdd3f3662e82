"""The HTTPRoute of a Router, and what its Gateways say of it."""

from collections.abc import Mapping
from typing import Any

import pytest

from recell.api import Cell, Placement, Router
from recell.api.meta import LABEL_ROUTER
from recell.api.placement import REJECT
from recell.engine.errors import BadInput
from recell.providers.routing.gateway import route as rendering
from recell.providers.routing.gateway.route import MOST_WEIGHT, divided, parents
from recell.providers.routing.version import ANNOTATION_PLACEMENT, Version
from tests.router.rig import placement
from tests.unit.routing.played_gateway import router_spec

Object = dict[str, Any]


def router(*, shedding: Object | None = None, **gateway: Any) -> Router:
    metadata = {"name": "shop", "namespace": "fleet", "uid": "router-uid"}
    spec = router_spec(**gateway) | ({"shedding": shedding} if shedding is not None else {})
    return Router.model_validate({"metadata": metadata, "spec": spec})


def http_route(of: Router, placement: Placement, cells: Mapping[str, Cell], *, turn_away: bool = True) -> Object:
    return rendering.http_route(of, placement, divided(of, placement, cells, turn_away=turn_away).rules)


def cell(name: str, **spec: Any) -> Cell:
    backend = {"type": "Service", "service": {"name": f"{name}-web", "port": 80}}
    body = {"routerRef": {"name": "shop"}, "backend": backend, **spec}
    return Cell.model_validate({"metadata": {"name": name, "namespace": "fleet"}, "spec": body})


def placed(*shares: int, rejected: int = 0, **more: Any) -> Placement:
    """Cells a, b, c, ... with so many slots each."""
    cells = {chr(97 + n): (n, f"10.0.0.{n + 1}", 80) for n in range(len(shares))}
    table = [n for n, slots in enumerate(shares) for _ in range(slots)] + [REJECT] * rejected
    return Placement.model_validate(placement(cells, table, generation=3, epoch=2, uid="placement-uid", **more))


CELLS = {name: cell(name) for name in "abc"}


def refs(route: Object) -> list[tuple[str, int]]:
    return [(ref["name"], ref["weight"]) for ref in route["spec"]["rules"][0].get("backendRefs", [])]


def test_it_is_named_owned_and_versioned() -> None:
    made = http_route(router(), placed(512, 512), CELLS)
    metadata = made["metadata"]
    assert (made["apiVersion"], made["kind"]) == ("gateway.networking.k8s.io/v1", "HTTPRoute")
    assert (metadata["namespace"], metadata["name"], metadata["labels"][LABEL_ROUTER]) == ("fleet", "shop", "shop")
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "recell.dev/v1alpha1", "kind": "Router", "name": "shop", "uid": "router-uid",
            "controller": True, "blockOwnerDeletion": False,
        }
    ]  # fmt: skip
    assert Version.parse(metadata["annotations"][ANNOTATION_PLACEMENT]) == Version("placement-uid", 2, 3)


def test_shares_are_weights_and_a_cell_without_one_is_left_out() -> None:
    made = http_route(router(), placed(768, 256, 0), CELLS)
    assert refs(made) == [("a-web", 768), ("b-web", 256)]


def test_slots_that_nobody_may_serve_are_the_others() -> None:
    assert refs(http_route(router(), placed(512, 256, rejected=256), CELLS)) == [("a-web", 512), ("b-web", 256)]


def test_while_nobody_may_serve_there_are_no_backends_and_never_only_zeros() -> None:
    assert "backendRefs" not in http_route(router(), placed(0, 0, rejected=1024), CELLS)["spec"]["rules"][0]


def test_what_the_api_server_would_fill_in_is_written_out() -> None:
    made = http_route(router(), placed(1024), CELLS)["spec"]
    assert made == {
        "parentRefs": [
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "fleet", "name": name}
            for name in ("one", "two")
        ],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"group": "", "kind": "Service", "name": "a-web", "port": 80, "weight": 1024}],
            }
        ],
    }


def test_every_rule_of_the_router_has_the_backends() -> None:
    rules = [
        {"matches": [{"method": "GET", "headers": [{"type": "Exact", "name": "X-Tier", "value": "gold"}]}]},
        {
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["X-Debug"]}}],
            "timeouts": {"request": "10s"},
        },
    ]
    made = http_route(router(rules=rules, hostnames=["shop.example.com"]), placed(512, 512), CELLS)["spec"]
    assert made["hostnames"] == ["shop.example.com"]
    first, second = made["rules"]
    assert first["backendRefs"] == second["backendRefs"]
    assert first["matches"] == [
        {
            "method": "GET",
            "headers": [{"type": "Exact", "name": "X-Tier", "value": "gold"}],
            "path": {"type": "PathPrefix", "value": "/"},
        }
    ]
    assert second["filters"] == rules[1]["filters"]
    assert second["timeouts"] == {"request": "10s"}


def test_a_cell_in_another_namespace_is_named_there() -> None:
    made = http_route(router(), placed(1024), {"a": cell("a", namespace="shop-a")})
    assert made["spec"]["rules"][0]["backendRefs"][0]["namespace"] == "shop-a"


def test_envoy_counts_cells_apart_only_if_they_are_treated_apart() -> None:
    counted = http_route(router(port=19001), placed(1024), CELLS)["spec"]["rules"][0]["backendRefs"][0]
    assert counted["filters"] == [
        {
            "type": "RequestHeaderModifier",
            "requestHeaderModifier": {"set": [{"name": "X-Recell-Cell", "value": "a"}]},
        }
    ]


def test_a_cell_that_cannot_be_named_keeps_the_route_as_it_is() -> None:
    with pytest.raises(BadInput, match=r"Cell b has customers, but no Service \(spec\.backend\.service\)"):
        http_route(router(), placed(512, 512), {"a": CELLS["a"]})
    many = {chr(97 + n): cell(chr(97 + n)) for n in range(17)}
    with pytest.raises(BadInput, match="17 cells have customers, but a rule of an HTTPRoute takes at most 16"):
        http_route(router(), placed(*[60] * 17, rejected=4), many)


# What is turned away

FAR = "2100-01-01T00:00:00Z"
CLASSES = {"classes": [{"name": "bulk", "matches": [{"pathPrefix": "/export"}]}]}


def weights(made: Object) -> list[tuple[list[str], dict[str, int]]]:
    """Paths and backends of each rule."""
    return [
        (
            [match["path"]["value"] for match in rule["matches"]],
            {ref["name"]: ref["weight"] for ref in rule.get("backendRefs", [])},
        )
        for rule in made["spec"]["rules"]
    ]


def test_while_nothing_is_shed_a_class_is_a_rule_with_the_weights_that_there_are_without() -> None:
    made = http_route(router(shedding=CLASSES), placed(512, 512), CELLS)
    assert weights(made) == [(["/export"], {"a-web": 512, "b-web": 512}), (["/"], {"a-web": 512, "b-web": 512})]


def test_what_is_shed_of_a_class_is_weight_of_what_turns_away_in_its_rule_alone() -> None:
    shed = placed(512, 512, shed={"bulk": (25, FAR)})
    assert weights(http_route(router(shedding=CLASSES), shed, CELLS)) == [
        (["/export"], {"a-web": 3, "b-web": 3, "shop-shed": 2, "shop-circuit-open": 0}),
        (["/"], {"a-web": 512, "b-web": 512}),
    ]
    refs = http_route(router(shedding=CLASSES), shed, CELLS)["spec"]["rules"][0]["backendRefs"]
    assert refs[2] == {"group": "", "kind": "Service", "name": "shop-shed", "port": 80, "weight": 2}


def test_of_what_is_shed_whole_the_cells_keep_their_places_and_one_in_a_million() -> None:
    whole = placed(512, 512, shed={"bulk": (100, FAR), "default": (1, FAR)})
    assert weights(http_route(router(shedding=CLASSES), whole, CELLS)) == [
        (["/export"], {"a-web": 1, "b-web": 1, "shop-shed": MOST_WEIGHT, "shop-circuit-open": 0}),
        (["/"], {"a-web": 99, "b-web": 99, "shop-shed": 2, "shop-circuit-open": 0}),
    ]


@pytest.mark.parametrize("shed", [{}, {"bulk": (50, FAR)}])
def test_what_comes_and_goes_has_next_to_no_weight(shed: dict[str, tuple[int, str]]) -> None:
    even, of = placed(512, 512, shed=shed), router(shedding=CLASSES)
    found = divided(of, even, CELLS, turn_away=True, faint={"bulk"}).rules
    assert [(rule.name, [backend.weight for backend in rule.backends]) for rule in found] == [
        ("bulk", [MOST_WEIGHT, MOST_WEIGHT, 1, 1]),
        ("default", [512, 512]),
    ]
    assert 0 < found[0].turned_away < 2e-6
    assert found[1].turned_away == 0


def test_an_open_circuit_takes_its_part_of_the_cells_weight_in_every_rule() -> None:
    opened = placed(512, 512, shed={"bulk": (50, FAR)}, circuits={"a": (90, FAR)})
    by_path = {paths[0]: found for paths, found in weights(http_route(router(shedding=CLASSES), opened, CELLS))}
    assert by_path["/"] == {"a-web": 1, "b-web": 10, "shop-shed": 0, "shop-circuit-open": 9}
    assert by_path["/export"] == {"a-web": 1, "b-web": 10, "shop-shed": 20, "shop-circuit-open": 9}
    whole = http_route(router(shedding=CLASSES), placed(512, 512, circuits={"a": (100, FAR)}), CELLS)
    (found, _) = (each for _, each in weights(whole))
    assert found == {"a-web": 1, "b-web": MOST_WEIGHT, "shop-shed": 0, "shop-circuit-open": MOST_WEIGHT}


def test_weights_stay_within_what_the_gateway_api_takes() -> None:
    odd = placed(1021, 2, 1, shed={"bulk": (37, FAR)}, circuits={"a": (89, FAR)})
    for _, found in weights(http_route(router(shedding=CLASSES), odd, CELLS)):
        assert all(found[f"{name}-web"] >= 1 for name in "abc")
        assert max(found.values()) <= MOST_WEIGHT
    total = sum(found.values())
    assert abs(found["c-web"] / total - 1 / 1024) < 1e-4


def test_nothing_is_turned_away_without_classes_or_before_there_is_anything_to_do_it() -> None:
    shed = placed(512, 512, shed={"bulk": (50, FAR), "default": (50, FAR)}, circuits={"a": (90, FAR)})
    even = {"a-web": 512, "b-web": 512}
    assert weights(http_route(router(), shed, CELLS)) == [(["/"], even)]
    not_there = http_route(router(shedding=CLASSES), shed, CELLS, turn_away=False)
    assert [found for _, found in weights(not_there)] == [even, even]


def test_while_nobody_serves_nothing_is_turned_away_either() -> None:
    made = http_route(router(shedding=CLASSES), placed(0, rejected=1024, shed={"bulk": (50, FAR)}), CELLS)
    assert [found for _, found in weights(made)] == [{}, {}]


def test_who_is_served_comes_before_who_is_turned_away() -> None:
    many = {chr(97 + n): cell(chr(97 + n)) for n in range(16)}
    made = http_route(router(shedding=CLASSES), placed(*[64] * 16, shed={"bulk": (50, FAR)}), many)
    assert [len(found) for _, found in weights(made)] == [16, 16]


def test_classes_that_cannot_be_said_keep_nobody_from_being_served() -> None:
    rules = [{"matches": [{"path": {"type": "RegularExpression", "value": "/v[0-9]+"}}]}]
    found = divided(router(rules=rules, shedding=CLASSES), placed(1024), CELLS, turn_away=True)
    assert "RegularExpression /v[0-9]+" in found.unsaid
    assert found.unsaid.endswith("; until then nothing is shed")
    assert [(rule.name, [each.cell for each in rule.backends]) for rule in found.rules] == [("", ["a"])]


def test_envoy_counts_what_is_turned_away_apart_too() -> None:
    shed = placed(1024, shed={"bulk": (50, FAR)})
    refs = http_route(router(port=19001, shedding=CLASSES), shed, CELLS)["spec"]["rules"][0]["backendRefs"]
    headers = [ref["filters"][0]["requestHeaderModifier"]["set"][0]["value"] for ref in refs]
    assert headers == ["a", "none: shed", "none: circuit-open"]


@pytest.mark.parametrize(
    ("new", "old", "may"),
    [
        (("u", 1, 2), ("u", 1, 1), True),
        (("u", 1, 1), ("u", 1, 1), True),
        (("u", 1, 1), ("u", 1, 2), False),
        (("u", 1, 9), ("u", 2, 1), False),
        (("v", 2, 1), ("u", 2, 1), False),
        (("v", 3, 1), ("u", 2, 9), True),
    ],
)
def test_versions_rise(new: tuple[str, int, int], old: tuple[str, int, int], may: bool) -> None:
    assert Version(*new).may_follow(Version(*old)) is may


@pytest.mark.parametrize("text", ["", "u", "u/1", "u/1/x", "u/1/2/3"])
def test_what_is_no_version_is_none(text: str) -> None:
    assert Version.parse(text) is None


# What the Gateways say


def condition(type_: str, status: str = "True", *, at: int = 2, **more: str) -> Object:
    return {"type": type_, "status": status, "reason": type_, "observedGeneration": at, **more}


def seen(*told: tuple[Object, list[Object]]) -> Any:
    route = http_route(router(), placed(1024), CELLS)
    route["metadata"]["generation"] = 2
    route["status"] = {"parents": [{"parentRef": ref, "conditions": conditions} for ref, conditions in told]}
    return parents(route)


ONE = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "fleet", "name": "one"}
TWO: Object = {"name": "two"}
"""As an implementation may write it."""
WELL = [condition("Accepted"), condition("ResolvedRefs")]


def test_it_is_in_force_when_every_gateway_says_so_of_this_generation() -> None:
    told = seen((ONE, WELL), (TWO, WELL))
    assert (told.accepted, told.current, told.refused, told.silent) == (2, True, "", "")


def test_a_gateway_that_spoke_of_an_older_generation_or_not_at_all_is_waited_for() -> None:
    old = [condition("Accepted", at=1), condition("ResolvedRefs", at=1)]
    told = seen((ONE, old))
    assert (told.accepted, told.current, told.refused) == (1, False, "")
    assert told.silent == "Gateway fleet/one, Gateway fleet/two"


@pytest.mark.parametrize(
    ("reason", "type_", "said"),
    [
        (
            "RefNotPermitted",
            "ResolvedRefs",
            "Gateway fleet/one cannot resolve the HTTPRoute's references (RefNotPermitted: no grant); let a"
            " ReferenceGrant in the Service's namespace allow HTTPRoutes of namespace fleet",
        ),
        (
            "NotAllowedByListeners",
            "Accepted",
            "Gateway fleet/one does not accept the HTTPRoute (NotAllowedByListeners: no grant); let the Gateway's"
            " listener allow routes of namespace fleet (allowedRoutes)",
        ),
        ("Odd", "Accepted", "Gateway fleet/one does not accept the HTTPRoute (Odd: no grant)"),
    ],
)
def test_what_is_refused_is_said_with_the_next_step(reason: str, type_: str, said: str) -> None:
    other = next(each for each in WELL if each["type"] != type_)
    told = seen((ONE, [condition(type_, "False", reason=reason, message="no grant"), other]), (TWO, WELL))
    assert (told.current, told.refused) == (False, said)
