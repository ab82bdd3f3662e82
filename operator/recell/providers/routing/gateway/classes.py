"""The classes of `Router.spec.shedding` as rules of an HTTPRoute. Pure.

A class counts by its place in the list, a match of the Gateway API by how specific it is. So the matches of classes and
of the user's rules are closed under intersection: of all that take a request the intersection is the one that has every
other's conditions and more, whatever an implementation weighs first, and it is given to the class that counts.

Promises: each request is taken by a rule of the class that the first match gives, and of the user's rule that would
take it without classes; a request that no rule of the user's takes is taken by none. What cannot be said so, or needs
more than an HTTPRoute takes, is refused with the field and the next step.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from recell.api.gateway import Gateway, Match, MatchType, PathMatch, PathRewriteType, PathType, RouteRule, ValueMatch
from recell.api.shedding import DEFAULT_CLASS, RequestMatch, Shedding

MOST_RULES = 16
MOST_MATCHES = 64
MOST_MATCHES_OF_ALL = 128
"""Rules of an HTTPRoute, matches of one of them, and of all of them, by the Gateway API."""
MOST_TRIED = 400
"""Intersections after which no more are sought: so many never come down to what an HTTPRoute takes."""

ROOT = PathMatch(type=PathType.PATH_PREFIX, value="/")
_FEWER = "name fewer classes, matches or methods in spec.shedding, or fewer matches in spec.gateway.rules"


class Unsayable(ValueError):
    """Classes that no rules of an HTTPRoute stand for; nothing is shed until a person changes them."""


@dataclass(frozen=True)
class Value:
    """What a header or query parameter has to be."""

    type: MatchType
    value: str


@dataclass(frozen=True)
class Conditions:
    """One match: all of it has to hold. Headers by their names in lower case."""

    path_type: PathType
    path: str
    method: str | None
    headers: frozenset[tuple[str, Value]]
    query: frozenset[tuple[str, Value]]

    @property
    def precedence(self) -> tuple[int, int, int, int, int]:
        """The Gateway API's; where expressions stand is each implementation's choice."""
        rank = {PathType.EXACT: 2, PathType.REGULAR_EXPRESSION: 1, PathType.PATH_PREFIX: 0}[self.path_type]
        return (rank, len(self.path), self.method is not None, len(self.headers), len(self.query))

    def match(self) -> Match:
        return Match(
            path=PathMatch(type=self.path_type, value=self.path),
            method=self.method,
            headers=_listed(self.headers),
            query_params=_listed(self.query),
        )


@dataclass(frozen=True)
class ClassRule:
    """A rule of the HTTPRoute."""

    rule: int
    """The user's rule that it is a part of, by its place."""
    name: str
    """The class."""
    matches: tuple[Match, ...]


def class_rules(gateway: Gateway, shedding: Shedding) -> tuple[ClassRule, ...]:
    """Raises Unsayable."""
    users = tuple(
        tuple(_of_user(match) for match in rule.matches or [Match()]) for rule in gateway.rules or [RouteRule()]
    )
    classes = tuple(
        (named.name, tuple(each for place, match in enumerate(named.matches) for each in _of_class(
            match, f"spec.shedding.classes[{named.name}].matches[{place}]"
        )))
        for named in shedding.classes
    )  # fmt: skip
    found = _known(users, classes)
    if isinstance(found, str):
        raise Unsayable(found)
    for place, rule in enumerate(gateway.rules):
        if _replaces_prefix(rule) and any(_changes_prefix(made, users[place]) for made in found if made.rule == place):
            raise Unsayable(
                f"spec.gateway.rules[{place}].filters: ReplacePrefixMatch replaces the prefix by which a request is"
                " taken, and the classes of spec.shedding take some by a longer one or by several matches: use"
                " ReplaceFullPath, give the rule one match, or name classes by headers and one method"
            )
    return found


def _replaces_prefix(rule: RouteRule) -> bool:
    paths = [each.url_rewrite.path for each in rule.filters if each.url_rewrite is not None]
    return any(path is not None and path.type is PathRewriteType.REPLACE_PREFIX_MATCH for path in paths)


def _changes_prefix(made: ClassRule, own: Sequence[Conditions]) -> bool:
    paths = {match.path.value for match in made.matches if match.path is not None}
    return len(made.matches) != 1 or len(own) != 1 or paths != {own[0].path}


# --- intersections


