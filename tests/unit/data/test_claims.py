"""Quantities, and what of a claim stays when it is made anew."""

import pytest

from recell.api.meta import timestamp
from recell.providers.data.claims import Record, larger, record_of, users
from tests.unit.domain.builders import NOW


@pytest.mark.parametrize(
    ("one", "other", "largest"),
    [
        ("10Gi", "12Gi", "12Gi"),
        ("12Gi", "10Gi", "12Gi"),
        ("1Gi", "1073741824", "1Gi"),
        ("1G", "1Gi", "1Gi"),
        ("1e9", "1M", "1e9"),
        ("1.5Ti", "1500Gi", "1.5Ti"),
        ("0", "0", "0"),
        ("1000m", "2", "2"),
    ],
)
def test_the_larger_of_two_quantities_as_it_was_written(one: str, other: str, largest: str) -> None:
    assert larger(one, other) == largest


def test_what_is_no_quantity_is_named() -> None:
    with pytest.raises(ValueError, match="'10 Gi' is not a quantity"):
        larger("10 Gi", "1")


def test_a_record_is_read_as_it_was_written() -> None:
    record = Record("restore-1", "digest", NOW, ({"metadata": {"name": "data"}, "spec": {}},))
    assert record_of({"metadata": {"annotations": {"recell.dev/restore": record.text()}}}) == record
    assert record_of({"metadata": {}}) is None
    assert timestamp(record.point) == timestamp(NOW)


def test_pods_that_have_ended_use_no_claim() -> None:
    def pod(name: str, phase: str) -> dict[str, object]:
        volumes = [{"name": "x", "emptyDir": {}}, {"name": "y", "persistentVolumeClaim": {"claimName": "data"}}]
        return {"metadata": {"name": name}, "spec": {"volumes": volumes}, "status": {"phase": phase}}

    assert users([pod("job", "Succeeded"), pod("old", "Failed")], ["data"]) == {}
    assert users([pod("job", "Succeeded"), pod("web", "Pending")], ["data"]) == {"data": "web"}
    assert users([pod("web", "Running")], ["other"]) == {}
