"""Runs that replace a cell or restore its data, as the operator records them, with the fleet around each.

The router is `shop` with the customers' data in the cells; the cell is `cell-b`, the new one `cell-b-3fa92b`.
"""

import json
from typing import Any

from recell.api import RecoveryRun, Router
from recell.api.placement import Hold, PlacementSpec
from recell.domain import placement as domain
from recell.domain.placement import Candidate, Routing
from recell.procedures import PROCEDURES
from tests.unit.cli import objects
from tests.unit.cli.objects import Object, ago

NEW = "cell-b-3fa92b"
RUN = "cell-b-7fk2p"
LEFT = "c-127"
"""A customer in the first slot of cell-b, which `replaced` leaves behind."""
REPLACE, RESTORE, REWIND = "TrafficDrainAndReplace", "IsolateAndRestoreFromBackup", "PointInTimeRecovery"

STOPPED = ago(900)
"""When the cell stopped serving well."""
POINT = ago(8100)
"""Two hours before that."""


def router(off_home: str | None = None, **spec: Any) -> Object:
    made = objects.router("InCell")
    made["spec"] |= spec
    if off_home:
        made["spec"]["offHome"] = off_home
    made["spec"]["haproxy"]["pins"] = [{"customer": "globex", "cell": "cell-b"}]
    return made


def spec_of(made: Object) -> tuple[PlacementSpec, Routing]:
    """Three cells and the new one, which is listed and nobody's home."""
    routing = Routing.of(Router.model_validate(made))
    first = [
        Candidate(name=f"cell-{letter}", uid=f"uid-cell-{letter}", address=f"10.96.0.{10 + n}", port=80, weight=100)
        for n, letter in enumerate("abc")
    ]
    spec = domain.initial(routing, first, epoch=3)
    new = Candidate(name=NEW, uid=f"uid-{NEW}", address="10.96.0.20", port=80, weight=0)
    return domain.admit(spec, routing, new), routing


def placement(
    made: Object, state: str, holder: str = RUN, *, reason: str = "", left: int | None = None, kind: str = "RecoveryRun"
) -> Object:
    """cell-b is held at 0 % in this state; with `left`, all slots but so many have their home in the new cell."""
    spec, routing = spec_of(made)
    spec = domain.hold(spec, routing, Hold.model_validate(objects.hold("cell-b", 0, state, kind, holder, reason, 600)))
    if left is not None:
        slots = domain.slots_of(spec, "cell-b")
        spec = domain.rehome(spec, routing, "cell-b", NEW, slots[left:])
        spec = domain.succeed(spec, routing, "cell-b", NEW)
    return objects.item("Placement", "shop", spec.to_dict(), generation=21)


def cell(name: str, phase: str = "Healthy", spec: Object | None = None, **status: Any) -> Object:
    jobs = {name: f"data-{name}" for name in ("inventory", "accessible", "migrate", "restore", "check")}
    full = {"templateRef": {"name": "shop-cell"}, "data": {"type": "Jobs", "jobs": jobs}, **(spec or {})}
    return objects.cell(name, phase, full, **status)


def made(phase: str = "Healthy", **status: Any) -> Object:
    found = cell(NEW, phase, {"weight": 0}, **status)
    found["metadata"]["labels"] = {"recell.dev/made-by": "recell", "recell.dev/origin": "cell-b"}
    return found


def template(accepted: bool | None = True, message: str = "") -> Object:
    spec = {
        "cell": {"backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}}},
        "objects": [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "$(CELL)"}}],
    }
    if accepted is None:
        return objects.item("CellTemplate", "shop-cell", spec)
    condition = {
        "type": "Accepted",
        "status": str(accepted),
        "reason": "Accepted" if accepted else "BadTemplate",
        "message": message,
        "lastTransitionTime": ago(600),
    }
    return objects.item("CellTemplate", "shop-cell", spec, {"conditions": [condition]})


def run(strategy: str, at: int, told: list[tuple[str, Object]], phase: str | None = None, **more: Any) -> Object:
    """The run at its step with this number; `told` is message and data of the steps so far, of the running one too."""
    procedure = PROCEDURES[strategy]
    ended = at >= len(procedure.steps)
    steps: list[Object] = []
    for number, step in enumerate(procedure.steps):
        message, data = told[number] if number < len(told) else (step.does, {})
        made: Object = {"name": step.name, "phase": step.phase.value, "state": "Pending", "message": ""}
        if number <= at:
            made |= {"startedAt": ago(850 - 60 * number), "message": message, **({"data": data} if data else {})}
            made |= {"state": "Running"} if number == at else {"state": "Done", "finishedAt": ago(800 - 60 * number)}
        steps.append(made)
    last = procedure.steps[min(at, len(procedure.steps) - 1)]
    found = objects.run(
        RUN,
        phase or ("Succeeded" if ended else last.phase.value),
        spec=more.pop("spec", None),
        step=last.name,
        steps=steps,
        startedAt=ago(870),
        **more,
    )
    found["metadata"]["creationTimestamp"] = ago(880)
    kind, row = ("DataCorruption", "data-corruption") if strategy == REWIND else ("SingleCell", "single-cell-high")
    integrity = "Intact" if strategy == REPLACE else "Corrupted"
    found["status"]["decision"] |= {
        "strategy": strategy,
        "row": row,
        "message": f"{kind} failure, impact High, data {integrity}: row {row} says {strategy}.",
        "inputs": {"type": kind, "impact": "High", "dataIntegrity": integrity},
    }
    found["status"]["plan"] = {
        "procedure": strategy,
        "version": 1,
        "steps": [step.name for step in procedure.steps],
        "numbers": {},
    }
    result = procedure.result(RecoveryRun.model_validate(found).status)
    if result is not None:
        found["status"]["result"] = result.to_dict()
    return found


