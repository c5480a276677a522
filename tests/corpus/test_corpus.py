"""Corpora on disk, and work on their partitions."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.store.corpus import Count, Part, open_corpus, read_part, write_corpus, write_part
from babyllm.text.readers import ReadConfig, find_partitions, read_partition

DOCUMENTS = [Document(f"第{i}篇 text {i}\n😀" * (i + 1), ("news", "wiki")[i % 2], f"a.jsonl:{i}") for i in range(50)]


def test_documents_survive_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents read equal those written, in any number of row groups; any reader of Parquet sees the columns."""
    monkeypatch.setattr("babyllm.store.corpus.ROW_GROUP_CHARACTERS", 2000)
    domains = write_part(iter(DOCUMENTS), tmp_path / "a.parquet")
    assert list(read_part(tmp_path / "a.parquet")) == DOCUMENTS
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        assert file.num_row_groups > 3 and file.schema_arrow.names == ["id", "domain", "text"]
    for domain, count in domains.items():
        texts = [d.text for d in DOCUMENTS if d.domain == domain]
        assert count == Count(len(texts), sum(map(len, texts)), sum(len(t.encode()) for t in texts))


def test_a_corpus_is_its_manifest(tmp_path: Path) -> None:
    """A directory with a manifest is a corpus; a missing file or a foreign manifest is named."""
    with pytest.raises(UserError, match=r"holds no corpus\.json"):
        open_corpus(tmp_path)
    for name, half in (("a.parquet", DOCUMENTS[:20]), ("b.parquet", DOCUMENTS[20:])):
        write_part(half, tmp_path / name)
    parts = [
        Part(name, write_part(read_part(tmp_path / name), tmp_path / f"new-{name}"))
        for name in ("a.parquet", "b.parquet")
    ]
    made = write_corpus(tmp_path, parts, {"stage": "test"})
    opened = open_corpus(tmp_path)
    assert opened == made and list(opened.documents()) == DOCUMENTS
    assert {name: count.documents for name, count in opened.domains().items()} == {"news": 25, "wiki": 25}
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read"):
        list(opened.documents())
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(UserError, match=r"b\.parquet: missing"):
        open_corpus(tmp_path)
    (tmp_path / "corpus.json").write_text('{"version": 9}')
    with pytest.raises(UserError, match="format version 9"):
        open_corpus(tmp_path)
    (tmp_path / "corpus.json").unlink()
    (tmp_path / "corpus.json").mkdir()
    with pytest.raises(UserError, match=r"corpus\.json: not a description of a corpus .*Is a directory"):
        open_corpus(tmp_path)


@pytest.mark.parametrize("description", [None, "", "\0" * 64, "folder"])
def test_a_corpus_without_its_description_is_not_a_folder_of_files(tmp_path: Path, description: str | None) -> None:
    """Parts whose corpus.json is missing or damaged are refused as a folder, but read if named one by one."""
    write_part(DOCUMENTS, tmp_path / "a.parquet")
    if description == "folder":
        (tmp_path / "corpus.json").mkdir()
    elif description is not None:
        (tmp_path / "corpus.json").write_text(description)
    with pytest.raises(UserError, match=r"a\.parquet: is part of a corpus .* run the command that makes it again"):
        find_partitions([tmp_path], ReadConfig(), 1 << 20)
    (partition,) = find_partitions([tmp_path / "a.parquet"], ReadConfig(), 1 << 20)
    assert len(list(read_partition(partition, ReadConfig()))) == len(DOCUMENTS)


def squared(item: int, folder: Path, *, log: Path, fails_at: int = -1, sleep_s: float = 0.0) -> dict[str, int]:
    """Work that appends a line to `log` each time it is done."""
    if item == fails_at:
        raise UserError(f"item {item}: cannot be worked on")
    time.sleep(sleep_s)
    (folder / "out.txt").write_text(str(item**2))
    with log.open("a", encoding="utf-8") as file:
        print(item, file=file)
    return {"square": item**2}


def outputs(directory: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(directory.glob("0*/out.txt"))}


@pytest.mark.parametrize("workers", [1, 2])
def test_finished_items_are_not_worked_on_again(tmp_path: Path, workers: int) -> None:
    """Results have the order of the items; after an error only missing items are done; another key starts over."""
    log, directory = tmp_path / "log", tmp_path / "work"

    def go(key: str, **how: Any) -> list[Any]:
        work = partial(squared, log=log, **how)
        return run_partitions(range(6), work, directory, key=key, work=WorkConfig(workers), title="square")

    with pytest.raises(UserError, match="item 4: cannot be worked on"):
        go("a", fails_at=4)
    done = set(map(int, log.read_text().split()))
    assert {0, 1, 2} <= done and 4 not in done
    assert go("a") == [{"square": i * i} for i in range(6)]
    assert sorted(map(int, log.read_text().split())) == list(range(6))
    assert outputs(directory) == {f"{i:05d}": str(i * i) for i in range(6)}
    assert go("b") == [{"square": i * i} for i in range(6)]
    assert len(log.read_text().split()) == 12


