"""How things look: on a terminal with colour and bars, plain when piped.

Promises: pure; the same input gives the same renderable. Plain output has ASCII characters of our
own only, no colour and no box drawing, and a table's row is one line whatever its length. Nothing
is ever cut: what does not fit is wrapped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recell.api.cell import CellPhase
from recell.api.failure import Verdict
from recell.api.recovery_run import RunPhase, StepState

PLAIN_WIDTH = 80
"""Columns at which plain paragraphs are wrapped; tables take what they need."""
BAR = 12
"""Columns of a share bar."""

FOLDED = frozenset(
    {"NAMESPACE", "CELL", "RUN", "LAST-RUN", "TARGET", "STRATEGY", "STEP", "SUCCESSOR", "SUMMARY", "ADDRESS"}
)
"""Columns of names and texts that may take several lines on a narrow terminal."""

GOOD, BUSY, BAD, QUIET, STRONG, WAITING = "green", "yellow", "bold red", "dim", "bold", "bold magenta"

_CELL_STYLE = {
    CellPhase.HEALTHY: GOOD,
    CellPhase.JOINING: BUSY,
    CellPhase.DEGRADED: BUSY,
    CellPhase.RECOVERING: BUSY,
    CellPhase.FAILED: BAD,
    CellPhase.UNKNOWN: BUSY,
}
_RUN_STYLE = {
    RunPhase.SUCCEEDED: GOOD,
    RunPhase.PARTIALLY_SUCCEEDED: BUSY,
    RunPhase.FAILED: BAD,
    RunPhase.MANUAL_INTERVENTION_REQUIRED: BAD,
    RunPhase.AWAITING_APPROVAL: WAITING,
    RunPhase.ESCALATED: BUSY,
    RunPhase.SKIPPED: QUIET,
    RunPhase.SUPERSEDED: QUIET,
    RunPhase.ABORTED: QUIET,
}
_STEP_SIGN = {
    StepState.PENDING: ("·", QUIET),
    StepState.RUNNING: ("●", BUSY),
    StepState.DONE: ("✔", GOOD),
    StepState.SKIPPED: ("-", QUIET),
    StepState.FAILED: ("✖", BAD),
}
_VERDICT_SIGN = {
    Verdict.PASSED: ("✔", GOOD),
    Verdict.FAILED: ("✖", BAD),
    Verdict.INCONCLUSIVE: ("?", BUSY),
}


def age(since: datetime | None, now: datetime) -> str:
    """The two largest units of the time since then: 2m10s, 3h5m, 4d. A moment ahead of us is 0s."""
    return "-" if since is None else span(max(now - since, timedelta()))


def span(length: timedelta) -> str:
    left = int(length.total_seconds())
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
        if parts and (len(parts) == 2 or not count):
            break
    return "".join(parts) or "0s"


def join(parts: Iterable[str], separator: str = ", ") -> str:
    return separator.join(part for part in parts if part)


@dataclass(frozen=True)
class Look:
    """One of the two ways in which everything is shown."""

    plain: bool

    def text(self, content: str, style: str = "") -> Text:
        return Text(content, style="" if self.plain else style)

    def line(self, *parts: str | tuple[str, str]) -> Text:
        """A line of words, some of them with a style."""
        return Text.assemble(*((part if isinstance(part, str) or not self.plain else part[0]) for part in parts))

    def paragraph(self, *parts: str | tuple[str, str], indent: int = 0) -> RenderableType:
        """Words that are wrapped; the lines after the first stand under the first."""
        padded = Padding(self.line(*parts), (0, 0, 0, indent))
        return Constrain(padded, PLAIN_WIDTH) if self.plain else padded

    def hint(self, command: str) -> RenderableType:
        """What to type; on a line of its own, so that it can be copied."""
        return self.paragraph((f"> {command}", QUIET), indent=2)

    def facts(self, rows: Sequence[tuple[Text | str, ...]], indent: int = 0) -> RenderableType:
        """Short columns and a last one that is wrapped under itself."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for number in range(len(rows[0])):
            last = number == len(rows[0]) - 1
            table.add_column(no_wrap=not last, overflow="fold", ratio=None)
        for row in rows:
            table.add_row(*row)
        padded = Padding(table, (0, 0, 0, indent))
        return Constrain(padded, PLAIN_WIDTH) if self.plain else padded

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[Text | str]]) -> RenderableType:
        """Aligned columns; plain rows are one line each, on a terminal long names are folded."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="" if self.plain else QUIET)
        for header in headers:
            table.add_column(header, overflow="fold", no_wrap=self.plain or header not in FOLDED)
        for row in rows:
            table.add_row(*row)
        return table

    def bar(self, part: float | None, whole: float | None, scale: float) -> Text:
        """What is served (solid) of what is at home (light), on a scale that is the same for all rows."""
        solid, light = ("#", ".") if self.plain else ("█", "░")
        if part is None or scale <= 0:
            return Text(" " * BAR)
        served = min(BAR, round(part / scale * BAR))
        if part > 0 and served == 0:
            served = 1
        home = min(BAR, round((whole or 0.0) / scale * BAR))
        rest = max(home - served, 0)
        text = Text()
        text.append(solid * served, "" if self.plain else "cyan")
        text.append(light * rest, "" if self.plain else QUIET)
        text.append(" " * (BAR - served - rest))
        return text

    def cell_phase(self, phase: CellPhase | None) -> Text:
        return self.text(phase or "-", _CELL_STYLE.get(phase, QUIET) if phase else QUIET)

    def run_phase(self, phase: RunPhase) -> Text:
        return self.text(phase, _RUN_STYLE.get(phase, BUSY))

    def step(self, state: StepState) -> Text:
        sign, style = _STEP_SIGN[state]
        return Text(state) if self.plain else Text(sign, style)

    def verdict(self, verdict: Verdict) -> Text:
        sign, style = _VERDICT_SIGN[verdict]
        return Text(verdict) if self.plain else Text(sign, style)


def stack(parts: Iterable[RenderableType | None]) -> Group:
    """Parts under one another; what is None is left out."""
    return Group(*(part for part in parts if part is not None))
