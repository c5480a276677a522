"""The diversity of conversations: what is counted, that it adds up, and the distances between conversations."""

import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from diversity_fixtures import talk

from babyllm.chat.messages import Conversation, Message
from babyllm.chat_corpus.diversity.diversity_report import report_of
from babyllm.chat_corpus.diversity.gather import Turn, diversity_of, turns_of
from babyllm.chat_corpus.diversity.record_distances import distances
from babyllm.chat_corpus.diversity.tallies import HELD, Tally, TextTally, text_keys
from babyllm.chat_corpus.diversity.terms import opening, pairs_of, tokens_of
from babyllm.chat_corpus.diversity.totals import SAMPLE, Diversity, merge
from babyllm.text.readers import Rejected

FEW = [
    talk("今天天气怎么样？", "今天是晴天。", system="你是助手", task="chat/weather", id="a:0"),
    talk("今天天气怎么样？", "不知道。", task="chat/weather", id="a:1"),
    talk("Write a poem", "Roses are red", "Write a story", "Once upon", system="你是助手", task="write", id="a:2"),
    talk("今天天气怎么样？ ", "今天是晴天。", task="chat/news", id="a:3"),
]


def test_turns() -> None:
    """A turn is an answer with all that was said since the answer before; system messages belong to no turn."""
    roles = ("system", "user", "tool", "assistant", "assistant", "user")
    conversation = Conversation(tuple(Message(role, text) for role, text in zip(roles, "sutabv", strict=True)))
    assert turns_of(conversation) == [Turn("u\nt", "a"), Turn("", "b")]


def test_counts_of_a_small_set() -> None:
    """Conversations, turns, texts, tasks of two levels, system messages, lengths and openings are counted."""
    d = diversity_of([*FEW, Rejected("a:4", "no answer", ""), Rejected("a:5", "no answer", "")])
    assert (d.n, dict(d.rejected), d.counts["blank_answers"]) == (4, {"no answer": 2}, 0)
    assert [(text, n) for _, text, n in d.tasks.top(9)] == [("chat/weather", 2), ("chat/news", 1), ("write", 1)]
    assert [(text, n) for _, text, n in d.top_tasks.top(9)] == [("chat", 3), ("write", 1)]
    assert d.tasks.table.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.5, 0.25, 0.25)))
    assert [(text, n) for _, text, n in d.systems.top(9)] == [("你是助手", 2)]
    # Whitespace at the end of a text does not count.
    assert (d.prompts.total, d.prompts.table.distinct, d.answers.table.distinct, d.pairs.distinct) == (5, 3, 4, 4)
    assert d.prompts.table.repeated_share == pytest.approx(0.4)
    assert [(text, n) for _, text, n in d.prompts.top(1)] == [("今天天气怎么样？", 3)]
    assert d.conversations.distinct == 4  # the first and the last differ in the system message
    assert [(text, n) for _, text, n in d.prompt_openings.top(9)] == [("今天天气", 3), ("write a", 2)]
    assert [(text, n) for _, text, n in d.answer_openings.top(9, 2)] == [("今天是晴", 2)]
    assert dict(zip(d.turns.keys.tolist(), d.turns.counts.tolist(), strict=True)) == {1: 3, 2: 1}
    lengths = Counter(len(turn.answer) for conversation in FEW for turn in turns_of(conversation))
    assert dict(zip(d.answer_lengths.keys.tolist(), d.answer_lengths.counts.tolist(), strict=True)) == lengths
    assert d.answer_lengths.below(9) == 3 and d.answer_lengths.quantile(0.5) == 6 and d.answer_lengths.quantile(1) == 13
    assert d.scripts == {"Chinese": 3, "Latin": 1, "other scripts": 0, "no letters": 0}


