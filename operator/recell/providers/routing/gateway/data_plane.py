"""Routers of type Gateway: one HTTPRoute each, kept as Placement says, and watched until its Gateways have it.

Promises
- The HTTPRoute is applied whole, by server-side apply, and only when it is not what was applied last: no write
  otherwise. A write carries the resourceVersion that it was decided on, so that one of an operator that was stopped
  meanwhile cannot take back what its successor wrote (rule 2). What others change in it is put back; what was
  reverted twice is said, with by whom, and left (rule 31).
- A Placement is applied when every Gateway has accepted the route that carries it and resolved its references, at the
  route's present generation. Nothing is asked for: conditions come by the watch.
- A cluster without the Gateway API, or an operator without the right to it, is said with the next step; Routers of
  other types go on. Nothing is watched before there is a Router of this type.
- An HTTPRoute of that name that is somebody else's is not touched.
- Classes that no rules can stand for keep nobody from being served: the route is written without them, and then said.

Must not decide anything about traffic.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from recell.api import Cell, Placement, Router
from recell.api.gateway import GatewayMetricsType
from recell.api.meta import LABEL_ROUTER, duration_text
from recell.domain.observation import Applied, RouterTraffic
from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound, RecellError, Retryable, Reverted
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.collection import Collection
from recell.providers.kube.ownership import is_of_router, last_manager
from recell.providers.kube.paths import HTTP_ROUTES
from recell.providers.routing.gateway import route
from recell.providers.routing.gateway.figures import Figures
from recell.providers.routing.version import ANNOTATION_PLACEMENT, Version

log = logging.getLogger(__name__)

SYNC_WITHIN = 2.0
"""Seconds until the first list is waited for no longer; what keeps it is told instead."""
SILENT_FOR = 10.0
"""Seconds after which a Gateway that has said nothing of a change is complained about."""
REVERTS = 2
STEADY = 600.0
"""Seconds since the last write after which a change by others is the first one again."""
SETTLED_AFTER = 3.0
"""Seconds that what turned requests away stays in the route after the last of them, and that it is waited for at most
before the first, where it must not come or go at once."""
NEXT_TO_NOTHING = 1e-4
"""Part of the requests of a class that is no shedding, but what comes or goes."""
GRANT = "features.gatewayApi of the chart grants what is needed"


@dataclass
class _Router:
    router: Router
    content: str = ""
    """Hash of the spec that this process applied last; empty before it did."""
    generation: int = 0
    """Of the HTTPRoute as it was answered then: another one means that somebody else changed it."""
    reverts: int = 0
    """How often this very content was changed by others of late."""
    reverted: tuple[int, str] | None = None
    """The generation that was left as it is, and who wrote it."""
    changed_at: float = 0.0
    """Monotonic moment of the last write."""
    told: tuple[Placement, Mapping[str, Cell], tuple[route.Rule, ...]] | None = None
    """What is to be in force, or is, with the rules that say so."""
    coming: bool = False
    """What is to turn requests away has only its place yet: another write follows."""
    applied: Applied | None = None
    """The newest Placement that was seen in force."""
    outdated: str = ""
    """Why the Placement is not carried out although there is one; empty if it is."""


class GatewayDataPlane:
    """`cells`: those of a Router, by name; `turns_away`: has it Services that turn requests away; `on_change` is told
    the key of each Router whose route looks different."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        namespaces: Sequence[str],
        cells: Callable[[Key], Mapping[str, Cell]],
        figures: Figures,
        *,
        turns_away: Callable[[Key], bool],
        on_change: Callable[[Key], None],
    ) -> None:
        self._api = api
        self._clock = clock
        self._cells = cells
        self._figures = figures
        self._turns_away = turns_away
        self._on_change = on_change
        self.routes = Collection(api, HTTP_ROUTES, clock, namespaces, labels=LABEL_ROUTER)
        self.routes.subscribe(self._changed)
        self._routers: dict[Key, _Router] = {}

    def start(self) -> None:
        """Not before there is a Router of this type: a cluster may do without the Gateway API."""

    async def wait_synced(self) -> None: ...

    async def stop(self) -> None:
        await self._figures.stop()
        await self.routes.stop()

    # What the controller says.

    async def ensure(self, router: Router) -> None:
        """Watched from now on. Raises BadInput where there is no Gateway API, Forbidden with what to grant."""
        known = self._routers.get(router.key)
        if known is None or known.router.metadata.uid != router.metadata.uid:
            self._routers[router.key] = _Router(router)
        else:
            known.router = router
        await self._figures.follow(router)
        self.routes.start()
        if not await self.routes.synced_within(SYNC_WITHIN):
            raise unwatchable(self.routes.trouble)

    async def tell(self, key: Key, placement: Placement | None) -> None:
        if placement is None:
            self._routers.pop(key, None)
            await self._figures.drop(key)
            return
        state = self._routers.get(key)
        if state is None:
            return
        cells = self._cells(key)
        if not self.routes.synced:
            return  # `ensure` has said why
        turn_away = self._turns_away(key)
        divided = route.divided(state.router, placement, cells, turn_away=turn_away)
        coming, going = self._faint(state, divided.rules)
        if coming or going:
            divided = route.divided(state.router, placement, cells, turn_away=turn_away, faint=coming | going)
        try:
            written = await self._write(state, placement, divided.rules, self.routes.get(key))
        except Conflict:  # most often a Gateway wrote its status meanwhile: the watch brings it a moment later
            live = await self._api.get(HTTP_ROUTES.path(*key))
            written = await self._write(state, placement, divided.rules, live)
        if written:
            state.told, state.coming = (placement, cells, divided.rules), bool(coming)
            self._note(key, state)
        if divided.unsaid:
            raise BadInput(divided.unsaid)

    def _faint(self, state: _Router, wanted: Sequence[route.Rule]) -> tuple[set[str], set[str]]:
        """Classes for which what turns requests away comes just now, and for which it goes. Envoy takes up routes
        before a new cluster is warm, and drops one before the routes that name it: requests in between get 500."""
        gateway = state.router.spec.gateway
        metrics = gateway.metrics if gateway is not None else None
        if state.told is None or metrics is None or metrics.type is not GatewayMetricsType.ENVOY_GATEWAY:
            return set(), set()
        before = {rule.name: rule.turned_away for rule in state.told[2]}
        lately = self._clock.monotonic() - state.changed_at < SETTLED_AFTER
        live = self.routes.get(state.router.key)
        unsettled = lately and not (live is not None and route.parents(live).current)
        coming, going = set(), set()
        for rule in wanted:
            was = before.get(rule.name)
            if was is None:
                continue
            if rule.turned_away and (not was or (was < NEXT_TO_NOTHING and unsettled)):
                coming.add(rule.name)
            elif not rule.turned_away and (was > NEXT_TO_NOTHING or (was and lately)):
                going.add(rule.name)
        return coming, going

    async def _write(
        self, state: _Router, placement: Placement, rules: Sequence[route.Rule], live: Object | None
    ) -> bool:
        """False: what is there is newer."""
        version, carried = Version.of(placement), _carries(live) if live is not None else None
        state.outdated = ""
        if carried is not None and not version.may_follow(carried):
            state.outdated = f"the HTTPRoute carries Placement {carried}, and {version} is older or another one"
            return False
        await self._apply(state, live, route.http_route(state.router, placement, rules))
        return True

    async def _apply(self, state: _Router, live: Object | None, wanted: Object) -> None:
        key, content = state.router.key, _hash(wanted["spec"])
        if content != state.content:
            state.reverts = 0
        elif _generation(live) == state.generation:
            if live is not None and _carries(live) == _carries(wanted):
                return
        else:
            if self._clock.monotonic() - state.changed_at >= STEADY:
                state.reverts = 0
            if state.reverts >= REVERTS:
                raise Reverted(await self._by_whom(key, state, _generation(live)))
            state.reverts += 1
            log.warning("HTTPRoute %s/%s was changed or deleted by others: it is put back", *key)
        if live is None:
            live = await self._refuse_anothers(state.router)
        if live is not None:
            wanted["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
        try:
            answer = await self._api.apply(HTTP_ROUTES.path(*key), wanted)
        except NotFound as error:
            raise unwatchable(error) from error
        except Forbidden as error:
            raise Forbidden(f"{error}; {GRANT}") from error
        if state.applied is not None and content != state.content and _version(state.applied) == _carries(wanted):
            state.applied = None  # the Placement is the same, but a cell's Service or the Router's rules are not
        state.content, state.generation = content, _generation(answer)
        state.changed_at = self._clock.monotonic()
        log.info("applied HTTPRoute %s/%s, generation %d", *key, state.generation)
        self.routes.put(answer)

    async def _refuse_anothers(self, router: Router) -> Object | None:
        """A route that is not seen by its label may have lost it: whose it is, its owner says as well."""
        key = router.key
        try:
            found = await self._api.get(HTTP_ROUTES.path(*key))
        except NotFound:
            return None
        if not is_of_router(found, router):
            raise BadInput(
                f"HTTPRoute {key[0]}/{key[1]} is there already and was not made for this Router: name the Router"
                f" otherwise, delete the route, or hand it over with the label {LABEL_ROUTER}={key[1]}"
            )
        return found

    async def _by_whom(self, key: Key, state: _Router, generation: int) -> str:
        """Asked once of what somebody wrote: the watch does not bring who it was."""
        if state.reverted is None or state.reverted[0] != generation:
            try:
                manager = last_manager(await self._api.get(HTTP_ROUTES.path(*key)), "rules")
            except NotFound:
                manager = "somebody who deletes it"
            state.reverted = (generation, manager)
        return (
            f"HTTPRoute {key[0]}/{key[1]} was put back {REVERTS} times and changed again, last by {state.reverted[1]}:"
            f" it is left as it is for {duration_text(STEADY)}. Let that tool leave this HTTPRoute alone, for the"
            " operator writes it from the Router"
        )

    # What is known.

    def serving(self, router: Key) -> int:
        live = self.routes.get(router)
        return route.parents(live).accepted if live is not None else 0

    def complaint(self, router: Key) -> str:
        live, state = self.routes.get(router), self._routers.get(router)
        if live is None or state is None:
            return ""
        if state.outdated:
            return state.outdated
        seen = route.parents(live)
        waited = self._clock.monotonic() - state.changed_at
        if seen.refused or not seen.silent or waited < SILENT_FOR:
            return seen.refused
        return (
            f"{seen.silent} said nothing about the HTTPRoute for {waited:.0f} s: does the Gateway exist, and does what"
            " implements its GatewayClass run?"
        )

    def applied(self, router: Key) -> Applied | None:
        """What has been in force is told until something newer is, for no Gateway goes back; None while the route is
        not as it was written, or no Gateway has accepted it."""
        live, state = self.routes.get(router), self._routers.get(router)
        if live is None or state is None or state.applied is None or _generation(live) != state.generation:
            return None
        accepted = route.parents(live).accepted
        return replace(state.applied, pods=accepted) if accepted else None

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        return self._figures.observed(router, window=window, not_before=not_before)

    def progress(self, router: Key) -> str:
        return ""

    def unseen(self, router: Key) -> str:
        return self._figures.unseen(router)

    def _changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        if state := self._routers.get(key):
            self._note(key, state)
            self._on_change(key)

    def _note(self, key: Key, state: _Router) -> None:
        """From now on the route is in force, if it is; what is counted is counted by it."""
        live = self.routes.get(key)
        if live is None or state.told is None or _generation(live) != state.generation:
            return
        version, seen = Version.of(state.told[0]), route.parents(live)
        if not seen.current or _carries(live) != version or state.coming:
            return
        if state.applied is None or _version(state.applied) != version:
            at = self._clock.now()
            state.applied = Applied(version.uid, version.epoch, version.generation, seen.accepted, at)
            self._figures.name(key, *state.told)


def unwatchable(trouble: RecellError | None, field: str = "spec.type Gateway") -> RecellError:
    """With what to do about it; `field` asks for HTTPRoutes."""
    if isinstance(trouble, NotFound):
        return BadInput(
            f"{field}: this cluster has no HTTPRoutes; install the Gateway API's CRDs (standard channel, v1) and"
            " something that implements Gateways"
        )
    if isinstance(trouble, Forbidden):
        return Forbidden(f"{trouble}; {GRANT}")
    return Retryable(f"the HTTPRoutes could not be read yet: {trouble or 'no answer'}")


def _generation(obj: Object | None) -> int:
    return int(obj["metadata"].get("generation") or 0) if obj is not None else -1


def _carries(obj: Object) -> Version | None:
    return Version.parse((obj["metadata"].get("annotations") or {}).get(ANNOTATION_PLACEMENT, ""))


def _version(applied: Applied) -> Version:
    return Version(applied.uid, applied.epoch, applied.generation)


def _hash(spec: Object) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:32]
