"""A Job from a CronJob's template: what it is told, its name and bounds, and what it does not take over."""

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from recell.api.meta import ANNOTATION_REQUEST
from recell.domain.data import Operation, Request
from recell.providers.data.job_template import cron_job_of, digest, field_of, made_from, variables
from tests.unit.data.requests import MIGRATE, RESTORE, SOURCE, TARGET, a_cell, of

HOUR = 3600


def cron_job(*, metadata: Any = None, pod: Any = None, containers: Any = None, **spec: Any) -> dict[str, Any]:
    template = {
        "metadata": pod,
        "spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "wait", "image": "tool"}],
            "containers": containers or [{"name": "main", "image": "tool"}],
        },
    }
    job = {"metadata": metadata, "spec": {"template": template, **spec}}
    return {
        "metadata": {"name": "shop-migrate", "namespace": "fleet", "uid": "u", "labels": {"team": "shop"}},
        "spec": {"schedule": "0 0 31 2 *", "suspend": True, "jobTemplate": job},
    }


def test_the_job_is_told_what_to_do_in_every_container() -> None:
    job = made_from(cron_job(), MIGRATE)
    pod = job["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {v["name"]: v["value"] for v in container["env"]} == {
            "RECELL_OPERATION": "Migrate",
            "RECELL_KEY": "migrate-1-3fa92b7c10",
            "RECELL_CELL": "cell-a",
            "RECELL_CELL_NAMESPACE": "fleet",
            "RECELL_TARGET": "cell-b",
            "RECELL_TARGET_NAMESPACE": "fleet",
            "RECELL_SLOTS": "0-2,17",
            "RECELL_SLOT_COUNT": "1024",
            "RECELL_BACKUP": "",
            "RECELL_NOT_AFTER": "",
        }
    assert pod["restartPolicy"] == "Never"


def test_a_variable_of_the_contract_is_the_operators_and_others_stay() -> None:
    own = [
        {"name": "RECELL_SLOTS", "value": "0-1023"},
        {"name": "RECELL_BACKUP", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "DSN", "value": "host=$(RECELL_TARGET)-db"},
    ]
    job = made_from(cron_job(containers=[{"name": "main", "image": "tool", "env": own}]), MIGRATE)
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    names = [variable["name"] for variable in env]
    assert len(names) == len(set(names))
    assert env[-1] == own[-1], "after those that it refers to"
    assert {"name": "RECELL_BACKUP", "value": ""} in env


def test_names_labels_and_no_owner() -> None:
    job = made_from(cron_job(metadata={"labels": {"app": "x"}}, pod={"labels": {"app": "y"}}), MIGRATE)
    made = {"recell.dev/made-by": "recell", "recell.dev/data-job": "true"}
    assert job["metadata"] == {
        "name": "migrate-1-3fa92b7c10",
        "namespace": "fleet",
        "labels": {"app": "x", "recell.dev/cell": "cell-a", **made},
        "annotations": {"recell.dev/request": digest(MIGRATE)},
    }
    assert job["spec"]["template"]["metadata"]["labels"] == {"app": "y", **made}


def test_no_service_of_the_cell_selects_its_pods() -> None:
    job = made_from(cron_job(), MIGRATE)
    assert "recell.dev/cell" not in job["spec"]["template"]["metadata"]["labels"]


