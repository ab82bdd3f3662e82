"""How a customer comes in through a Gateway: its listener, and a request that one of the Router's rules takes. Pure.

Promises: what cannot be known is raised as Unknown with the reason and the next step; nothing is guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from recell.api.cell import ProbeScheme
from recell.api.gateway import Gateway, Match, MatchType, Method, ParentRef, PathMatch, PathType, RouteRule
from recell.domain.wording import listed
from recell.providers.kube.services import Address

Object = dict[str, Any]


class Unknown(ValueError):
    """There is no way in that could be tried from here."""


@dataclass(frozen=True)
class Asked:
    """A GET."""

    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Listener:
    """Where it is asked, and how."""

    address: Address
    scheme: ProbeScheme


def listener(gateway: Object, ref: ParentRef) -> Listener:
    """The first one for HTTP that the reference means; without any the first one that ends TLS. Raises Unknown."""
    metadata = gateway["metadata"]
    name = f"Gateway {metadata['namespace']}/{metadata['name']}"
    listeners = [
        each
        for each in gateway["spec"].get("listeners") or ()
        if ref.section_name in (None, each["name"]) and ref.port in (None, each["port"])
    ]
    spoken = [each for scheme in ProbeScheme for each in listeners if _speaks(each, scheme)]
    if not spoken:
        found = listed(f"{each['name']} ({each.get('protocol')})" for each in listeners) or "none"
        raise Unknown(f"{name} has no listener for HTTP or HTTPS that the Router means, only {found}")
    known = (gateway.get("status") or {}).get("addresses") or ()
    if not known:
        raise Unknown(f"{name} has no address (status.addresses): what implements it has to tell one")
    scheme = ProbeScheme(spoken[0]["protocol"])
    return Listener(Address(known[0]["value"], spoken[0]["port"]), scheme)


def _speaks(each: Object, scheme: ProbeScheme) -> bool:
    passes_through = (each.get("tls") or {}).get("mode") == "Passthrough"
    return bool(each.get("protocol") == scheme.value) and not passes_through


def request(block: Gateway, path: str) -> Asked:
    """A GET of this path that one of the rules takes, with the first of the hostnames. Raises Unknown."""
    for rule in block.rules or [RouteRule()]:
        for match in rule.matches or [Match()]:
            if (asked := _fitting(match, path)) is not None:
                name = host(block.hostnames)
                return Asked(asked.path, ({"Host": name} if name else {}) | asked.headers)
    raise Unknown(
        f"no rule of spec.gateway.rules takes GET {path}, the cell's probe: add a match for it, or the customers' way"
        " in cannot be tried"
    )


def host(hostnames: Sequence[str]) -> str:
    """One that a customer may ask for; empty: any."""
    return hostnames[0].replace("*", "recell-probe", 1) if hostnames else ""


def _fitting(match: Match, path: str) -> Asked | None:
    if match.method not in (None, Method.GET) or not _takes(match.path, path):
        return None
    if any(each.type is not MatchType.EXACT for each in (*match.headers, *match.query_params)):
        return None
    query = urlencode([(each.name, each.value) for each in match.query_params])
    joined = f"{path}{'&' if '?' in path else '?'}{query}" if query else path
    return Asked(joined, {each.name: each.value for each in match.headers})


def _takes(wanted: PathMatch | None, path: str) -> bool:
    asked = path.partition("?")[0]
    if wanted is None:
        return True
    if wanted.type is PathType.EXACT:
        return asked == wanted.value
    prefix = wanted.value.rstrip("/")
    return wanted.type is PathType.PATH_PREFIX and (asked == prefix or asked.startswith(f"{prefix}/"))
