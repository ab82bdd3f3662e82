import pytest

from recell.domain.wording import clipped, listed, percent


def test_a_message_fits_the_api() -> None:
    assert clipped("x" * 1024) == "x" * 1024
    assert clipped("word " * 400) == ("word " * 204 + "wor…")
    assert len(clipped("x" * 5000)) == 1024


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (list("abcdefgh"), "a, b, c, d and 4 more"),
    ],
)
def test_names_in_a_sentence(names: list[str], text: str) -> None:
    assert listed(names) == text


@pytest.mark.parametrize(("part", "text"), [(0.0, "0 %"), (1 / 3, "33.3 %"), (0.5, "50 %"), (1.0, "100 %")])
def test_percent(part: float, text: str) -> None:
    assert percent(part) == text