def _of_user(match: Match) -> Conditions:
    path = match.path or ROOT
    return Conditions(
        path.type,
        _segments(path.value) if path.type is PathType.PATH_PREFIX else path.value,
        match.method.value if match.method else None,
        _values((each.name.lower(), each) for each in match.headers),
        _values((each.name, each) for each in match.query_params),
    )


def _of_class(match: RequestMatch, field: str) -> Sequence[Conditions]:
    """One for each method: a match of the Gateway API names one at most."""
    prefix = match.path_prefix or "/"
    if any(part in ("", ".", "..") for part in prefix[1:].removesuffix("/").split("/")) and prefix != "/":
        raise Unsayable(f"{field}.pathPrefix: a Gateway takes no path with an empty segment, . or .. ({prefix})")
    header = match.header
    headers = [(header.name.lower(), Value(MatchType.EXACT, header.value))] if header else []
    methods: list[str | None] = [method.value for method in match.methods] or [None]
    return [
        Conditions(PathType.PATH_PREFIX, _segments(prefix), method, frozenset(headers), frozenset())
        for method in methods
    ]


def _values(named: Iterable[tuple[str, ValueMatch]]) -> frozenset[tuple[str, Value]]:
    """Of several with one name the first counts."""
    first: dict[str, Value] = {}
    for name, each in named:
        first.setdefault(name, Value(each.type, each.value))
    return frozenset(first.items())


def _listed(values: frozenset[tuple[str, Value]]) -> list[ValueMatch]:
    ordered = sorted(values, key=lambda named: named[0])
    return [ValueMatch(type=value.type, name=name, value=value.value) for name, value in ordered]


def _segments(prefix: str) -> str:
    return prefix.rstrip("/") or "/"


def _below(path: str, prefix: str) -> bool:
    return prefix == "/" or path == prefix or path.startswith(f"{prefix}/")


def _both(a: Conditions, b: Conditions) -> Conditions | None:
    """What takes the requests that both take; None: there are none. Raises Unsayable."""
    if None not in (a.method, b.method) and a.method != b.method:
        return None
    headers, query = _values_of_both(a.headers, b.headers), _values_of_both(a.query, b.query)
    path = _path_of_both(a, b)
    if path is None or headers is None or query is None:
        return None
    for unknown in (_path_unknown(a, b), _value_unknown(a.headers, b.headers), _value_unknown(a.query, b.query)):
        if unknown:  # asked last: what no request can be is known all the same
            raise Unsayable(unknown)
    return Conditions(*path, a.method or b.method, headers, query)


def _path_of_both(a: Conditions, b: Conditions) -> tuple[PathType, str] | None:
    """Of a prefix and an expression the expression: what is not known is asked apart."""
    if (a.path_type, a.path) == (b.path_type, b.path):
        return (a.path_type, a.path)
    for each in (a, b):
        if each.path_type is PathType.REGULAR_EXPRESSION:
            return (each.path_type, each.path)
    for one, other in ((a, b), (b, a)):
        if other.path_type is PathType.PATH_PREFIX and _below(one.path, other.path):
            return (one.path_type, one.path)
    return None


def _path_unknown(a: Conditions, b: Conditions) -> str:
    if PathType.REGULAR_EXPRESSION not in (a.path_type, b.path_type) or (a.path_type, a.path) == (b.path_type, b.path):
        return ""
    if any((each.path_type, each.path) == (PathType.PATH_PREFIX, "/") for each in (a, b)):
        return ""
    one, other = (a, b) if a.path_type is PathType.REGULAR_EXPRESSION else (b, a)
    return (
        f"spec.gateway.rules: whether the RegularExpression {one.path} takes requests for {other.path} too cannot be"
        " known: use Exact or PathPrefix there, or classes by header and methods in spec.shedding"
    )


def _values_of_both(
    a: frozenset[tuple[str, Value]], b: frozenset[tuple[str, Value]]
) -> frozenset[tuple[str, Value]] | None:
    of_a = dict(a)
    for name, value in b:
        known = of_a.get(name, value)
        if known != value and known.type is value.type is MatchType.EXACT:
            return None
    return a | b


def _value_unknown(a: frozenset[tuple[str, Value]], b: frozenset[tuple[str, Value]]) -> str:
    of_a = dict(a)
    clash = next(((name, of_a[name], value) for name, value in b if of_a.get(name, value) != value), None)
    return (
        f"spec.gateway.rules: whether {clash[0]} can be {clash[1].value} and {clash[2].value} at once cannot be known,"
        " for one is a RegularExpression: use Exact there, or classes by other headers in spec.shedding"
        if clash
        else ""
    )


