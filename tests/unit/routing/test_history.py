"""Counters of one pod over time: differences are what happened, whatever restarts in between."""

from datetime import timedelta

from recell.providers.routing.haproxy.history import PodHistory
from recell.providers.routing.haproxy.report import parse
from tests.unit.routing.builders import START, cell, line


def filled(*lines: bytes, every: float = 1.0) -> PodHistory:
    history = PodHistory()
    for number, told in enumerate(lines):
        history.add(parse(told), START + timedelta(seconds=number * every))
    return history


def requests(history: PodHistory, index: int = 0) -> int:
    first, last = history.first_since(START - timedelta(hours=1)), history.last
    assert first is not None
    assert last is not None
    return history.counted(index, first, last).requests


def test_what_was_counted_before_the_first_report_is_not_counted() -> None:
    assert requests(filled(line({0: cell(1000)}), line({0: cell(1010)}), line({0: cell(1025)}))) == 25


def test_a_pod_seen_from_its_start_is_counted_from_zero() -> None:
    history = filled(line({0: cell(7)}, age=2.0), line({0: cell(9)}, age=3.0))
    assert requests(history) == 9
    first = history.first_since(START - timedelta(seconds=5))
    assert first is not None
    assert first.at == START - timedelta(seconds=2)
    assert history.begins_with(first)


def test_counters_of_a_new_process_are_added_to_those_of_the_old() -> None:
    told = [
        line({0: cell(100)}),
        line({0: cell(110)}),
        line({0: cell(3)}, instance="p2"),
        line({0: cell(5)}, instance="p2"),
    ]
    assert requests(filled(*told)) == 15


def test_a_process_that_overtakes_the_old_counter_is_known_by_its_name() -> None:
    assert requests(filled(line({0: cell(5)}), line({0: cell(8)}), line({0: cell(9)}, instance="p2"))) == 12


def test_a_counter_read_while_it_moves_never_goes_back() -> None:
    told = [line({0: cell(10, 2)}), line({0: cell(9, 1)}), line({0: cell(12, 3)})]
    history = filled(*told)
    first, last = history.first_since(START), history.last
    assert first is not None
    assert last is not None
    counted = history.counted(0, first, last)
    assert (counted.requests, counted.failures) == (2, 1)


def test_no_haproxy_is_no_figure_and_not_zero() -> None:
    gone = line({}, instance="", rejected=None, applied=None)
    assert requests(filled(line({0: cell(10)}), gone, line({0: cell(14)}))) == 4
    assert filled(gone).last is None


def test_cells_that_come_and_go() -> None:
    told = [line({0: cell(5)}), line({0: cell(6), 1: cell(2)}), line({1: cell(9)}), line({1: cell(10)})]
    history = filled(*told)
    assert (requests(history, 0), requests(history, 1), requests(history, 7)) == (1, 10, 0)


def test_rejected_requests_are_joined_over_a_restart() -> None:
    history = filled(line({}, rejected=5), line({}, rejected=8), line({}, rejected=2, instance="p2"))
    first, last = history.first_since(START), history.last
    assert first is not None
    assert last is not None
    assert last.rejected - first.rejected == 5


def test_memory_is_bounded_and_idle_cells_share_their_counters() -> None:
    history = filled(*(line({0: cell(n), 1: cell(3)}) for n in range(3000)))
    snapshots = list(history._all())
    assert len(snapshots) <= 61 + 61
    assert len({id(snapshot.cells[1]) for snapshot in snapshots}) == 1
    assert snapshots[-1].at - snapshots[0].at <= timedelta(minutes=10)
    # Ten minutes can still be told, to within the ten seconds of the old ones.
    since = history.first_since(START + timedelta(seconds=2999 - 500))
    assert since is not None
    assert since.at - START <= timedelta(seconds=2999 - 500 + 10)


def test_a_clock_that_steps_back_breaks_nothing() -> None:
    history = PodHistory()
    for at, count in ((10, 1), (11, 2), (5, 3), (6, 4)):
        history.add(parse(line({0: cell(count)})), START + timedelta(seconds=at))
    moments = [snapshot.at for snapshot in history._all()]
    assert moments == sorted(moments)
    assert requests(history) == 3
