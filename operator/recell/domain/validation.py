"""The six checks of a cell that takes over customers (runbook, recovery validation).

Promises: pure. Each check has a verdict with its numbers; what could not be seen is Inconclusive, never passed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recell.api.failure import DataIntegrity, Evidence, Verdict
from recell.domain import health
from recell.domain.observation import CellTraffic, ProbeResult

CELL_HEALTH = "cell-health"
CUSTOMER_ACCESS = "customer-access"
DATA_INTEGRITY = "data-integrity"
PERFORMANCE = "performance"
ERROR_RATE = "error-rate"
CAPACITY = "capacity-utilisation"

_OF = {health.LATENCY: PERFORMANCE, health.ERROR_RATE: ERROR_RATE}
"""Checks of health that are one of the six by themselves; integrity is asked for separately."""


@dataclass(frozen=True)
class Check:
    verdict: Verdict
    message: str


def checks(
    evidence: Sequence[Evidence],
    *,
    access: ProbeResult | None,
    integrity: DataIntegrity,
    traffic: CellTraffic | None,
    capacity: int | None,
) -> Mapping[str, Check]:
    """The six, by name. `capacity` is in requests per second; None is not stated."""
    found = {
        CELL_HEALTH: _all([e for e in evidence if e.check not in (*_OF, health.INTEGRITY)]),
        CUSTOMER_ACCESS: _access(access),
        DATA_INTEGRITY: _integrity(integrity),
        CAPACITY: _capacity(traffic, capacity),
    }
    for name, check in _OF.items():
        found[check] = _all([e for e in evidence if e.check == name])
    return found


def verdict(found: Mapping[str, Check]) -> Verdict:
    """Failed if any failed; passed if health and access passed and nothing failed: the others need figures that a
    cell with few customers may not have."""
    if any(check.verdict is Verdict.FAILED for check in found.values()):
        return Verdict.FAILED
    needed = (found[CELL_HEALTH].verdict, found[CUSTOMER_ACCESS].verdict)
    return Verdict.PASSED if set(needed) == {Verdict.PASSED} else Verdict.INCONCLUSIVE


def told(found: Mapping[str, Check], wanted: Verdict) -> str:
    return "; ".join(f"{name}: {check.message}" for name, check in sorted(found.items()) if check.verdict is wanted)


def _all(evidence: Sequence[Evidence]) -> Check:
    for wanted in (Verdict.FAILED, Verdict.PASSED):
        mine = [e for e in evidence if e.verdict is wanted]
        if mine:
            return Check(wanted, "; ".join(f"{e.check}: {e.message}" for e in mine))
    return Check(Verdict.INCONCLUSIVE, "; ".join(e.message for e in evidence) or "nothing was seen")


def _access(access: ProbeResult | None) -> Check:
    if access is None:
        return Check(Verdict.INCONCLUSIVE, "no request was sent yet")
    if not access.ok and access.operator_cut_off:
        return Check(Verdict.INCONCLUSIVE, f"not tried through the router: {access.message}")
    return Check(Verdict.PASSED if access.ok else Verdict.FAILED, f"through the router: {access.message}")


def _integrity(integrity: DataIntegrity) -> Check:
    of = {DataIntegrity.INTACT: Verdict.PASSED, DataIntegrity.CORRUPTED: Verdict.FAILED}
    return Check(of.get(integrity, Verdict.INCONCLUSIVE), f"data {integrity}")


def _capacity(traffic: CellTraffic | None, capacity: int | None) -> Check:
    if traffic is None or capacity is None:
        return Check(Verdict.INCONCLUSIVE, "load or capacity is not known")
    rate = traffic.requests_per_second
    return Check(
        Verdict.PASSED if rate <= capacity else Verdict.FAILED, f"{rate:.0f} of {capacity} requests/s are used"
    )