def test_a_killed_stage_continues(tmp_path: Path) -> None:
    """A process killed in the middle of its items leaves only whole folders, and the next one does the rest."""
    log, directory = tmp_path / "log", tmp_path / "work"
    code = (
        "from functools import partial; from pathlib import Path; import test_corpus as t\n"
        f"work = partial(t.squared, log=Path({str(log)!r}), sleep_s=0.1)\n"
        f"t.run_partitions(range(20), work, Path({str(directory)!r}), key='a', work=t.WorkConfig(1))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    while not (directory / "00003").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = outputs(directory)
    assert 4 <= len(before) < 20
    results = run_partitions(range(20), partial(squared, log=log), directory, key="a", work=WorkConfig(1))
    assert results == [{"square": i * i} for i in range(20)] and len(outputs(directory)) == 20
    assert len(log.read_text().split()) <= 21
    assert json.loads((directory / "00000" / "done.json").read_text())["result"] == {"square": 0}


def logs_its_process(item: int, folder: Path, *, log: Path) -> None:
    """Work that logs the id of its process and takes a while."""
    with log.open("a", encoding="utf-8") as file:
        print(os.getpid(), file=file, flush=True)
    time.sleep(1)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """A stage that is killed leaves no worker behind."""
    log = tmp_path / "log"
    code = (
        "from functools import partial; from pathlib import Path; import test_corpus as t\n"
        f"work = partial(t.logs_its_process, log=Path({str(log)!r}))\n"
        f"t.run_partitions(range(100), work, Path({str(tmp_path / 'work')!r}), key='a', work=t.WorkConfig(2))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    while not log.exists() or len(set(log.read_text().split())) < 2:
        time.sleep(0.05)
    process.kill()
    process.wait()
    workers = set(map(int, log.read_text().split()))
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def killed(item: int, folder: Path, *, marks: Path, times: int) -> int:
    """Work whose process is killed at item 1, so many times, as the system does for lack of memory."""
    (folder / "half.txt").write_text(str(item), encoding="utf-8")
    if item == 1 and len(list(marks.glob("*"))) < times:
        (marks / f"{time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "whole.txt").write_text(str(item), encoding="utf-8")
    return item


def test_the_work_of_a_worker_that_dies_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with the same result and one line for each death; after three the stage ends and says what to do."""
    (marks := tmp_path / "marks").mkdir()
    job = partial(killed, marks=marks, times=2)
    assert run_partitions(range(4), job, tmp_path / "work", key="a", work=WorkConfig(2)) == list(range(4))
    written = {path.name: path.read_text() for path in (tmp_path / "work" / "00001").glob("*.txt")}
    assert written == {"half.txt": "1", "whole.txt": "1"}
    lines = [line for line in capsys.readouterr().err.splitlines() if "died" in line]
    assert lines == [f"work/00001: the worker process died (attempt {n} of 3); another one tries again" for n in (1, 2)]
    job = partial(killed, marks=marks, times=99)
    with pytest.raises(UserError, match=r"^again/00001: 3 worker processes died, .*--work\.partition_bytes.*goes on"):
        run_partitions(range(3), job, tmp_path / "again", key="a", work=WorkConfig(2))


def test_progress_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If standard error is not a terminal, lines report how far the work has come and what is left."""
    run_partitions(
        [1, 2], partial(squared, log=tmp_path / "log"), tmp_path / "work", key="a", work=WorkConfig(1), title="square"
    )
    assert "square 2/2 100% | 0 s elapsed, 0 s left" in capsys.readouterr().err


@pytest.mark.parametrize("first", [0, 30, 50])
def test_a_part_has_the_addresses_of_its_documents(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has the column url if any of its documents has one; other files are as before."""
    monkeypatch.setattr("babyllm.store.corpus.ROW_GROUP_CHARACTERS", 2000)
    documents = [
        replace(d, url=f"https://a.example/{i}" * (i % 2)) if i >= first else d for i, d in enumerate(DOCUMENTS)
    ]
    write_part(documents, tmp_path / "a.parquet")
    write_part(DOCUMENTS, tmp_path / "plain.parquet")
    assert list(read_part(tmp_path / "a.parquet")) == documents
    assert (pq.read_schema(tmp_path / "a.parquet").names == ["id", "domain", "text", "url"]) == (first < 50)
    if first == 50:
        assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.parquet", "plain.parquet"]
    with pq.ParquetFile(tmp_path / "a.parquet") as file, pq.ParquetFile(tmp_path / "plain.parquet") as plain:
        assert file.num_row_groups == plain.num_row_groups
