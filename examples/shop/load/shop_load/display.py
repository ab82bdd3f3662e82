"""What a person reads: one line a second, 80 columns, and a summary.

Promises: no line is longer than 80 characters; nothing depends on colours. The bar shows who answered: each
character is an equal share of the second's answers, lettered by cell.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from textwrap import wrap

from shop_load.customers import Seen
from shop_load.tally import Tally

WIDTH = 80
BAR = 14
_ERRORS = 22
HEADER = f"{'time':<8} {'rps':>4} {'ok':>4} {'errors':<{_ERRORS}} wrong moved   p50   p99 share"


class Letters:
    """A letter for each cell: its name's last character where that is free, else the first free one."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def of(self, cell: str) -> str:
        """The cell's letter; it never changes."""
        if cell not in self._letters:
            taken = set(self._letters.values())
            candidates = (*cell[-1:], *string.ascii_uppercase, *string.digits)
            self._letters[cell] = next((one for one in candidates if one.isalnum() and one not in taken), "*")
        return self._letters[cell]

    def legend(self) -> str:
        """Which letter stands for which cell."""
        return ("share: " + ", ".join(f"{letter} {cell}" for cell, letter in self._letters.items()))[:WIDTH]

    def known(self, cells: Iterable[str]) -> bool:
        """Whether all of these have a letter already."""
        return all(cell in self._letters for cell in cells)


def second_line(time: str, tally: Tally, letters: Letters) -> str:
    """The line of one second; `time` is 8 characters."""
    p50, p99 = tally.latencies.percentile(50), tally.latencies.percentile(99)
    return (
        f"{time:<8} {tally.ended:>4} {tally.ok:>4} {_errors(tally):<{_ERRORS}} {tally.wrong:>5} {tally.moved:>5} "
        f"{_milliseconds(p50):>5} {_milliseconds(p99):>5} {_bar(tally.cells, letters)}"
    ).rstrip()


def summary_lines(
    tally: Tally,
    homes: Mapping[str, Seen],
    acknowledged: int,
    slots_covered: int,
    slots: int,
    problems: Iterable[str],
) -> list[str]:
    """The summary that ends a run."""
    p50, p99 = tally.latencies.percentile(50), tally.latencies.percentile(99)
    lines = [
        "",
        f"requests {tally.ended}   ok {tally.ok}   errors {tally.errors.total()}   not sent {tally.unsent}",
        f"answers  {tally.wrong} by a wrong cell   {tally.moved} by another cell than the one before",
        f"latency  p50 {_milliseconds(p50)} ms   p99 {_milliseconds(p99)} ms",
        f"orders   {acknowledged} acknowledged   customers cover {slots_covered} of {slots} slots",
    ]
    if tally.errors:
        kinds = ", ".join(f"{kind} {count}" for kind, count in tally.errors.most_common())
        lines += wrap(f"errors   {kinds}", WIDTH, subsequent_indent=" " * 9)
    lines += ["", f"{'customers of':<24} {'requests':>9} {'errors':>9} {'wrong cell':>10} {'moved':>9} {'answered':>9}"]
    for home in sorted({*homes, *tally.cells}):
        seen = homes.get(home, Seen())
        lines.append(
            f"{home:<24.24} {seen.requests:>9} {seen.errors:>9} {seen.wrong:>10} {seen.moved:>9} {tally.cells[home]:>9}"
        )
    lines.append("")
    found = list(problems)
    for problem in found:
        lines += wrap(f"problem: {problem}", WIDTH, subsequent_indent="  ")
    return lines if found else [*lines, "no problem"]


def _errors(tally: Tally) -> str:
    parts: list[str] = []
    for kind, count in tally.errors.most_common():
        parts.append(f"{kind}:{count}")
        if len(" ".join(parts)) > _ERRORS:
            parts.pop()
            return " ".join([*parts, "+"])[:_ERRORS]
    return " ".join(parts) or "-"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _bar(cells: Mapping[str, int], letters: Letters) -> str:
    """Shares by largest remainder, so that the bar is always full and no share is off by more than one."""
    total = sum(cells.values())
    if total == 0:
        return ""
    names = sorted(cells)
    exact = {cell: cells[cell] * BAR / total for cell in names}
    columns = {cell: int(exact[cell]) for cell in names}
    for cell in sorted(names, key=lambda name: columns[name] - exact[name])[: BAR - sum(columns.values())]:
        columns[cell] += 1
    return "".join(letters.of(cell) * columns[cell] for cell in names)
