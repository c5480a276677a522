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
_INVISIBLE = frozenset("\u00ad\u200b\u200c\u200d\u2060\ufeff")
_WIDE = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3000: 0x20, 0xA0: 0x20, 0x2010: 0x2D, 0x2011: 0x2D, 0x2013: 0x2D}


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
        found += [(start, end, kind) for start, end in _apart(sorted(RULES[kind](plain)), sorted(taken))]
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


def _apart(found: Sequence[tuple[int, int]], taken: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The places that overlap neither each other nor those taken; both are in rising order."""
    end, at = 0, 0
    for start, stop in found:
        while at < len(taken) and taken[at][1] <= start:
            at += 1
        if start >= end and stop > start and not (at < len(taken) and taken[at][0] < stop):
            yield start, stop
            end = stop
