"""When customers count as moved: told counts that add up, or a provider's proof that everything is there."""

import pytest

from recell.domain.data import Customers


@pytest.mark.parametrize(
    ("customers", "complete"),
    [
        (Customers(whole=True), True),
        (Customers(expected=0, done=0, whole=True), True),
        (Customers(failed=1, whole=True), False),
        (Customers(expected=7, done=7), True),
        (Customers(expected=7, done=6), False),
        (Customers(expected=7, done=6, failed=1), False),
        (Customers(expected=0, done=0), None),
        (Customers(expected=7), None),
        (Customers(done=7), None),
        (Customers(), None),
    ],
    ids=str,
)
def test_complete(customers: Customers, complete: bool | None) -> None:
    assert customers.complete is complete
