"""How fast a Router can follow: the policy's waits, raised to what the Router's kind of change takes.

Promises: pure; a wait only becomes longer, and stays as the policy says where the Router is faster. It is applied when
a plan is frozen, so that the plan shows the times that its steps really have.
"""

from recell.api.meta import duration_text, seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.router import Router


def fitted(policy: RecoveryPolicySpec, router: Router | None) -> RecoveryPolicySpec:
    """With DNS no increment is shorter than the TTL, and applying one takes publishing it and the TTL after that."""
    block = router.spec.dns if router is not None else None
    if block is None:
        return policy
    steps = policy.steps
    raised = {
        "increment_interval": _longer(steps.increment_interval, seconds(block.ttl)),
        "apply_timeout": _longer(steps.apply_timeout, seconds(block.publish_timeout) + seconds(block.ttl)),
    }
    return policy.model_copy(update={"steps": steps.model_copy(update=raised)})


def told(router: Router) -> str:
    """For people who read a plan: what makes its waits so long; empty where nothing does."""
    block = router.spec.dns
    if block is None:
        return ""
    return f", each in force only once every name server answers it and the TTL of {block.ttl} has passed"


def _longer(duration: str, least: float) -> str:
    return duration if seconds(duration) >= least else duration_text(least)