def asks(gate: str, message: str, since: float = 40) -> Object:
    return {"gate": gate, "decisionID": "d9", "since": ago(since), "message": message}


def failed(integrity: str = "Intact", kind: str = "SingleCell", **spec: Any) -> list[Object]:
    """cell-b has failed, and no run was made yet."""
    at = router()
    broken = cell("cell-b", "Failed", spec, share={"asked": "33.3%"}, failure=objects.failure("High", integrity, kind))
    placed = objects.item("Placement", "shop", spec_of(at)[0].to_dict(), generation=14)
    return [at, placed, objects.policy(objectives={"rpo": "15m"}), template(), cell("cell-a"), broken]


# --- replacement

_DRAINED = ("Cell cell-b was drained to 0 %; 0 of 412 requests", {"stoppedAt": STOPPED, "drained": True})
_BEAR = ("The others bear it: 61 of 200 requests/s each", {})
_MADE = (f"Cell {NEW} is ready and serves nobody yet", {"cell": NEW})
PARTIAL = "118 of 120 customers moved, 2 failed (c-127 and c-225)"


def around(made_router: Object, placed: Object, run_: Object, broken: Object, new: Object | None) -> list[Object]:
    well = [cell("cell-a", share={"asked": "33.4%", "applied": "33.4%"}), cell("cell-c", share={"asked": "33.3%"})]
    return [
        made_router,
        placed,
        objects.policy(objectives={"rpo": "15m"}),
        template(),
        *well,
        broken,
        *([new] if new else []),
        run_,
    ]


def _recovering(integrity: str = "Intact", kind: str = "SingleCell") -> Object:
    return cell(
        "cell-b",
        "Recovering",
        share={"asked": "0%", "applied": "0%"},
        failure=objects.failure("High", integrity, kind),
        recovery={"activeRun": RUN, "attempts": 1},
    )


def moving(done: int | None = 40, of: int | None = 120) -> list[Object]:
    """Customers are copied to the new cell; how many, the provider may or may not tell."""
    data: Object = {"path": "Migrate"}
    data |= {"done": done} if done is not None else {}
    data |= {"of": of} if of is not None else {}
    moved = run(REPLACE, 3, [_DRAINED, _BEAR, _MADE, ("Move the customers to the new cell", data)])
    at = router()
    placed = placement(at, "Draining", reason="drained at once")
    return around(at, placed, moved, _recovering(), made(share={"asked": "0%", "applied": "0%"}))


def partly_moved() -> list[Object]:
    message = f"{PARTIAL}. Approve to route those that were moved; the others stay where they are"
    waiting = run(
        REPLACE,
        3,
        [_DRAINED, _BEAR, _MADE, (message, {"path": "Migrate"})],
        "AwaitingApproval",
        awaiting=asks("partial-move", message),
    )
    at = router()
    return around(at, placement(at, "Draining", reason="drained at once"), waiting, _recovering(), made())


def replaced(left: int = 0) -> list[Object]:
    """The run has ended; with `left`, so many slots had a customer that failed."""
    at = router()
    spec, _ = spec_of(at)
    slots = domain.slots_of(spec, "cell-b")[:left]
    moved: Object = {"path": "Migrate", "moved": 120 - left, "failed": left, "expected": 120}
    if left:
        moved |= {"names": [LEFT, "c-225"][:left], "failedSlots": ",".join(map(str, slots))}
    remains = ["Remove Deployment/cell-b-web of cell-b from Git (Argo CD application shop), or it may be started again"]
    if left:
        remains.insert(0, "cell-b is still the home of customers that could not be moved: it is never deleted")
    told = [
        _DRAINED,
        _BEAR,
        _MADE,
        (f"{120 - left} of 120 customers moved", moved),
        (f"{341 - left} slots of cell-b have their home at {NEW}", {"slots": 341 - left}),
        (f"{NEW} passed for 30m", {}),
        ("Cell cell-b is retired and kept until 2026-12-02T03:00:00Z (Retain)", {"remains": remains}),
    ]
    summary = f"Cell cell-b was replaced by {NEW} in 14m30s, 7 steps"
    ended = run(
        REPLACE,
        7,
        told,
        "PartiallySucceeded" if left else "Succeeded",
        finishedAt=ago(5),
        summary=f"{summary}; {left} customers could not be moved" if left else summary,
    )
    old = cell("cell-b", "Retired", share={"asked": "0%", "applied": "0%"}, recovery={"lastRun": RUN, "attempts": 1})
    old["metadata"]["annotations"] = {
        "recell.dev/retired": json.dumps(
            {
                "successor": NEW,
                "successorUid": "uid-of-the-new-one",
                "until": "2026-12-02T03:00:00Z",
                "complete": True,
                "conflicts": 0,
                "promotedAt": "2026-11-25T03:00:00Z",
                "by": RUN,
            }
        ),
    }
    placed = placement(at, "Retired", reason=f"replaced by {NEW}", left=left)
    return around(at, placed, ended, old, made(share={"asked": "33.3%", "applied": "33.3%"}))


