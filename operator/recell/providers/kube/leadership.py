"""Who acts: one process at a time, by a Lease of our own.

Promises
- `check()` passes only while this process holds the Lease by its own monotonic clock, which ends
  before another process can take it (renew deadline < lease duration). The kernel's timer ends the
  process at that moment even if the event loop is blocked or the process was stopped, so that one
  that wakes after another took over writes nothing (rule 18).
- `epoch` rises with each take-over, also after a release, and is never given twice.
- Wall clocks decide nothing; the times in the Lease are for people.
- The Lease is watched, so that a released one is taken at once.

Must not be asked to go on after `hold()` returned: the process has to end.
"""

import asyncio
import logging
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from recell.engine.errors import Conflict, Fenced, NotFound, RecellError
from recell.engine.ports import Clock
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import LEASES
from recell.providers.kube.reflector import Reflector, version_of

logger = logging.getLogger(__name__)

JUST_AFTER = 0.01
"""Seconds after a Lease has run out that it is asked for."""
MAX_SKEW = 5.0

Guard = Callable[[float], None]
"""Ends the process after so many seconds unless called again; 0: no more."""


def end_process_after(seconds: float) -> None:
    """SIGALRM with its default action. The timer runs on while the process is stopped."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


@dataclass(frozen=True)
class Terms:
    """In seconds. A call may take `retry_period * 2`; renewing is tried every `retry_period`."""

    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease_duration > self.renew_deadline > self.retry_period > 0:
            raise ValueError("leader election needs lease duration > renew deadline > retry period > 0")


class Leadership:
    """`await acquire()`, then `await hold()` until it is lost, or `await release()`."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        *,
        namespace: str,
        name: str,
        identity: str,
        terms: Terms = Terms(),
        guard: Guard = end_process_after,
    ) -> None:
        """`api` must not be fenced. `identity` must differ between processes, restarts included."""
        self.identity = identity
        self._api = api
        self._clock = clock
        self._namespace, self._name = namespace, name
        self._path = LEASES.path(namespace, name)
        self._terms = terms
        self._guard = guard
        self._lease: Object | None = None
        self._seen: tuple[str, float] | None = None
        """The Lease's newest version and when it was first seen, which is what its duration counts from."""
        self._held_until = float("-inf")
        """Until then somebody else may be writing, even if the Lease was deleted since."""
        self._deadline = float("-inf")
        self._epoch = 0
        self._poked = asyncio.Event()
        self._watch = Reflector(api, LEASES.collection(namespace), clock, fields=f"metadata.name={name}")
        self._watch.subscribe(self._changed)

    @property
    def leading(self) -> bool:
        return self._clock.monotonic() < self._deadline

    @property
    def epoch(self) -> int:
        """Of this leadership; 0 before the first. Written into everything that a leader decides."""
        return self._epoch

    @property
    def holder(self) -> str:
        """Who holds the Lease as far as known, for people."""
        return str(self._lease["spec"].get("holderIdentity") or "") if self._lease else ""

    def check(self) -> None:
        """The fence. Raises Fenced unless this process leads."""
        if not self.leading:
            raise Fenced(f"{self.identity} does not hold the Lease {self._namespace}/{self._name}: nothing is written")

    def obstacle(self) -> str | None:
        """Why no effect may begin although this process leads: its clock is wrong (rule 30)."""
        skew = self._api.skew
        if skew is None or abs(skew) <= MAX_SKEW:
            return None
        return (
            f"the operator's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API server's:"
            " no effect begins until they agree (synchronise the nodes' clocks)"
        )

    def outrank(self, epoch: int) -> None:
        """Some record holds this epoch, of an earlier leader (the Lease may have been deleted since): go above it.

        To be called for every such record before the first write of this leadership. It goes into the Lease with
        the next renewal.
        """
        self._epoch = max(self._epoch, epoch + 1)

    async def acquire(self) -> None:
        """Wait, without limit, until the Lease is ours."""
        self._watch.start()
        while not await self._attempt(self._terms.renew_deadline):
            self._poked.clear()
            try:
                async with asyncio.timeout(self._until_next_try()):
                    await self._poked.wait()
            except TimeoutError:
                continue
        await self._watch.stop()
        logger.info("leading as %s, epoch %d", self.identity, self._epoch)

    async def hold(self) -> None:
        """Renew until the Lease is lost. Then the process has to end: nothing may be written any more."""
        while True:
            await asyncio.sleep(self._terms.retry_period)
            while not await self._attempt(min(self._terms.retry_period * 2, self._remaining())):
                if not self.leading or self.holder not in ("", self.identity):
                    self._deadline = float("-inf")
                    logger.error("lost the Lease %s/%s to %s", self._namespace, self._name, self.holder or "nobody")
                    return
                await asyncio.sleep(min(self._terms.retry_period * 0.2, self._remaining()))

    async def release(self) -> None:
        """Give the Lease back if it is ours, so that the next one takes it at once. What fails here only costs time."""
        await self._watch.stop()
        if self.leading and self._lease is not None:
            spec = self._lease["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
            try:
                async with asyncio.timeout(self._terms.retry_period):
                    await self._api.replace(self._path, self._lease | {"spec": spec})
                logger.info("released the Lease %s/%s", self._namespace, self._name)
            except (RecellError, TimeoutError) as error:
                logger.warning("could not release the Lease: %s", error)
        self._deadline = float("-inf")
        self._guard(0)

    # How

    def _remaining(self) -> float:
        return max(0.05, self._deadline - self._clock.monotonic())

    def _until_next_try(self) -> float:
        wait = self._terms.retry_period * random.uniform(1, 1.2)  # noqa: S311 - jitter
        left = self._held_until - self._clock.monotonic() + JUST_AFTER
        # Never next to nothing: a try that fails at that very moment would be followed by another one at once.
        return min(wait, max(left, JUST_AFTER)) if left > 0 else wait

    def _changed(self, key: tuple[str, str], old: Object | None, new: Object | None) -> None:
        """From the watch: a standby goes by it, a leader trusts only its own renewals."""
        if self.leading:
            return
        if new is not None:
            self._saw(new)
        if new is not None and not new["spec"].get("holderIdentity"):
            self._poked.set()

    def _saw(self, lease: Object) -> None:
        if self._lease is not None and version_of(lease) < version_of(self._lease):
            return
        self._lease = lease
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            now = self._clock.monotonic()
            self._seen = (version, now)
            duration = float(lease["spec"].get("leaseDurationSeconds") or self._terms.lease_duration)
            self._held_until = float("-inf") if self.holder in ("", self.identity) else now + duration

    async def _attempt(self, budget: float) -> bool:
        """One try to take or renew; True when the Lease is ours from now on."""
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(budget):
                if self.holder != self.identity and not await self._may_take():
                    return False
                if self._lease is None:
                    self._lease = await self._api.create(LEASES.collection(self._namespace), self._new_lease())
                else:
                    body = self._lease | {"spec": self._spec(self._lease["spec"])}
                    self._lease = await self._api.replace(self._path, body)
        except Conflict:
            self._lease = None  # somebody was faster: look again
            return False
        except NotFound:
            self._lease = None  # deleted: the next try makes it anew
            return False
        except (RecellError, TimeoutError) as error:
            logger.warning("leader election: %s", str(error) or f"no answer within {budget:.1f} s")
            return False
        self._deadline = began + self._terms.renew_deadline
        self._guard(max(0.001, self._deadline - self._clock.monotonic()))
        self._epoch = max(self._epoch, int(self._lease["spec"]["leaseTransitions"]) + 1)
        return True

    async def _may_take(self) -> bool:
        """Look at the Lease; True when nobody holds it now."""
        try:
            self._saw(await self._api.get(self._path))
        except NotFound:
            self._lease = None
        return self._clock.monotonic() >= self._held_until

    def _spec(self, old: Object) -> Object:
        """The Lease as ours. A renewal keeps the transitions unless the epoch was raised above them."""
        now = self._clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = old.get("holderIdentity") == self.identity
        transitions = int(old.get("leaseTransitions") or 0)
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._terms.lease_duration)),
            "acquireTime": old["acquireTime"] if mine and old.get("acquireTime") else now,
            "renewTime": now,
            "leaseTransitions": max(transitions, self._epoch - 1) if mine else transitions + 1,
        }

    def _new_lease(self) -> Object:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._spec({"holderIdentity": self.identity}),
        }
