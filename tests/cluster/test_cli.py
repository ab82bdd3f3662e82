"""Every command of the command line against a real API server, with its output and exit code.

Those that go on while something happens are programs of their own; the others run here, for the start of a program is
most of what it costs. No operator runs for these objects: their statuses are written by hand, and what a command
changed is read back from the API server.
"""

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kubernetes import client

from recell.api import KINDS, Placement
from recell.api.meta import ANNOTATION_ACKNOWLEDGE, ANNOTATION_PLACEMENT_UID, FINALIZER, GROUP, VERSION
from recell.cli.main import cli
from recell.domain import placement as domain
from tests.cluster.conftest import Kubectl
from tests.unit.cli import objects, recoveries

Object = dict[str, Any]

TIMEOUT = 180


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Fleet:
    """A namespace with a router and three cells, and the programs that a person has."""

    namespace: str
    kubeconfig: Path
    api: client.ApiClient

    def recell(self, *arguments: str, **environ: str) -> Done:
        words = [*arguments, "-n", self.namespace]
        ended = CliRunner().invoke(cli, words, prog_name="recell", env={"KUBECONFIG": str(self.kubeconfig), **environ})
        with warnings.catch_warnings():  # the end of a program closes what was still being closed; here nothing does
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Done(ended.exit_code, ended.stdout, ended.stderr)

    def started(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        program = Path(sys.executable).with_name("recell")
        return subprocess.Popen(
            [str(program), *arguments, "-n", self.namespace],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, program: subprocess.Popen[str], read: str = "") -> Done:
        """Its end; `read` is what was taken from its output before."""
        try:
            out, err = program.communicate(timeout=TIMEOUT)
        finally:
            program.kill()
        assert "Traceback" not in err, err
        return Done(program.returncode, read + out, err)

    def put(self, item: Object) -> None:
        """Created or changed, with its status."""
        kept = ("name", "labels", "annotations", "finalizers")
        body = {**item, "metadata": {name: value for name, value in item["metadata"].items() if name in kept}}
        where = self._where(item["kind"])
        try:
            self._custom.create_namespaced_custom_object(**where, body=body, _request_timeout=60)
        except client.ApiException as error:
            if error.status != 409:
                raise
            self._custom.patch_namespaced_custom_object(
                **where, name=body["metadata"]["name"], body=body, _request_timeout=60
            )
        if item.get("status"):
            self.status(item["kind"], item["metadata"]["name"], item["status"])

    def status(self, kind: str, name: str, status: Object) -> None:
        self._custom.patch_namespaced_custom_object_status(
            **self._where(kind), name=name, body={"status": status}, _request_timeout=60
        )

    def phase(self, name: str, phase: str, **status: Any) -> None:
        self.status("RecoveryRun", name, {"phase": phase, **status})

    def read(self, kind: str, name: str) -> Object:
        found: Object = self._custom.get_namespaced_custom_object(**self._where(kind), name=name, _request_timeout=60)
        return found

    def names(self, kind: str) -> list[str]:
        listed = self._custom.list_namespaced_custom_object(**self._where(kind), _request_timeout=60)
        return [item["metadata"]["name"] for item in listed["items"]]

    def delete(self, kind: str, name: str) -> None:
        self._custom.delete_namespaced_custom_object(**self._where(kind), name=name, _request_timeout=60)

    def empty(self) -> None:
        """Everything is gone, finalizers or not."""
        for kind in (each.INFO.kind for each in KINDS):
            for name in self.names(kind):
                free = {"metadata": {"finalizers": None}}
                self._custom.patch_namespaced_custom_object(
                    **self._where(kind), name=name, body=free, _request_timeout=60
                )
                self.delete(kind, name)

    @property
    def _custom(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.api)

    def _where(self, kind: str) -> dict[str, str]:
        plural = next(each.INFO.plural for each in KINDS if each.INFO.kind == kind)
        return {"group": GROUP, "version": VERSION, "namespace": self.namespace, "plural": plural}


def moment(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def fleet(crds: Object, namespace: str, kubeconfig: Path, api: client.ApiClient) -> Iterator[Fleet]:
    """cell-b has failed, the others are healthy; gone after each test."""
    made = Fleet(namespace, kubeconfig, api)
    for item in objects.well():
        made.put(item)
    made.put(objects.cell("cell-b", "Failed", share={"asked": "33.3%", "applied": "33.3%"}, failure=objects.failure()))
    yield made
    made.empty()


@pytest.fixture
def replaced(crds: Object, namespace: str, kubeconfig: Path, api: client.ApiClient) -> Iterator[Fleet]:
    """cell-b was replaced, but for two customers; gone after the test."""
    made = Fleet(namespace, kubeconfig, api)
    for item in recoveries.replaced(2):
        made.put(item)
    yield made
    made.empty()


@pytest.fixture
def draining(fleet: Fleet) -> Fleet:
    fleet.put(objects.draining())
    return fleet


def test_status(draining: Fleet) -> None:
    shown = draining.recell("status")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.isascii()
    assert "CELL    HEALTH   SHARE         ASKED  APPLIED  RUN" in shown.out
    assert "cell-b  Failed   ############  33.3%  33.3%    cell-b-7fk2p" in shown.out
    told = draining.recell("status", "-o", "json").json
    (router,) = told["routers"]
    assert [(cell["name"], cell["phase"]) for cell in router["cells"]] == [
        ("cell-a", "Healthy"),
        ("cell-b", "Failed"),
        ("cell-c", "Healthy"),
    ]
    assert (router["ready"], router["policy"]) == (True, {"name": "default", "mode": "Automatic"})
    assert draining.recell("status", "--check").code == 1
    assert draining.recell("status", "cell-a", "--check").code == 0
    everywhere = draining.recell("status", "-A", "-o", "json").json
    assert draining.namespace in {router["namespace"] for router in everywhere["routers"]}


def test_plan(fleet: Fleet) -> None:
    plan = fleet.recell("plan", "cell-b", "-o", "json")
    assert plan.code == 0
    assert (plan.json["strategy"], plan.json["outcome"]) == ("CellRestart", "Starts")
    healthy = fleet.recell("plan", "cell-a")
    assert healthy.code == 1
    assert "TargetHealthy" in healthy.out
    assert fleet.names("RecoveryRun") == []


def test_recover_in_each_way(fleet: Fleet) -> None:
    refused = fleet.recell("recover", "cell-b")
    assert refused.code == 2
    assert "add --yes" in refused.err
    named = fleet.recell("recover", "cell-b", "--yes", "--no-wait", "--reason", "pager", "-o", "name")
    assert named.code == 0
    spec = fleet.read("RecoveryRun", named.out.strip())["spec"]
    assert (spec["targetRef"], spec["reason"], spec["trigger"]) == (
        {"kind": "Cell", "name": "cell-b"},
        "pager",
        "Manual",
    )
    fleet.phase(named.out.strip(), "Failed", startedAt=moment(60))
    always = fleet.recell(
        *("recover", "cell-a", "--always", "--strategy", "CellRestart", "--urgency", "Immediate"),
        *("--dry-run", "--no-wait", "-o", "json"),
    )
    assert always.code == 0, always.err
    spec = always.json["spec"]
    assert (spec["dryRun"], spec["startWhen"], spec["urgency"]) == (True, "Always", "Immediate")


def test_recover_waits_for_the_end(fleet: Fleet) -> None:
    program = fleet.started("recover", "cell-b", "--yes", "--timeout", "150s")
    lines = ""
    for line in program.stdout or ():
        lines += line
        if line.startswith("+") and "Pending" in line:
            (name,) = fleet.names("RecoveryRun")
            fleet.phase(name, "Draining", startedAt=moment(0))
        if "phase Draining" in line:
            fleet.phase(name, "Succeeded", finishedAt=moment(0), summary="Cell cell-b is stable.")
    done = fleet.ended(program, lines)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "Succeeded: Cell cell-b is stable."


@pytest.mark.parametrize(
    ("phase", "code"), [("Succeeded", 0), ("Failed", 1), ("ManualInterventionRequired", 5), ("Aborted", 6)]
)
def test_watch_ends_with_the_code_of_the_result(draining: Fleet, phase: str, code: int) -> None:
    program = draining.started("watch", "cell-b-7fk2p", "--timeout", "150s", "-o", "json")
    first = program.stdout.readline() if program.stdout else ""
    draining.phase("cell-b-7fk2p", phase, summary="Because.")
    done = draining.ended(program, first)
    assert done.code == code, done.err
    told = [json.loads(line) for line in done.out.splitlines()]
    assert [each["run"]["phase"] for each in told] == ["Draining", phase]


def test_watch_gives_up_after_its_time(draining: Fleet) -> None:
    done = draining.recell("watch", "cell-b-7fk2p", "--timeout", "2s")
    assert done.code == 4
    assert "still Draining" in done.err


def test_where_customers_and_return_after_a_replacement(replaced: Fleet) -> None:
    done = replaced.recell("watch", recoveries.RUN)
    assert (done.code, done.err) == (7, "")
    assert f"2 failed: {recoveries.LEFT}, c-225 (counted by Migrate)" in done.out
    (left,) = replaced.recell("where", recoveries.LEFT, "-o", "json").json["routers"]
    assert (left["home"], left["access"]) == ("cell-b", "Rejected")
    assert left["why"][-1]["message"] == f"run {recoveries.RUN} could not move this customer"
    assert "by cell-b-3fa92b, its home" in replaced.recell("where", "globex").out
    customers = replaced.recell("customers", "cell-b", "-o", "json").json
    assert (customers["slots"], customers["successor"]) == (2, recoveries.NEW)
    assert customers["run"]["result"]["customers"]["failedNames"] == [recoveries.LEFT, "c-225"]
    told = replaced.recell("status", "-o", "json").json
    assert told["templates"] == []
    assert {cell["name"]: cell.get("origin") for cell in told["routers"][0]["cells"]}[recoveries.NEW] == "cell-b"
    assert replaced.recell("return", "cell-b", "--yes").code == 0
    assert serving(replaced, "cell-b") == 2 / 1024
    assert "recell.dev/retired" not in replaced.read("Cell", "cell-b")["metadata"].get("annotations", {})


def test_recover_to_a_time_from_a_backup(replaced: Fleet) -> None:
    moment_ = moment(3600)
    made = replaced.recell(
        *("recover", "cell-a", "--always", "--strategy", "PointInTimeRecovery", "--to-time", moment_),
        *("--backup", "full-0312", "--yes", "--no-wait", "-o", "json"),
    )
    assert made.code == 0, made.err
    spec = replaced.read("RecoveryRun", made.json["metadata"]["name"])["spec"]
    assert spec["recoveryTarget"] == {"time": moment_, "backupID": "full-0312"}
    foreseen = replaced.recell("plan", "cell-a", "--strategy", "PointInTimeRecovery", "--always", "-o", "json").json
    assert [asked["gate"] for asked in foreseen["asks"]] == ["accept-data-loss", "promote"]


def test_runs(draining: Fleet) -> None:
    assert draining.recell("runs", "-o", "name").out == "cell-b-7fk2p\n"
    assert draining.recell("runs", "cell-a", "-o", "json").json == {"runs": []}
    assert "CellRestart  Draining" in draining.recell("runs").out


def test_approve_pause_resume_abort(draining: Fleet) -> None:
    name = "cell-b-7fk2p"
    assert draining.recell("approve", name, "--yes").code == 1
    awaiting = {"gate": "unverified-drain", "decisionID": "d2", "since": moment(40), "message": "No figures."}
    draining.phase(name, "AwaitingApproval", awaiting=awaiting)
    waiting = draining.recell("watch", name)
    assert waiting.code == 4
    assert f"recell approve {name}" in waiting.err
    assert draining.recell("approve", name, "--gate", "other", "--yes").code == 1
    assert draining.recell("approve", name, "--yes").code == 0
    assert draining.read("RecoveryRun", name)["spec"]["control"]["approvals"] == [
        {"gate": "unverified-drain", "decisionID": "d2"}
    ]
    assert draining.recell("pause", name).code == 0
    assert draining.read("RecoveryRun", name)["spec"]["control"]["paused"] is True
    assert draining.recell("resume", name).code == 0
    assert "paused" not in draining.read("RecoveryRun", name)["spec"]["control"]
    assert draining.recell("abort", name, "--yes").code == 0
    assert draining.read("RecoveryRun", name)["spec"]["control"]["abort"] is True
    draining.phase(name, "Aborted", awaiting=None)
    assert draining.recell("pause", name).code == 1


def test_acknowledge(fleet: Fleet) -> None:
    assert fleet.recell("acknowledge", "cell-b").code == 1
    blocked = {"lastRun": "cell-b-old", "blocked": {"reason": "AbortedByPerson", "message": "acknowledge it"}}
    fleet.put(objects.cell("cell-b", "Failed", recovery=blocked))
    assert fleet.recell("acknowledge", "cell-b").code == 0
    assert fleet.read("Cell", "cell-b")["metadata"]["annotations"][ANNOTATION_ACKNOWLEDGE] == "cell-b-old"


def test_freeze_and_unfreeze(fleet: Fleet) -> None:
    assert fleet.recell("freeze", "--reason", "big sale", "--until", "2h").code == 0
    (name,) = fleet.names("RecoveryFreeze")
    spec = fleet.read("RecoveryFreeze", name)["spec"]
    assert (spec["scope"], spec["reason"]) == ("AllRuns", "big sale")
    assert "FROZEN" in fleet.recell("status").out
    assert fleet.recell("plan", "cell-b", "-o", "json").json["why"]["reason"] == "Frozen"
    assert fleet.recell("unfreeze", "--yes").code == 0
    assert fleet.names("RecoveryFreeze") == []
    assert fleet.recell("unfreeze").code == 1


def serving(fleet: Fleet, cell: str) -> float:
    return domain.share(Placement.model_validate(fleet.read("Placement", "shop")).spec, cell)


def test_isolate_return_and_placement_show(fleet: Fleet) -> None:
    before = fleet.read("Placement", "shop")
    assert fleet.recell("isolate", "cell-c", "--reason", "disk", "--yes").code == 0
    after = fleet.read("Placement", "shop")
    assert serving(fleet, "cell-c") == 0
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    told = fleet.recell("placement", "show", "shop", "-o", "json").json
    assert told["holds"][0]["state"] == "Isolated"
    assert told["cells"][2]["serves"] == "0%"
    assert "held at 0% (Isolated)" in fleet.recell("status").out
    assert fleet.recell("return", "cell-c", "--yes").code == 0
    assert fleet.read("Placement", "shop")["spec"] == before["spec"]
    assert fleet.recell("return", "cell-c", "--yes").code == 1


def test_placement_init(fleet: Fleet) -> None:
    assert fleet.recell("placement", "init", "shop", "--yes").code == 1
    kept = fleet.read("Placement", "shop")
    fleet.delete("Placement", "shop")
    fleet.put(objects.router(annotations={ANNOTATION_PLACEMENT_UID: "uid-old"}))
    assert fleet.recell("isolate", "cell-a", "--yes").code == 3
    alone = fleet.recell("placement", "init", "shop", "--yes", "--timeout", "2s")
    assert alone.code == 4
    assert ANNOTATION_PLACEMENT_UID not in fleet.read("Router", "shop")["metadata"].get("annotations", {})
    program = fleet.started("placement", "init", "shop", "--yes", "--timeout", "150s")
    said = program.stderr.readline() if program.stderr else ""
    assert "customers are divided anew" in said
    fleet.put(kept)
    assert fleet.ended(program).code == 0


def test_uninstall_check(draining: Fleet) -> None:
    refused = draining.recell("uninstall-check", "-o", "json")
    assert refused.code == 1
    assert [run["name"] for run in refused.json["runs"]] == ["cell-b-7fk2p"]
    with_finalizer = objects.draining()
    with_finalizer["metadata"]["finalizers"] = [FINALIZER, "example.com/other"]
    draining.put(with_finalizer)
    assert draining.recell("isolate", "cell-c", "--yes").code == 0
    forced = draining.recell("uninstall-check", "--force", "--yes")
    assert forced.code == 0
    assert "1 holds go on limiting traffic" in forced.out
    assert draining.read("RecoveryRun", "cell-b-7fk2p")["metadata"]["finalizers"] == ["example.com/other"]
    assert len(draining.names("RecoveryFreeze")) == 1


def test_what_is_not_there_and_who_may_not(fleet: Fleet, kubectl: Kubectl, tmp_path: Path) -> None:
    absent = fleet.recell("watch", "no-such-run")
    assert absent.code == 3
    assert absent.err.startswith("error: RecoveryRun no-such-run not found in namespace")
    assert fleet.recell("recover", "cell-x", "--yes").code == 3
    assert fleet.recell("status", KUBECONFIG="/nowhere/config").code == 3
    assert fleet.recell("status", "--context", "no-such-context").code == 3
    assert fleet.recell("status", "--no-such-option").code == 2
    token = kubectl("-n", fleet.namespace, "create", "token", "default").strip()
    stranger = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    stranger["users"][0]["user"] = {"token": token}
    path = tmp_path / "stranger"
    path.write_text(json.dumps(stranger))
    forbidden = fleet.recell("status", "--kubeconfig", str(path))
    assert forbidden.code == 3
    assert "permission missing" in forbidden.err
    assert forbidden.err.count("\n") == 1


def test_the_api_server_refuses_in_its_own_words(fleet: Fleet) -> None:
    done = fleet.recell("freeze", "--reason", "x" * 513)
    assert done.code == 2
    assert "spec.reason" in done.err


def test_it_is_a_plugin_of_kubectl(fleet: Fleet) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["kubectl", "recell", "status", "-n", fleet.namespace],
        env={**os.environ, "KUBECONFIG": str(fleet.kubeconfig), "PATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Router shop  Ready" in done.stdout
