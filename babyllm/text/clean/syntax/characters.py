"""Sets of characters that several filters ask for: as the inside of a regular expression's brackets, as tables."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, the signs 々 and 〇 among them."""

KANA = "\u3041-\u30ff"
HAS_HAN = re.compile(f"[{HAN}]")
_ASSIGNED = 0x32000  # beyond are code points without a character, tags, and those for private use


def table(value_of: Callable[[str], int], unassigned: int) -> NDArray[np.uint8]:
    """(0x110000,) the value of every character by its code point, looked up; `unassigned` where there is none."""
    values = np.full(0x110000, unassigned, np.uint8)
    values[:_ASSIGNED] = [value_of(chr(code)) for code in range(_ASSIGNED)]
    return values


def fill(values: NDArray[np.uint8], characters: str, value: int) -> None:
    """Set the value of characters given like `HAN`: single ones, and ranges with a hyphen."""
    for first, last in re.findall("(.)(?:-(.))?", characters):
        values[ord(first) : ord(last or first) + 1] = value
