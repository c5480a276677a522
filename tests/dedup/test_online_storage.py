"""Where `babyllm.dedup.Online` keeps records: threads, kills, damaged files, Redis."""

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
from collections.abc import Iterator
from pathlib import Path

import pytest
from question_fixtures import CHINESE, ENGLISH, numbered, stream_of

import babyllm
from babyllm.dedup import Match, Online


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
                kept.add_many(numbered(CHINESE[1:]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(kept) == 1 and path.stat().st_size == size
        assert kept.add_many(numbered(CHINESE)) == [Match("a", 1.0)] + [None] * (len(CHINESE) - 1)
    with Online(path) as kept:
        assert len(kept) == len(CHINESE)
    with pytest.raises(babyllm.UserError, match="cannot be written"):
        Online(path / "below")


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
    records = numbered(stream_of(250, 8, 300))
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


def test_a_bucket_of_redis_is_bounded(redis_url: str) -> None:
    """Of a key that many unlike records share the newest 64 stay, as in memory; the others are found by other keys."""
    rng = random.Random(3)
    common, *texts = ("".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(n)) for n in (60, *[40] * 180))
    records = [(str(i), common + text) for i, text in enumerate(texts)]
    records += [(f"{i}-again", common + texts[i][:-2]) for i in range(0, 180, 7)]
    with Online() as memory, Online(f"{redis_url}#hot") as kept:
        expected = memory.add_many(records)
        assert kept.add_many(records) == expected and len(kept) == 180
    assert [match.id for match in expected if match] == [str(i) for i in range(0, 180, 7)]
    with pytest.importorskip("redis").Redis.from_url(redis_url) as client:
        assert max(map(client.strlen, client.scan_iter("babyllm:hot:b*"))) == 64 * 6


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
