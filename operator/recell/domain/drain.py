"""Is a drain worth it, and did the traffic really leave?

Promises: pure; what was expected, what was seen and the bound stand in the message. A window that
began before the change proves nothing about it.

Must not: pass on missing figures, or fail a drain on a difference that chance explains.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from recell.api.failure import Evidence, Vantage, Verdict
from recell.api.placement import Hold, Holder, HoldState, PlacementSpec
from recell.api.router import Verification
from recell.domain import placement
from recell.domain.observation import RouterTraffic
from recell.domain.placement import Routing
from recell.domain.wording import clipped, percent

DRAINED = "drained"
"""Name of the check in evidence."""

AT_ONCE_ABOVE = 0.5
"""A cell that serves less than half of its requests loses its share at once (rule 14)."""

_CHANCE = 3.0
"""Standard errors of the measured share within which a difference may be chance."""

_PROBE = Holder(kind="DrainCheck", name="drain")
_AT = datetime(1970, 1, 1, tzinfo=UTC)


def verify(
    cell: str,
    *,
    expected_before: float,
    expected_after: float,
    observed: RouterTraffic | None,
    tolerance: float,
    floor: float,
    changed_at: datetime,
    baseline: float | None = None,
    baseline_requests: int = 0,
) -> Evidence:
    """Whether the cell gets at most what it should after a change of its share (rule 28).

    `expected_before` and `expected_after` are `placement.expected_share` of the tables before the drain
    and now; `baseline` is the share that was measured before it on so many requests, since not all slots
    weigh the same;
    `tolerance` is 0.2 for the runbook's 1.2 x; `floor` is in requests per second; `changed_at` is when
    the last serving pod had the change.
    """
    if observed is None:
        return _said(Verdict.INCONCLUSIVE, f"no fresh figures from the router about {cell}")
    if observed.since < changed_at:
        return _said(Verdict.INCONCLUSIVE, "the figures began before the change: waiting for a whole window after it")
    seen = observed.cells.get(cell)
    if seen is None:
        return _said(Verdict.INCONCLUSIVE, f"the router tells no figures about {cell}")
    expected, variance = expected_after, 0.0
    if baseline is not None and expected_before > 0:
        left = expected_after / expected_before
        expected = min(1.0, baseline * left)
        variance = left**2 * baseline * (1 - baseline) / max(1, baseline_requests)
    if expected == 0 and seen.in_flight:
        return _said(Verdict.FAILED, f"{seen.in_flight} requests are still in flight at {cell}, which should get none")
    rate = seen.requests_per_second
    if rate <= floor:
        return _said(Verdict.PASSED, f"{cell} gets {rate:.1f} requests/s, at most {floor:g} are never held against it")
    part, bound = rate / observed.requests_per_second, expected * (1 + tolerance)
    told = (
        f"{cell} gets {percent(part)} of {observed.requests_per_second:.0f} requests/s,"
        f" expected {percent(expected)}, allowed {percent(bound)} ({1 + tolerance:g} x)"
    )
    if part <= bound + 1e-9:
        return _said(Verdict.PASSED, told)
    variance += bound * (1 - min(bound, 1.0)) / max(1, observed.requests)
    if part <= bound + _CHANCE * math.sqrt(variance):
        message = f"{told}; {observed.requests} requests are too few to tell this from chance"
        return _said(Verdict.INCONCLUSIVE, message)
    return _said(Verdict.FAILED, told)


def published(cell: str, verification: Verification, *, in_force_for: float, settle: float) -> Evidence:
    """What stands in for `verify` where the router counts no traffic: the change is in force since `settle` seconds.

    That nobody counted is no missing figure: the Router says so in its status, and whoever made it has chosen that.
    """
    if in_force_for < settle:
        told = f"in force for {in_force_for:.0f} of the {settle:g} s that requests are given to follow"
        return _said(Verdict.INCONCLUSIVE, told)
    how = "is seen to be published" if verification is Verification.RESOLVED else "has had its time"
    told = f"the change for {cell} {how} since {in_force_for:.0f} s; this router counts no traffic"
    return _said(Verdict.PASSED, told)


def _said(verdict: Verdict, message: str) -> Evidence:
    return Evidence(check=DRAINED, vantage=Vantage.ROUTER, verdict=verdict, message=clipped(message))


@dataclass(frozen=True)
class Worth:
    """Whether a drain is better than the fault, with both numbers as parts of the router's customers."""

    worth: bool
    message: str
    drain: float
    """Customers that the drain itself would turn away, or leave with reading only."""
    present: float
    """Customers that get no good answer now."""


def worth_draining(
    spec: PlacementSpec, routing: Routing, cell: str, to_percent: int, not_served: float | None
) -> Worth:
    """Rule 14: a drain whose impact is at least the present one is skipped, or a person is asked.

    `not_served` is the part of the cell's requests that fail now; None where that is not known: then
    a drain that costs nothing is worth it, and one that costs something is not.
    """
    limit = Hold(cell=cell, max_percent=to_percent, state=HoldState.DRAINING, holder=_PROBE, reason="", since=_AT)
    drained = placement.hold(spec, routing, limit)
    now, then = placement.served_share(spec), placement.served_share(drained)
    lost = max(0.0, now - then)
    present = placement.share(spec, cell) * (not_served or 0.0)
    fault = "what its fault costs is not known" if not_served is None else f"its fault costs {percent(present)} now"
    told = f"draining {cell} to {to_percent} % costs {percent(lost)} of the customers, {fault}"
    if lost > 0:
        return Worth(lost < present, told, lost, present)
    stays = to_percent < 100 and drained.serving == spec.serving and placement.share(spec, cell) > 0
    if stays and to_percent < placement.limit(spec, cell):
        message = f"{told}, and nobody would leave: no other cell can take customers, or the cell has too few slots"
        return Worth(False, message, 0.0, present)
    return Worth(True, told, lost, present)


def drain_at_once(not_served: float | None) -> bool:
    """Whether the cell serves less than half of its requests, so that its whole share goes at once; None: unknown."""
    return not_served is not None and not_served > AT_ONCE_ABOVE
