"""Gates: one verdict from many pieces of evidence, and what stands in its way.

Promises: pure. Missing data neither passes nor fails: a gate passes only on what was seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from recell.api.failure import Evidence, Vantage, Verdict
from recell.domain.health import INTEGRITY, PROBE


@dataclass(frozen=True)
class GateResult:
    verdict: Verdict
    message: str
    from_one_place: bool = False
    """It failed by the operator's probe alone, while the router sees the cell answer (rule 12)."""


def health_gate(evidence: Iterable[Evidence]) -> GateResult:
    """May a cell take traffic again?

    Failed if any check failed. Passed if none failed and the data plane was seen to work from the
    operator's probe or from the router. Otherwise Inconclusive, with what is missing.
    """
    all_evidence = tuple(evidence)
    failed = [e for e in all_evidence if e.verdict is Verdict.FAILED]
    passed = [e for e in all_evidence if e.verdict is Verdict.PASSED]
    if failed:
        return GateResult(
            Verdict.FAILED,
            "; ".join(f"{e.check}: {e.message}" for e in failed),
            from_one_place=all(e.check == PROBE for e in failed) and any(e.vantage is Vantage.ROUTER for e in passed),
        )
    seen = [e for e in passed if e.vantage in (Vantage.OPERATOR, Vantage.ROUTER) and e.check != INTEGRITY]
    open_cluster = [e for e in all_evidence if e.vantage is Vantage.CLUSTER and e.verdict is Verdict.INCONCLUSIVE]
    if seen and not open_cluster:
        return GateResult(Verdict.PASSED, "; ".join(f"{e.check}: {e.message}" for e in passed))
    missing = open_cluster or [e for e in all_evidence if e.verdict is Verdict.INCONCLUSIVE]
    return GateResult(
        Verdict.INCONCLUSIVE,
        "; ".join(f"{e.check}: {e.message}" for e in missing)
        or "neither a probe nor the router says how the cell does",
    )
