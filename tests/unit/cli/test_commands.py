"""What each command reads, writes, prints and returns, on a behaving API server in memory."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from recell.api import Placement, Router
from recell.api.meta import ANNOTATION_ACKNOWLEDGE, ANNOTATION_PLACEMENT_UID, FINALIZER
from recell.api.placement import Holder
from recell.domain import placement as domain
from recell.domain.placement import Routing
from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound, Retryable
from tests.unit.cli import cascades, objects
from tests.unit.cli.conftest import Shell
from tests.unit.cli.fake_api import FakeApi
from tests.unit.cli.objects import NOW, Object

Make = Callable[..., Shell]


def failed(**failure: str) -> list[Object]:
    return [
        *(item for item in objects.well() if item["metadata"]["name"] != "cell-b"),
        objects.cell("cell-b", "Failed", failure=objects.failure(**failure)),
    ]


def phase(name: str, value: str, **more: Any) -> Callable[[FakeApi], None]:
    """The operator moves the run on."""

    def change(api: FakeApi) -> None:
        run = api.read("RecoveryRun", name)
        api.put({**run, "status": {**run.get("status", {}), "phase": value, **more}})

    return change


# --- status and runs


def test_status_is_one_shape_for_people_and_scripts(shell: Make) -> None:
    cluster = shell(objects.troubled())
    shown = cluster("status")
    assert (shown.code, shown.err) == (0, "")
    assert "cell-b  Recovering" in shown.out
    told = json.loads(cluster("status", "-o", "json").out)
    assert json.dumps(told, sort_keys=True) == json.dumps(
        yaml.safe_load(cluster("status", "-o", "yaml").out), sort_keys=True, default=str
    )
    cell = told["routers"][0]["cells"][1]
    assert cell["name"] == "cell-b"
    assert cell["share"] == {"home": "33.3%", "asked": "16.7%", "applied": "33.3%"}
    assert cell["holds"][0]["holder"] == "RecoveryRun/cell-b-7fk2p"
    assert told["runs"][0]["step"] == "drain-traffic"
    assert cluster.api.writes == []


def test_status_check_answers_by_its_code(shell: Make) -> None:
    assert shell(objects.well())("status", "--check").code == 0
    assert shell(objects.troubled())("status", "--check").code == 1
    assert shell(objects.troubled())("status", "cell-a", "--check").code == 0


def test_status_of_what_is_not_there_says_what_is(shell: Make) -> None:
    result = shell(objects.well())("status", "cel-b")
    assert result.code == 3
    assert "Cell or Router cel-b not found in namespace shop: there is cell-b" in result.err


def test_status_watch_needs_a_terminal(shell: Make) -> None:
    assert shell(objects.well())("status", "--watch").code == 2


def test_a_hold_whose_run_is_over_is_called_orphaned(shell: Make) -> None:
    left = objects.hold("cell-b", 50, "Draining", "RecoveryRun", "gone", "increment 3 of 10")
    cluster = shell([*(i for i in objects.well() if i["kind"] != "Placement"), objects.placement([left])])
    assert "ORPHANED" in cluster("status").out
    told = json.loads(cluster("status", "-o", "json").out)
    assert told["routers"][0]["cells"][1]["holds"][0]["orphaned"] is True


def test_runs_by_cell_activity_and_form(shell: Make) -> None:
    older = objects.run("cell-a-x", "Succeeded", "cell-a")
    older["metadata"]["creationTimestamp"] = objects.ago(9000)
    cluster = shell([older, objects.draining()])
    assert cluster("runs", "-o", "name").out == "cell-b-7fk2p\ncell-a-x\n"
    assert cluster("runs", "--active", "-o", "name").out == "cell-b-7fk2p\n"
    assert cluster("runs", "cell-a", "-o", "name").out == "cell-a-x\n"
    assert [run["phase"] for run in json.loads(cluster("runs", "-o", "json").out)["runs"]] == ["Draining", "Succeeded"]


# --- errors


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Forbidden('list cells.recell.dev shop: permission missing; grant verb "list"'), 3, "grant verb"),
        (Retryable("GET /apis: no answer within 10 s"), 3, "no answer within 10 s"),
        (NotFound("list cells.recell.dev"), 3, "install Recell there"),
        (BadInput("spec.reason:\n too long"), 2, "spec.reason: too long"),
    ],
)
def test_an_error_is_one_line_with_its_code(shell: Make, error: Exception, code: int, words: str) -> None:
    cluster = shell(objects.well())
    cluster.api.fails = lambda verb, path: error
    result = cluster("status")
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


def test_an_object_that_cannot_be_read_is_named_with_its_field(shell: Make) -> None:
    broken = objects.cell("cell-x", spec={"weight": "many"})
    result = shell([broken])("status")
    assert result.code == 3
    assert "Cell cell-x in shop cannot be read: spec.weight" in result.err


def test_without_a_kubeconfig_the_place_is_named(shell: Make) -> None:
    cluster = shell([], environ={"KUBECONFIG": "/nowhere/config"})
    result = cluster("status")
    assert result.code == 3
    assert "no kubeconfig at /nowhere/config" in result.err


def test_what_stands_after_the_command_wins(shell: Make) -> None:
    cluster = shell(objects.well())
    assert "not found in namespace shop" in cluster("watch", "gone").err
    assert "not found in namespace bank" in cluster("watch", "gone", "-n", "bank").err
    assert "not found in namespace bank" in cluster("placement", "init", "gone", "-n", "bank").err


# --- plan


def test_plan_decides_without_writing(shell: Make) -> None:
    cluster = shell(failed())
    result = cluster("plan", "cell-b", "-o", "json")
    told = json.loads(result.out)
    assert result.code == 0
    assert (told["strategy"], told["row"], told["outcome"]) == ("CellRestart", "single-cell-low-intact", "Starts")
    assert [step["name"] for step in told["steps"]] == [name for name, _ in objects.STEPS]
    assert told["numbers"]["steps.drainPercent"] == "50%"
    assert "why" not in told
    assert cluster.api.writes == []


def test_plan_takes_the_policy_that_the_operator_takes(shell: Make) -> None:
    rule = {"name": "never", "failure": "SingleCell", "strategy": "ManualIntervention"}
    own = objects.policy("strict", "Approve", rules=[rule], steps={"drainPercent": "70%"})
    of_router = objects.router()
    of_router["spec"]["policyRef"] = {"name": "strict"}
    cluster = shell([*(i for i in failed() if i["kind"] != "Router"), of_router, own])
    told = json.loads(cluster("plan", "cell-b", "-o", "json").out)
    assert (told["policy"], told["row"]) == ("strict", "never")
    of_cell = objects.cell("cell-b", "Failed", {"policyRef": {"name": "default"}}, failure=objects.failure())
    cluster.api.put(of_cell)
    told = json.loads(cluster("plan", "cell-b", "-o", "json").out)
    assert (told["policy"], told["row"]) == ("default", "single-cell-low-intact")


@pytest.mark.parametrize(
    ("items", "arguments", "outcome", "reason"),
    [
        (objects.well(), (), "Skipped", "TargetHealthy"),
        (failed(integrity="Unknown"), (), "ManualInterventionRequired", "ManualIntervention"),
        (failed(impact="High", kind="MultipleCell"), (), "ManualInterventionRequired", "ForTheRouter"),
        ([*failed(), objects.freeze()], (), "Waits", "Frozen"),
        ([*failed(), objects.draining()], (), "Waits", "TargetBusy"),
        ([objects.cell("cell-b", "Unknown")], ("--strategy", "CellRestart"), "Waits", "HealthUnknown"),
    ],
)
def test_plan_says_what_stands_in_the_way(
    shell: Make, items: list[Object], arguments: tuple[str, ...], outcome: str, reason: str
) -> None:
    result = shell(items)("plan", "cell-b", *arguments, "-o", "json")
    told = json.loads(result.out)
    assert result.code == 1
    assert (told["outcome"], told["why"]["reason"]) == (outcome, reason)


def test_plan_shows_what_is_done_before_a_failure_is_left_to_a_person(shell: Make) -> None:
    corrupted = failed(impact="High", integrity="Corrupted", kind="MultipleCell")
    permitted = [*corrupted, objects.policy(manualIntervention={"corruptedCell": "Isolate"})]
    result = shell(permitted)("plan", "cell-b", "-o", "json")
    told = json.loads(result.out)
    assert result.code == 0
    assert (told["strategy"], told["outcome"], told["leftToPeople"]) == ("ManualIntervention", "Starts", True)
    assert [step["name"] for step in told["steps"]] == ["isolate-cell"]
    assert "automatic" not in told, "the operator does it by itself"
    frozen = json.loads(shell([*corrupted, objects.freeze()])("plan", "cell-b", "-o", "json").out)
    assert (frozen["outcome"], frozen["steps"]) == ("Waits", []), "without permission there is no step to show"


def test_plan_always_and_stated_starts_on_a_healthy_cell(shell: Make) -> None:
    told = shell(objects.well())("plan", "cell-b", "--always", "--strategy", "CellRestart", "-o", "json")
    assert told.code == 0
    assert json.loads(told.out)["row"] == "stated"


def test_plan_tells_why_the_operator_waits(shell: Make) -> None:
    told = json.loads(shell([*failed(), objects.policy(mode="Observe")])("plan", "cell-b", "-o", "json").out)
    assert told["automatic"]["reason"] == "Observe"
    assert told["outcome"] == "Starts"


def test_plan_counts_the_attempts_of_the_whole_line_as_the_operator_does(shell: Make) -> None:
    one = objects.policy(limits={"maxAttempts": 1})
    before = objects.run("cell-x-1", "Succeeded", "cell-x", startedAt=objects.ago(7200), finishedAt=objects.ago(7000))
    items = [*failed(), one, before]
    assert "automatic" not in json.loads(shell(items)("plan", "cell-b", "-o", "json").out)
    (broken,) = (item for item in items if item["kind"] == "Cell" and item["metadata"]["name"] == "cell-b")
    broken["metadata"]["labels"] = {"recell.dev/origin": "cell-x"}
    told = json.loads(shell(items)("plan", "cell-b", "-o", "json").out)
    assert told["automatic"]["reason"] == "AttemptsExhausted"


def test_plan_takes_an_abort_for_over_of_which_the_operator_shows_no_block(shell: Make) -> None:
    """How long the cell was Healthy the operator alone remembers."""
    aborted = objects.run("cell-b-1", "Aborted", "cell-b", startedAt=objects.ago(9000), finishedAt=objects.ago(8000))

    def automatic(**recovery: object) -> str | None:
        items = [*failed(), aborted]
        (broken,) = (item for item in items if item["kind"] == "Cell" and item["metadata"]["name"] == "cell-b")
        broken["status"]["recovery"] = {"attempts": 0, **recovery}
        told = json.loads(shell(items)("plan", "cell-b", "-o", "json").out)
        return told["automatic"]["reason"] if "automatic" in told else None

    assert automatic(lastRun="cell-b-1") is None
    assert automatic(lastRun="cell-b-0") == "AbortedByPerson", "the operator does not know of its end yet"


def test_plan_says_that_the_run_that_was_to_recover_the_cell_was_aborted(shell: Make) -> None:
    over = objects.run(
        "storm",
        "Aborted",
        spec={"targetRef": {"kind": "Router", "name": "shop"}, "strategy": "EmergencyScaling"},
        finishedAt=objects.ago(1),
    )
    told = json.loads(shell([*failed(), over])("plan", "cell-b", "-o", "json").out)
    assert told["automatic"]["reason"] == "CascadeAborted"


def test_plan_says_that_a_run_of_the_router_recovers_its_cells(shell: Make) -> None:
    told = json.loads(shell(cascades.working())("plan", "cell-b", "-o", "json").out)
    assert told["automatic"]["reason"] == "CascadeActive"
    assert cascades.RUN in told["automatic"]["message"]


# --- recover and watch


def test_recover_makes_a_run_with_only_what_was_said(shell: Make) -> None:
    cluster = shell(failed())
    result = cluster("recover", "cell-b", "--yes", "--no-wait", "--reason", "pager", "-o", "name")
    name = result.out.strip()
    assert result.code == 0
    assert name.startswith("cell-b-")
    assert cluster.api.read("RecoveryRun", name)["spec"] == {
        "targetRef": {"kind": "Cell", "name": "cell-b"},
        "reason": "pager",
    }


def test_recover_passes_every_option_on(shell: Make) -> None:
    cluster = shell(objects.well())
    result = cluster(
        *("recover", "cell-b", "--always", "--strategy", "CellRestart", "--urgency", "immediate"),
        *("--dry-run", "--no-wait", "-o", "json"),
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["spec"]["dryRun"] is True
    spec = cluster.api.read("RecoveryRun", json.loads(result.out)["metadata"]["name"])["spec"]
    assert spec == {
        "targetRef": {"kind": "Cell", "name": "cell-b"},
        "strategy": "CellRestart",
        "urgency": "Immediate",
        "startWhen": "Always",
        "startBefore": "2026-11-25T03:15:00Z",
        "dryRun": True,
    }


def test_recover_asks_a_person_and_takes_no_for_an_answer(shell: Make) -> None:
    cluster = shell(failed(), answers=["no\n"])
    result = cluster("recover", "cell-b")
    assert result.code == 1
    assert "Start CellRestart of cell cell-b in shop? [y/N]" in result.err
    assert "A run made now starts." in result.out
    assert cluster.api.writes == []


def test_recover_without_anybody_to_ask_needs_a_yes(shell: Make) -> None:
    cluster = shell(failed())
    result = cluster("recover", "cell-b")
    assert result.code == 2
    assert "add --yes" in result.err
    assert cluster.api.writes == []


@pytest.mark.parametrize(
    ("items", "code", "words"),
    [
        (objects.well(), 1, "add --always"),
        (failed(integrity="Unknown"), 5, "ManualInterventionRequired"),
    ],
)
def test_recover_makes_no_run_that_would_end_at_once(shell: Make, items: list[Object], code: int, words: str) -> None:
    cluster = shell(items)
    result = cluster("recover", "cell-b", "--yes")
    assert result.code == code
    assert words in result.err
    assert cluster.api.writes == []


def test_recover_makes_a_run_that_isolates_the_cell_and_leaves_it_to_a_person(shell: Make) -> None:
    items = failed(impact="High", integrity="Corrupted", kind="MultipleCell")
    cluster = shell([*items, objects.policy(manualIntervention={"corruptedCell": "Isolate"})], answers=["no\n"])
    result = cluster("recover", "cell-b")
    assert "Start ManualIntervention of cell cell-b in shop? [y/N]" in result.err
    assert "A run made now starts, and ends as ManualInterventionRequired." in result.out
    assert cluster("recover", "cell-b", "--yes", "--no-wait").code == 0


def test_recover_of_a_cell_that_is_not_there(shell: Make) -> None:
    result = shell(failed())("recover", "cell-x", "--yes")
    assert result.code == 3
    assert "Cell cell-x not found in namespace shop: there is" in result.err


def test_recover_follows_the_run_to_its_end(shell: Make) -> None:
    cluster = shell(failed())
    cluster.on_sleep = [
        phase("cell-b-00001", "Draining", startedAt=objects.ago(0)),
        phase("cell-b-00001", "Succeeded", summary="Cell cell-b is stable.", finishedAt=objects.ago(-2)),
    ]
    result = cluster("recover", "cell-b", "--yes")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[-1] == "Succeeded: Cell cell-b is stable."
    assert "+0s phase Draining" in lines or "+1s phase Draining" in lines


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ("Succeeded", 0),
        ("PartiallySucceeded", 7),
        ("Failed", 1),
        ("Escalated", 1),
        ("ManualInterventionRequired", 5),
        ("Aborted", 6),
        ("Skipped", 6),
        ("Superseded", 6),
    ],
)
def test_watch_ends_with_the_code_of_the_result(shell: Make, ended: str, code: int) -> None:
    result = shell([*objects.well(), objects.run(phase=ended, summary="Because.")])("watch", "cell-b-7fk2p")
    assert result.code == code
    assert result.out.splitlines()[-1] == f"{ended}: Because."


def test_watch_follows_an_escalation_into_its_successor(shell: Make) -> None:
    first = objects.run(phase="Escalated", escalation={"to": "cell-b-second", "level": 0})
    second = objects.run("cell-b-second", "Restoring")
    cluster = shell([*objects.well(), first, second])
    cluster.on_sleep = [phase("cell-b-second", "ManualInterventionRequired", summary="A person has to look.")]
    result = cluster("watch", "cell-b-7fk2p")
    assert result.code == 5
    assert "run cell-b-second: Restoring" in result.out


def test_watch_in_a_pipe_ends_at_a_gate_unless_a_time_is_given(shell: Make) -> None:
    awaiting = {"gate": "unverified-drain", "decisionID": "d2", "since": objects.ago(5), "message": "No figures."}
    run = objects.run(phase="AwaitingApproval", awaiting=awaiting)
    result = shell([*objects.well(), run])("watch", "cell-b-7fk2p")
    assert result.code == 4
    assert "recell approve cell-b-7fk2p --gate unverified-drain -n shop" in result.err
    cluster = shell([*objects.well(), run])
    cluster.on_sleep = [phase("cell-b-7fk2p", "Succeeded", awaiting=None)]
    assert cluster("watch", "cell-b-7fk2p", "--timeout", "1m").code == 0


def test_watch_gives_up_after_its_time_and_says_that_the_run_goes_on(shell: Make) -> None:
    result = shell([*objects.well(), objects.draining()])("watch", "cell-b-7fk2p", "--timeout", "3s")
    assert result.code == 4
    assert "still Draining after 3s; it goes on" in result.err


def test_watch_outlives_an_api_server_that_is_away(shell: Make) -> None:
    cluster = shell([*objects.well(), objects.draining()])

    def away(api: FakeApi) -> None:
        api.fails = lambda verb, path: Retryable("GET: no answer within 10 s")

    def back(api: FakeApi) -> None:
        api.fails = lambda verb, path: None
        phase("cell-b-7fk2p", "Succeeded")(api)

    cluster.on_sleep = [away, lambda api: None, back]
    result = cluster("watch", "cell-b-7fk2p")
    assert result.code == 0
    assert result.out.count("no answer from the API server, asking again") == 1


def test_watch_json_is_one_object_for_each_change(shell: Make) -> None:
    cluster = shell([*objects.well(), objects.draining()])
    cluster.on_sleep = [lambda api: None, phase("cell-b-7fk2p", "Succeeded", summary="Done.")]
    result = cluster("watch", "cell-b-7fk2p", "-o", "json")
    told = [json.loads(line) for line in result.out.splitlines()]
    assert [each["run"]["phase"] for each in told] == ["Draining", "Succeeded"]
    assert [cell["name"] for cell in told[0]["cells"]] == ["cell-a", "cell-b", "cell-c"]


def metrics(**cells: tuple[int, int]) -> str:
    requests = "".join(f'recell_router_cell_requests_total{{cell="{n[:4]}-{n[4]}"}} {v[0]}\n' for n, v in cells.items())
    failures = "".join(f'recell_router_cell_failures_total{{cell="{n[:4]}-{n[4]}"}} {v[1]}\n' for n, v in cells.items())
    return (
        "# TYPE recell_router_cell_requests_total counter\n"
        f"{requests}# TYPE recell_router_cell_failures_total counter\n{failures}"
    )


def test_watch_shows_requests_and_errors_summed_over_the_router_pods(shell: Make) -> None:
    pods = {
        "shop-1": [metrics(cellb=(100, 5)), metrics(cellb=(110, 5)), metrics(cellb=(120, 9))],
        "shop-2": [metrics(cellb=(900, 0)), metrics(cellb=(910, 1)), metrics(cellb=(920, 2))],
    }
    cluster = shell([*objects.well(), objects.draining()], metrics=pods)
    cluster.on_sleep = [lambda api: None, phase("cell-b-7fk2p", "Succeeded")]
    lines = cluster("watch", "cell-b-7fk2p").out.splitlines()
    assert [line for line in lines if "errors cell-b" in line] == ["+2m9s errors cell-b 5.0% of 20.0 requests/s"]


def test_a_router_pod_that_was_restarted_is_counted_anew(shell: Make) -> None:
    pods = {
        "shop-1": [metrics(cellb=(100, 50)), metrics(cellb=(10, 0)), metrics(cellb=(20, 1)), metrics(cellb=(30, 2))]
    }
    cluster = shell([*objects.well(), objects.draining()], metrics=pods)
    cluster.on_sleep = [lambda api: None, lambda api: None, phase("cell-b-7fk2p", "Succeeded")]
    lines = cluster("watch", "cell-b-7fk2p").out.splitlines()
    assert [line for line in lines if "errors cell-b" in line] == ["+2m10s errors cell-b 10.0% of 10.0 requests/s"]


def test_watch_does_without_rates_where_it_may_not_read_them(shell: Make) -> None:
    cluster = shell([*objects.well(), objects.draining()], metrics={"shop-1": [""]})
    cluster.api.connection.status = 403
    cluster.on_sleep = [phase("cell-b-7fk2p", "Succeeded")]
    result = cluster("watch", "cell-b-7fk2p")
    assert result.code == 0
    assert "errors" not in result.out


def test_watch_of_a_run_that_is_not_there(shell: Make) -> None:
    result = shell([*objects.well(), objects.draining()])("watch", "cell-b-7fk2")
    assert result.code == 3
    assert "there is cell-b-7fk2p" in result.err


# --- a person's word


def waiting(decision: str = "d2") -> Object:
    awaiting = {"gate": "unverified-drain", "decisionID": decision, "since": objects.ago(40), "message": "No figures."}
    earlier = {"control": {"approvals": [{"gate": "start", "decisionID": "d1"}]}}
    return objects.run(phase="AwaitingApproval", spec=earlier, awaiting=awaiting)


def test_approve_adds_to_the_approvals_what_was_shown(shell: Make) -> None:
    cluster = shell([waiting()], answers=["y\n"])
    result = cluster("approve", "cell-b-7fk2p")
    assert result.code == 0
    assert "No figures." in result.out
    assert cluster.api.read("RecoveryRun", "cell-b-7fk2p")["spec"]["control"]["approvals"] == [
        {"gate": "start", "decisionID": "d1"},
        {"gate": "unverified-drain", "decisionID": "d2"},
    ]


def test_approve_does_not_approve_another_question(shell: Make) -> None:
    cluster = shell([waiting()])
    cluster.api.before_write = lambda: cluster.api.put(waiting("d3"))
    result = cluster("approve", "cell-b-7fk2p", "--yes")
    assert result.code == 1
    assert "asks something else by now" in result.err
    approvals = cluster.api.read("RecoveryRun", "cell-b-7fk2p")["spec"]["control"]["approvals"]
    assert [each["gate"] for each in approvals] == ["start"]


@pytest.mark.parametrize(
    ("run", "arguments", "words"),
    [
        (objects.draining(), (), "waits for no approval: it is Draining"),
        (waiting(), ("--gate", "accept-data-loss"), "waits at gate unverified-drain, not at accept-data-loss"),
        (objects.run(phase="Succeeded"), (), "has ended (Succeeded)"),
    ],
)
def test_approve_of_what_does_not_wait(shell: Make, run: Object, arguments: tuple[str, ...], words: str) -> None:
    cluster = shell([run])
    result = cluster("approve", "cell-b-7fk2p", "--yes", *arguments)
    assert result.code == 1
    assert words in result.err
    assert cluster.api.writes == []


def test_pause_resume_abort_touch_control_alone(shell: Make) -> None:
    cluster = shell([objects.draining()])
    before = cluster.api.read("RecoveryRun", "cell-b-7fk2p")["spec"]
    assert cluster("pause", "recoveryrun/cell-b-7fk2p").code == 0
    assert cluster.api.read("RecoveryRun", "cell-b-7fk2p")["spec"] == {**before, "control": {"paused": True}}
    assert cluster("pause", "cell-b-7fk2p").code == 0
    assert len(cluster.api.writes) == 1
    assert cluster("resume", "cell-b-7fk2p").code == 0
    assert not cluster.api.read("RecoveryRun", "cell-b-7fk2p")["spec"]["control"].get("paused")
    cluster.answers = ["n\n", "y\n"]
    declined = cluster("abort", "cell-b-7fk2p")
    assert declined.code == 1
    assert "Abort run cell-b-7fk2p (Draining, drain-traffic)? It cannot be taken back." in declined.err
    assert cluster("abort", "cell-b-7fk2p").code == 0
    assert cluster.api.read("RecoveryRun", "cell-b-7fk2p")["spec"]["control"]["abort"] is True


@pytest.mark.parametrize("command", ["pause", "resume", "abort"])
def test_a_run_that_has_ended_takes_no_orders(shell: Make, command: str) -> None:
    cluster = shell([objects.run(phase="Failed")])
    result = cluster(command, "cell-b-7fk2p", "--yes")
    assert result.code == 1
    assert "has ended (Failed)" in result.err
    assert cluster.api.writes == []


def test_acknowledge_names_the_run_that_was_seen(shell: Make) -> None:
    blocked = {"lastRun": "cell-b-old", "blocked": {"reason": "AbortedByPerson", "message": "acknowledge it"}}
    cluster = shell([objects.cell("cell-b", "Failed", recovery=blocked)])
    assert cluster("acknowledge", "cell-b").code == 0
    cell = cluster.api.read("Cell", "cell-b")
    assert cell["metadata"]["annotations"] == {ANNOTATION_ACKNOWLEDGE: "cell-b-old"}
    assert shell(objects.well())("acknowledge", "cell-b").code == 1


def test_what_ends_in_another_way_cannot_be_acknowledged(shell: Make) -> None:
    until = {"lastRun": "cell-b-old", "nextAllowedAt": "2026-11-25T04:00:00Z"}
    cooldown = {**until, "blocked": {"reason": "Cooldown", "message": "a run of yours at once: recell recover cell-b"}}
    cluster = shell([objects.cell("cell-b", "Failed", recovery=cooldown)])
    result = cluster("acknowledge", "cell-b")
    assert result.code == 1
    assert result.err == (
        "error: cell cell-b is blocked by Cooldown, which cannot be acknowledged; it ends by itself at"
        " 2026-11-25T04:00:00Z: a run of yours at once: recell recover cell-b\n"
    )
    paused = {"lastRun": "cell-b-old", "blocked": {"reason": "Paused", "message": "set spec.paused to false"}}
    cluster.api.put(objects.cell("cell-b", "Failed", recovery=paused))
    assert "blocked by Paused, which cannot be acknowledged: set spec.paused" in cluster("acknowledge", "cell-b").err
    assert cluster.api.writes == []


# --- freeze


def test_freeze_and_unfreeze(shell: Make) -> None:
    cluster = shell(objects.well())
    arguments = ("freeze", "--reason", "big sale", "--until", "2h", "--new-runs-only", "-l", "tier=gold")
    assert cluster(*arguments).code == 0
    (name,) = cluster.api.names("RecoveryFreeze")
    assert cluster.api.read("RecoveryFreeze", name)["spec"] == {
        "scope": "NewRuns",
        "reason": "big sale",
        "until": "2026-11-25T05:00:00Z",
        "selector": {"matchLabels": {"tier": "gold"}},
    }
    assert cluster("freeze").code == 0
    cluster.answers = ["n\n", "y\n"]
    declined = cluster("unfreeze", name)
    assert declined.code == 1
    assert f"lifts {name}: big sale" in declined.err
    assert cluster("unfreeze", name).code == 0
    (other,) = cluster.api.names("RecoveryFreeze")
    assert cluster.api.read("RecoveryFreeze", other)["spec"]["reason"] == "frozen by Alice Ruiz"
    assert cluster("unfreeze", "freeze-9").code == 3
    assert cluster("unfreeze", "--yes").code == 0
    assert cluster.api.names("RecoveryFreeze") == []
    assert cluster("unfreeze").code == 1


@pytest.mark.parametrize("until", ["soon", "2020-01-01T00:00:00Z", "2027-01-31T06:00:00"])
def test_freeze_until_a_time_that_cannot_be(shell: Make, until: str) -> None:
    cluster = shell([])
    assert cluster("freeze", "--until", until).code == 2
    assert cluster.api.writes == []


# --- traffic by hand


def held(cluster: Shell) -> Placement:
    return Placement.model_validate(cluster.api.read("Placement", "shop"))


def test_isolate_and_return_recompute_the_table(shell: Make) -> None:
    cluster = shell(objects.well(), answers=["y\n", "y\n"])
    result = cluster("isolate", "cell-c", "--reason", "disk")
    assert result.code == 0
    assert "its share goes from 33.3% to 0%" in result.err
    isolated = held(cluster)
    assert domain.share(isolated.spec, "cell-c") == 0
    assert domain.share(isolated.spec, "cell-a") == pytest.approx(0.5, abs=0.05)
    (hold,) = isolated.spec.holds
    assert (hold.holder.kind, hold.holder.name, hold.state, hold.reason) == ("Person", "alice-ruiz", "Isolated", "disk")
    assert isolated.metadata.generation == 15
    result = cluster("return", "cell-c")
    assert result.code == 0
    assert "releases: Isolated at 0% by Person/alice-ruiz: disk" in result.err
    assert held(cluster).spec.serving == Placement.model_validate(objects.placement()).spec.serving


def test_isolating_a_cell_whose_customers_live_in_it_says_who_is_turned_away(shell: Make) -> None:
    items = [objects.router("InCell"), objects.placement(customer_data="InCell"), objects.cell("cell-c")]
    result = shell(items, answers=["n\n"])("isolate", "cell-c")
    assert result.code == 1
    assert "turned away are 33.3% of all customers instead of 0%" in result.err


def test_isolate_keeps_what_the_operator_wrote_in_between(shell: Make) -> None:
    cluster = shell(objects.well())
    draining = objects.hold("cell-b", 50, "Draining", "RecoveryRun", "cell-b-7fk2p", "increment 10 of 10")
    cluster.api.before_write = lambda: cluster.api.put(objects.placement([draining]))
    assert cluster("isolate", "cell-c", "--yes").code == 0
    spec = held(cluster).spec
    assert {hold.cell for hold in spec.holds} == {"cell-b", "cell-c"}
    assert domain.share(spec, "cell-b") == pytest.approx(1 / 6, abs=0.01)


def test_a_change_that_is_always_overtaken_gives_up(shell: Make) -> None:
    cluster = shell(objects.well())
    cluster.api.fails = lambda verb, path: Conflict("the object has been modified") if verb == "patch" else None
    result = cluster("isolate", "cell-c", "--yes")
    assert result.code == 3
    assert "Placement shop in shop changed 5 times" in result.err


def test_return_releases_what_ended_runs_left_and_not_what_a_living_one_holds(shell: Make) -> None:
    left = objects.hold("cell-b", 50, "Draining", "RecoveryRun", "ended", "put back: errors")
    living = objects.hold("cell-b", 60, "Draining", "RecoveryRun", "cell-b-7fk2p", "increment 8 of 10")
    items = [
        objects.router(),
        objects.placement([left, living]),
        objects.cell("cell-b"),
        objects.run("ended", "Failed"),
        objects.draining(),
    ]
    cluster = shell(items)
    result = cluster("return", "cell-b", "--yes")
    assert result.code == 0
    assert [hold.holder.name for hold in held(cluster).spec.holds] == ["cell-b-7fk2p"]
    assert "still at most 60% by RecoveryRun cell-b-7fk2p" in result.err
    again = cluster("return", "cell-b", "--yes")
    assert again.code == 1
    assert "it is held by RecoveryRun cell-b-7fk2p at 60%" in again.err


def test_return_gives_slots_back_that_an_ended_run_left_to_nobody(shell: Make) -> None:
    placed = objects.placement()
    spec = Placement.model_validate(placed).spec
    mine, theirs = domain.slots_of(spec, "cell-b")[:3], domain.slots_of(spec, "cell-c")[:2]
    routing = Routing.of(Router.model_validate(objects.router()))
    holder = Holder(kind="RecoveryRun", name="ended", uid="uid-ended")
    out = domain.quarantine(spec, routing, {*mine, *theirs}, holder=holder, reason="two cells failed", since=NOW)
    items = [
        objects.router(),
        {**placed, "spec": out.to_dict()},
        objects.cell("cell-b"),
        objects.run("ended", "Failed"),
    ]
    cluster = shell(items)
    result = cluster("return", "cell-b", "--yes")
    assert (result.code, "releases: 3 of its slots" in result.err) == (0, True)
    assert domain.quarantined(held(cluster).spec) == set(theirs)
    assert cluster("return", "cell-b", "--yes").code == 1


def test_without_a_placement_the_way_out_is_named(shell: Make) -> None:
    items = [item for item in objects.well() if item["kind"] != "Placement"]
    for arguments in (("isolate", "cell-a", "--yes"), ("return", "cell-a", "--yes"), ("placement", "show", "shop")):
        result = shell(items)(*arguments)
        assert result.code == 3
        assert "recell placement init shop" in result.err


def test_placement_show(shell: Make) -> None:
    told = json.loads(shell(objects.troubled())("placement", "show", "shop", "-o", "json").out)
    assert [(cell["name"], cell["home"], cell["serves"]) for cell in told["cells"]] == [
        ("cell-a", "33.4%", "83.3%"),
        ("cell-b", "33.3%", "16.7%"),
        ("cell-c", "33.3%", "0%"),
    ]
    assert [hold["cell"] for hold in told["holds"]] == ["cell-b", "cell-c"]


def test_placement_init_lifts_the_mark_and_waits_for_the_operator(shell: Make) -> None:
    marked = objects.router("InCell", annotations={ANNOTATION_PLACEMENT_UID: "uid-old"})
    cluster = shell([marked], answers=["y\n"])
    cluster.on_sleep = [lambda api: None, lambda api: api.put(objects.placement(customer_data="InCell"))]
    result = cluster("placement", "init", "shop")
    assert result.code == 0
    assert "a cell without their data" in result.err
    assert cluster.api.read("Router", "shop")["metadata"]["annotations"] == {}
    assert cluster("placement", "init", "shop").code == 1


def test_placement_init_without_an_operator_times_out(shell: Make) -> None:
    marked = objects.router(annotations={ANNOTATION_PLACEMENT_UID: "uid-old"})
    assert shell([marked])("placement", "init", "shop", "--yes", "--timeout", "5s").code == 4


# --- uninstall


def elsewhere(item: Object) -> Object:
    return {**item, "metadata": {**item["metadata"], "namespace": "bank"}}


def test_uninstall_check_refuses_while_runs_are_in_flight(shell: Make) -> None:
    cluster = shell([*objects.well(), objects.run("done", "Succeeded")])
    assert cluster("uninstall-check").code == 0
    cluster.api.put(objects.draining())
    result = cluster("uninstall-check", "-o", "json")
    assert result.code == 1
    assert [run["name"] for run in json.loads(result.out)["runs"]] == ["cell-b-7fk2p"]
    assert cluster.api.writes == []


def test_uninstall_check_looks_where_the_chart_says(shell: Make) -> None:
    items = [elsewhere(objects.draining()), *objects.well()]

    def check(**environ: str) -> int:
        cluster = shell(items, environ=environ)
        return cluster("-n", "", "uninstall-check").code

    assert check() == 1
    assert check(RECELL_NAMESPACES="shop") == 0
    assert check(RECELL_NAMESPACES="shop, bank") == 1


def test_uninstall_by_force_freezes_lets_go_and_lists_the_holds(shell: Make) -> None:
    items = objects.troubled()
    for item in items:
        if item["kind"] in ("RecoveryRun", "Cell", "Router"):
            item["metadata"]["finalizers"] = ["example.com/other", FINALIZER]
    cluster = shell(items, answers=["yes\n"])
    result = cluster("uninstall-check", "--force")
    assert result.code == 0
    assert len(cluster.api.names("RecoveryFreeze")) == 2
    for kind in ("RecoveryRun", "Cell", "Router"):
        for name in cluster.api.names(kind):
            assert cluster.api.read(kind, name)["metadata"]["finalizers"] == ["example.com/other"]
    assert "2 holds go on limiting traffic" in result.out
    writes = cluster.api.writes
    assert writes[0].startswith("create recoveryfreezes")
    before = len(writes)
    cluster.answers = ["yes\n"]
    assert cluster("uninstall-check", "--force").code == 0
    assert len(cluster.api.writes) == before