# --- restore

_ISOLATED = (
    "Cell cell-b gets no traffic and no connections: 6 ports of 3 pods were tried, none answered",
    {"stoppedAt": STOPPED, "lastIntact": ago(960)},
)
_CHOSEN: Object = {"iteration": 1, "backup": "full-0312", "expectedPoint": POINT, "notAfter": ago(970)}


def losing() -> list[Object]:
    """IsolateAndRestoreFromBackup asks whether the loss is accepted."""
    message = (
        f"Backup full-0312 of cell-b brings its customers back to {POINT}: what they did in the 2h before it failed"
        " is lost (objectives.rpo is 15m). Approve to accept that"
    )
    waiting = run(
        RESTORE,
        1,
        [_ISOLATED, (message, {})],
        "AwaitingApproval",
        awaiting=asks("accept-data-loss", message),
    )
    at = router()
    placed = placement(at, "Isolated", reason="its data is in doubt")
    return around(at, placed, waiting, _recovering("Corrupted"), None)


def restoring() -> list[Object]:
    """The backup was chosen, the restore runs."""
    told = [
        _ISOLATED,
        ("Backup full-0312, which reaches back to 2026-11-25T00:45:00Z", _CHOSEN),
        _MADE,
        ("Restore the customers from the backup to the new cell", {"done": 12, "of": 120}),
    ]
    at = router()
    placed = placement(at, "Isolated", reason="its data is in doubt")
    asked = {"recoveryTarget": {"backupID": "full-0312"}}
    return around(at, placed, run(RESTORE, 3, told, spec=asked), _recovering("Corrupted"), made())


# --- point in time

_CONFLICTS = ["order 4711 of c-17 was written in cell-a", "order 4712 of c-17 was written in cell-a"]


def promoting() -> list[Object]:
    """PointInTimeRecovery asks whether customers are served from what was restored."""
    message = (
        f"120 customers of cell-b are restored to {POINT}; what was written from then until {STOPPED} is lost. 2 writes"
        f" were made elsewhere and are not merged. Approve to serve them from {NEW}"
    )
    restored: Object = {"restored": 120, "failed": 0, "expected": 120, "point": POINT, "conflicts": _CONFLICTS}
    told = [
        _ISOLATED,
        ("341 of 341 slots of cell-b are served by other cells for reading only", {}),
        ("Backup full-0312, which reaches back to 2026-11-25T00:45:00Z", _CHOSEN),
        _MADE,
        ("120 of 120 customers restored", restored),
        (f"The data of {NEW} is intact", {}),
        (message, {"slots": 341}),
    ]
    asked = {"recoveryTarget": {"time": POINT}}
    waiting = run(REWIND, 6, told, "AwaitingApproval", awaiting=asks("promote", message), spec=asked)
    at = router("ReadOnly")
    placed = placement(at, "Isolated", reason="its data is in doubt")
    return around(at, placed, waiting, _recovering("Corrupted", "DataCorruption"), made())


def isolated(integrity: str = "Corrupted") -> list[Object]:
    """A restore that found no good backup: the cell stays isolated, and nothing was promoted."""
    ended = run(
        RESTORE,
        1,
        [
            _ISOLATED,
            ("No backup to restore from not later than 2026-11-25T02:43:50Z. There are: full-0312 (tried)", {}),
        ],
        "ManualInterventionRequired",
        finishedAt=ago(300),
        summary="choose-backup: Cell cell-b: No backup to restore from. Nothing was promoted. Cell cell-b stays at 0 %"
        " of its customers; give it its traffic back with: recell return cell-b",
    )
    ended["status"]["steps"][1]["state"] = "Failed"
    broken = cell(
        "cell-b",
        "Isolated",
        share={"asked": "0%", "applied": "0%"},
        failure=objects.failure("High", integrity),
        recovery={"lastRun": RUN, "attempts": 1},
    )
    at = router()
    return around(at, placement(at, "Isolated", reason="its data is in doubt"), ended, broken, None)
