"""A policy's waits where the Router cannot follow as fast."""

from recell.api.meta import seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain.pace import empty_after, fitted, told
from tests.unit.domain.test_reach import HAPROXY
from tests.unit.routing.dns.builders import dns_router


def test_a_router_that_follows_at_once_changes_nothing() -> None:
    policy = RecoveryPolicySpec()
    assert fitted(policy, HAPROXY) == policy
    assert fitted(policy, None) == policy
    assert told(HAPROXY) == ""


def test_with_dns_the_greater_counts_and_nothing_else_changes() -> None:
    policy = RecoveryPolicySpec.model_validate({"steps": {"incrementInterval": "30s", "applyTimeout": "1m"}})
    slow = fitted(policy, dns_router({"ttl": "2m", "publishTimeout": "4m"}))
    assert (slow.steps.increment_interval, slow.steps.apply_timeout) == ("2m", "6m")
    patient = RecoveryPolicySpec.model_validate({"steps": {"incrementInterval": "5m", "applyTimeout": "1h"}})
    assert fitted(patient, dns_router({"ttl": "2m"})) == patient
    changed = slow.model_dump(exclude={"steps": {"increment_interval", "apply_timeout"}})
    assert changed == policy.model_dump(exclude={"steps": {"increment_interval", "apply_timeout"}})
    assert seconds(policy.steps.increment_interval) == 30


def test_with_the_built_in_router_a_drain_has_the_time_in_which_long_connections_are_closed() -> None:
    policy = RecoveryPolicySpec.model_validate({"steps": {"applyTimeout": "1m"}, "detection": {"window": "10s"}})
    assert HAPROXY.spec.haproxy is not None
    block = HAPROXY.spec.haproxy.model_copy(update={"drain_timeout": "20m"})
    patient = HAPROXY.model_copy(update={"spec": HAPROXY.spec.model_copy(update={"haproxy": block})})
    raised = fitted(policy, patient)
    assert empty_after(patient, 10) == 1215
    assert seconds(raised.steps.apply_timeout) + seconds(raised.steps.inconclusive_timeout) == 1215
    assert raised.model_dump(exclude={"steps": {"inconclusive_timeout"}}) == policy.model_dump(
        exclude={"steps": {"inconclusive_timeout"}}
    )


def test_where_nothing_is_closed_nothing_is_waited_for() -> None:
    assert empty_after(dns_router(), 10) == 0
