"""The set of minimal pairs as files: `python data/minimal_pairs.py data/eval/zh_pairs`.

paradigms -> pairs, drawn by (seed, paradigm) -> OUT/<paradigm>.jsonl, and how far simple rules get on them
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from babyllm.errors import UserError
from babyllm.recipes.pairs import grammar, hanzi, idioms, sources
from babyllm.recipes.pairs.crossing import Pair
from babyllm.recipes.sample import require_absent

Make = Callable[[random.Random, int], list[Pair]]
PARADIGMS: dict[str, dict[str, Make]] = {
    "pronunciation": {
        **{f"pinyin_{part}": partial(hanzi.readings, differs=part) for part in ("final", "initial", "tone")},
        "polyphone": hanzi.polyphones,
        "homophone": partial(hanzi.alike, frame="“{0}”和“{1}”同音。", whole=True),
        "rhyme": partial(hanzi.alike, frame="“{0}”和“{1}”押韵。", whole=False),
    },
    "structure": {
        **{f"component_{side}": partial(hanzi.sides, side=side) for side in hanzi.SIDES},
        "structure": hanzi.structures,
        "radical": hanzi.radicals,
        "strokes": hanzi.strokes,
    },
    "idiom": {
        "idiom_homophone": idioms.homophones,
        "idiom_look_alike": idioms.look_alikes,
        "idiom_halves": partial(idioms.out_of_order, order=(2, 3, 0, 1)),
        "idiom_middle": partial(idioms.out_of_order, order=(0, 2, 1, 3)),
    },
    "word_order": {name: partial(grammar.ordered, name=name) for name in grammar.ORDERS},
    "function_word": {name: partial(grammar.chosen, name=name) for name in grammar.CHOICES},
    "word": {
        "classifier": grammar.classifiers,
        "verb_object": grammar.objects,
        "opposite": grammar.opposites,
    },
}
"""Functions of a source of randomness and a largest number of pairs, by phenomenon and paradigm."""


class Baselines(NamedTuple):
    """How often simple rules find the good sentence of a paradigm; one half is chance.

    Attributes:
        shorter: share of pairs whose good sentence is the shorter one; equal lengths count one half.
        unigram: share of pairs whose good sentence has the more frequent characters.
    """

    shorter: float
    unigram: float


def make_pairs(seed: int, n: int) -> dict[str, list[Pair]]:
    """The pairs by paradigm; the same for the same seed and versions of the packages.

    Args:
        seed: seed of all draws.
        n: largest number of pairs of a paradigm.

    Raises:
        UserError: a package is not installed.
    """
    makers = {name: make for paradigms in PARADIGMS.values() for name, make in paradigms.items()}
    return {name: make(random.Random(f"{seed} {name}"), n) for name, make in makers.items()}


def write_pairs(out: Path, made: dict[str, list[Pair]]) -> None:
    """Write a file of JSON lines for each paradigm; the folder appears when it is complete.

    Raises:
        UserError: the folder is there already, or cannot be written.
    """
    require_absent(out)
    unfinished = out.with_name(f".{out.name}.tmp")
    phenomena = {name: phenomenon for phenomenon, paradigms in PARADIGMS.items() for name in paradigms}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name, pairs in made.items():
            records = (
                {
                    "sentence_good": good,
                    "sentence_bad": bad,
                    "phenomenon": phenomena[name],
                    "paradigm": name,
                    "pair_id": i,
                }
                for i, (good, bad) in enumerate(pairs)
            )
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            (unfinished / f"{name}.jsonl").write_bytes(lines.encode())
        unfinished.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): name a folder you may write to") from error


def baselines(pairs: Sequence[Pair]) -> Baselines:
    """How far length and the frequencies of characters get, in jieba's dictionary and with one added to each count."""
    counts = sources.frequencies()
    total = sum(counts.values()) + len(counts)

    def nats(text: str) -> float:
        return round(math.fsum(math.log(total / (counts[character] + 1)) for character in text), 6)

    def share(measure: Callable[[str], float]) -> float:
        wins = [(measure(good) < measure(bad)) + 0.5 * (measure(good) == measure(bad)) for good, bad in pairs]
        return sum(wins) / len(wins)

    return Baselines(share(len), share(nats))


def main() -> int:
    """Write the folder that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write minimal pairs of Chinese as JSON lines.", allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all draws")
    parser.add_argument("--n", type=int, default=100, help="the largest number of pairs of a paradigm")
    flags = parser.parse_args()
    try:
        if flags.n < 2:
            raise UserError("--n: a paradigm has at least 2 pairs")
        made = make_pairs(flags.seed, flags.n)
        write_pairs(flags.out, made)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'paradigm':20}{'pairs':>8}{'shorter':>10}{'unigram':>10}")
    for name, pairs in (*made.items(), ("all", list(chain.from_iterable(made.values())))):
        found = baselines(pairs)
        print(f"{name:20}{len(pairs):8,}{found.shorter:10.1%}{found.unigram:10.1%}")
    return 0
