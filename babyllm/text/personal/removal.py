"""Personal data of a text -> placeholders, and how many of each kind. What was found is never kept.

without_personal("我的手机是13800138000") -> Cleaned("我的手机是<PHONE>", {"phone": 1})
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from babyllm.errors import UserError
from babyllm.text.personal.network_addresses import email_addresses, ip_addresses
from babyllm.text.personal.personal_numbers import accounts, card_numbers, identity_numbers, phone_numbers
from babyllm.text.personal.postal_addresses import postal_addresses

RULES: Mapping[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": email_addresses,
    "id": identity_numbers,
    "card": card_numbers,
    "ip": ip_addresses,
    "phone": phone_numbers,
    "account": accounts,
    "address": postal_addresses,
}
"""The kinds of personal data; where two overlap, the earlier one counts."""
PLACEHOLDERS = {kind: f"<{kind.upper()}>" for kind in RULES}
# Of no width, or marks of direction, or what makes a digit a picture of a key.
_INVISIBLE = frozenset("\u00ad\u180e\u2060\ufe0e\ufe0f\u20e3\ufeff") | {
    *map(chr, (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
}
_WIDE = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3000: 0x20, 0xA0: 0x20, 0x2212: 0x2D}
_WIDE |= dict.fromkeys(range(0x2010, 0x2016), 0x2D)  # hyphens and dashes
_WIDE |= {0x2460 + i: 0x31 + i for i in range(9)} | {0x2776 + i: 0x31 + i for i in range(9)} | {0x24EA: 0x30}  # circled
_WIDE |= {0x1D7CE + i: 0x30 + i % 10 for i in range(50)}  # of mathematics


class Cleaned(NamedTuple):
    """A text without personal data.

    Attributes:
        text: text with placeholders.
        n: number of replacements by kind.
    """

    text: str
    n: dict[str, int]


def check_kinds(kinds: Sequence[str]) -> None:
    """Check the names of kinds.

    Raises:
        UserError: one of them is unknown.
    """
    for kind in kinds:
        if kind not in RULES:
            raise UserError(f"--personal: {kind!r} is not a kind of personal data; choose of {', '.join(RULES)}")


def without_personal(text: str, kinds: Sequence[str] = tuple(RULES)) -> Cleaned:
    """The text with a placeholder for each piece of personal data.

    Wide digits and letters are read as the usual ones, and invisible characters are read over, so neither hides
    anything. What has no rule, such as a name, stays.

    Args:
        text: any text.
        kinds: kinds of data to replace (`RULES`).
    """
    plain, places = _readable(text)
    found: list[tuple[int, int, str]] = []
    for kind in (name for name in RULES if name in kinds):
        taken = [(start, end) for start, end, _ in found]
        free = _free(sorted(RULES[kind](plain)), sorted(taken))
        found += [(start, end, kind) for start, end in _joined(free, plain)]
    if not found:
        return Cleaned(text, {})
    pieces, at, n = [], 0, dict.fromkeys((kind for _, _, kind in found), 0)
    for start, end, kind in sorted(found):
        pieces += [text[at : places[start]], PLACEHOLDERS[kind]]
        at = places[end - 1] + 1
        n[kind] += 1
    return Cleaned("".join([*pieces, text[at:]]), n)


def _readable(text: str) -> tuple[str, Sequence[int]]:
    """The text as the rules read it, and the place of each of its characters in the text."""
    wide = text.translate(_WIDE)
    if _INVISIBLE.isdisjoint(wide):
        return wide, range(len(text))
    places = [i for i, c in enumerate(wide) if c not in _INVISIBLE]
    return "".join(wide[i] for i in places), places


def _free(found: Sequence[tuple[int, int]], taken: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The places, those that overlap as one, without what is taken; all are in rising order, and so is the result."""
    at, end = 0, 0
    for start, stop in found:
        start = max(start, end)
        end = max(end, stop)
        while start < stop:
            while at < len(taken) and taken[at][1] <= start:
                at += 1
            first, last = taken[at] if at < len(taken) else (stop, stop)
            if start < first:
                yield start, min(first, stop)
            start = max(start, last)


def _joined(places: Iterator[tuple[int, int]], text: str) -> Iterator[tuple[int, int]]:
    """Places that touch as one; those without a letter or digit are left out."""
    open_at, end = -1, -1
    for start, stop in places:
        if start != end:
            if end > open_at and any(map(str.isalnum, text[open_at:end])):
                yield open_at, end
            open_at = start
        end = stop
    if end > open_at and any(map(str.isalnum, text[open_at:end])):
        yield open_at, end
