"""A policy's waits where the Router cannot follow as fast."""

from recell.api.meta import seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain.pace import fitted, told
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
