"""`babyllm.dedup.Online`: what counts as a near-duplicate, threads, kills, damaged files, Redis."""

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

import babyllm
from babyllm.dedup import Match, Online
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.near.shingles import ShingleConfig
from babyllm.text.dedup.normal import normal_form
from babyllm.text.dedup.online.band_table import CHAIN, BandTable

CHINESE = (
    """
今天北京的天气怎么样？|请把下面这段话翻译成英语|如何学好高中数学？|怎样才能学好物理呢？|用三句话介绍一下唐代诗人李白
孩子发烧了应该怎么办？|写一首关于春天的五言绝句|推荐几本适合初学者的编程书|为什么天空是蓝色的？|光合作用需要哪些条件？
帮我写一封辞职信，语气要客气|西红柿炒鸡蛋怎么做才好吃？|解释一下什么是通货膨胀|中国有多少个省级行政区？|如何给旧电脑换一块固态硬盘
给我的小猫起五个可爱的名字|世界上最高的山峰是哪一座？|请总结这篇文章的主要观点|怎么在网上办理护照？|周末去杭州旅游有什么建议
计算圆的面积用什么公式？|长期熬夜对身体有哪些坏处|如何说服老板给我加工资？|列出五种富含维生素的水果|请解释量子纠缠的基本概念
租房合同里要注意哪些条款？|孔子的主要思想是什么|怎样训练小狗定点上厕所？|设计一个一周的健身计划|写一段冒泡排序的代码并加上注释
电饭锅煮粥总是溢出来怎么办|为新开的咖啡馆想一句广告语|人工智能会取代老师吗？|比较火车和飞机出行的优缺点|跑步前需要做哪些热身动作？
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
ENGLISH = (
    """
How do I learn to play the guitar?|Translate this paragraph into French|What is the capital city of Australia?
Write a short poem about the autumn rain|Explain how vaccines protect the body|Why do cats purr when they are happy?
Give me three tips for a job interview|Summarise the plot of Romeo and Juliet|How long should I boil an egg?
What are the side effects of ibuprofen?|Draft an email asking for a day off|Name five rivers that flow through Germany
How can I remove red wine from a carpet?|Describe the water cycle to a child|Which planets have rings around them?
Plan a weekend trip to Edinburgh|Convert these measurements to metric units|What causes inflation in an economy?
Write a function that reverses a string|Suggest a name for a bakery by the sea|How does a diesel engine work?
List the ingredients of a classic pesto|What should I pack for a winter hike?|Who painted the Sistine Chapel?
Compare renting a flat with buying one|Explain the offside rule in football|How do I change a flat bicycle tyre?
Invent a riddle whose answer is a shadow|How do viruses and bacteria differ?|Fix the grammar of my cover letter
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
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


def stream_of(n: int, seed: int, most: int) -> list[str]:
    """Texts of which many are edited copies of earlier ones, of 1 to `most` characters."""
    rng = random.Random(seed)
    texts: list[str] = []
    while len(texts) < n:
        letters = list(rng.choice(texts)) if texts and rng.random() < 0.6 else []
        letters = letters or [chr(rng.randrange(0x4E00, 0x4E80)) for _ in range(rng.randrange(1, most))]
        for _ in range(rng.randrange(1 + len(letters) // 8)):
            letters[rng.randrange(len(letters))] = chr(rng.randrange(0x4E00, 0x4E80))
        texts.append("".join(letters))
    return texts


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


# ---- threads, processes, files


def test_threads_keep_one_of_each() -> None:
    """Of near-duplicates that several threads add at once, one is kept, and the others name it."""
    rng, results = random.Random(6), []
    with Online() as kept:

        def work(records: list[tuple[str, str]]) -> None:
            found = [kept.add(*record) for record in records[:60]] + kept.add_many(records[60:])
            results.extend(zip(records, found, strict=True))

        copies = [[(f"{i}-{t}", "。" * t + text) for i, text in enumerate(CHINESE + ENGLISH)] for t in range(4)]
        threads = [threading.Thread(target=work, args=(rng.sample(some, len(some)),)) for some in copies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = {name.partition("-")[0]: name for (name, _), match in results if match is None}
        assert len(winners) == len(kept) == len(CHINESE + ENGLISH)
    assert all(match.id == winners[name.partition("-")[0]] for (name, _), match in results if match)


ADDER = """
import sys
from babyllm.dedup import Online
kept, n = Online(sys.argv[1]), 0
while True:
    texts = [f"{n + i} " + "".join(chr(0x4E00 + (n + i) * 7919 * k % 20000) for k in range(1, 20)) for i in range(5)]
    records = [(str(n + i), text) for i, text in enumerate(texts)]
    results = kept.add_many(records) if n % 2 else [kept.add(*record) for record in records]
    n += 5
    print(n, flush=True)
"""


@pytest.mark.parametrize("delay_s", [pytest.param(0.1 * i, marks=[pytest.mark.campaign] * (i > 0)) for i in range(20)])
def test_a_kill_loses_no_acknowledged_record(tmp_path: Path, delay_s: float) -> None:
    """After SIGKILL the file opens, and each record whose call had returned is there."""
    path = tmp_path / "kept.log"
    with subprocess.Popen([sys.executable, "-c", ADDER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(40)]
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        n = int([*lines, *process.stdout.read().splitlines(keepends=True)][-1])
    with Online(path) as kept:
        assert n >= 200 and len(kept) >= n
        for i in range(n):
            text = f"{i} " + "".join(chr(0x4E00 + i * 7919 * k % 20000) for k in range(1, 20))
            assert kept.check(text) == Match(str(i), 1.0)


def test_a_file_is_continued(tmp_path: Path) -> None:
    """What was kept is there after reopening, also with another threshold; other settings are refused."""
    path = tmp_path / "new" / "kept.log"
    records = [(f"{i}é\ud800", text) for i, text in enumerate(stream_of(300, 7, 300))]
    with Online(path, sync=True) as kept:
        first = kept.add_many(records[:200])
        with pytest.raises(babyllm.UserError, match=r"kept\.log: it is open already"):
            Online(path)
    with Online(path) as kept:
        assert len(kept) == first.count(None)
        rest = kept.add_many(records[200:])
    with Online() as whole:
        assert whole.add_many(records) == first + rest
    with Online(path, threshold=0.9) as kept:
        assert len(kept) == (first + rest).count(None)
        assert kept.check(records[0][1]) == Match(records[0][0], 1.0)
    with pytest.raises(babyllm.UserError, match=r"kept\.log: simplify is true in the file and false here"):
        Online(path, simplify=False)
    with pytest.raises(babyllm.UserError, match="closed; open it again"):
        kept.check("x")


def test_a_torn_end_is_removed_and_damage_reported(tmp_path: Path) -> None:
    """A file cut short anywhere opens with the records before the cut; one that is damaged elsewhere is refused."""
    path = tmp_path / "kept.log"
    sizes = []
    with Online(path) as kept:
        for i, text in enumerate(CHINESE[:6]):
            sizes.append(path.stat().st_size)
            kept.add(str(i), text)
    content = path.read_bytes()
    for size in [*range(0, sizes[0], 7), *range(sizes[4], len(content))]:
        path.write_bytes(content[:size])
        with Online(path) as kept:
            assert len(kept) == sum(size >= end for end in sizes[1:])
            assert kept.add("new", ENGLISH[0]) is None
        with Online(path) as kept:
            assert kept.check(ENGLISH[0])
    path.write_bytes(content + bytes(5000))
    with Online(path) as kept:
        assert len(kept) == 6
    for place in range(sizes[2], sizes[3]):
        path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        with pytest.raises(
            babyllm.UserError, match=f"record at byte {sizes[2]:,} is damaged; .*truncate -s {sizes[2]}"
        ):
            Online(path)
    path.write_text("# my notes\n", encoding="utf-8")
    with pytest.raises(babyllm.UserError, match="not a file of online deduplication"):
        Online(path)
    assert path.read_text(encoding="utf-8") == "# my notes\n"


def test_what_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    """If the file cannot grow, the call fails and keeps nothing; later calls work when there is room again."""
    path, limits = tmp_path / "kept.log", resource.getrlimit(resource.RLIMIT_FSIZE)
    with Online(path) as kept:
        assert kept.add("a", CHINESE[0]) is None
        size = path.stat().st_size
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
            with pytest.raises(babyllm.UserError, match=r"kept\.log: cannot be written"):
                kept.add_many(enumerate_texts(CHINESE[1:]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(kept) == 1 and path.stat().st_size == size
        assert kept.add_many(enumerate_texts(CHINESE)) == [Match("a", 1.0)] + [None] * (len(CHINESE) - 1)
    with Online(path) as kept:
        assert len(kept) == len(CHINESE)
    with pytest.raises(babyllm.UserError, match="cannot be written"):
        Online(path / "below")


def enumerate_texts(texts: list[str]) -> list[tuple[str, str]]:
    return [(str(i), text) for i, text in enumerate(texts)]


def test_settings_out_of_range_are_refused() -> None:
    """A threshold without bands or outside its range is a mistake of the user."""
    with pytest.raises(babyllm.UserError, match=r"threshold=0\.0: it must be above 0 and at most 1"):
        Online(threshold=0.0)
    with pytest.raises(babyllm.UserError, match="permutations"):
        Online(threshold=0.01)


# ---- Redis


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of its own."""
    pytest.importorskip("redis")
    if not (program := shutil.which("redis-server")):
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    flags = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL) as server:
        while server.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


def test_redis_keeps_what_a_file_keeps(redis_url: str) -> None:
    """Records in Redis match as those in memory, for one that opens them later too; names keep them apart."""
    records = enumerate_texts(stream_of(250, 8, 300))
    with Online() as memory, Online(f"{redis_url}#a") as first, Online(f"{redis_url}#a") as second:
        expected = memory.add_many(records)
        assert first.add_many(records[:150]) + [second.add(*record) for record in records[150:]] == expected
        assert len(first) == len(second) == len(memory)
        assert [first.check(text) for _, text in records[:20]] == [memory.check(text) for _, text in records[:20]]
    with Online(f"{redis_url}#b") as other:
        assert len(other) == 0
    with pytest.raises(babyllm.UserError, match=r"redis://127\.0\.0\.1/0: bands is .* in the records and .* here"):
        Online(f"{redis_url}#a", threshold=0.9)
    with pytest.raises(babyllm.UserError, match=r"redis://127\.0\.0\.1: Redis answers: .*refused"):
        Online(f"redis://:secret@127.0.0.1:{os.getpid() % 1000 + 1}")


def test_clients_of_redis_keep_one_of_each(redis_url: str) -> None:
    """Of near-duplicates that several clients add at once, one is kept, and the others name it."""
    results: list[tuple[str, Match | None]] = []

    def work(t: int) -> None:
        records = [(f"{i}-{t}", text + "。" * t) for i, text in enumerate(CHINESE)]
        random.Random(t).shuffle(records)
        with Online(f"{redis_url}#race") as kept:
            found = [kept.add(*record) for record in records[:20]] + kept.add_many(records[20:])
        results.extend(zip((name for name, _ in records), found, strict=True))

    threads = [threading.Thread(target=work, args=(t,)) for t in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = {name.partition("-")[0]: name for name, match in results if match is None}
    assert len(winners) == len(CHINESE) == sum(match is None for _, match in results)
    assert all(match.id == winners[name.partition("-")[0]] for name, match in results if match)


# ---- the name


def test_the_module_is_the_stage_too(tmp_path: Path) -> None:
    """`babyllm.dedup(...)` runs the stage and names arguments in its errors; `babyllm.dedup.Online` is the class."""
    assert babyllm.dedup.Online is Online
    with pytest.raises(babyllm.UserError, match="in: "):
        babyllm.dedup([tmp_path / "in"], tmp_path / "out", DedupConfig())
