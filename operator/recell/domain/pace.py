"""How fast a Router can follow: the policy's waits, raised to what the Router's kind of change takes.

Promises: pure; a wait only becomes longer, and stays as the policy says where the Router is faster. It is applied when
a plan is frozen, so that the plan shows the times that its steps really have.
"""

from recell.api.meta import duration_text, seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.router import Router

CLOSED_WITHIN = 5.0
"""Seconds from the end of drainTimeout until connections are closed and figures have said so."""


def fitted(policy: RecoveryPolicySpec, router: Router | None) -> RecoveryPolicySpec:
    """With DNS no increment is shorter than the TTL, and applying one takes publishing it and the TTL after that.

    With the built-in router steps that drain have the time in which long connections are closed.
    """
    if router is None:
        return policy
    steps = policy.steps
    if (block := router.spec.dns) is not None:
        raised = {
            "increment_interval": _longer(steps.increment_interval, seconds(block.ttl)),
            "apply_timeout": _longer(steps.apply_timeout, seconds(block.publish_timeout) + seconds(block.ttl)),
        }
    else:  # a drain is given these two, and more, for what comes after it is applied
        left = empty_after(router, seconds(policy.detection.window)) - seconds(steps.apply_timeout)
        raised = {"inconclusive_timeout": _longer(steps.inconclusive_timeout, left)}
    return policy.model_copy(update={"steps": steps.model_copy(update=raised)})


def empty_after(router: Router, window: float) -> float:
    """Seconds from a whole drain until figures of a window tell of nobody there any more; 0 where nothing is closed.

    The built-in router closes long connections at the end of drainTimeout. Then they count as requests that ended.
    """
    block = router.spec.haproxy
    return seconds(block.drain_timeout) + window + CLOSED_WITHIN if block is not None else 0.0


def told(router: Router) -> str:
    """For people who read a plan: what makes its waits so long; empty where nothing does."""
    block = router.spec.dns
    if block is None:
        return ""
    return f", each in force only once every name server answers it and the TTL of {block.ttl} has passed"


def _longer(duration: str, least: float) -> str:
    return duration if seconds(duration) >= least else duration_text(least)
