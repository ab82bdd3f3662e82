"""What a Job, its pods and their logs say."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recell.providers.data.job_status import (
    alive,
    container_of,
    described,
    ended,
    failure,
    progress,
    quoted,
    result,
    running_pod,
    slim,
)

NOW = datetime(2026, 1, 31, 3, 1, tzinfo=UTC)


def job(*containers: str, annotations: Any = None, suspend: bool = False, made: str = "03:00:50", **status: Any) -> Any:
    return {
        "metadata": {"name": "restore-1", "namespace": "shop", "uid": "u", "creationTimestamp": f"2026-01-31T{made}Z"},
        "spec": {
            "suspend": suspend,
            "backoffLimit": 2,
            "template": {
                "metadata": {"annotations": annotations, "labels": {"a": "b"}},
                "spec": {"containers": [{"name": name, "image": "tool"} for name in containers or ("main",)]},
            },
        },
        "status": status,
    }


def condition(type: str, status: str = "True", **more: str) -> dict[str, str]:
    return {"type": type, "status": status, **more}


def pod(name: str, phase: str, *containers: Any, init: Any = (), **status: Any) -> Any:
    return {
        "metadata": {"name": name},
        "status": {
            "phase": phase,
            "containerStatuses": list(containers),
            "initContainerStatuses": list(init),
            **status,
        },
    }


def exited(name: str, code: int, at: str, said: str = "", reason: str = "", when: str = "state") -> Any:
    end = {"exitCode": code, "finishedAt": f"2026-01-31T{at}Z", "message": said, "reason": reason}
    return {"name": name, when: {"terminated": end}}


def test_a_job_ends_by_its_condition_alone() -> None:
    assert ended(job()) is None
    assert ended(job(conditions=[condition("FailureTarget"), condition("Suspended", "False")])) is None
    assert ended(job(conditions=[condition("Complete", "False")], succeeded=1)) is None
    done = ended(job(conditions=[condition("SuccessCriteriaMet"), condition("Complete", reason="CompletionsReached")]))
    assert done is not None
    assert done.succeeded
    late = ended(job(conditions=[condition("Failed", reason="DeadlineExceeded", message="was active too long")]))
    assert late is not None
    assert (late.succeeded, late.reason, late.message) == (False, "DeadlineExceeded", "was active too long")


def test_the_container_that_counts() -> None:
    assert container_of(job("tool", "proxy")) == "tool"
    named = {"kubectl.kubernetes.io/default-container": "tool"}
    assert container_of(job("proxy", "tool", annotations=named)) == "tool"
    assert container_of(slim(job("proxy", "tool", annotations=named))) == "tool"


def test_the_result_is_the_newest_of_those_that_succeeded() -> None:
    pods = [
        pod("a", "Succeeded", exited("main", 0, "03:00:10", "old"), exited("proxy", 0, "03:00:30", "no")),
        pod("b", "Failed", exited("main", 1, "03:00:40", "bad")),
        pod("c", "Succeeded", exited("main", 0, "03:00:20", "new")),
    ]
    found = result(pods, "main")
    assert found is not None
    assert (found.pod, found.said) == ("c", "new")
    assert result(pods[1:2], "main") is None


def test_the_last_failure_is_the_containers_own_before_another_ones() -> None:
    killed = exited("proxy", 143, "03:00:59")
    pods = [
        pod("a", "Failed", exited("main", 1, "03:00:10"), killed),
        pod("b", "Failed", exited("main", 137, "03:00:20", reason="OOMKilled"), killed),
    ]
    found = failure(pods, "main")
    assert found is not None
    assert (found.pod, str(found)) == ("b", "exit code 137, OOMKilled")
    started = failure([pod("c", "Failed", init=[exited("wait", 4, "03:00:10", reason="Error")])], "main")
    assert started is not None
    assert (started.container, str(started)) == ("wait", "exit code 4")
    restarted = failure([pod("d", "Running", exited("main", 5, "03:00:10", when="lastState"))], "main")
    assert restarted is not None
    assert restarted.code == 5
    assert failure([], "main") is None


@pytest.mark.parametrize(
    ("found", "pods", "told"),
    [
        (job(active=1), [pod("p", "Running")], "runs"),
        (job(active=1, failed=2), [pod("o", "Failed"), pod("p", "Running")], "runs, attempt 3"),
        (job(), [], "runs"),
        (job(suspend=True), [], "is suspended: set its spec.suspend to false"),
        (job(made="03:00:40"), [], "has no pod yet: a quota or an admission rule may refuse it"),
        (job(made="03:00:40"), [], "kubectl -n shop describe job restore-1"),
        (job(made="03:00:40", failed=1), [pod("o", "Failed")], "runs, attempt 2"),
        (
            job(active=1),
            [pod("p", "Pending", {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff"}}})],
            "waits: p: ImagePullBackOff",
        ),
        (
            job(active=1, failed=1),
            [
                pod("o", "Failed", reason="Evicted"),
                pod(
                    "p",
                    "Pending",
                    conditions=[condition("PodScheduled", "False", reason="Unschedulable", message="no")],
                ),
            ],
            "waits, attempt 2: p: Unschedulable (no)",
        ),
        (
            job(active=1),
            [
                pod(
                    "p",
                    "Pending",
                    {
                        "name": "main",
                        "state": {"waiting": {"reason": "CreateContainerConfigError", "message": "secret x not found"}},
                    },
                )
            ],
            "waits: p: CreateContainerConfigError (secret x not found)",
        ),
    ],
)
def test_a_job_at_work_says_what_it_waits_for(found: Any, pods: Any, told: str) -> None:
    assert told in described(found, pods, NOW)
    assert described(slim(found), pods, NOW) == described(found, pods, NOW)


def test_a_quota_is_not_blamed_at_once() -> None:
    assert described(job(made="03:00:55"), [], NOW) == "runs"
    assert "has no pod yet" in described(job(made="03:00:55"), [], NOW + timedelta(seconds=30))


def test_which_pods_matter() -> None:
    assert running_pod([pod("a", "Failed"), pod("b", "Pending")]) is None
    assert running_pod([pod("a", "Failed"), pod("b", "Running")]) == "b"
    assert [alive(pod("a", phase)) for phase in ("Pending", "Running", "Unknown", "Succeeded", "Failed")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("", None),
        ("recell-progress", None),
        ('recell-progress {"done": 40, "of": 120}', (40, 120)),
        ('recell-progress {"done": 1, "of": 9}\nother\n  recell-progress {"done": 2, "of": 9, "eta": 3}  \nx', (2, 9)),
        ('recell-progress {"done": 1, "of": 9}\nrecell-progress {"done": 2, "o', (1, 9)),
        ('recell-progress {"done": 1, "of": 9}\nrecell-progress {broken}', (1, 9)),
        ('recell-progress {"done": "1", "of": 9}', None),
        ('recell-progress {"done": true, "of": 9}', None),
        ('recell-progress {"done": 10, "of": 9}', None),
        ('recell-progress {"done": -1, "of": 9}', None),
        ('note: recell-progress {"done": 1, "of": 9}', None),
    ],
)
def test_progress_is_the_last_line_that_tells_it(log: str, told: tuple[int, int] | None) -> None:
    assert progress(log) == told


def test_a_log_is_quoted_by_its_end() -> None:
    assert quoted("") == ""
    lines = [f"line\t{n}" for n in range(9)]
    lines.insert(8, 'recell-progress {"done": 1, "of": 9}')
    assert quoted("\n".join(lines) + "\n\n") == "line 4 | line 5 | line 6 | line 7 | line 8"
    long = quoted("x" * 900 + "the reason")
    assert len(long) == 500
    assert long.startswith("…x")
    assert long.endswith("the reason")
