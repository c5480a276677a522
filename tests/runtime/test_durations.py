"""Durations as people read them."""

import pytest

from babyllm.progress import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.7, "1 min 00 s"),
        (725, "12 min 05 s"),
        (3723, "1:02:03"),
        (86_399, "23:59:59"),
        (2 * 86_400 + 3 * 3600, "2 d 03 h"),
    ],
)
def test_durations_read_well(seconds, text):
    """A duration is written in units that suit its length."""
    assert format_duration(seconds) == text