def test_tokens_are_characters_and_words() -> None:
    """Chinese characters and words of other scripts are tokens, folded; pairs do not cross the border of a text."""
    tokens = tokens_of(["Ｈello, 世界 world2", "", "！？", "мир 42 世"])
    assert np.diff(tokens.rows.offsets).tolist() == [4, 0, 0, 3]
    assert [tokens.text(i) for i in range(7)] == ["hello", "世", "界", "world2", "мир", "42", "世"]
    assert tokens.rows.values[1] == tokens.rows.values[6]
    assert tokens.scripts().tolist() == [1, 0, 0, 1, 2, 3, 0]
    assert np.diff(pairs_of(tokens.rows).offsets).tolist() == [3, 0, 0, 2]
    pairs = pairs_of(tokens_of(["a b a", "b a b"]).rows)
    assert pairs.values[0] == pairs.values[3] != pairs.values[1] == pairs.values[2]
    d = diversity_of(FEW)
    frequent = Counter("今天天气怎么样" * 3) + Counter(["write", "a", "poem", "write", "a", "story"])
    top = {text: n for _, text, n in d.prompt_tokens.top(99)}
    assert top == frequent and d.prompt_tokens.total == frequent.total()
    assert d.script_tokens["Chinese"] == 3 * 7 + 2 * 5 + 3 and d.script_tokens["Latin"] == 6 + 5


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("请帮我写一首诗", "请帮我写"),
        ("“请，帮我”", "请帮我"),
        ("用 Python 写一个", "用python写一"),
        ("Write a poem", "write a"),
        ("# Hi!", "hi"),
        ("snake_case is it", "snake case"),
        ("？！", ""),
    ],
)
def test_first_words(text: str, begins: str) -> None:
    """A text begins with four tokens if the first is a Chinese character, else with two words."""
    assert opening(text) == begins


def test_topic_switches() -> None:
    """A later question that shares no term with the turn before is a switch; one without terms is not counted."""
    stays = talk("介绍长城的历史", "长城有两千年。", "长城有多长？", "很长。")
    leaves = talk("介绍长城的历史", "长城有两千年。", "如何炒鸡蛋？", "先打蛋。", "番茄怎么切", "切块。")
    answers_count = talk("讲讲", "长城很长。", "为什么长城", "因为。")
    no_terms = talk("介绍长城", "好的。", "嗯", "还有吗？", "ok, go on", "好。")
    english = talk("Describe the Amazon river", "It is long.", "Is the Amazon deep?", "Yes.", "Bake bread!", "Sure.")
    found = [diversity_of([one]).counts for one in (stays, leaves, answers_count, no_terms, english)]
    assert [(c["follow_ups"], c["switches"]) for c in found] == [(1, 0), (2, 2), (1, 0), (0, 0), (2, 1)]
    together = diversity_of([stays, leaves, answers_count, no_terms, english]).counts
    assert (together["follow_ups"], together["switches"]) == (6, 3)


def test_the_topic_threshold_is_a_share_of_the_question() -> None:
    """A question is a switch if one of its 21 terms is in the turn before, and not if one of 20 is."""
    words = [f"word{i:02}" for i in range(21)]
    for n, switches in ((20, 0), (21, 1)):
        d = diversity_of([talk("begin", "word00 only", " ".join(words[:n]), "fine")])
        assert (d.counts["follow_ups"], d.counts["switches"]) == (1, switches)


# ---- what adds up


def some(n: int, seed: int) -> list[Conversation]:
    """Conversations with many equal texts."""
    rng = random.Random(seed)
    words = ["今天", "天气", "长城", "write", "a poem", "你好", "数学", "证明", "river", "мир", "12"]

    def text() -> str:
        return "".join(rng.choices(words, k=rng.randint(1, 6))) + rng.choice(["。", "?", " "])

    return [
        talk(
            *(text() for _ in range(2 * rng.randint(1, 3))),
            system=rng.choice(["", "你是助手", "be short"]),
            task=rng.choice(["a/b", "a/c", "d"]),
            id=f"f{seed}:{i}",
        )
        for i in range(n)
    ]


