"""What a Cluster says of itself, and what is read out of the log of a recovery that failed."""

import json
from typing import Any

import pytest

from recell.providers.data import cnpg_cluster
from recell.providers.kube.api import Object
from tests.fakes.cnpg_cluster import HEALTHY
from tests.unit.data.postgres import NOT_AFTER


def a_cluster(instances: int = 1, **status: Any) -> Object:
    return {"metadata": {"name": "db"}, "spec": {"instances": instances}, "status": status}


@pytest.mark.parametrize(
    ("cluster", "ready", "says"),
    [
        (a_cluster(), False, "CloudNativePG has said nothing about it yet"),
        (
            a_cluster(phase="Setting up primary", phaseReason="Creating primary instance db-1"),
            False,
            "Setting up primary (Creating primary instance db-1); 0 of 1 instances ready",
        ),
        (a_cluster(**HEALTHY), True, "Cluster in healthy state; 1 of 1 instances ready"),
        (a_cluster(instances=3, **HEALTHY), False, "1 of 3 instances ready"),
        (a_cluster(**{**HEALTHY, "phase": "Failing over"}), False, "Failing over"),
        (a_cluster(**{**HEALTHY, "conditions": [{"type": "Ready", "status": "False"}]}), False, "healthy"),
        (a_cluster(phase="Waiting for user action"), False, "Waiting for user action"),
    ],
)
def test_ready_is_only_what_is_healthy_with_every_instance(cluster: Object, ready: bool, says: str) -> None:
    state = cnpg_cluster.state(cluster)
    assert state.ready is ready
    assert says in state.says


@pytest.mark.parametrize(
    ("status", "able"),
    [
        ({}, False),
        ({"readyInstances": 1}, True),
        ({"readyInstances": 1, "conditions": [{"type": "ContinuousArchiving", "status": "True"}]}, True),
        ({"readyInstances": 1, "conditions": [{"type": "ContinuousArchiving", "status": "False"}]}, False),
        ({"readyInstances": 0, "conditions": [{"type": "ContinuousArchiving", "status": "True"}]}, False),
    ],
)
def test_it_can_be_backed_up_while_an_instance_runs_and_archives(status: Object, able: bool) -> None:
    assert cnpg_cluster.can_be_backed_up(a_cluster(**status)) is able


def postgres(severity: str, message: str) -> str:
    record = {"error_severity": severity, "message": message}
    return json.dumps({"level": "info", "logger": "postgres", "msg": "record", "record": record})


def test_postgresqls_own_words_come_first() -> None:
    log = "\n".join(
        [
            "not JSON",
            postgres("LOG", "starting point-in-time recovery"),
            postgres("FATAL", "could not\n locate required checkpoint record"),
            json.dumps({"level": "error", "msg": "Error while restoring a backup", "error": "exit status 1"}),
        ]
    )
    assert cnpg_cluster.words(log) == "FATAL: could not locate required checkpoint record"


def test_what_it_says_before_it_has_a_log_is_found_too() -> None:
    said = (
        'waiting for server to start....2026-11-26 05:30:49 UTC [34] LOG:  invalid value for parameter "x": "y"',
        '2026-11-26 05:30:49 UTC [34] FATAL:  configuration file "custom.conf" contains errors',
        "pg_ctl: could not start server",
    )
    log = "\n".join(json.dumps({"level": "info", "logger": "pg_ctl", "msg": text}) for text in said)
    told = 'invalid value for parameter "x": "y" | FATAL: configuration file "custom.conf" contains errors'
    assert cnpg_cluster.words(log) == told


def test_without_them_the_instance_managers() -> None:
    log = json.dumps({"level": "error", "msg": "Error while restoring a backup", "error": "no target backup found"})
    assert cnpg_cluster.words(f"[1, 2]\n{log}\n{log}") == "Error while restoring a backup: no target backup found"
    assert cnpg_cluster.words("Traceback\nbotocore: NoSuchBucket") == "Traceback | botocore: NoSuchBucket"
    assert cnpg_cluster.words("") == ""


def test_wal_that_ends_too_early_is_explained() -> None:
    log = postgres("FATAL", "recovery ended before configured recovery target was reached")
    told = cnpg_cluster.unreachable(log, NOT_AFTER)
    assert "no transaction that was committed after 2026-01-31T09:59:00.250000+00:00" in told
    assert "wait until the newest WAL is archived" in told
    assert cnpg_cluster.unreachable(postgres("FATAL", "something else"), NOT_AFTER) == ""
