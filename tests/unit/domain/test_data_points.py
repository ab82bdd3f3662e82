"""To which point data is restored by default: from before anything is known of corruption, by any clock (rule 9)."""

from datetime import UTC, datetime, timedelta

import pytest

from recell.domain.data import latest_safe

ASKED = datetime(2026, 11, 25, 1, 0, tzinfo=UTC)
PASSED = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)
EVIDENCE = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
MARGIN = timedelta(seconds=10)


@pytest.mark.parametrize("evidence", [EVIDENCE, None])
def test_it_is_the_last_check_that_passed_less_the_margin_however_late_the_evidence(evidence: datetime | None) -> None:
    assert latest_safe(None, PASSED, evidence, MARGIN) == datetime(2026, 11, 25, 1, 59, 50, tzinfo=UTC)


def test_where_no_check_ever_passed_it_is_the_first_evidence_less_the_margin() -> None:
    assert latest_safe(None, None, EVIDENCE, MARGIN) == datetime(2026, 11, 25, 2, 59, 50, tzinfo=UTC)


@pytest.mark.parametrize("asked", [ASKED, EVIDENCE + timedelta(hours=1)])
def test_a_time_that_a_person_asked_for_is_taken_at_their_word(asked: datetime) -> None:
    assert latest_safe(asked, PASSED, EVIDENCE, MARGIN) == asked


def test_where_nothing_is_known_nothing_is_invented() -> None:
    assert latest_safe(None, None, None, MARGIN) is None
