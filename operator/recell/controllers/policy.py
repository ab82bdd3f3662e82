"""The RecoveryPolicy controller: says on the policy itself which of its rules can never decide."""

from recell.api.recovery_policy import RecoveryPolicyStatus
from recell.controllers import status
from recell.domain import matrix
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api
from recell.providers.kube.store import KubeStore


class RecoveryPolicyController:
    def __init__(self, clock: Clock, api: Api, store: KubeStore) -> None:
        self._clock = clock
        self._api = api
        self._store = store

    async def reconcile(self, key: Key) -> float | None:
        policy = self._store.policy(key)
        if policy is None:
            return None
        problems = matrix.validate_policy(policy.spec)
        message = "; ".join(problems)
        generation = policy.metadata.generation
        wanted = RecoveryPolicyStatus(
            observed_generation=generation,
            conditions=status.conditions(
                policy.status.conditions,
                {
                    "Ready": (not problems, "RuleNeverDecides" if problems else "Accepted", message),
                    "Stalled": (bool(problems), "RuleNeverDecides" if problems else "Accepted", message),
                },
                generation,
                self._clock.now(),
            ),
        )
        await status.show(self._api, self._store, policy, wanted)
        return None
