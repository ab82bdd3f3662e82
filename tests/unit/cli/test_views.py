"""What a person sees at 80 columns, on a terminal and in a pipe, against kept texts (`golden/`).

RECELL_WRITE_GOLDEN=1 writes them anew: read the difference before you keep it.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Router
from recell.api.recovery_run import RecoveryRunSpec
from recell.cli.customers import customers_report
from recell.cli.fleet import Fleet
from recell.cli.look import Look
from recell.cli.plan import plan
from recell.cli.report import router_report, runs_report, status_report
from recell.cli.screen import Screen
from recell.cli.views.customers import customers_view
from recell.cli.views.placement import placement_view
from recell.cli.views.plan import plan_view
from recell.cli.views.run import Rate, RunView, changes, run_view
from recell.cli.views.runs import runs_table
from recell.cli.views.status import status_view
from recell.cli.views.where import where_view
from recell.cli.whereabouts import where_report
from tests.unit.cli import cascades, objects, recoveries
from tests.unit.cli.objects import NOW, Object

GOLDEN = Path(__file__).parent / "golden"
WIDTH = 80

View = Callable[[Look], RenderableType]


def fleet(items: list[Object]) -> Fleet:
    kinds: dict[str, Any] = {
        "Cell": (Cell, "cells"),
        "Router": (Router, "routers"),
        "Placement": (Placement, "placements"),
        "RecoveryRun": (RecoveryRun, "runs"),
        "RecoveryPolicy": (RecoveryPolicy, "policies"),
        "RecoveryFreeze": (RecoveryFreeze, "freezes"),
        "CellTemplate": (CellTemplate, "templates"),
    }
    found: dict[str, list[Any]] = {}
    for item in items:
        kind, field = kinds[item["kind"]]
        found.setdefault(field, []).append(kind.model_validate(item))
    return Fleet(now=NOW, **{field: tuple(values) for field, values in found.items()})


def status(items: list[Object], *, wide: bool = False, names: tuple[str, ...] = ()) -> View:
    return lambda look: status_view(status_report(fleet(items), names), NOW, look, wide=wide)


def planned(items: list[Object], cell: str = "cell-b", **spec: Any) -> View:
    seen = fleet(items)
    found = seen.cell(("shop", cell))
    assert found is not None
    wanted = RecoveryRunSpec.model_validate({"targetRef": {"kind": "Cell", "name": cell}, **spec})
    return lambda look: plan_view(plan(seen, found, wanted), NOW, look)


def watched(items: list[Object], *, rates: bool = True, **more: Any) -> RunView:
    seen = fleet(items)
    return RunView(
        run=seen.runs[0],
        now=NOW,
        cells=tuple(router_report(seen, ("shop", "shop")).cells),
        rates={
            "cell-a": Rate(41.62, 0.0),
            "cell-b": Rate(16.7, 0.381),
            "cell-c": Rate(0.0, None),
        }
        if rates
        else None,
        **more,
    )


def followed(items: list[Object], **more: Any) -> View:
    return lambda look: run_view(watched(items, **more), look)


def where(items: list[Object], customer: str) -> View:
    return lambda look: where_view(where_report(fleet(items), ("shop", "shop"), customer), NOW, look)


def customers(items: list[Object], name: str = "cell-b") -> View:
    seen = fleet(items)
    found = seen.cell(("shop", name))
    assert found is not None
    return lambda look: customers_view(customers_report(seen, found), NOW, look)


def around(run: Object) -> list[Object]:
    return [*(item for item in objects.troubled() if item["kind"] != "RecoveryRun"), run]


def failed_cell(**failure: str) -> list[Object]:
    healthy = [item for item in objects.well() if item["metadata"]["name"] != "cell-b"]
    return [
        *healthy,
        objects.cell(
            "cell-b", "Failed", share={"asked": "33.3%", "applied": "33.3%"}, failure=objects.failure(**failure)
        ),
    ]


AWAITING = objects.run(
    phase="AwaitingApproval",
    step="drain-traffic",
    steps=objects.steps(1, "Cell cell-b lowered to 50 %"),
    awaiting={
        "gate": "unverified-drain",
        "decisionID": "abc123",
        "since": objects.ago(40),
        "message": "For 5m there were no figures: no fresh figures from the router. Approve to go on without them",
    },
)
SUCCEEDED = objects.run(
    phase="Succeeded",
    step="watch-stability",
    steps=[{**step, "state": "Done", "finishedAt": objects.ago(3)} for step in objects.steps(6, "")],
    finishedAt=objects.ago(3),
    summary="Cell cell-b is stable after a restart of Deployment/cell-b-web. Traffic was reduced for 6m2s.",
)
MANUAL = objects.run(
    phase="ManualInterventionRequired",
    step="drain-traffic",
    steps=objects.steps(1, "Increment 3 of 10 (85 %): 61 requests/s, at most 42 were expected", "Failed"),
    finishedAt=objects.ago(3),
    summary="drain-traffic failed: TrafficNotDraining. Traffic that does not leave cell-b: look for clients that"
    " connect to it directly.",
)
PENDING = objects.run(
    phase=None,
    conditions=[
        {
            "type": "Reconciling",
            "status": "True",
            "reason": "TargetBusy",
            "message": "Cell cell-b already has the active run cell-b-first (Draining);"
            " this one starts when it has ended",
        }
    ],
)
PAUSED = objects.run(
    step="drain-traffic",
    steps=objects.steps(1, "Cell cell-b lowered to 50 %"),
    conditions=[
        {"type": "Paused", "status": "True", "reason": "PausedByPerson", "message": "spec.control.paused is true"}
    ],
)

VIEWS: dict[str, View] = {
    "status-well": status(objects.well()),
    "status-troubled": status(objects.troubled()),
    "status-troubled-wide": status(objects.troubled(), wide=True),
    "status-one-cell": status(objects.troubled(), names=("cell-b",)),
    "status-empty": status([]),
    "status-no-placement": status([item for item in objects.well() if item["kind"] != "Placement"]),
    "status-no-router": status([item for item in objects.well() if item["kind"] != "Router"]),
    "status-dns": status([objects.dns_router(), *(item for item in objects.troubled() if item["kind"] != "Router")]),
    "status-awaiting": status(around(AWAITING)),
    "plan-starts": planned(failed_cell()),
    "plan-for-the-router": planned(failed_cell(impact="High", kind="MultipleCell")),
    "plan-manual": planned(failed_cell(integrity="Unknown")),
    "plan-manual-isolates": planned(
        [
            objects.policy(manualIntervention={"corruptedCell": "Isolate"}),
            *(
                item
                for item in failed_cell(impact="High", integrity="Corrupted", kind="MultipleCell")
                if item["kind"] != "RecoveryPolicy"
            ),
        ]
    ),
    "plan-healthy": planned(objects.well()),
    "plan-busy-and-frozen": planned(objects.troubled(), strategy="CellRestart"),
    "run-draining": followed(objects.troubled()),
    "run-no-rates": followed(
        objects.troubled(), rates=False, rates_note="Requests and errors are not available: permission missing"
    ),
    "run-awaiting": followed(around(AWAITING)),
    "run-pending": followed(around(PENDING)),
    "run-paused": followed(around(PAUSED)),
    "run-succeeded": followed(around(SUCCEEDED)),
    "run-manual": followed(around(MANUAL)),
    "plan-replace": planned(recoveries.failed()),
    "plan-restore-hopeless": planned(
        [
            i
            for i in recoveries.failed("Corrupted", data={"type": "Jobs", "jobs": {"inventory": "a", "restore": "b"}})
            if i["kind"] != "CellTemplate"
        ]
    ),
    "plan-rewind": planned(
        recoveries.failed("Corrupted", "DataCorruption"),
        recoveryTarget={"time": recoveries.POINT, "backupID": "full-0312"},
    ),
    "run-moving": followed(recoveries.moving(), rates=False),
    "run-losing": followed(recoveries.losing(), rates=False),
    "run-restoring": followed(recoveries.restoring(), rates=False),
    "run-promoting": followed(recoveries.promoting(), rates=False),
    "run-replaced-in-part": followed(recoveries.replaced(2), rates=False),
    "status-moving": status(recoveries.moving()),
    "status-losing": status(recoveries.losing()),
    "status-replaced": status(recoveries.replaced()),
    "status-replaced-in-part": status(recoveries.replaced(2)),
    "status-isolated": status(recoveries.isolated()),
    "status-no-template": status([i for i in recoveries.failed() if i["kind"] != "CellTemplate"]),
    "customers-moving": customers(recoveries.moving()),
    "customers-unknown": customers(recoveries.moving(None, None)),
    "customers-asked": customers(recoveries.partly_moved()),
    "customers-read-only": customers(recoveries.promoting()),
    "customers-replaced-in-part": customers(recoveries.replaced(2)),
    "customers-of-the-new-cell": customers(recoveries.replaced(2), recoveries.NEW),
    "where-turned-away": where(recoveries.moving(), "c-17"),
    "where-read-only": where(recoveries.promoting(), "c-17"),
    "where-pinned": where(recoveries.replaced(), "globex"),
    "where-not-moved": where(recoveries.replaced(2), recoveries.LEFT),
    "status-cascade": status(cascades.working()),
    "run-cascade": followed(cascades.working(), rates=False),
    "run-cascade-partly": followed(cascades.ended(), rates=False),
    "placement-cascade": lambda look: placement_view(
        fleet(cascades.working()).placements[0], fleet(cascades.working()), NOW, look
    ),
    "runs": lambda look: runs_table(
        runs_report(fleet([objects.draining(), objects.run("cell-a-x", "Succeeded", "cell-a")]).runs), NOW, look
    ),
    "placement": lambda look: placement_view(
        fleet(objects.troubled()).placements[0], fleet(objects.troubled()), NOW, look
    ),
}


def on_terminal(view: View) -> str:
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, force_terminal=True, color_system=None, highlight=False)
    console.print(view(Look(plain=False)))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def piped(view: View) -> str:
    out = io.StringIO()
    screen = Screen(out, io.StringIO(), {}, ask=None)
    screen.show(view(screen.look))
    return out.getvalue()


def same(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("RECELL_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path}: another text; RECELL_WRITE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize("name", VIEWS)
def test_on_a_terminal_of_80_columns(name: str) -> None:
    text = on_terminal(VIEWS[name])
    assert max(map(len, text.splitlines())) <= WIDTH
    same(f"{name}.tty", text)


@pytest.mark.parametrize("name", VIEWS)
def test_in_a_pipe(name: str) -> None:
    text = piped(VIEWS[name])
    assert text.isascii()
    assert "\x1b" not in text
    same(f"{name}.pipe", text)


def test_the_lines_of_a_run_in_a_pipe() -> None:
    first = watched(around(objects.run(step="check-eligibility", steps=objects.steps(0, "Check"))), rates=False)
    second = watched(objects.troubled())
    third = watched(around(AWAITING), trouble="no answer from the API server, asking again: timed out")
    fourth = watched(around(SUCCEEDED))
    lines = [
        *changes(None, first),
        *changes(first, second),
        *changes(second, second),
        *changes(second, third),
        *changes(third, fourth),
    ]
    same("changes", "".join(f"{line}\n" for line in lines))


def test_nothing_is_cut_however_long_a_name_is() -> None:
    long = "cell-" + "x" * 58
    items = [objects.router(), objects.cell(long, share={"asked": "100%", "applied": "100%"})]
    assert f"\n{long}  Healthy" in piped(status(items))
    folded = on_terminal(status(items)).split("CELL")[1]
    assert folded.count("x") == 58


def test_shares_are_read_from_the_placement_and_not_from_a_status_that_lags() -> None:
    report = router_report(fleet(objects.troubled()), ("shop", "shop"))
    shares = {cell.name: (cell.share.home, cell.share.asked) for cell in report.cells}
    assert shares == {"cell-a": ("33.4%", "83.3%"), "cell-b": ("33.3%", "16.7%"), "cell-c": ("33.3%", "0%")}
