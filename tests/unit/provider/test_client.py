"""What the commands make of an answer."""

import json

import pytest

from provider.client import _lines

AWKWARD = ["plain", "a\u2028b", "\x85", "\r", "\x0b\x0c\x1c", "ü" * 5, ""]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_only_a_line_feed_ends_a_line(size: int) -> None:
    """Settings may hold characters that end lines to some: a snapshot with one of them could not be read."""
    lines = [json.dumps(text, ensure_ascii=False) for text in AWKWARD]
    for end in ("\n", ""):
        data = ("\n".join(lines) + end).encode()
        assert list(_lines(data[i : i + size] for i in range(0, len(data), size))) == lines
