"""Texts of others inside messages."""

import pytest

from gate2static.messages import brief, printable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("two  words\nand\tmore", "two words and more"),
        (ValueError("no\n  number"), "no number"),
        (ValueError(), "ValueError"),
        ("", ""),
        ("\x1b[31mred\u202e", "\\x1b[31mred\\u202e"),
        (["a", 1], "['a', 1]"),
    ],
)
def test_a_text_is_one_printable_line(value: object, text: str) -> None:
    assert brief(value) == text


def test_a_long_text_loses_its_end_or_its_middle() -> None:
    assert brief("a" * 30, 30) == "a" * 30
    assert brief("a" * 31, 30) == "a" * 27 + "..."
    assert brief("a" * 20 + "b" * 20, 30, both_ends=True) == "a" * 15 + " [...] " + "b" * 15


def test_what_is_printable_stays_as_it_is() -> None:
    assert printable("Größe × 2") == "Größe × 2"
