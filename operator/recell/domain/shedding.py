"""Which requests are turned away when the cells cannot bear all of them, and until when.

Promises: pure. The class of the lowest priority is shed whole before the next one is touched; no more is shed than is
lacking, rounded up to a whole percent of one class; a class that may not be shed never is. What is shed, and which
circuits are open, has an end that the built-in router keeps by itself, and for one of type Gateway the operator that
comes back (rule 32).

Must not: shed on figures that are missing.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from recell.api.placement import Holder, OpenCircuit, PlacementSpec, Shed
from recell.api.router import Capability, Router
from recell.api.shedding import DEFAULT_CLASS, Shedding
from recell.domain.capabilities import capabilities
from recell.domain.observation import RouterTraffic
from recell.domain.wording import listed, percent

NEGLIGIBLE = 0.005
"""Part of all requests that is not worth a word: percents are whole."""

Limit = TypeVar("Limit", Shed, OpenCircuit)


@dataclass(frozen=True)
class Plan:
    """What is shed of each class, in percent, and what that comes to as parts of all requests."""

    percents: Mapping[str, int]
    relieved: float
    missing: float
    """Part of all requests that would have to be shed too, and that no class may give."""
    message: str

    @property
    def enough(self) -> bool:
        return self.missing <= NEGLIGIBLE


def order(shedding: Shedding | None) -> tuple[str, ...]:
    """Classes that may be shed, in the order in which they are; of equals the one that stands last first."""
    if shedding is None:
        return ()
    classes = [(c.priority, -place, c.name) for place, c in enumerate(shedding.classes) if c.sheddable]
    if shedding.default_sheddable:
        classes.append((shedding.default_priority, -len(shedding.classes), DEFAULT_CLASS))
    return tuple(name for _, _, name in sorted(classes))


def classes_of(router: Router) -> tuple[str, ...]:
    """`order` of a Router that can shed; empty for one that has no means for it."""
    return order(router.spec.shedding) if Capability.SHEDDING in capabilities(router) else ()


def plan(classes: Iterable[str], traffic: RouterTraffic | None, part: float) -> Plan | None:
    """So that `part` (0..1) of all requests is turned away; None while nobody can say how many there are of each class.

    `classes` may be shed, the first one first.
    """
    if part <= NEGLIGIBLE:
        return Plan({}, 0.0, 0.0, "nothing has to be shed")
    names = tuple(classes)
    if not names:
        return Plan({}, 0.0, part, f"{percent(part)} of the requests would have to be shed, but no class may be")
    if traffic is None or not traffic.requests_of_classes:
        return None
    left = part
    percents: dict[str, int] = {}
    for name in names:
        seen = traffic.classes.get(name)
        share = seen.requests / traffic.requests_of_classes if seen else 0.0
        if share <= 0 or left <= NEGLIGIBLE:
            continue
        percents[name] = min(100, math.ceil(100 * left / share - 1e-9))
        left -= share * percents[name] / 100
    relieved = part - left
    told = listed(f"{amount} % of {name}" for name, amount in percents.items()) or "nothing"
    message = f"{told} is shed, {percent(relieved)} of all requests, for {percent(part)} are too many"
    if left > NEGLIGIBLE:
        message += f"; no class may give the other {percent(left)}"
    return Plan(percents, relieved, max(0.0, left), message)


def shed_now(traffic: RouterTraffic | None) -> float:
    """Part (0..1) of all requests that was shed in the window."""
    if traffic is None or not traffic.requests_of_classes:
        return 0.0
    return sum(seen.shed for seen in traffic.classes.values()) / traffic.requests_of_classes


def relieved(percents: Mapping[str, int], traffic: RouterTraffic | None) -> float:
    """Part (0..1) of all requests that this sheds; 0 while nobody can say how many there are of each class."""
    if traffic is None or not traffic.requests_of_classes:
        return 0.0
    shed = (percents.get(name, 0) / 100 * seen.requests for name, seen in traffic.classes.items())
    return sum(shed) / traffic.requests_of_classes


def lifted(percents: Mapping[str, int], classes: Iterable[str], increments: int) -> dict[str, int]:
    """One increment less: of the classes that are shed the one that was shed last comes back first."""
    step = math.ceil(100 / increments)
    left = {name: amount for name, amount in percents.items() if amount > 0}
    for name in reversed([*classes]):
        if name in left:
            left[name] = max(0, left[name] - step)
            break
    return {name: amount for name, amount in left.items() if amount > 0}


# --- in Placement


def percents(spec: PlacementSpec, holder: Holder) -> dict[str, int]:
    """What the holder sheds."""
    return {item.class_: item.percent for item in spec.shedding if item.holder == holder}


def shed(
    spec: PlacementSpec, wanted: Mapping[str, int], *, holder: Holder, until: datetime, renew_before: datetime
) -> PlacementSpec:
    """The holder sheds this and nothing else; what it sheds already is renewed only if it ended before `renew_before`.

    A class has one entry: the holder's takes the place of another one's.
    """
    mine = {item.class_: item for item in spec.shedding if item.holder == holder}
    made = [
        _as_it_is(mine.get(name), amount, renew_before)
        or Shed(class_=name, percent=amount, expires_at=until, holder=holder)
        for name, amount in sorted(wanted.items())
    ]
    others = [item for item in spec.shedding if item.holder != holder and item.class_ not in wanted]
    return _changed(spec, "shedding", [*others, *made])


def open_circuits(
    spec: PlacementSpec,
    cells: Iterable[str],
    amount: int,
    *,
    holder: Holder,
    until: datetime,
    renew_before: datetime,
) -> PlacementSpec:
    """The holder's open circuits are those of these cells; renewed as in `shed`."""
    wanted = set(cells)
    mine = {item.cell: item for item in spec.open_circuits if item.holder == holder}
    made = [
        _as_it_is(mine.get(name), amount, renew_before)
        or OpenCircuit(cell=name, percent=amount, expires_at=until, holder=holder)
        for name in sorted(wanted)
    ]
    others = [item for item in spec.open_circuits if item.holder != holder and item.cell not in wanted]
    return _changed(spec, "open_circuits", [*others, *made])


def _as_it_is(known: Limit | None, amount: int, renew_before: datetime) -> Limit | None:
    """None: there is none like that, or it has to be renewed."""
    stays = known is not None and known.percent == amount and known.expires_at >= renew_before
    return known if stays else None


def close_circuit(spec: PlacementSpec, cell: str) -> PlacementSpec:
    """The cell gets its requests, whoever opened its circuit."""
    return _changed(spec, "open_circuits", [item for item in spec.open_circuits if item.cell != cell])


def without_expired(spec: PlacementSpec, now: datetime) -> PlacementSpec:
    """What has ended in the routers is not kept in the record either."""
    spec = _changed(spec, "shedding", [item for item in spec.shedding if item.expires_at > now])
    return _changed(spec, "open_circuits", [item for item in spec.open_circuits if item.expires_at > now])


def _changed(spec: PlacementSpec, field: str, value: list[Shed] | list[OpenCircuit]) -> PlacementSpec:
    return spec if value == getattr(spec, field) else spec.model_copy(update={field: value})
