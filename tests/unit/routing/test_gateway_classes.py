"""Classes of requests as rules of an HTTPRoute, against a small model of how the Gateway API chooses a rule."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from recell.api.gateway import Gateway, Match, MatchType, PathType, RouteRule
from recell.api.shedding import DEFAULT_CLASS, RequestMatch, Shedding
from recell.providers.routing.gateway.classes import (
    MOST_MATCHES,
    MOST_MATCHES_OF_ALL,
    MOST_RULES,
    ClassRule,
    Unsayable,
    class_rules,
)

Object = dict[str, Any]


class Request(NamedTuple):
    path: str
    method: str
    headers: dict[str, str]
    query: dict[str, str]


def below(path: str, prefix: str) -> bool:
    return f"{path}/".startswith(f"{prefix.rstrip('/')}/")


def taken(match: Match, request: Request) -> bool:
    """By one match of an HTTPRoute."""
    if match.method is not None and match.method.value != request.method:
        return False
    if match.path is not None:
        exact = match.path.type is PathType.EXACT
        if not (request.path == match.path.value if exact else below(request.path, match.path.value)):
            return False
    headers = {name.lower(): value for name, value in request.headers.items()}
    return all(headers.get(each.name.lower()) == each.value for each in match.headers) and all(
        request.query.get(each.name) == each.value for each in match.query_params
    )


def precedence(match: Match) -> tuple[bool, int, bool, int, int]:
    path = match.path
    exact, length = (path.type is PathType.EXACT, len(path.value)) if path is not None else (False, 1)
    return (exact, length, match.method is not None, len(match.headers), len(match.query_params))


def chosen(rules: Sequence[Sequence[Match]], request: Request) -> int | None:
    """Place of the rule: by the most specific match, of equals the first."""
    takers = [(match, place) for place, rule in enumerate(rules) for match in rule if taken(match, request)]
    return max(takers, key=lambda taker: precedence(taker[0]))[1] if takers else None


def class_of(shedding: Shedding, request: Request) -> str:
    def matches(match: RequestMatch) -> bool:
        headers = {name.lower(): value for name, value in request.headers.items()}
        return (
            (match.header is None or headers.get(match.header.name.lower()) == match.header.value)
            and (match.path_prefix is None or below(request.path, match.path_prefix))
            and (not match.methods or request.method in {method.value for method in match.methods})
        )

    return next((c.name for c in shedding.classes if any(map(matches, c.matches))), DEFAULT_CLASS)


def gateway(*rules: Object) -> Gateway:
    return Gateway.model_validate({"parentRefs": [{"name": "public"}], "rules": list(rules)})


def shedding(**classes: list[Object]) -> Shedding:
    return Shedding.model_validate({"classes": [{"name": name, "matches": each} for name, each in classes.items()]})


def path(value: str, type_: str = "PathPrefix") -> Object:
    return {"path": {"type": type_, "value": value}}


def shown(rules: Sequence[ClassRule]) -> dict[tuple[int, str], set[str]]:
    def text(match: Match) -> str:
        assert match.path is not None
        words = [match.method.value if match.method else "", match.path.value]
        words += [f"{each.name}={each.value}" for each in (*match.headers, *match.query_params)]
        return " ".join(word for word in words if word)

    return {(rule.rule, rule.name): {text(match) for match in rule.matches} for rule in rules}


SHOP = shedding(
    checkout=[
        {"header": {"name": "X-Priority", "value": "high"}},
        {"pathPrefix": "/checkout", "methods": ["POST", "PUT"]},
    ],
    bulk=[{"pathPrefix": "/export/"}, {"header": {"name": "X-Priority", "value": "low"}}],
)


def test_a_class_by_header_stands_above_one_by_path_that_is_listed_later() -> None:
    assert shown(class_rules(gateway(), SHOP)) == {
        (0, "checkout"): {"/ x-priority=high", "/export x-priority=high", "POST /checkout", "PUT /checkout",
                          "POST /checkout x-priority=low", "PUT /checkout x-priority=low"},
        (0, "bulk"): {"/export", "/ x-priority=low"},
        (0, "default"): {"/"},
    }  # fmt: skip


def test_without_classes_there_is_one_rule_of_the_class_default_for_each_of_the_users() -> None:
    rules = class_rules(gateway({"matches": [path("/a"), path("/b/")]}, {"matches": [path("/c", "Exact")]}), shedding())
    assert shown(rules) == {(0, "default"): {"/a", "/b"}, (1, "default"): {"/c"}}


def test_what_no_rule_of_the_users_takes_is_taken_by_none() -> None:
    rules = class_rules(gateway({"matches": [path("/export/weekly")]}), SHOP)
    found = shown(rules)
    assert found[0, "bulk"] == {"/export/weekly"}
    assert found[0, "checkout"] == {"/export/weekly x-priority=high"}
    assert set(found) == {(0, "bulk"), (0, "checkout")}


def test_an_exact_path_is_of_the_class_whose_prefix_it_is_below() -> None:
    found = shown(class_rules(gateway({"matches": [path("/export/all", "Exact"), path("/exported", "Exact")]}), SHOP))
    assert found[0, "bulk"] == {"/export/all", "/exported x-priority=low"}
    assert "/exported" in found[0, "default"]


def test_an_expression_goes_with_classes_by_header_and_methods_only() -> None:
    expression = gateway({"matches": [path("/v[0-9]+/.*", "RegularExpression")]})
    by_header = shedding(bulk=[{"header": {"name": "X-Priority", "value": "low"}, "methods": ["GET"]}])
    assert shown(class_rules(expression, by_header))[0, "bulk"] == {"GET /v[0-9]+/.* x-priority=low"}
    with pytest.raises(Unsayable, match=r"whether the RegularExpression /v.* takes requests for /checkout too"):
        class_rules(expression, SHOP)
    header = {"type": "RegularExpression", "name": "X-PRIORITY", "value": "l.*"}
    with pytest.raises(Unsayable, match=r"whether x-priority can be .* at once cannot be known"):
        class_rules(gateway({"matches": [{"headers": [header]}]}), by_header)
    other = shedding(bulk=[{"header": {"name": "X-Class", "value": "low"}}])
    rules = class_rules(gateway({"matches": [{"headers": [header]}]}), other)
    assert shown(rules)[0, "bulk"] == {"/ x-class=low x-priority=l.*"}
    assert {each.type for each in rules[0].matches[0].headers} == set(MatchType)


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        ({"bulk": [{"pathPrefix": "/a//b"}]}, r"classes\[bulk\].matches\[0\].pathPrefix: a Gateway takes no"),
        (
            {f"c{n}": [{"header": {"name": f"X-{n}", "value": "1"}}] for n in range(7)},
            "overlap in more than 400 ways, which no HTTPRoute can tell apart: name fewer classes",
        ),
    ],
)  # fmt: skip
def test_what_an_http_route_does_not_take_is_refused_with_the_next_step(classes: Any, why: str) -> None:
    with pytest.raises(Unsayable, match=why):
        class_rules(gateway(*({"matches": [path(f"/{n}")]} for n in range(4))), shedding(**classes))


def test_more_rules_than_an_http_route_takes_are_refused() -> None:
    users = [{"matches": [path(f"/{n}")]} for n in range(6)]
    with pytest.raises(Unsayable, match=r"need 18 rules of an HTTPRoute, which takes 16 at most: name fewer classes"):
        class_rules(gateway(*users), shedding(a=[{"methods": ["GET"]}], b=[{"methods": ["PUT"]}]))


def rewriting(**match: Any) -> Object:
    rewrite = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}
    return {"matches": [match], "filters": [{"type": "URLRewrite", "urlRewrite": {"path": rewrite}}]}


def test_a_prefix_that_is_replaced_must_stay_the_prefix_that_takes() -> None:
    with pytest.raises(Unsayable, match=r"spec.gateway.rules\[0\].filters: ReplacePrefixMatch"):
        class_rules(gateway(rewriting(**path("/"))), SHOP)
    by_header = shedding(bulk=[{"header": {"name": "X-Priority", "value": "low"}}])
    assert shown(class_rules(gateway(rewriting(**path("/v1"))), by_header)) == {
        (0, "bulk"): {"/v1 x-priority=low"},
        (0, "default"): {"/v1"},
    }


# --- for every request

PATHS = st.sampled_from(["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/c"])
NAMES, VALUES = ("X-One", "x-two"), ("1", "2")
VALUE_MATCHES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=2).map(
    lambda found: [{"type": "Exact", "name": name, "value": value} for name, value in found.items()]
)
METHODS = ("GET", "POST", "PUT")


@st.composite
def user_matches(draw: st.DrawFn) -> Object:
    match: Object = {"headers": draw(VALUE_MATCHES), "queryParams": draw(VALUE_MATCHES)}
    if draw(st.booleans()):
        match |= path(draw(PATHS), draw(st.sampled_from(["Exact", "PathPrefix"])))
    if draw(st.booleans()):
        match["method"] = draw(st.sampled_from(METHODS))
    return match


@st.composite
def class_matches(draw: st.DrawFn) -> Object:
    parts = draw(st.sets(st.sampled_from(["header", "path", "methods"]), min_size=1))
    match: Object = {}
    if "header" in parts:
        match["header"] = {"name": draw(st.sampled_from(NAMES)).upper(), "value": draw(st.sampled_from(VALUES))}
    if "path" in parts:
        match["pathPrefix"] = draw(PATHS)
    if "methods" in parts:
        match["methods"] = draw(st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True))
    return match


REQUESTS = st.builds(
    Request,
    st.sampled_from(["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/d", "/ab", "/c/d", "/z"]),
    st.sampled_from([*METHODS, "DELETE"]),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*VALUES, "3"])),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*VALUES, "3"])),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(
    users=st.lists(st.lists(user_matches(), min_size=1, max_size=2), min_size=1, max_size=2),
    classes=st.lists(st.lists(class_matches(), min_size=1, max_size=2), max_size=3),
    requests=st.lists(REQUESTS, min_size=1, max_size=40),
)
def test_each_request_gets_its_class_and_the_rule_that_it_would_have_without_classes(
    users: list[list[Object]], classes: list[list[Object]], requests: list[Request]
) -> None:
    block, shed = gateway(*({"matches": each} for each in users)), shedding(**dict(zip("abc", classes, strict=False)))
    try:
        rules = class_rules(block, shed)
    except Unsayable:
        assume(False)
        raise
    assert len(rules) <= MOST_RULES
    assert max(len(rule.matches) for rule in rules) <= MOST_MATCHES
    assert sum(len(rule.matches) for rule in rules) <= MOST_MATCHES_OF_ALL
    own = [RouteRule.model_validate({"matches": each}).matches for each in users]
    for request in requests:
        by_class = chosen([rule.matches for rule in rules], request)
        without = chosen([[normal(match) for match in each] for each in own], request)
        if without is None:
            assert by_class is None, request
        else:
            assert by_class is not None, request
            found = rules[by_class]
            assert (found.rule, found.name) == (without, class_of(shed, request)), request
            # Whatever else an implementation weighs first: nothing that takes the request too, and is not wider than
            # another match that does, is of another rule or class.
            takers = [(m, rule) for rule in rules for m in rule.matches if taken(m, request)]
            narrowest = [(m, r) for m, r in takers if not any(wider(m, other) for other, _ in takers)]
            assert {(r.rule, r.name) for _, r in narrowest} == {(found.rule, found.name)}


def normal(match: Match) -> Match:
    """A trailing slash of a prefix says nothing, and is no character that makes it more specific."""
    if match.path is None or match.path.type is PathType.EXACT or match.path.value == "/":
        return match
    return match.model_copy(update={"path": match.path.model_copy(update={"value": match.path.value.rstrip("/")})})


def wider(match: Match, other: Match) -> bool:
    """Both take one request, and the other has all of its conditions and more."""

    def values(of: Match) -> set[tuple[str, str, str]]:
        headers = {("header", each.name.lower(), each.value) for each in of.headers}
        return headers | {("query", each.name, each.value) for each in of.query_params}

    one, two = precedence(match), precedence(other)
    longer = one[:2] <= two[:2] and one[2] <= two[2]
    return longer and values(match) <= values(other) and one != two
