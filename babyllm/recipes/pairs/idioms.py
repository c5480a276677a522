"""Pairs about idioms: a character exchanged for another, or characters in another order."""

from __future__ import annotations

import random
from collections.abc import Callable

from babyllm.recipes.pairs import sources
from babyllm.recipes.pairs.crossing import Pair, reordered

FRAMES = ("有个成语叫“{}”。", "“{}”是一个成语。", "他用“{}”造了一个句子。")


def exchanged(rng: random.Random, n: int, is_alike: Callable[[str, str], bool]) -> list[Pair]:
    """Couples of idioms, one with b for its a, the other with a for its b, at any places.

    Args:
        rng: source of randomness.
        n: largest number of pairs.
        is_alike: whether two characters can be mistaken for each other.
    """
    known = set(sources.idioms())
    by_character: dict[str, list[tuple[str, int]]] = {}
    for idiom in sources.idioms():
        for at, character in enumerate(idiom):
            by_character.setdefault(character, []).append((idiom, at))
    characters = sorted(by_character)
    couples = [(a, b) for i, a in enumerate(characters) for b in characters[i + 1 :] if is_alike(a, b)]
    rng.shuffle(couples)
    made: list[Pair] = []
    for a, b in couples:
        if len(made) + 2 > n:
            break
        frame, found = rng.choice(FRAMES), []
        for right, wrong in ((a, b), (b, a)):
            idiom, at = rng.choice(by_character[right])
            found.append((idiom, idiom[:at] + wrong + idiom[at + 1 :]))
        if not any(bad in known for _, bad in found):
            made += [Pair(frame.format(good), frame.format(bad)) for good, bad in found]
    return made


def homophones(rng: random.Random, n: int) -> list[Pair]:
    """Idioms with a character exchanged for one that sounds the same."""
    sound = sources.single_reading()
    return exchanged(rng, n, lambda a, b: a in sound and sound[a] == sound.get(b))


def look_alikes(rng: random.Random, n: int) -> list[Pair]:
    """Idioms with a character exchanged for one with the same right component."""
    shape, sound = sources.components(), sources.single_reading()

    def is_alike(a: str, b: str) -> bool:
        return a in shape and b in shape and shape[a][0::2] == shape[b][0::2] and sound.get(a, a) != sound.get(b, b)

    return exchanged(rng, n, is_alike)


def out_of_order(rng: random.Random, n: int, order: tuple[int, int, int, int]) -> list[Pair]:
    """Idioms with their characters in another order."""
    known = set(sources.idioms())
    found = [(idiom, "".join(idiom[i] for i in order)) for idiom in sources.idioms()]
    drawn = rng.sample(found, min(len(found), 4 * n))
    pairs = [Pair(FRAMES[0].format(good), FRAMES[0].format(bad)) for good, bad in drawn if bad not in known]
    return reordered(rng, pairs, n)
