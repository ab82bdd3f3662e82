"""Replacement and restore on the command line: where customers are, what is asked, what came of a run, the way back."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import recell.procedures
from recell.api import Placement
from recell.api.meta import ANNOTATION_RETIRED
from recell.cli import gates
from recell.domain import placement as domain
from recell.domain.cascade import SYSTEMIC
from recell.engine.errors import Forbidden
from recell.procedures import customers, fencing, point_in_time_recovery, restoring
from recell.procedures.cascade import relieving
from tests.unit.cli import objects, recoveries
from tests.unit.cli.conftest import Shell
from tests.unit.cli.objects import Object
from tests.unit.cli.recoveries import LEFT, NEW, RUN

Make = Callable[..., Shell]


def told(cluster: Shell, *arguments: str) -> Any:
    result = cluster(*arguments, "-o", "json")
    assert result.err == ""
    return json.loads(result.out)


def changed(items: list[Object], kind: str, name: str, change: Callable[[Object], Any]) -> list[Object]:
    for item in items:
        if (item["kind"], item["metadata"]["name"]) == (kind, name):
            change(item)
    return items


# --- where


def where(cluster: Shell, customer: str) -> Any:
    (router,) = told(cluster, "where", customer)["routers"]
    return router


def causes(router: Any) -> list[str]:
    return [why["cause"] for why in router["why"]]


def test_a_customer_at_home_needs_no_reason(shell: Make) -> None:
    found = where(shell(objects.well()), "acme")
    spec = Placement.model_validate(objects.placement()).spec
    assert (found["slot"], found["slots"]) == (domain.slot_of("acme", spec.slots), spec.slots)
    assert found["home"] == found["cell"]
    assert (found["access"], found["why"], found["holds"]) == ("Full", [], [])


def test_a_customer_whose_cell_is_out_is_told_why(shell: Make) -> None:
    away = where(shell(recoveries.moving()), "c-17")
    assert (away["home"], away["homePhase"], away["access"]) == ("cell-b", "Recovering", "Rejected")
    assert "cell" not in away
    assert causes(away) == ["Hold", "OffHome"]
    assert away["holds"][0]["holder"] == f"RecoveryRun/{RUN}"
    reads = where(shell(recoveries.promoting()), "c-17")
    assert (reads["home"], reads["access"]) == ("cell-b", "ReadOnly")
    assert reads["cell"] in ("cell-a", "cell-c")


def test_with_shared_data_any_cell_serves_and_a_customer_that_stays_is_told_so(shell: Make) -> None:
    cluster = shell(objects.troubled())
    spec = Placement.model_validate(cluster.api.read("Placement", "shop")).spec
    names = {domain.slot_of(f"c-{number}", spec.slots): f"c-{number}" for number in range(20_000)}
    index, serving = domain.index_of(spec, "cell-b"), domain.decode_table(spec.serving)
    stays, leaves = (
        next(slot for slot in domain.slots_of(spec, "cell-b") if (serving[slot] == index) is stay)
        for stay in (True, False)
    )
    kept, moved = where(cluster, names[stays]), where(cluster, names[leaves])
    assert (kept["cell"], kept["access"], causes(kept)) == ("cell-b", "Full", ["Hold"])
    assert "this one among them" in kept["why"][0]["message"]
    assert (moved["home"], moved["cell"], moved["access"]) == ("cell-b", "cell-a", "Full")
    assert causes(moved) == ["Hold", "OffHome"]


def test_when_every_cell_is_held_nobody_leaves(shell: Make) -> None:
    holds = [objects.hold(f"cell-{n}", 50, "Draining", "Person", "alice", "trial") for n in "abc"]
    found = where(shell([objects.router(), objects.placement(holds), objects.cell("cell-a")]), "acme")
    assert found["home"] == found["cell"]
    assert "so all stay" in found["why"][0]["message"]


def test_a_router_that_knows_no_customers_says_among_which_cells_they_are_divided(shell: Make) -> None:
    gateway = {"type": "Gateway", "customerData": "Shared", "gateway": {"parentRefs": [{"name": "public"}]}}
    items = changed(objects.well(), "Router", "shop", lambda item: item.update(spec=gateway))
    found = where(shell(items), "acme")
    assert found["anywhere"] == {"cell-a": "33.4%", "cell-b": "33.3%", "cell-c": "33.3%"}
    assert "slot" not in found
    text = shell(items)("where", "acme").out
    assert "This router knows no customers: each request goes to cell-a 33.4%, cell-b 33.3%" in " ".join(text.split())


def test_pins_go_before_slots_and_follow_a_replaced_cell(shell: Make) -> None:
    before = where(shell(recoveries.moving()), "globex")
    assert (before["pinned"], before["home"], causes(before)) == (True, "cell-b", ["Pin", "Hold", "OffHome"])
    after = where(shell(recoveries.replaced()), "globex")
    assert (after["home"], after["cell"], causes(after)) == (NEW, NEW, ["Pin", "Successor"])
    assert f"cell-b was replaced by {NEW}" in after["why"][0]["message"]


def test_a_customer_that_was_not_moved_is_named_with_the_run(shell: Make) -> None:
    by_name = where(shell(recoveries.replaced(2)), LEFT)
    assert (by_name["home"], causes(by_name)) == ("cell-b", ["Hold", "OffHome", "NotMoved"])
    assert by_name["why"][-1]["message"] == f"run {RUN} could not move this customer"
    spec = recoveries.spec_of(recoveries.router())[0]
    slot = domain.slot_of(LEFT, spec.slots)
    other = next(f"x-{n}" for n in range(50_000) if domain.slot_of(f"x-{n}", spec.slots) == slot)
    by_slot = where(shell(recoveries.replaced(2)), other)
    assert f"every customer of slot {slot}" in by_slot["why"][-1]["message"]
    runs_gone = [item for item in recoveries.replaced(2) if item["kind"] != "RecoveryRun"]
    assert "this customer's home was not moved there" in where(shell(runs_gone), LEFT)["why"][-1]["message"]


def test_a_home_that_was_removed_by_force_is_nobodys(shell: Make) -> None:
    made = recoveries.router()
    spec, routing = recoveries.spec_of(made)
    gone = domain.remove(spec, routing, "cell-b", force=True)
    found = where(shell([made, objects.item("Placement", "shop", gone.to_dict())]), "c-17")
    assert "home" not in found
    assert (found["access"], causes(found)) == ("Rejected", ["NoHome"])


def test_the_key_is_read_as_the_router_reads_it(shell: Make) -> None:
    by_host = objects.router()
    by_host["spec"]["haproxy"]["customerKey"] = {"type": "Host"}
    cluster = shell([by_host, objects.placement()])
    assert where(cluster, "Acme.Example.COM:8080")["key"] == "acme.example.com"
    assert where(cluster, "ACME.example.com")["slot"] == where(cluster, "acme.example.com")["slot"]


def test_where_says_what_was_not_applied_yet(shell: Make) -> None:
    def lag(router: Object) -> None:
        router["status"]["conditions"].append({"type": "Programmed", "status": "False", "reason": "Pending"})

    assert causes(where(shell(changed(objects.well(), "Router", "shop", lag)), "acme")) == ["NotApplied"]


def test_where_at_several_routers_at_one_and_at_none(shell: Make) -> None:
    other = objects.router()
    other["metadata"] = {**other["metadata"], "name": "bank"}
    cluster = shell([*objects.well(), other])
    routers = told(cluster, "where", "acme")["routers"]
    assert [(router["router"], "access" in router) for router in routers] == [("bank", False), ("shop", True)]
    assert "No Placement" in cluster("where", "acme", "--router", "bank").out
    assert [router["router"] for router in told(cluster, "where", "acme", "--router", "router/shop")["routers"]] == [
        "shop"
    ]
    wrong = cluster("where", "acme", "--router", "shopp")
    assert wrong.code == 3
    assert "Router shopp not found in namespace shop: there is shop" in wrong.err
    assert shell([])("where", "acme").code == 3


# --- customers


def test_customers_of_a_cell_and_where_they_are(shell: Make) -> None:
    found = told(shell(recoveries.promoting()), "customers", "cell-b")
    assert (found["slots"], found["of"], found["share"], found["pins"]) == (341, 1024, "33.3%", ["globex"])
    assert sum(part["slots"] for part in found["served"]) == 341
    assert {part["access"] for part in found["served"]} == {"ReadOnly"}
    assert sorted(pin for part in found["served"] for pin in part["pins"]) == ["globex"]
    assert found["ranges"].startswith("1,4,")
    new = told(shell(recoveries.promoting()), "customers", NEW)
    assert (new["origin"], new["slots"], new["served"]) == ("cell-b", 0, [])
    assert new["run"]["name"] == RUN


def test_counts_are_those_that_were_told_with_who_told_them(shell: Make) -> None:
    running = told(shell(recoveries.moving()), "customers", "cell-b")["run"]
    assert (running["progress"]["done"], running["progress"]["of"]) == (40, 120)
    silent = shell(recoveries.moving(None, None))
    assert "progress" not in told(silent, "customers", "cell-b")["run"]
    assert "unknown: nobody told" in silent("customers", "cell-b").out
    assert "40 of an unknown number" in shell(recoveries.moving(40, None))("customers", "cell-b").out
    ended = told(shell(recoveries.replaced(2)), "customers", "cell-b")["run"]["result"]["customers"]
    assert ended == {
        "affected": 120,
        "source": "Migrate",
        "moved": 118,
        "restored": 0,
        "failed": 2,
        "failedNames": [LEFT, "c-225"],
    }


def test_a_count_that_nobody_told_is_not_made_up(shell: Make) -> None:
    def uncounted(run: Object) -> None:
        del run["status"]["result"]["customers"]["affected"]
        run["status"]["result"]["customers"] |= {"failed": 30, "source": None}

    items = changed(recoveries.replaced(2), "RecoveryRun", RUN, uncounted)
    shown = " ".join(shell(items)("customers", "cell-b").out.split())
    assert "118 moved, of an unknown number; 30 failed: among them c-127, c-225" in shown
    assert "counted by nobody knows whom" in shown


def test_a_rehearsal_moves_nobody(shell: Make) -> None:
    def rehearsed(run: Object) -> None:
        run["spec"]["dryRun"] = True

    items = changed(recoveries.moving(), "RecoveryRun", RUN, rehearsed)
    assert "run" not in told(shell(items), "customers", "cell-b")


def test_customers_of_a_cell_that_is_not_there(shell: Make) -> None:
    result = shell(recoveries.moving())("customers", "cell-x")
    assert result.code == 3
    assert "Cell cell-x not found" in result.err


# --- plan and recover


def test_plan_of_each_new_strategy_has_its_steps_and_questions(shell: Make) -> None:
    def planned(*failed: str) -> Any:
        return told(shell(recoveries.failed(*failed)), "plan", "cell-b")

    replace, restore, rewind = planned(), planned("Corrupted"), planned("Corrupted", "DataCorruption")
    assert [plan["strategy"] for plan in (replace, restore, rewind)] == [
        recoveries.REPLACE,
        recoveries.RESTORE,
        recoveries.REWIND,
    ]
    assert [step["name"] for step in rewind["steps"]][:3] == [
        "isolate-cell",
        "move-active-customers",
        "choose-recovery-point",
    ]
    assert [asked["gate"] for asked in rewind["asks"]] == ["accept-data-loss", "promote"]
    assert [asked["gate"] for asked in restore["asks"]] == ["accept-data-loss"]
    assert all(plan["foreseen"] == [] and plan["outcome"] == "Starts" for plan in (replace, restore, rewind))


@pytest.mark.parametrize(
    ("strategy", "gate"),
    [
        ("CellRestart", "unseen-workloads"),
        ("TrafficDrainAndReplace", "unfenced-source"),
        ("IsolateAndRestoreFromBackup", "unfenced-source"),
    ],
)
def test_plan_says_what_a_cluster_that_cannot_be_reached_means(shell: Make, strategy: str, gate: str) -> None:
    why = "Secret shop/cluster-b (key kubeconfig): the API server has not answered since 02:50"

    def lost(cell: Object) -> None:
        condition = {"type": "ClusterReachable", "status": "False", "reason": "Unreachable", "message": why}
        cell["status"]["conditions"] = [condition | {"lastTransitionTime": "2026-11-25T02:51:00Z"}]

    items = changed(recoveries.failed(), "Cell", "cell-b", lost)
    asked = told(shell(items), "plan", "cell-b", "--strategy", strategy)["asks"][0]
    assert (asked["gate"], why in asked["when"]) == (gate, True)
    assert "ClusterReachable=False" in shell(items)("status").out


@pytest.mark.parametrize(("permitted", "gates"), [("Isolate", ["unfenced-source"]), ("Leave", [])])
def test_plan_says_what_a_lost_cluster_means_for_a_cell_that_is_isolated_and_left_to_a_person(
    shell: Make, permitted: str, gates: list[str]
) -> None:
    def lost(cell: Object) -> None:
        condition = {"type": "ClusterReachable", "status": "False", "reason": "Unreachable", "message": "no answer"}
        cell["status"]["conditions"] = [condition | {"lastTransitionTime": "2026-11-25T02:51:00Z"}]

    items = changed(recoveries.failed("Corrupted", "MultipleCell"), "Cell", "cell-b", lost)
    items = [*items, objects.policy(manualIntervention={"corruptedCell": permitted})]
    assert [asked["gate"] for asked in told(shell(items), "plan", "cell-b")["asks"]] == gates


def jobs(**named: str) -> Object:
    return {"data": {"type": "Jobs", "jobs": named}}


@pytest.mark.parametrize(
    ("strategy", "spec", "step", "reason"),
    [
        ("TrafficDrainAndReplace", {"templateRef": None}, "provision-replacement", "NoTemplate"),
        ("TrafficDrainAndReplace", {"templateRef": {"name": "gone"}}, "provision-replacement", "TemplateMissing"),
        (
            "PointInTimeRecovery",
            {"templateRef": {"name": "shop-cell", "parameters": [{"name": "SIZE", "value": "9"}]}},
            "create-recovery-environment",
            "ProvisioningFailed",
        ),
        ("TrafficDrainAndReplace", {"data": {}}, "move-customers", "NoDataProvider"),
        ("TrafficDrainAndReplace", jobs(accessible="a"), "move-customers", "MigrationFailed"),
        ("IsolateAndRestoreFromBackup", {"data": {}}, "choose-backup", "NoInventory"),
        ("PointInTimeRecovery", jobs(inventory="a"), "restore-data", "RestoreFailed"),
    ],
)
def test_plan_foresees_the_step_that_would_fail(
    shell: Make, strategy: str, spec: Object, step: str, reason: str
) -> None:
    plan = told(shell(recoveries.failed(**spec)), "plan", "cell-b", "--strategy", strategy)
    assert [(found["step"], found["reason"]) for found in plan["foreseen"]] == [(step, reason)]
    assert plan["outcome"] == "Starts"


@pytest.mark.parametrize(
    "data",
    [
        {"type": "VolumeSnapshots", "volumeSnapshots": {"claims": ["orders"]}},
        {"type": "CloudNativePG", "cloudNativePG": {"cluster": "orders"}},
        {"type": "Velero", "velero": {"claims": ["orders"]}},
    ],
)
@pytest.mark.parametrize("strategy", ["TrafficDrainAndReplace", "IsolateAndRestoreFromBackup", "PointInTimeRecovery"])
def test_plan_foresees_nothing_where_a_provider_restores_the_whole_cell(
    shell: Make, strategy: str, data: Object
) -> None:
    plan = told(shell(recoveries.failed(data=data)), "plan", "cell-b", "--strategy", strategy)
    assert plan["foreseen"] == []


def test_plan_foresees_an_unaccepted_template_too_many_made_cells_and_shared_data(shell: Make) -> None:
    plan = ("plan", "cell-b", "--strategy", "IsolateAndRestoreFromBackup")
    unaccepted = [i for i in recoveries.failed() if i["kind"] != "CellTemplate"] + [
        recoveries.template(False, "no name")
    ]
    assert [found["reason"] for found in told(shell(unaccepted), *plan)["foreseen"]] == ["ProvisioningFailed"]
    few = objects.policy(limits={"maxMadeCells": 1})
    crowded = [*(i for i in recoveries.failed() if i["kind"] != "RecoveryPolicy"), few, recoveries.made()]
    assert [found["reason"] for found in told(shell(crowded), *plan)["foreseen"]] == ["TooManyMadeCells"]

    def shared(router: Object) -> None:
        router["spec"]["customerData"] = "Shared"

    items = changed(recoveries.failed(), "Router", "shop", shared)
    assert [found["reason"] for found in told(shell(items), *plan)["foreseen"]] == ["DataIsShared"]
    replace = told(shell(items), "plan", "cell-b", "--strategy", "TrafficDrainAndReplace")
    assert (replace["foreseen"], replace["asks"]) == ([], [])


def test_recover_says_to_when_and_from_which_backup(shell: Make) -> None:
    cluster = shell(recoveries.failed("Corrupted", "DataCorruption"))
    result = cluster(
        *("recover", "cell-b", "--strategy", "pointintimerecovery", "--to-time", "2026-11-25T02:30:00.9+01:00"),
        *("--backup", "full-0312", "--yes", "--no-wait", "-o", "name"),
    )
    assert result.code == 0, result.err
    spec = cluster.api.read("RecoveryRun", result.out.strip())["spec"]
    assert spec["recoveryTarget"] == {"time": "2026-11-25T01:30:00Z", "backupID": "full-0312"}
    plan = told(cluster, "plan", "cell-b", "--backup", "full-0312")
    assert plan["recoveryTarget"] == {"backupID": "full-0312"}


@pytest.mark.parametrize(
    ("items", "arguments", "words"),
    [
        (
            recoveries.failed(),
            ("--to-time", "2026-11-25T01:00:00Z"),
            "--to-time means nothing to TrafficDrainAndReplace",
        ),
        (recoveries.failed(), ("--strategy", "CellRestart", "--backup", "b"), "--backup means nothing to CellRestart"),
        (recoveries.failed("Corrupted"), ("--to-time", "2026-11-25T03:00:01Z"), "is in the future"),
        (recoveries.failed("Corrupted"), ("--to-time", "2026-11-25T01:00:00"), "no time zone"),
        (recoveries.failed("Corrupted"), ("--to-time", "2h"), "is no time"),
    ],
)
def test_what_is_asked_for_is_never_left_out_silently(
    shell: Make, items: list[Object], arguments: tuple[str, ...], words: str
) -> None:
    cluster = shell(items)
    result = cluster("recover", "cell-b", "--yes", *arguments)
    assert result.code == 2
    assert words in result.err
    assert cluster.api.writes == []


# --- gates


def test_every_gate_of_the_procedures_has_a_question() -> None:
    sources = [path.read_text() for path in Path(recell.procedures.__file__).parent.rglob("*.py")]
    literal = {gate for text in sources for gate in re.findall(r'(?:Ask\(|inconclusive\()[^")]*"([a-z-]+)"', text)}
    moving = {customers.ACCEPT_LOSS, customers.PARTIAL, customers.UNVERIFIED, customers.NOT_READABLE}
    named = {restoring.UNVERIFIED, fencing.UNFENCED, point_in_time_recovery.PROMOTE, SYSTEMIC, relieving.LIFT, "start"}
    every = literal | moving | named
    assert {"unseen-workloads", "unknown-capacity", "unverified-replacement"} <= literal
    assert {gate for gate in every if not gates.question(gate).approving} == set()
    assert gates.question("of-a-newer-version").asks == "Open the gate of-a-newer-version?"


@pytest.mark.parametrize(
    ("items", "gate", "words"),
    [
        (recoveries.losing(), "accept-data-loss", "Accept that customers lose"),
        (recoveries.partly_moved(), "partial-move", "leave the others behind"),
        (recoveries.promoting(), "promote", "Serve the customers from the restored data"),
    ],
)
def test_a_gate_is_asked_in_plain_words_with_the_command_that_opens_it(
    shell: Make, items: list[Object], gate: str, words: str
) -> None:
    cluster = shell(items, answers=["y\n"])
    for command in (("status",), ("customers", "cell-b"), ("watch", RUN)):
        shown = " ".join(cluster(*command).out.split())
        assert words in shown, command
        assert f"recell approve {RUN} --gate {gate} -n shop" in shown, command
    (run,) = told(cluster, "status")["runs"]
    assert words in run["awaiting"]["question"]
    asked = cluster("approve", RUN, "--gate", gate)
    assert asked.code == 0
    assert words in " ".join(asked.out.split())
    assert "If approved:" in asked.out


# --- what came of a run


def test_the_result_of_a_run_is_one_shape_everywhere(shell: Make) -> None:
    cluster = shell(recoveries.promoting())
    (run,) = told(cluster, "status")["runs"]
    assert run["result"] == {
        "replacement": NEW,
        "emergencyCells": [],
        "customers": {
            "affected": 120,
            "source": "Restore",
            "moved": 0,
            "restored": 120,
            "failed": 0,
            "failedNames": [],
        },
        "recoveryPoint": {"time": "2026-11-25T00:45:00Z", "backupID": "full-0312", "expected": False},
        "dataLoss": {"from": "2026-11-25T00:45:00Z", "to": "2026-11-25T02:45:00Z", "length": "2h"},
        "conflicts": [
            "order 4711 of c-17 was written in cell-a",
            "order 4712 of c-17 was written in cell-a",
        ],
        "remains": [],
    }
    assert run["recoveryTarget"] == {"time": "2026-11-25T00:45:00Z"}
    (listed,) = told(cluster, "runs")["runs"]
    watched = json.loads(cluster("watch", RUN, "-o", "json").out.splitlines()[-1])["run"]
    assert listed["result"] == watched["result"] == run["result"]


def test_a_point_that_is_only_expected_says_so_and_goes_with_the_run(shell: Make) -> None:
    (run,) = told(shell(recoveries.restoring()), "runs")["runs"]
    assert run["result"]["recoveryPoint"]["expected"] is True
    assert run["result"]["dataLoss"]["length"] == "2h"

    def failed(item: Object) -> None:
        item["status"] |= {"phase": "Failed"}

    (run,) = told(shell(changed(recoveries.restoring(), "RecoveryRun", RUN, failed)), "runs")["runs"]
    assert "recoveryPoint" not in run["result"]
    assert "dataLoss" not in run["result"]


def test_a_partial_success_has_a_code_of_its_own_and_tells_what_is_left(shell: Make) -> None:
    result = shell(recoveries.replaced(2))("watch", RUN)
    assert result.code == 7
    assert f"2 failed: {LEFT}, c-225" in result.out
    assert "left to do: Remove Deployment/cell-b-web of cell-b from Git" in result.out
    assert result.out.splitlines()[-1].startswith("PartiallySucceeded: Cell cell-b was replaced by")
    assert shell(recoveries.replaced())("watch", RUN).code == 0


# --- status


def test_a_retired_cell_is_as_it_should_be_unless_customers_are_left(shell: Make) -> None:
    done = shell(recoveries.replaced())
    assert done("status", "--check").code == 0
    router = told(done, "status")["routers"][0]
    old, new = (next(cell for cell in router["cells"] if cell["name"] == name) for name in ("cell-b", NEW))
    assert (old["successor"], old["keptUntil"]) == (NEW, "2026-12-02T03:00:00Z")
    assert (new["origin"], "successor" in new) == ("cell-b", False)
    assert "recell return" not in done("status").out
    left = shell(recoveries.replaced(2))
    assert left("status", "--check").code == 1
    assert "still the home of 0.2% of the customers" in left("status").out


def test_what_keeps_a_retired_cell_is_as_the_operator_says_by_now(shell: Make) -> None:
    def said(deletion: str, git: str) -> Callable[[Object], None]:
        def change(cell: Object) -> None:
            cell["status"]["conditions"] = [
                {"type": "DeletionBlocked", "status": "True", "reason": deletion, "message": f"{deletion} it is"},
                {"type": "RemoveFromGit", "status": git, "reason": "OwnedByGit", "message": "Remove it from Git"},
            ]

        return change

    def left(deletion: str, git: str) -> list[str]:
        cluster = shell(changed(recoveries.replaced(), "Cell", "cell-b", said(deletion, git)))
        cell = next(c for c in told(cluster, "status")["routers"][0]["cells"] if c["name"] == "cell-b")
        for text in cell["remains"]:
            assert f"left to do: {text}" in cluster("status").out
        return list(cell["remains"])

    assert left("Retained", "False") == []
    assert left("Retained", "True") == ["Remove it from Git"]
    assert left("RemoveFromGit", "True") == ["Remove it from Git"]
    assert left("NoBackup", "False") == ["NoBackup it is"]


def test_with_shared_data_nobody_has_to_be_moved(shell: Make) -> None:
    def shared(router: Object) -> None:
        router["spec"]["customerData"] = "Shared"

    shown = shell(changed(recoveries.moving(None, None), "Router", "shop", shared))("customers", "cell-b").out
    assert "nobody has to be moved: the cells share their data" in shown


def test_the_hold_of_an_isolated_cell_outlives_its_run_and_is_no_orphan(shell: Make) -> None:
    cluster = shell(recoveries.isolated())
    cell = next(c for c in told(cluster, "status")["routers"][0]["cells"] if c["name"] == "cell-b")
    assert [(hold["orphaned"], hold["runOver"]) for hold in cell["holds"]] == [(False, True)]
    assert (cell["lastPhase"], cell["lastSummary"][:13]) == ("ManualInterventionRequired", "choose-backup")
    shown = cluster("status").out
    assert "ORPHANED" not in shown
    assert "stays so until a person returns the cell" in shown


def test_templates_that_cannot_be_used_are_named_with_the_cells_that_need_them(shell: Make) -> None:
    others = [item for item in recoveries.failed() if item["kind"] != "CellTemplate"]
    assert told(shell(recoveries.failed()), "status")["templates"] == []
    (absent,) = told(shell(others), "status")["templates"]
    assert (absent["reason"], absent["cells"]) == ("NotFound", ["cell-a", "cell-b"])
    refused = recoveries.template(False, "CellTemplate shop-cell: spec.objects[0].metadata.name is missing")
    (bad,) = told(shell([*others, refused]), "status")["templates"]
    assert bad["message"] == "spec.objects[0].metadata.name is missing"
    unseen = recoveries.template(None)
    assert told(shell([*others, unseen]), "status")["templates"] == []
    unseen["spec"]["objects"][0]["metadata"] = {"labels": {}}
    (bad,) = told(shell([*others, unseen]), "status")["templates"]
    assert bad["reason"] == "NotAccepted"


def test_status_shows_the_rest_where_templates_may_not_be_read(shell: Make) -> None:
    cluster = shell(recoveries.failed())
    refused = Forbidden('grant verb "list" on celltemplates.recell.dev')
    cluster.api.fails = lambda verb, path: refused if "celltemplates" in path else None
    result = cluster("status")
    assert result.code == 0
    assert "grant list on celltemplates.recell.dev" in " ".join(result.out.split())
    assert "cell-b Failed" in result.out
    assert "templates" not in told(cluster, "status")
    assert cluster("plan", "cell-b").code == 0


# --- return


def placed(cluster: Shell) -> Placement:
    return Placement.model_validate(cluster.api.read("Placement", "shop"))


def test_a_replaced_cell_is_nobodys_home_and_returned_only_by_force(shell: Make) -> None:
    cluster = shell(recoveries.replaced())
    refused = cluster("return", "cell-b", "--yes")
    assert refused.code == 1
    assert f"its customers have their home in {NEW} now: returning it brings none back" in refused.err
    assert "add --force" in refused.err
    assert cluster.api.writes == []
    before = placed(cluster).spec
    forced = cluster("return", "cell-b", "--yes", "--force")
    assert forced.code == 0
    after = placed(cluster).spec
    assert (after.holds, after.homes, after.serving) == ([], before.homes, before.serving)
    assert domain.share(after, "cell-b") == 0
    assert ANNOTATION_RETIRED not in cluster.api.read("Cell", "cell-b")["metadata"]["annotations"]
    assert "kept from now on, nobody deletes it any more" in forced.err


def test_what_a_cell_without_customers_could_still_get_is_said(shell: Make) -> None:
    def reads(router: Object) -> None:
        router["spec"]["offHome"] = "ReadOnly"

    result = shell(changed(recoveries.replaced(), "Router", "shop", reads))("return", "cell-b", "--yes")
    assert "it could only be sent reading requests of other cells' customers" in result.err


def test_a_replaced_cell_with_customers_left_gives_them_back(shell: Make) -> None:
    cluster = shell(recoveries.replaced(2), answers=["y\n"])
    result = cluster("return", "cell-b")
    assert result.code == 0
    assert f"2 of 1024 slots still have their home in it and come back; those that {NEW} has stay there" in result.err
    assert "are not started by returning it" in result.err
    spec = placed(cluster).spec
    assert domain.share(spec, "cell-b") == 2 / 1024
    assert domain.home_share(spec, NEW) == 339 / 1024


def test_corrupted_data_is_returned_only_by_force(shell: Make) -> None:
    cluster = shell(recoveries.isolated(), answers=["y\n"])
    refused = cluster("return", "cell-b", "--yes")
    assert refused.code == 1
    assert "its data is known to be corrupted" in refused.err
    assert cluster.api.writes == []
    assert cluster("return", "cell-b", "--force").code == 0
    assert placed(cluster).spec.holds == []


def test_corruption_that_a_run_was_about_counts_until_something_says_otherwise(shell: Make) -> None:
    result = shell(recoveries.isolated("Unknown"))("return", "cell-b", "--yes")
    assert result.code == 1
    assert f"run {RUN} of 2026-11-25T02:45:30Z was about that" in result.err
    assert shell(recoveries.isolated("Intact"))("return", "cell-b", "--yes").code == 0

    def checked(verdict: str) -> Callable[[Object], None]:
        def change(cell: Object) -> None:
            condition = {"type": "DataIntact", "status": verdict, "reason": "Checked", "message": "all pages read"}
            cell["status"]["conditions"] = [condition]

        return change

    intact = changed(recoveries.isolated("Unknown"), "Cell", "cell-b", checked("True"))
    assert shell(intact)("return", "cell-b", "--yes").code == 0
    corrupted = changed(recoveries.isolated("Intact"), "Cell", "cell-b", checked("False"))
    assert "condition DataIntact is False: all pages read" in shell(corrupted)("return", "cell-b", "--yes").err


def test_unknown_data_of_a_cell_that_a_run_isolated_is_said_and_returned(shell: Make) -> None:
    def unknown(run: Object) -> None:
        run["status"]["decision"]["inputs"]["dataIntegrity"] = "Unknown"

    cluster = shell(changed(recoveries.isolated("Unknown"), "RecoveryRun", RUN, unknown))
    result = cluster("return", "cell-b", "--yes")
    assert result.code == 0
    assert "nothing says whether its data is intact" in result.err


def test_a_cell_that_is_returned_can_be_reached_again(shell: Make) -> None:
    policy = {"kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "recell-cell-b-web", "uid": "p"}}
    cluster = shell([*recoveries.isolated("Intact"), policy])
    result = cluster("return", "cell-b", "--yes")
    assert result.code == 0
    assert "NetworkPolicy recell-cell-b-web is deleted: its pods can be reached again" in result.err
    assert [write for write in cluster.api.writes if "networkpolicies" in write] == [
        "delete networkpolicies.networking.k8s.io shop/recell-cell-b-web"
    ]
    hidden = shell([*recoveries.isolated("Intact"), policy])
    hidden.api.fails = lambda verb, path: Forbidden("no") if "networkpolicies" in path else None
    result = hidden("return", "cell-b", "--yes")
    assert result.code == 0
    assert "kubectl delete networkpolicy -n shop -l recell.dev/made-by=recell,recell.dev/cell=cell-b" in result.err


def test_of_a_cell_in_another_cluster_is_said_what_is_left_to_do_there(shell: Make) -> None:
    def elsewhere(cell: Object) -> None:
        cell["spec"]["cluster"] = {"kubeconfigSecretRef": {"name": "cluster-b"}}

    policy = {"kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "recell-cell-b-web", "uid": "p"}}
    cluster = shell([*changed(recoveries.isolated("Intact"), "Cell", "cell-b", elsewhere), policy])
    result = cluster("return", "cell-b", "--yes")
    assert result.code == 0
    assert not [write for write in cluster.api.writes if "networkpolicies" in write], "that is another cell's"
    assert "cell-b is in the cluster of Secret shop/cluster-b (key kubeconfig)" in result.err
    assert "kubectl delete networkpolicy -n shop -l recell.dev/made-by=recell,recell.dev/cell=cell-b" in result.err


def test_placement_show_tells_who_took_whose_place(shell: Make) -> None:
    cluster = shell(recoveries.replaced())
    assert told(cluster, "placement", "show", "shop")["successors"] == [{"cell": "cell-b", "successor": NEW}]
    assert f"cell-b: replaced by {NEW}" in cluster("placement", "show", "shop").out


def test_the_shapes_are_the_same_in_yaml(shell: Make) -> None:
    cluster = shell(recoveries.replaced(2))
    for command in (("where", LEFT), ("customers", "cell-b")):
        as_yaml = yaml.safe_load(cluster(*command, "-o", "yaml").out)
        assert json.dumps(told(cluster, *command), sort_keys=True) == json.dumps(as_yaml, sort_keys=True, default=str)
