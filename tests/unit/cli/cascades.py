"""A router of which two cells failed at once, as its cascade leaves it: at work, and ended in part."""

from tests.unit.cli.objects import NAMESPACE, Object, ago, cell, failure, hold, item, placement, policy, router

RUN = "shop-cascade-20261125025700-3f9c1a"
_STEPS = (
    ("assess-damage", "Draining", "2 of 3 cells have failed; they are recovered in this order: cell-b and cell-c"),
    ("shed-load", "Draining", "71 % of bulk is shed, 28.4 % of all requests, for 28 % are too many"),
    ("provision-emergency-capacity", "Draining", "Emergency cells: cell-b-3fa92b"),
    ("open-circuit-breakers", "Draining", "cell-b and cell-c get 10 % of their requests until they are well"),
    ("recover-cells", "Restoring", f"{RUN}-cell-b-77c0de recovers cell-b: Restoring restart-workloads"),
    ("lift-load-shedding", "Promoting", ""),
    ("validate-fleet", "Validating", ""),
)


def _run(done: int, **status: object) -> Object:
    steps = [
        {
            "name": name,
            "phase": phase,
            "state": "Done" if at < done else "Running" if at == done else "Pending",
            "message": message if at <= done else "",
            **({"startedAt": ago(170 - 10 * at)} if at <= done else {}),
            **({"finishedAt": ago(165 - 10 * at)} if at < done else {}),
        }
        for at, (name, phase, message) in enumerate(_STEPS)
    ]
    spec = {
        "targetRef": {"kind": "Router", "name": "shop"},
        "strategy": "EmergencyScaling",
        "failure": {"type": "MultipleCell", "impact": "Critical", "dataIntegrity": "Intact"},
        "trigger": "Automatic",
    }
    decision = {
        "id": "abc",
        "strategy": "EmergencyScaling",
        "row": "stated",
        "message": "EmergencyScaling, as the run's spec.strategy says",
        "inputs": {"type": "MultipleCell", "impact": "Critical", "dataIntegrity": "Intact"},
    }
    full = {"phase": "Restoring", "startedAt": ago(170), "decision": decision, "steps": steps, **status}
    return item("RecoveryRun", RUN, spec, full, uid=f"uid-{RUN}")


def working() -> list[Object]:
    """Shedding, with open circuits; one slot is served by nobody."""
    held = [
        hold(name, 0, "Draining", "RecoveryRun", RUN, "failed together with others; its customers are served elsewhere")
        for name in ("cell-b", "cell-c")
    ]
    placed = placement(held)
    holder = {"kind": "RecoveryRun", "name": RUN, "uid": f"uid-{RUN}"}
    placed["spec"] |= {
        "shedding": [{"class": "bulk", "percent": 71, "expiresAt": ago(-840), "holder": holder}],
        "openCircuits": [
            {"cell": name, "percent": 90, "expiresAt": ago(-840), "holder": holder} for name in ("cell-b", "cell-c")
        ],
    }
    down = {"failure": failure("Critical", kind="MultipleCell")}
    return [
        router(),
        policy(),
        placed,
        cell("cell-a", share={"asked": "100%", "applied": "100%"}),
        cell("cell-b", "Failed", share={"asked": "0%", "applied": "0%"}, **down),
        cell("cell-c", "Failed", share={"asked": "0%", "applied": "0%"}, **down),
        _run(4, step="recover-cells"),
    ]


def ended() -> list[Object]:
    """One of two is back; what became of the other is said."""
    result = {
        "cascade": {"total": 2, "recovered": 1, "quarantinedSlots": 12},
        "emergencyCells": ["cell-b-3fa92b"],
        "remains": [f"Recover Cell cell-c: {RUN}-cell-c-0b9c ended as ManualInterventionRequired"],
    }
    over = _run(
        7,
        phase="PartiallySucceeded",
        finishedAt=ago(3),
        result=result,
        summary="1 of 2 cells of Router shop were recovered in 2m47s",
    )
    return [*(found for found in working() if found["kind"] != "RecoveryRun"), over]


__all__ = ["NAMESPACE", "RUN", "ended", "working"]
