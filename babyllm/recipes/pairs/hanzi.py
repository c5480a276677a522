"""Pairs about characters: how they are read, what they rhyme with, what they consist of."""

from __future__ import annotations

import random

from babyllm.recipes.pairs import sources
from babyllm.recipes.pairs.crossing import Fact, Pair, crossed
from babyllm.recipes.pairs.sources import parts

READ = "“{0}”的拼音是{1}。"
SIDES = {"left": ("a", 1, "左边"), "right": ("a", 2, "右边"), "top": ("d", 1, "上面"), "bottom": ("d", 2, "下面")}
RADICALS = (
    "氵三点水 亻单人旁 扌提手旁 讠言字旁 艹草字头 宀宝盖头 辶走之底 钅金字旁 木木字旁 女女字旁 口口字旁 "
    "纟绞丝旁 忄竖心旁 饣食字旁 犭反犬旁 衤衣字旁 礻示字旁 火火字旁 王王字旁 目目字旁 车车字旁 马马字旁 "
    "鱼鱼字旁 石石字旁 日日字旁 土提土旁 山山字旁 虫虫字旁 米米字旁 疒病字头"
)
STROKES = (
    "口3 木4 日4 月4 女3 子3 土3 氵3 亻2 扌3 讠2 艹3 宀3 钅5 纟3 忄3 火4 王4 目5 车4 马3 石5 山3 虫6 米6 "
    "禾5 白5 田5 力2 刀2 又2 寸3 大3 小3 工3 己3 门3 心4 止4 十2 人2 士3 巾3 弓3 夕3 云4 元4 公4 分4 中4 "
    "方4 丁2 几2 也3 广3 页6 鸟5 竹6 立5 皮5 古5 占5 令5 包5 平5 生5 可5 每7 里7 青8 主5 果8 京8 干3 千3 "
    "川3 勺3 才3 及3 不4 少4 比4 反4 冫2 夫4 斤4"
)
NUMERALS = "零一二三四五六七八九十"


def readings(rng: random.Random, n: int, differs: str) -> list[Pair]:
    """Readings that are wrong in the final ("final"), the initial ("initial") or the tone ("tone") alone."""
    index = ("initial", "final", "tone").index(differs)

    def may_cross(one: Fact, other: Fact) -> bool:
        a, b = parts(one[1]), parts(other[1])
        return a[index] != b[index] and all(a[i] == b[i] for i in range(3) if i != index)

    return crossed(rng, list(sources.single_reading().items()), READ, n, may_cross=may_cross)


def polyphones(rng: random.Random, n: int) -> list[Pair]:
    """The reading of a character in two words in which it is read differently."""
    several = {c: found for c, found in sources.readings().items() if len(found) > 1}
    by_character: dict[str, dict[str, str]] = {}
    for word, syllables in sources.phrases().items():
        for character, syllable in zip(word, syllables, strict=False):
            if syllable in several.get(character, ()) and set(word) <= set(sources.common()):
                by_character.setdefault(character, {}).setdefault(syllable, word)
    facts = [
        (f"“{word}”的“{character}”", syllable)
        for character, words in by_character.items()
        for syllable, word in list(words.items())[:2]
        if len(words) > 1
    ]
    return crossed(rng, facts, "{0}读{1}。", n, may_cross=lambda a, b: a[0][-2:] == b[0][-2:] and a[1] != b[1])


def alike(rng: random.Random, n: int, frame: str, whole: bool) -> list[Pair]:
    """Characters that sound alike: with the same syllable and tone (`whole`), or with the same final, as rhymes."""
    by_sound: dict[str, list[str]] = {}
    for character, syllable in sources.single_reading().items():
        initial, final, _ = parts(syllable)
        # After j, q, x and y a u is another vowel, and i is three vowels, so that the spelling does not say the rhyme.
        if whole or (
            final in ("ang", "ong", "ao", "ou", "ai", "a", "eng", "ei") and initial not in ("j", "q", "x", "y")
        ):
            by_sound.setdefault(syllable if whole else final, []).append(character)
    facts, sound = [], {c: key for key, found in by_sound.items() for c in found}
    for found in by_sound.values():
        rng.shuffle(found)
        facts += list(zip(found[::2], found[1::2], strict=False))
    return crossed(rng, facts, frame, n, may_cross=lambda a, b: sound[a[0]] != sound[b[1]])


def sides(rng: random.Random, n: int, side: str) -> list[Pair]:
    """The component on one side of a character."""
    kind, index, name = SIDES[side]
    facts = [(c, str(found[index])) for c, found in sources.components().items() if found[0] == kind]
    return crossed(rng, facts, f"“{{0}}”字{name}的部分是“{{1}}”。", n)


def structures(rng: random.Random, n: int) -> list[Pair]:
    """Whether a character is composed of left and right, or of above and below."""
    names = {"a": "左右", "d": "上下"}
    return crossed(
        rng, [(c, names[found[0]]) for c, found in sources.components().items()], "“{0}”字是{1}结构的字。", n
    )


def radicals(rng: random.Random, n: int) -> list[Pair]:
    """The usual name of the component that a character begins with."""
    names = {each[0]: each[1:] for each in RADICALS.split()}
    facts = [(c, names[first]) for c, (_, first, _) in sources.components().items() if first in names]
    return crossed(rng, facts, "“{0}”字带有{1}。", n)


def strokes(rng: random.Random, n: int) -> list[Pair]:
    """The number of strokes of a character of two components whose strokes are known."""
    known = {each[0]: int(each[1:]) for each in STROKES.split()}
    facts = [
        (c, NUMERALS[known[a] + known[b]] if known[a] + known[b] <= 10 else f"十{NUMERALS[known[a] + known[b] - 10]}")
        for c, (_, a, b) in sources.components().items()
        if a in known and b in known
    ]
    return crossed(rng, facts, "“{0}”字一共有{1}画。", n)