# --- who gets what

Target = tuple[int, str]
"""The user's rule, and the class."""


Users = tuple[tuple[Conditions, ...], ...]
"""The matches of each of the user's rules."""
Classes = tuple[tuple[str, tuple[Conditions, ...]], ...]
"""Names with matches, in the order that counts."""


@lru_cache(maxsize=256)
def _known(users: Users, classes: Classes) -> tuple[ClassRule, ...] | str:
    """Or why there are none; both are asked for at each look at a Router, and may take a third of a second."""
    try:
        return _class_rules(users, classes)
    except Unsayable as error:
        return str(error)


def _class_rules(users: Users, classes: Classes) -> tuple[ClassRule, ...]:
    own = [(each, place) for place, rule in enumerate(users) for each in rule]
    named = [(each, name) for name, matches in classes for each in matches]
    closed = _closed([each for each, _ in own], [each for each, _ in named])
    targets: dict[Conditions, Target] = {}
    for each in closed:
        takers = [(match, place) for match, place in own if _both(match, each) == each]
        rule = max(takers, key=lambda taker: taker[0].precedence)[1]  # of equals the first
        name = next((name for match, name in named if _both(match, each) == each), DEFAULT_CLASS)
        targets[each] = (rule, name)
    needed = _needed(targets)
    groups: defaultdict[Target, list[Conditions]] = defaultdict(list)
    for each in needed:
        groups[targets[each]].append(each)
    _refuse_too_many(groups)
    order = {name: place for place, (name, _) in enumerate(classes)}

    def rank(target: Target) -> tuple[int, int, int]:
        # Traefik weighs a rule's place nearly as much as a query parameter, so those that name some come first.
        return (-max(len(each.query) for each in groups[target]), target[0], order.get(target[1], len(order)))

    return tuple(
        ClassRule(rule, name, tuple(each.match() for each in groups[rule, name]))
        for rule, name in sorted(groups, key=rank)
    )


def _closed(own: Sequence[Conditions], named: Sequence[Conditions]) -> list[Conditions]:
    """The user's matches, and all intersections of them with one another and with those of classes."""
    found = dict.fromkeys(own)
    waiting = list(found)
    while waiting:
        each = waiting.pop()
        for other in (*own, *named):
            both = _both(each, other)
            if both is not None and both not in found:
                found[both] = None
                waiting.append(both)
        if len(found) > MOST_TRIED:
            raise Unsayable(
                f"spec.shedding: its classes and spec.gateway.rules overlap in more than {MOST_TRIED} ways, which no"
                f" HTTPRoute can tell apart: {_FEWER}"
            )
    return list(found)


def _needed(targets: Mapping[Conditions, Target]) -> list[Conditions]:
    """Without those whose requests others give to the same rule and class, whichever of them is taken to be the most
    specific one."""
    wider = {each: [other for other in targets if other is not each and _both(other, each) == each] for each in targets}
    narrower: dict[Conditions, list[Conditions]] = {each: [each] for each in targets}
    for each, others in wider.items():
        for other in others:
            narrower[other].append(each)
    kept = dict.fromkeys(targets)

    def given(each: Conditions) -> set[Target]:
        """Where its requests may go by those that are kept."""
        takers = [other for other in (each, *wider[each]) if other in kept]
        covered = {other for taker in takers for other in wider[taker]}
        return {targets[taker] for taker in takers if taker not in covered}

    for each in sorted(targets, key=lambda each: each.precedence, reverse=True):
        del kept[each]
        if any(given(other) != {targets[other]} for other in narrower[each]):
            kept[each] = None
    return sorted(kept, key=lambda each: (each.precedence, each.path, each.method or "", sorted(
        f"{name}={value.value}" for name, value in each.headers | each.query)), reverse=True)  # fmt: skip


def _refuse_too_many(groups: Mapping[Target, Sequence[Conditions]]) -> None:
    matches = [len(each) for each in groups.values()]
    for what, count, most in (
        ("rules", len(matches), MOST_RULES),
        ("matches in one rule", max(matches), MOST_MATCHES),
        ("matches", sum(matches), MOST_MATCHES_OF_ALL),
    ):
        if count > most:
            raise Unsayable(
                f"spec.shedding: its classes within spec.gateway.rules need {count} {what} of an HTTPRoute, which takes"
                f" {most} at most: {_FEWER}"
            )
