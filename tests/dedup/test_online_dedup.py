"""What `babyllm.dedup.Online` refuses and keeps."""

import random
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest
from question_fixtures import CHINESE, ENGLISH, stream_of

import babyllm
from babyllm.dedup import Match, Online
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.near.shingles import ShingleConfig
from babyllm.text.dedup.normal import normal_form
from babyllm.text.dedup.online.band_table import CHAIN, BandTable

TRADITIONAL = str.maketrans(
    "这话译语学数为么个写关于称会师飞机优缺点块电脑发烧应该办",
    "這話譯語學數為麼個寫關於稱會師飛機優缺點塊電腦發燒應該辦",
)


def edited(text: str, rng: random.Random) -> str:
    """The text with one small change of words, and others of what is folded."""
    letters = list(text.rstrip("？?"))
    place, kind = rng.randrange(1, len(letters) - 1), rng.randrange(4)
    if kind == 0:
        letters[place] = rng.choice("的一是x")
    elif kind == 1:
        del letters[place]
    elif kind == 2:
        letters.insert(place, rng.choice("了也e"))
    else:
        letters += rng.choice(["呢", "啊", " please", "吗"])
    changed = "".join(letters).translate(TRADITIONAL)
    return rng.choice(["", " ", "“"]) + rng.choice([changed, changed.upper()]) + rng.choice(["", "！", "？？", " ."])


def test_edited_texts_are_refused_and_others_kept() -> None:
    """Of edited copies in both languages 95 % are refused, and 95 % of what is refused is one, for its own text."""
    rng = random.Random(1)
    texts = {str(i): text for i, text in enumerate(CHINESE + ENGLISH)}
    planted = {f"{name}-{i}": edited(text, rng) for name, text in texts.items() for i in range(4)}
    stream = [*texts.items(), *rng.sample(sorted(planted.items()), len(planted))]
    with Online() as kept:
        matches = dict(zip((name for name, _ in stream), kept.add_many(stream), strict=True))
    refused = {name: match.id.partition("-")[0] for name, match in matches.items() if match}
    right = [name for name, original in refused.items() if name in planted and original == name.partition("-")[0]]
    assert len(right) >= 0.95 * len(planted)
    assert len(right) >= 0.95 * len(refused)


def test_what_is_folded_does_not_count() -> None:
    """Case, width, punctuation, whitespace and traditional characters do not count; other characters do."""
    with Online() as kept:
        assert kept.add("a", "他說：「Ｈello，世界！」") is None
        assert kept.add("b", "他说 hello 世界") == Match("a", 1.0)
        assert kept.check("他听hello世界") == Match("a", 6 / 10)
        assert kept.check("我说再见世界") is None
        assert [kept.add(str(i), text) for i, text in enumerate(["？", "！！", "", "😀"])] == [None] * 4
        assert [kept.check(text).id for text in ("?", "!!", " \n", "😀 ")] == ["0", "1", "2", "3"]
        assert kept.add("half", "半个字\ud83d") is None
        assert kept.check("半个字\ud83d") == Match("half", 1.0)
        assert len(kept) == 6
    with Online(simplify=False) as kept:
        assert kept.add("a", "鐵路運輸學會") is None
        assert kept.check("铁路运输学会") is None


def sets_of(texts: list[str], n: int) -> list[set[str]]:
    normals = map(normal_form, texts)
    return [{normal[i : i + n] for i in range(max(1, len(normal) - n + 1))} for normal in normals]


@pytest.mark.parametrize("n", [2, 3])
def test_a_match_has_the_true_similarity_and_few_are_missed(n: int) -> None:
    """A match is the plain Jaccard similarity with the kept text; of kept pairs hardly one reaches the threshold."""
    texts = stream_of(400, 2, 60)
    with Online(threshold=0.6, shingles=ShingleConfig(n=n), simplify=False) as kept:
        matches = [kept.add(str(i), text) for i, text in enumerate(texts)]
    sets = sets_of(texts, n)
    for one, match in zip(sets, matches, strict=True):
        if match:
            other = sets[int(match.id)]
            assert matches[int(match.id)] is None
            assert match.similarity == pytest.approx(len(one & other) / len(one | other)) and match.similarity >= 0.6
    left = [one for one, match in zip(sets, matches, strict=True) if match is None]
    missed = [1 for a, b in combinations(left, 2) if len(a & b) >= 0.6 * len(a | b)]
    assert 100 < len(left) < 350 and len(missed) <= 3


def test_many_at_once_are_kept_as_one_by_one() -> None:
    """`add_many` returns what `add` returns for each in turn, for short and long texts alike."""
    records = [(str(i), text) for i, text in enumerate(stream_of(300, 3, 500))]
    with Online() as one, Online() as many:
        matches = many.add_many(iter(records))
        assert matches == [one.add(*record) for record in records]
        assert len(one) == len(many) == matches.count(None) < 250


@pytest.mark.parametrize("lengths", [(195, 205), (205, 195), (150, 230), (230, 150)])
def test_a_short_text_and_a_long_one_are_compared(lengths: tuple[int, int]) -> None:
    """Texts on two sides of the border between pairs and 5-grams are compared by the shingles of the kept one."""
    text = "".join(random.Random(4).choices([chr(c) for c in range(0x4E00, 0x5E00)], k=300))
    with Online() as kept:
        assert kept.add("a", text[: lengths[0]]) is None
        match = kept.add("b", text[: lengths[1]])
    n = 2 if lengths[0] <= 200 else 5
    assert match == Match("a", pytest.approx((min(lengths) - n + 1) / (max(lengths) - n + 1)))


def test_a_record_may_be_added_again_under_its_id() -> None:
    """A program that does not know whether a record was kept adds it again: it is kept, once."""
    with Online() as kept:
        assert [kept.add("a", "春眠不觉晓"), kept.add("a", "春眠不觉晓！")] == [None, None]
        assert kept.add_many([("b", "处处闻啼鸟"), ("b", "处处闻啼鸟"), ("c", "处处闻啼鸟")]) == [
            None,
            None,
            Match("b", 1.0),
        ]
        assert len(kept) == 2


def test_tables_find_what_shares_a_key() -> None:
    """The table finds the newest records of each key however often it grew, and forgets a record that is removed."""
    rng = random.Random(5)
    table, plain = BandTable(3), defaultdict[tuple[int, int], list[int]](list)
    records = []
    for number in range(6000):
        # Popular keys of each table, rare ones, and some at the end of the slots, which go on at their beginning.
        numbers = [rng.choice([rng.randrange(300), rng.randrange(10**6), -rng.randrange(1, 9)]) for _ in range(3)]
        keys = [max(1, (n * 2_654_435_761 if n > 0 else n) * 3 + k & 0xFFFFFFFF) for k, n in enumerate(numbers)]
        if number % 10 == 9:
            table.append(keys)
            table.remove_last(keys)
        for k, key in enumerate(keys):
            plain[k, key].append(number)
        table.append(keys)
        records.append(keys)
    for keys in rng.sample(records, 300):
        assert table.candidates(keys) == Counter(n for k, key in enumerate(keys) for n in plain[k, key][-CHAIN:])


# ---- the name


def test_the_module_is_the_stage_too(tmp_path: Path) -> None:
    """`babyllm.dedup(...)` runs the stage and names arguments in its errors; `babyllm.dedup.Online` is the class."""
    assert babyllm.dedup.Online is Online
    with pytest.raises(babyllm.UserError, match="in: "):
        babyllm.dedup([tmp_path / "in"], tmp_path / "out", DedupConfig())
