"""Tables of Placement as text."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api.placement import MAX_INDEX, READ_ONLY, REJECT, PlacementSpec, decode_table, encode_table

tables = st.lists(st.integers(0, REJECT), max_size=2048)


@given(tables)
def test_a_table_reads_back(table: list[int]) -> None:
    assert decode_table(encode_table(table)) == tuple(table)


@given(tables)
def test_it_is_big_endian_base64(table: list[int]) -> None:
    raw = base64.b64decode(encode_table(table), validate=True)
    assert [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)] == table


def test_the_largest_table_fits_its_field() -> None:
    (bound,) = (m.max_length for m in PlacementSpec.model_fields["homes"].metadata if hasattr(m, "max_length"))
    assert len(encode_table([REJECT] * 16384)) <= bound


def test_the_marks_are_no_indexes() -> None:
    assert MAX_INDEX | READ_ONLY != REJECT
    assert MAX_INDEX < READ_ONLY < REJECT


@pytest.mark.parametrize("number", [-1, REJECT + 1])
def test_a_number_of_more_than_16_bits_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="table"):
        encode_table([number])


@pytest.mark.parametrize("text", ["A", "AAA", "AAA=\n", "AA=A", "####", "AAAA\nAAA", "AAAB", "é"])
def test_text_that_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="table"):
        decode_table(text)
