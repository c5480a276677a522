"""Sets of characters that several filters use, as the inside of a regular expression's brackets and as tables."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, including the signs 々 and 〇."""

KANA = "\u3041-\u30ff"
HAS_HAN = re.compile(f"[{HAN}]")
_ASSIGNED = 0x32000  # above are only unassigned code points, tags and private use


def table(value_of: Callable[[str], int], unassigned: int) -> NDArray[np.uint8]:
    """(0x110000,) uint8 table of the value of every character by code point.

    Args:
        value_of: function from a character to its value, 0 to 255; called once per code point below `_ASSIGNED`.
        unassigned: value of all code points from there on.
    """
    values = np.full(0x110000, unassigned, np.uint8)
    values[:_ASSIGNED] = [value_of(chr(code)) for code in range(_ASSIGNED)]
    return values


def fill(values: NDArray[np.uint8], characters: str, value: int) -> None:
    """Set the entries of some characters in a (0x110000,) uint8 table, in place.

    Args:
        values: table as `table` returns it.
        characters: characters in the notation of `HAN`, single ones and ranges with a hyphen.
        value: their new value.
    """
    for first, last in re.findall("(.)(?:-(.))?", characters):
        values[ord(first) : ord(last or first) + 1] = value