def plain_terms(text: str) -> set[str]:
    """The terms of a text, one by one: pairs of Chinese characters and words of at least four letters."""
    tokens = re.findall("[一-鿿]|[a-zа-я0-9]+", text)
    pairs = {a + b for a, b in itertools.pairwise(tokens) if min(a[0], b[0]) >= "一"}
    return pairs | {token for token in tokens if token[0] < "一" and len(token) >= 4}


def test_topic_switches_equal_a_direct_count() -> None:
    """Switches of many conversations at once equal those found turn by turn with sets of terms."""
    conversations = some(600, 8)
    follow_ups = switches = 0
    for before, turn in (pair for one in conversations for pair in itertools.pairwise(turns_of(one))):
        if terms := plain_terms(turn.prompt):
            follow_ups += 1
            shared = terms & (plain_terms(before.prompt) | plain_terms(before.answer))
            switches += len(shared) / len(terms) < 0.05
    counts = diversity_of(conversations).counts
    assert (counts["follow_ups"], counts["switches"]) == (follow_ups, switches) and 50 < switches < follow_ups


def test_parts_add_up_in_any_order() -> None:
    """Sums of parts, through JSON and in any order, have the same value and the same report as the whole."""
    conversations = some(1500, 1)
    rejected = [Rejected("x", "broken", "")] * 3
    whole = diversity_of([*conversations, *rejected])
    shuffled = [*rejected, *conversations]
    random.Random(2).shuffle(shuffled)
    again = diversity_of(shuffled)
    cuts = [0, 1, 400, 400, 1200, len(shuffled)]
    parts = [diversity_of(shuffled[a:b]) for a, b in itertools.pairwise(cuts)]
    stored = [Diversity.of(json.loads(json.dumps(part.to_json()))) for part in parts]
    for other in (again, merge(parts), merge(stored[::-1])):
        assert json.dumps(other.to_json(), sort_keys=True) == json.dumps(whole.to_json(), sort_keys=True)
    assert report_of(merge(stored[::-1])).to_json() == report_of(whole).to_json()
    assert len(whole.sample.texts) == SAMPLE and whole.n == 1500


def test_frequent_texts_are_found_among_many() -> None:
    """A text that more than one in 4,097 are equal to is listed with its exact count, whatever came before or after."""
    n = 3 * HELD
    texts = [f"text {i}" for i in range(n)] + ["often"] * 9 + ["seldom"] * 2
    orders = [texts, texts[::-1], random.Random(3).sample(texts, len(texts))]
    for order in orders:
        parts = [TextTally.of_texts(order[i : i + 1000]) for i in range(0, len(order), 1000)]
        tally = parts[0]
        for part in parts[1:]:
            tally = tally + part
        assert len(tally.texts) <= HELD
        assert [(text, count) for _, text, count in tally.top(5)] == [("often", 9)]
        assert (tally.total, tally.table.distinct) == (n + 11, n + 2)


def test_a_full_tally_estimates() -> None:
    """Beyond its limit a tally keeps a share of the keys, the same in any order, and estimates how many there are."""
    keys = text_keys([f"text {i % 5000}" for i in range(15_000)])
    whole = Tally.of(keys, None, 1000)
    assert 500 < len(whole.keys) <= 1000 and whole.level == 3 and whole.total == 15_000
    assert whole.distinct == pytest.approx(5000, rel=0.15)
    assert whole.repeated_share == pytest.approx(2 / 3, abs=0.05)
    assert whole.entropy == pytest.approx(math.log(5000), rel=0.02)
    assert whole.distinct_in(100) == pytest.approx(Tally.of(keys).distinct_in(100), rel=0.15)
    parts = [Tally.of(keys[i::7], None, 1000) for i in (3, 0, 6, 1, 5, 2, 4)]
    summed = parts[0]
    for part in parts[1:]:
        summed = summed + part
    assert summed.to_json() == whole.to_json()
    assert {whole.count(int(key)) for key in keys} == {3, None} and whole.count(8) in (0, 3)


