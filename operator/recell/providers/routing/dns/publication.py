"""When is a change of records in force? From what the name servers answer, look by look.

A change is in force when
1. with weights: ExternalDNS has taken it up, and the time has passed that the name servers may take for it, for no
   single answer shows a weight;
2. every name server answers with targets of serving cells only (without weights: with all of them);
3. it has done so for the greatest TTL that an earlier answer may have had: only then no resolver keeps an old one.

Promises: pure; moments are seconds of a monotonic clock and passed in. A wrong answer begins the third wait anew,
also after it had ended. A look in which a name server was not heard proves nothing: its time does not count.

Must not: take silence, SERVFAIL or a refusal for "there is no such record".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from recell.api.meta import duration_text
from recell.domain.wording import clipped, listed
from recell.providers.routing.version import Version

GAP = 10.0
"""Seconds between two looks that count as seen; what is more was not looked at (rule 30)."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of the name servers, and by which Placement."""

    version: Version
    content: str
    """Hash of the records: the same one means that nothing has to be published."""
    name: str
    record_type: str
    targets: frozenset[str]
    """That answers may name."""
    exact: bool
    """An answer names all of them, not one."""
    ttl: float
    propagation: float
    """Seconds that the name servers may take for what no answer shows; 0 where answers show everything."""
    within: float
    """Seconds in which every name server has to answer so, else it is complained about."""

    @property
    def question(self) -> str:
        return f"{self.record_type} {self.name}"


class Outcome(Enum):
    ANSWERED = auto()
    NO_RECORD = auto()
    """The server knows for certain that there is none: NXDOMAIN, or no record of this type."""
    FAILED = auto()
    """The server answers that it cannot tell: SERVFAIL, REFUSED."""
    SILENT = auto()
    """No answer came."""


@dataclass(frozen=True)
class Reply:
    """What one name server answered to one question."""

    server: str
    outcome: Outcome
    targets: frozenset[str] = frozenset()
    ttl: float = 0.0
    said: str = ""
    """For people: NXDOMAIN, SERVFAIL, no answer within 2 s."""


@dataclass(frozen=True)
class Publication:
    """How far a change is."""

    wanted: Wanted
    begun: float
    """When it was asked for, or when answers turned wrong after it was in force."""
    seen: float
    """When every name server was last heard."""
    longest: float
    """Seconds for which some resolver may keep an answer that is older than the change."""
    taken: float | None = None
    """When ExternalDNS was first seen to have it."""
    kept: float = 0.0
    """Seconds for which every answer was right."""
    right: float | None = None
    """When the last look was at which every answer was right; None if the last look was another one."""
    in_force: bool = False
    waits: str = ""
    """What is waited for, in words that stay the same while it is; empty when it is in force and was so at the last
    look."""

    def complaint(self, now: float) -> str:
        """What somebody has to look into; empty as long as it may still come by itself."""
        late = now - (self.seen if self.in_force else self.begun)
        return self.waits if self.waits and late >= self.wanted.within else ""


def ask(old: Publication | None, wanted: Wanted, now: float) -> Publication:
    """The records are to be these. Goes on with what was seen already if they are what they were."""
    if old is None:
        return Publication(wanted, begun=now, seen=now, longest=wanted.ttl, waits=_not_looked(wanted))
    if old.wanted.content == wanted.content:
        return replace(old, wanted=wanted)
    longest = max(old.wanted.ttl if old.in_force else old.longest, wanted.ttl)
    return Publication(wanted, begun=now, seen=now, longest=longest, waits=_not_looked(wanted))


def _not_looked(wanted: Wanted) -> str:
    return f"The name servers have not been asked for {wanted.question} yet"


def look(state: Publication, replies: Sequence[Reply], *, taken: bool, now: float) -> Publication:
    """After one look at all name servers; `taken`: ExternalDNS has taken up the newest records."""
    wanted = state.wanted
    if taken and state.taken is None:
        state = replace(state, taken=now)
    wrong = {reply: text for reply in replies if (text := _wrong(reply, wanted))}
    if wrong:
        longest = max(state.longest, *(reply.ttl for reply in wrong))
        begun = now if state.in_force else state.begun
        waits = _joined(wrong.values())
        return replace(state, begun=begun, seen=now, longest=longest, kept=0.0, right=None, in_force=False, waits=waits)
    unheard = [_unheard(reply, wanted) for reply in replies if reply.outcome in (Outcome.FAILED, Outcome.SILENT)]
    if unheard or not replies:
        return replace(state, right=None, waits=_joined(unheard) or _not_looked(wanted))
    if state.in_force:
        return replace(state, seen=now, right=now, waits="")
    if wanted.propagation:
        if state.taken is None:
            waits = (
                "ExternalDNS has not taken up the DNSEndpoint (its status.observedGeneration is behind): see that it"
                " runs with --source=crd, watches this namespace and may write dnsendpoints/status"
            )
            return replace(state, seen=now, waits=waits)
        if now - state.taken < wanted.propagation:
            most = duration_text(wanted.propagation)
            waits = f"ExternalDNS has the records; the name servers may take {most} for weights of {wanted.question}"
            return replace(state, seen=now, waits=waits)
    kept = state.kept + (min(now - state.right, GAP) if state.right is not None else 0.0)
    if kept >= state.longest:
        return replace(state, seen=now, kept=kept, right=now, in_force=True, waits="")
    waits = (
        f"Every name server answers {wanted.question} as it should; resolvers may keep older answers for"
        f" {duration_text(state.longest)} after that"
    )
    return replace(state, seen=now, kept=kept, right=now, waits=waits)


def _wrong(reply: Reply, wanted: Wanted) -> str:
    if reply.outcome is Outcome.NO_RECORD and wanted.targets:
        return f"{reply.server} has no {wanted.question} ({reply.said})"
    if reply.outcome is not Outcome.ANSWERED:
        return ""
    strange = sorted(reply.targets - wanted.targets)
    if strange:
        return f"{reply.server} still answers {listed(strange)} for {wanted.question}, which no serving cell has"
    missing = sorted(wanted.targets - reply.targets) if wanted.exact else []
    return f"{reply.server} does not answer {listed(missing)} for {wanted.question} yet" if missing else ""


def _unheard(reply: Reply, wanted: Wanted) -> str:
    return f"{reply.server} does not tell {wanted.question}: {reply.said}"


def _joined(texts: Iterable[str]) -> str:
    return clipped("; ".join(dict.fromkeys(texts)))
