"""What counts as a record, and how its fields are found."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from records_fixtures import ONE, ROWS, TEXT, documents, dumped, json_lines, put, read, reasons, texts

from babyllm.errors import UserError
from babyllm.store.corpus import open_corpus
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.stage import clean
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup
from babyllm.text.readers import ReadConfig, find_partitions

# ---- addresses

CONVERSATION = "a conversation, which train_sft.py takes with --data.path, and other commands with --kind=conversations"


@pytest.mark.parametrize(
    "record",
    [
        {"url": "https://a.example/页?q=1"},
        {"URL": "https://a.example/页?q=1"},
        {"url": None, "link": "https://a.example/页?q=1"},
        {"url": "no address", "source_url": "https://a.example/页?q=1"},
        {"meta": {"url": "https://a.example/页?q=1"}},
        {"WARC-Target-URI": "https://a.example/页?q=1"},
    ],
)
def test_the_address_of_a_record(record: dict[str, Any], tmp_path: Path) -> None:
    """A document has the address that its record has under one of the usual names, in lines and in columns."""
    put(tmp_path / "in/a.jsonl", json_lines({"text": TEXT, **record}))
    pq.write_table(pa.Table.from_pylist([{"text": TEXT, **record}]), tmp_path / "in/b.parquet")
    assert [d.url for d in documents(read(tmp_path / "in"))] == ["https://a.example/页?q=1"] * 2


def test_the_address_of_a_page(tmp_path: Path) -> None:
    """A page of an archive has the address it was fetched from, a page in a file the one that it declares."""
    paragraph = f"<p>{TEXT * 6}</p>" * 3
    link = '<link href="https://b.example/a?x=1&amp;y=2" rel="canonical">'
    put(tmp_path / "in/a.html", f"<html><head>{link}</head><body><article>{paragraph}</article></body></html>")
    body = TEXT.encode()
    head = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: <https://c.example/>\r\nContent-Type: text/plain\r\n"
    put(tmp_path / "in/b.wet", head + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\r\n\r\n")
    assert [d.url for d in documents(read(tmp_path / "in"))] == ["https://b.example/a?x=1&y=2", "https://c.example/"]


def test_addresses_go_through_the_stages(tmp_path: Path) -> None:
    """Cleaning and deduplicating a corpus, even repeatedly, keep the address of each document."""
    records = [{"text": f"{TEXT}第{i}篇。", "url": f"https://a.example/{i}"} for i in range(3)]
    put(tmp_path / "in/a.jsonl", json_lines(*records, {"text": TEXT}))
    clean([tmp_path / "in"], tmp_path / "clean", CleanConfig(filters=("length",)), work=ONE)
    dedup([tmp_path / "clean"], tmp_path / "unique", DedupConfig(near=(), work=ONE))
    clean([tmp_path / "unique"], tmp_path / "again", CleanConfig(filters=("length",)), work=ONE)
    urls = ["https://a.example/0", "https://a.example/1", "https://a.example/2", ""]
    assert [d.url for d in open_corpus(tmp_path / "again").documents()] == urls


# ---- fields


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"text": "", "content": TEXT}, TEXT),
        ({"text": " \n", "content": TEXT}, TEXT),
        ({"text": 5, "content": TEXT}, TEXT),
        ({"question": "", "answer": "", "output": TEXT}, TEXT),
        ({"text": "", "content": " "}, ""),
        ({"Text": TEXT}, TEXT),
        ({" text ": TEXT}, TEXT),
        ({"Question": "1 + 1?", "ANSWER": "2"}, "1 + 1?\n2"),
        ({"Title": "花", "Body": TEXT}, f"花\n{TEXT}"),
        ({"段落": [{"zh_text": "你好", "en_text": "Hello"}, {"zh_text": "", "en_text": "Bye"}]}, "你好\nHello\nBye"),
        ({"translation": {"en": "Hello", "zh": "你好"}}, "Hello\n你好"),
        ({"en": "Hello", "zh": "你好"}, "你好\nHello"),
    ],
)
def test_the_full_field_is_found(record: dict[str, Any], text: str, tmp_path: Path) -> None:
    """The first field that holds text counts, also with other case or blanks; pairs of languages become lines."""
    put(tmp_path / "in/a.jsonl", json_lines(record))
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "in/b.parquet")
    assert texts(read(tmp_path / "in")) == [text] * 2


def test_columns_with_other_case_or_blanks(tmp_path: Path) -> None:
    """Columns are found although their names differ in case or have blanks."""
    assert texts(read(put(tmp_path / "a.csv", f"ID, Text\n1,{TEXT}\n"))) == [TEXT]


@pytest.mark.parametrize(
    "record", [{"段落": [{"行号": 1}]}, {"paragraphs": []}, {"sections": [""]}, {"段落": [], "n": 1}]
)
def test_lists_without_text_are_no_documents(record: dict[str, Any], tmp_path: Path) -> None:
    """A record whose paragraphs hold no text is rejected rather than read as an empty document."""
    path = put(tmp_path / "a.jsonl", json_lines(record))
    assert reasons(read(path)) == ["no field holds text; name it with --read.text"]


@pytest.mark.parametrize("name", ["messages", "conversations", "turns"])
@pytest.mark.parametrize("turn", [{"role": "user", "content": TEXT}, {"from": "human", "value": TEXT}])
def test_conversations_are_no_documents(name: str, turn: dict[str, str], tmp_path: Path) -> None:
    """A conversation among documents is rejected; the reason names the command that reads it, and the setting."""
    put(tmp_path / "in/a.jsonl", json_lines({"id": 1, name: [turn, turn]}))
    pq.write_table(pa.Table.from_pylist([{"id": 1, "messages": [turn]}]), tmp_path / "in/b.parquet")
    assert reasons(read(tmp_path / "in")) == [
        f"{CONVERSATION}; --read.text={name} reads what is said in it" for name in (name, "messages")
    ]
    assert texts(read(tmp_path / "in/a.jsonl", text=name)) == [f"{TEXT}\n{TEXT}"]
    assert reasons(read(put(tmp_path / "b.jsonl", json_lines([turn])))) == [CONVERSATION]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson"])
@pytest.mark.parametrize(
    "content",
    {
        "lines": "\n".join(map(dumped, ROWS)),
        "array": dumped(ROWS),
        "pretty array": dumped(ROWS, indent=1),
        "array of lines": "[\n" + ",\n".join(map(dumped, ROWS)) + "\n]\n",
        "pretty objects": "\n".join(dumped(row, indent=2) for row in ROWS),
        "objects with Windows line ends": "\n".join(dumped(row, indent=2) for row in ROWS).replace("\n", "\r\n"),
        "joined": "".join(map(dumped, ROWS)),
        "joined in lines": "\n".join(dumped(a) + dumped(b) for a, b in zip(ROWS[::2], ROWS[1::2], strict=True)),
        "commas after lines": ",\n".join(map(dumped, ROWS)) + ",\n",
        "commas between objects": ",".join(map(dumped, ROWS)),
        "old line ends": "\r".join(map(dumped, ROWS)),
        "arrays after each other": dumped(ROWS[:5], indent=1) + "\n" + dumped(ROWS[5:], indent=1),
        "record separators": "".join(f"\x1e{dumped(row)}\n" for row in ROWS),
        "holes": "\0\0\0".join(f"{dumped(row)}\n" for row in ROWS),
        "marks of joined files": "\ufeff".join(f"{dumped(row)}\n" for row in ROWS),
        "empty lines": "\n\n \r\n".join(map(dumped, ROWS)),
        "tabs in texts": "\n".join(dumped(row).replace(TEXT, f"{TEXT}\t") for row in ROWS),
    }.values(),
)
def test_json_is_known_by_its_content(suffix: str, content: str, tmp_path: Path) -> None:
    """Lines, arrays and values one after the other are read alike under every suffix of JSON."""
    items = read(put(tmp_path / f"a{suffix}", content))
    assert [text.replace("\t", "") for text in texts(items)] == [row["text"] for row in ROWS] and not reasons(items)
    for item in documents(items):
        begin = content.encode()[int(item.id.rpartition(":")[2]) :].decode()
        assert begin.lstrip("\x1e\0\ufeff").startswith("{")


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_large_files_of_lines_are_cut(suffix: str, tmp_path: Path) -> None:
    """A file with a record per line is read in pieces, one of another form as a whole, whatever its suffix."""
    for content, n in (("\n".join(map(dumped, ROWS)), 4), (dumped(ROWS, indent=1), 1)):
        path = put(tmp_path / f"a{suffix}", content)
        size = -(-path.stat().st_size // 4)
        assert len(find_partitions([path], ReadConfig(), size)) == n
        assert texts(read(path, size=size)) == [row["text"] for row in ROWS]


def test_a_bad_first_line_is_one_line(tmp_path: Path) -> None:
    """A broken first line costs a file of JSON lines only that line."""
    for first in ('{"text": "a', "{", "x", '{"text": "a"} x'):
        path = put(tmp_path / "a.jsonl", "\n".join([first, *map(dumped, ROWS)]))
        items = read(path)
        assert texts(items) == [row["text"] for row in ROWS] and len(reasons(items)) == 1, first


# ---- text files of several documents

STORIES = [f"从前有一只猫。\n它的名字是{i}。" for i in range(9)]


@pytest.mark.parametrize("size", [1 << 20, 100, 37])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
@pytest.mark.parametrize(
    ("between", "settings"),
    [
        ("\n<|endoftext|>\n", {}),
        ("\r\n<|endoftext|>\r\n", {}),
        ("<sep>", {"separator": "<sep>"}),
        ("\n\n\n", {"separator": r"\n\n\n"}),
        ("\n\n", {"txt": "blank"}),
        ("\n\n \t\n\n", {"txt": "blank"}),
    ],
)
def test_a_text_file_of_documents(
    between: str, settings: dict[str, Any], encoding: str, size: int, tmp_path: Path
) -> None:
    """Documents between separators or blank lines are the same however the file is cut; their ids are offsets."""
    content = between.join([*STORIES, ""])
    data = content.encode(encoding)
    items = read(put(tmp_path / "a.txt", data), size=size, **settings)
    assert texts(items) == STORIES and not reasons(items)
    counted = content.encode("utf-8") if encoding == "utf-16" else data
    for item, story in zip(documents(items), STORIES, strict=True):
        at = int(item.id.rpartition(":")[2])
        begin = story.encode("utf-8" if encoding == "utf-16" else encoding)
        assert counted[at:].startswith(begin)


def test_long_parts_of_a_text_file_are_rejected_alone(tmp_path: Path) -> None:
    """A document that is too long is rejected alone; if it is a whole file, the reason says how to read its lines."""
    long = "长" * 1000
    for between, settings in (("\n<|endoftext|>\n", {}), ("\n\n", {"txt": "blank"})):
        path = put(tmp_path / "a.txt", between.join(["a", long, "b", f"{long}\n{long}", "c"]))
        items = read(path, max_record_bytes=1000, **settings)
        assert texts(items) == ["a", "b", "c"] and reasons(items) == ["longer than read.max_record_bytes"] * 2
    (reason,) = reasons(read(put(tmp_path / "b.txt", "一行\n" * 1000), max_record_bytes=1000))
    assert "--read.txt=line" in reason


def test_a_separator_and_lines_exclude_each_other(tmp_path: Path) -> None:
    """A separator together with --read.txt, or an empty separator, is refused."""
    path = put(tmp_path / "a.txt", TEXT)
    for settings in ({"separator": "x", "txt": "line"}, {"separator": ""}):
        with pytest.raises(UserError, match=r"--read\.separator="):
            read(path, **settings)