def test_texts_of_a_full_tally_have_lower_bounds() -> None:
    """A frequent text whose key a full tally does not keep is listed with a lower bound of its count."""
    texts = [f"text {i}" for i in range(300)] + [f"often {i}" for i in range(8)] * 50
    tally = TextTally.of(text_keys(texts), lambda i: texts[i], limit=10)
    assert tally.table.level > 0
    assert {(text, count) for _, text, count in tally.top(8)} == {(f"often {i}", 50) for i in range(8)}


def test_different_tokens_in_a_draw() -> None:
    """The expected number of different keys in a draw is that over all draws."""
    counts = [5, 3, 1, 1]
    items = [key for key, n in enumerate(counts) for _ in range(n)]
    tally = Tally.of(np.array(items, np.uint64))
    for n in (1, 2, 4, 9, 10):
        draws = [len({items[i] for i in draw}) for draw in itertools.combinations(range(10), n)]
        assert tally.distinct_in(n) == pytest.approx(sum(draws) / len(draws))
    assert tally.distinct_in(0) == 0


# ---- distances


def brute(texts: Sequence[str]) -> tuple[float, float, float]:
    """Mean Jaccard and cosine distances, and the overlap, pair by pair; tokens are separated by spaces."""
    rows = [text.split() for text in texts]
    sets = [set(itertools.pairwise(row)) for row in rows]
    n = len(rows)
    found = Counter(token for row in rows for token in set(row))
    vectors = [{t: c * (1 + math.log((1 + n) / (1 + found[t]))) for t, c in Counter(row).items()} for row in rows]

    def cosine(a: dict[str, float], b: dict[str, float]) -> float:
        sizes = math.hypot(*a.values()) * math.hypot(*b.values())
        return sum(v * b.get(t, 0) for t, v in a.items()) / sizes if sizes else float(not a and not b)

    pairs = list(itertools.combinations(range(n), 2))
    jaccard = [len(sets[i] & sets[j]) / len(sets[i] | sets[j]) if sets[i] | sets[j] else 1.0 for i, j in pairs]
    cosines = [cosine(vectors[i], vectors[j]) for i, j in pairs]
    times = Counter(pair for one in sets for pair in one)
    overlap = [sum(times[pair] > 1 for pair in one) / len(one) for one in sets if one]
    return 1 - sum(jaccard) / len(pairs), 1 - sum(cosines) / len(pairs), sum(overlap) / len(overlap)


def test_distances_are_those_of_all_pairs() -> None:
    """Mean distances and overlap equal a direct computation, texts without tokens included."""
    rng = random.Random(5)
    words = ["ab", "cd", "ef", "gh", "ij", "kl"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(30)] + ["", "?!"]
    found = distances(texts, 1000)
    assert found is not None and found.n == 32
    plain = brute([text.replace("?!", "") for text in texts])
    assert (found.jaccard.value, found.cosine.value, found.overlap) == pytest.approx(plain)
    assert distances(texts[:1], 1000) is None


def test_the_standard_error_is_that_of_samples() -> None:
    """The standard error is the spread of the means of many samples, and 0 if the sample is the whole."""
    rng = random.Random(6)
    topics = ["ab cd ef gh", "ij kl mn op", "qr st uv wx"]
    texts = [" ".join(rng.choices(rng.choice(topics).split(), k=8)) for _ in range(300)]
    found = [distances(rng.sample(texts, 60), 300) for _ in range(150)]
    means = [one.jaccard.value for one in found if one]
    errors = [one.jaccard.error for one in found if one]
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.2)
    whole = distances(texts, 300)
    assert whole is not None and whole.jaccard.error == whole.cosine.error == 0
    assert abs(np.mean(means) - whole.jaccard.value) < 3 * np.std(means) / math.sqrt(150)


def test_a_sample_is_drawn_by_hash() -> None:
    """Each conversation is drawn with the same probability, even if its text is equal to others."""
    same = [talk("你好", "好", id=f"a:{i}") for i in range(2000)]
    other = [talk("再见", "行", id=f"b:{i}") for i in range(2000)]
    sample = diversity_of([*same, *other]).sample
    assert len(sample.texts) == SAMPLE
    assert 400 < sum("你好" in text for text in sample.texts) < 600