def test_nobody_who_prunes_believes_that_it_is_theirs() -> None:
    metadata = {
        "labels": {"app.kubernetes.io/instance": "shop", "team": "x"},
        "annotations": {"argocd.argoproj.io/tracking-id": "shop:batch/CronJob:fleet/x", "note": "n"},
    }
    job = made_from(cron_job(metadata=metadata), MIGRATE)
    assert job["metadata"]["labels"].get("app.kubernetes.io/instance") is None
    assert job["metadata"]["labels"]["team"] == "x"
    assert set(job["metadata"]["annotations"]) == {"note", ANNOTATION_REQUEST}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {"activeDeadlineSeconds": 4 * HOUR, "backoffLimit": 2, "ttlSecondsAfterFinished": 24 * HOUR}),
        (
            {"activeDeadlineSeconds": 30, "backoffLimit": 0, "ttlSecondsAfterFinished": 0},
            {"activeDeadlineSeconds": 30, "backoffLimit": 0, "ttlSecondsAfterFinished": HOUR},
        ),
        ({"ttlSecondsAfterFinished": 90000}, {"ttlSecondsAfterFinished": 90000}),
    ],
    ids=["unset", "short", "long"],
)
def test_missing_bounds_are_set_and_a_result_is_kept(given: dict[str, int], made: dict[str, int]) -> None:
    spec = made_from(cron_job(**given), MIGRATE)["spec"]
    assert {name: spec[name] for name in made} == made


def test_what_only_looks_ends_sooner() -> None:
    assert made_from(cron_job(), of(Operation.INVENTORY))["spec"]["activeDeadlineSeconds"] == 600
    assert made_from(cron_job(), of(Operation.CHECK))["spec"]["activeDeadlineSeconds"] == 4 * HOUR


def test_the_template_is_not_changed() -> None:
    template = cron_job(containers=[{"name": "main", "image": "tool", "env": [{"name": "A", "value": "1"}]}])
    before = copy.deepcopy(template)
    made_from(template, MIGRATE)
    assert template == before


def test_the_same_request_is_the_same_job() -> None:
    again = replace(MIGRATE, cell=SOURCE.model_copy(update={"status": SOURCE.status}), slots=(17, 2, 1, 0))
    assert digest(again) == digest(MIGRATE)


@pytest.mark.parametrize(
    "other",
    [
        replace(MIGRATE, key="migrate-2"),
        replace(MIGRATE, operation=Operation.ABANDON),
        replace(MIGRATE, cell=a_cell("cell-c")),
        replace(MIGRATE, target=a_cell("cell-c")),
        replace(MIGRATE, target=a_cell("cell-b", namespace="elsewhere")),
        replace(MIGRATE, slots=(0, 1, 2)),
        replace(MIGRATE, slot_count=2048),
        replace(MIGRATE, backup="b"),
        replace(MIGRATE, not_after=datetime(2026, 1, 1, tzinfo=UTC)),
    ],
    ids=["key", "operation", "cell", "target", "namespace", "slots", "count", "backup", "time"],
)
def test_whatever_differs_makes_another(other: Request) -> None:
    assert digest(other) != digest(MIGRATE)


def test_times_are_told_in_utc_and_not_rounded() -> None:
    east = timezone(timedelta(hours=2))
    told = variables(replace(RESTORE, not_after=datetime(2026, 1, 31, 5, 0, 0, 250000, tzinfo=east)))
    assert told["RECELL_NOT_AFTER"] == "2026-01-31T03:00:00.250000Z"
    told = variables(replace(RESTORE, not_after=datetime(2026, 1, 31, 5, tzinfo=east)))
    assert told["RECELL_NOT_AFTER"] == "2026-01-31T03:00:00Z"
    assert told["RECELL_BACKUP"] == "base-7"


def test_namespaces_are_where_the_workloads_are() -> None:
    told = variables(replace(MIGRATE, cell=a_cell("cell-a", namespace="apps")))
    assert (told["RECELL_CELL_NAMESPACE"], told["RECELL_TARGET_NAMESPACE"]) == ("apps", "fleet")


@pytest.mark.parametrize("operation", Operation)
def test_each_operation_has_its_field(operation: Operation) -> None:
    request = of(operation)
    name = cron_job_of(request)
    assert name is not None
    assert field_of(request) == f"spec.data.jobs.{name.removeprefix('shop-')}"
    assert cron_job_of(replace(request, cell=TARGET.model_copy(deep=True))) == name
