"""What a record is, which files are read, and what people read of both."""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyllm.chat.formats import FormatConfig
from babyllm.chat.reading import read_conversations
from babyllm.commands.corpus import inspect
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.inputs import documents_of, find_sources
from babyllm.store.corpus import open_corpus
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.stage import clean
from babyllm.text.dedup.stage import DedupConfig, dedup
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, left_out, read_partition

TEXT = "今天天气很好，我们去公园散步，看到了许多美丽的花朵。"
ONE = WorkConfig(workers=1)


def read(*paths: Path, size: int = 1 << 20, **settings: Any) -> list[Document | Rejected]:
    """Every record at the paths, in partitions of about `size` bytes."""
    config = ReadConfig(**settings)
    return [item for part in find_partitions(paths, config, size) for item in read_partition(part, config)]


def documents(items: Sequence[Document | Rejected]) -> list[Document]:
    return [item for item in items if isinstance(item, Document)]


def texts(items: Sequence[Document | Rejected]) -> list[str]:
    return [item.text for item in documents(items)]


def reasons(items: Sequence[Document | Rejected]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Rejected)]


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def json_lines(*records: Any) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


# ---- addresses


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
def test_a_record_tells_its_address(record: dict[str, Any], tmp_path: Path) -> None:
    """A document has the address that its record has under one of the usual names, in lines and in columns."""
    put(tmp_path / "in/a.jsonl", json_lines({"text": TEXT, **record}))
    pq.write_table(pa.Table.from_pylist([{"text": TEXT, **record}]), tmp_path / "in/b.parquet")
    assert [d.url for d in documents(read(tmp_path / "in"))] == ["https://a.example/页?q=1"] * 2


def test_pages_tell_their_address(tmp_path: Path) -> None:
    """A page of an archive has the address it was taken from, a page in a file the one it calls its own."""
    paragraph = f"<p>{TEXT * 6}</p>" * 3
    link = '<link href="https://b.example/a?x=1&amp;y=2" rel="canonical">'
    put(tmp_path / "in/a.html", f"<html><head>{link}</head><body><article>{paragraph}</article></body></html>")
    body = TEXT.encode()
    head = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: <https://c.example/>\r\nContent-Type: text/plain\r\n"
    put(tmp_path / "in/b.wet", head + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\r\n\r\n")
    assert [d.url for d in documents(read(tmp_path / "in"))] == ["https://b.example/a?x=1&y=2", "https://c.example/"]


def test_addresses_go_through_the_stages(tmp_path: Path) -> None:
    """Cleaning and deduplicating a corpus, twice over, keep what address a document has."""
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
    """The first field that holds text counts, in other letters and with blanks too; pairs of languages are lines."""
    put(tmp_path / "in/a.jsonl", json_lines(record))
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "in/b.parquet")
    assert texts(read(tmp_path / "in")) == [text] * 2


def test_a_table_with_other_letters(tmp_path: Path) -> None:
    """Columns are found in other letters and with blanks too."""
    assert texts(read(put(tmp_path / "a.csv", f"ID, Text\n1,{TEXT}\n"))) == [TEXT]


@pytest.mark.parametrize(
    "record", [{"段落": [{"行号": 1}]}, {"paragraphs": []}, {"sections": [""]}, {"段落": [], "n": 1}]
)
def test_lists_without_text_are_no_documents(record: dict[str, Any], tmp_path: Path) -> None:
    """A record whose paragraphs hold no text has none, rather than an empty one."""
    path = put(tmp_path / "a.jsonl", json_lines(record))
    assert reasons(read(path)) == ["no field holds text; name it with --read.text"]


@pytest.mark.parametrize("name", ["messages", "conversations", "turns"])
@pytest.mark.parametrize("turn", [{"role": "user", "content": TEXT}, {"from": "human", "value": TEXT}])
def test_conversations_are_no_documents(name: str, turn: dict[str, str], tmp_path: Path) -> None:
    """A conversation among documents says which command takes it, and by which setting it is read as text."""
    put(tmp_path / "in/a.jsonl", json_lines({"id": 1, name: [turn, turn]}))
    pq.write_table(pa.Table.from_pylist([{"id": 1, "messages": [turn]}]), tmp_path / "in/b.parquet")
    assert reasons(read(tmp_path / "in")) == [
        f"a conversation, which train_sft.py takes with --data.path; --read.text={name} reads what is said in it"
        for name in (name, "messages")
    ]
    assert texts(read(tmp_path / "in/a.jsonl", text=name)) == [f"{TEXT}\n{TEXT}"]
    assert reasons(read(put(tmp_path / "b.jsonl", json_lines([turn])))) == [
        "a conversation, which train_sft.py takes with --data.path"
    ]


# ---- JSON, whatever the file is called

ROWS = [{"text": f"{TEXT}{i}", "n": [i, {}]} for i in range(12)]


def dumped(value: Any, **settings: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **settings)


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
    """Lines, arrays and values one after the other are read alike under each of the names of JSON."""
    items = read(put(tmp_path / f"a{suffix}", content))
    assert [text.replace("\t", "") for text in texts(items)] == [row["text"] for row in ROWS] and not reasons(items)
    for item in documents(items):
        begin = content.encode()[int(item.id.rpartition(":")[2]) :].decode()
        assert begin.lstrip("\x1e\0\ufeff").startswith("{")


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_large_files_of_lines_are_cut(suffix: str, tmp_path: Path) -> None:
    """A file with a record per line is read in pieces, one with another form as a whole; its name decides neither."""
    for content, n in (("\n".join(map(dumped, ROWS)), 4), (dumped(ROWS, indent=1), 1)):
        path = put(tmp_path / f"a{suffix}", content)
        size = -(-path.stat().st_size // 4)
        assert len(find_partitions([path], ReadConfig(), size)) == n
        assert texts(read(path, size=size)) == [row["text"] for row in ROWS]


def test_a_bad_first_line_is_one_line(tmp_path: Path) -> None:
    """A first line that is broken costs a file of JSON lines that line."""
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
    """Documents between separators or blank lines are the same however the file is cut; their ids are their places."""
    content = between.join([*STORIES, ""])
    data = content.encode(encoding)
    items = read(put(tmp_path / "a.txt", data), size=size, **settings)
    assert texts(items) == STORIES and not reasons(items)
    counted = content.encode("utf-8") if encoding == "utf-16" else data
    for item, story in zip(documents(items), STORIES, strict=True):
        at = int(item.id.rpartition(":")[2])
        begin = story.encode("utf-8" if encoding == "utf-16" else encoding)
        assert counted[at:].startswith(begin)


def test_long_parts_of_a_text_file_cost_themselves(tmp_path: Path) -> None:
    """A document that is too long is rejected alone; a file that is one says how to read it by lines."""
    long = "长" * 1000
    for between, settings in (("\n<|endoftext|>\n", {}), ("\n\n", {"txt": "blank"})):
        path = put(tmp_path / "a.txt", between.join(["a", long, "b", f"{long}\n{long}", "c"]))
        items = read(path, max_record_bytes=1000, **settings)
        assert texts(items) == ["a", "b", "c"] and reasons(items) == ["longer than read.max_record_bytes"] * 2
    (reason,) = reasons(read(put(tmp_path / "b.txt", "一行\n" * 1000), max_record_bytes=1000))
    assert "--read.txt=line" in reason


def test_a_separator_and_lines_exclude_each_other(tmp_path: Path) -> None:
    """A separator together with --read.txt, or an empty one, is refused in one line."""
    path = put(tmp_path / "a.txt", TEXT)
    for settings in ({"separator": "x", "txt": "line"}, {"separator": ""}):
        with pytest.raises(UserError, match=r"--read\.separator="):
            read(path, **settings)


# ---- which files are read


def test_a_file_without_suffix_is_read_if_it_is_named(tmp_path: Path) -> None:
    """A file without suffix is left out of a folder and read by what it holds if named; a suffix can be given."""
    for name, content in (("books", TEXT), ("rows", dumped({"text": TEXT})), ("list", dumped([{"text": TEXT}]))):
        assert texts(read(put(tmp_path / "in" / name, content))) == [TEXT]
    put(tmp_path / "in/notes.log", TEXT)
    assert texts(read(tmp_path / "in/notes.log", suffix=".txt")) == [TEXT]
    assert len(texts(read(tmp_path / "in", suffix=".txt"))) == 4
    for path, match in ((tmp_path / "in", r"--read\.suffix"), (tmp_path / "in/notes.log", r"--read\.suffix")):
        with pytest.raises(UserError, match=match):
            read(path)
    with pytest.raises(UserError, match="a file of a kind that is not read"):
        read(put(tmp_path / "binary", b"\0\1\2"))
    with pytest.raises(UserError, match=r"--read\.suffix=txt: write one of"):
        read(tmp_path / "in", suffix="txt")


BESIDE = ["README.md", "readme_zh.md", "LICENSE.txt", "requirements.txt", "sub/CHANGELOG.md", "sub/dataset_infos.json"]


def test_what_lies_beside_data_is_left_out(tmp_path: Path) -> None:
    """Files about the data are left out and named, unless they are asked for, named, or all there is."""
    for name in (*BESIDE, "__MACOSX/a.jsonl", "._b.jsonl", "Thumbs.db", "desktop.ini", "_SUCCESS", "a.jsonl.md5"):
        put(tmp_path / "in" / name, dumped({"text": "beside"}))
    assert len(texts(read(tmp_path / "in"))) == len(BESIDE)
    put(tmp_path / "in/sub/data.jsonl", dumped({"text": TEXT}))
    put(tmp_path / "in/sub/history.txt", TEXT)
    assert texts(read(tmp_path / "in")) == [TEXT] * 2
    found = left_out([tmp_path / "in"])
    assert found == {name.rpartition("/")[2]: 1 for name in BESIDE} | {"hidden": 5, ".md5": 1}
    assert len(texts(read(tmp_path / "in", all=True))) == len(BESIDE) + 2 and "README.md" not in left_out(
        [tmp_path / "in"], ReadConfig(all=True)
    )
    assert len(texts(read(tmp_path / "in/README.md"))) == 1
    report = clean([tmp_path / "in"], tmp_path / "out", CleanConfig(filters=()), work=ONE)
    assert report and ("files not read: LICENSE.txt", 1) in report.facts


@pytest.mark.parametrize(
    ("names", "domains"),
    [
        (["part-00001.jsonl", "part-00002.jsonl"], ["in", "in"]),
        (["000_00042.jsonl", "7.jsonl.gz"], ["in", "in"]),
        (["0a3f9c6177.jsonl", "b3f9c61770a.jsonl"], ["in", "in"]),
        (["part-00000-4c2a1b3d-11aa-22bb-33cc-123456789abc-c000.snappy.jsonl"], ["in"]),
        (["train-00000-of-00010.jsonl", "train-00001-of-00010.jsonl"], ["in", "in"]),
        (["0001/a.jsonl", "0002/b.jsonl"], ["in", "in"]),
        (["0001/zh/a.jsonl", "0001/zh/b.jsonl"], ["zh", "zh"]),
        (["wiki-00001.jsonl", "wiki-00002.jsonl"], ["wiki", "wiki"]),
        (["wiki-0a3f9c61.jsonl", "wiki-1b3f9c62.jsonl"], ["wiki", "wiki"]),
        (["train.jsonl", "valid.jsonl", "facade.jsonl"], ["facade", "train", "valid"]),
        (["c4-train.00000-of-01024.jsonl"], ["c4-train"]),
    ],
)
def test_numbered_files_are_one_domain(names: list[str], domains: list[str], tmp_path: Path) -> None:
    """What only a number or a hash tells apart is one domain, that of its folder where there is no other name."""
    for name in names:
        data = dumped({"text": TEXT}).encode()
        put(tmp_path / "in" / name, gzip.compress(data) if name.endswith(".gz") else data)
    assert [d.domain for d in documents(read(tmp_path / "in"))] == domains
    if domains[0] == "in" and "/" not in names[0]:
        assert [d.domain for d in documents(read(*[tmp_path / "in" / name for name in names]))] == domains


def test_a_limit_takes_the_first_of_all(tmp_path: Path) -> None:
    """A number of documents, bytes or files is what comes first by name, however files are cut; no more is opened."""
    for name in ("a/1.jsonl", "a-b.jsonl", "b.jsonl"):
        put(tmp_path / "in" / name, "\n".join([*(dumped({"text": f"{name}{i}"}) for i in range(10)), "broken"]))
    everything = texts(read(tmp_path / "in"))
    for size in (1 << 20, 50):
        assert texts(read(tmp_path / "in", size=size, limit="13")) == everything[:13]
        assert texts(read(tmp_path / "in", size=size, limit="10 documents")) == everything[:10]
        assert texts(read(tmp_path / "in", size=size, limit="2files")) == everything[:20]
        assert texts(read(tmp_path / "in", size=size, limit="100B")) == everything[:10]
        assert texts(read(tmp_path / "in", size=size, limit="1GB")) == everything
    assert {s.name for p in find_partitions([tmp_path / "in"], ReadConfig(limit="1"), 99) for s in p.sources} == {
        "in/a-b.jsonl"
    }
    for limit in ("0", "x", "10TB", "-1"):
        with pytest.raises(UserError, match=r"--read\.limit="):
            read(tmp_path / "in", limit=limit)


def test_a_limit_decides_the_result_of_a_stage(tmp_path: Path) -> None:
    """A corpus made of a part is not the corpus of all, and of a corpus a part is taken too."""
    put(tmp_path / "in/a.jsonl", "\n".join(map(dumped, ROWS)))
    none, few = CleanConfig(filters=()), ReadConfig(limit="3")
    clean([tmp_path / "in"], tmp_path / "few", none, read=few, work=ONE)
    assert len(list(open_corpus(tmp_path / "few").documents())) == 3
    with pytest.raises(UserError, match="other inputs, read"):
        clean([tmp_path / "in"], tmp_path / "few", none, work=ONE)
    (source,) = find_sources([tmp_path / "few"], ReadConfig(limit="2"), 1 << 20)
    assert len(list(documents_of(source, ReadConfig(limit="2"), Counter(), None))) == 2


# ---- tables


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("a.csv", f'\ufeff"id","text"\n1,"{TEXT}"\n', {}),
        ("a.csv", f"sep=;\nid;text\n1;{TEXT}\n", {}),
        ("a.csv", f'"sep=|"\nid|text\n1|{TEXT}\n', {}),
        ("a.csv", f'id;"a, b";text\n1;2;{TEXT}\n', {}),
        ("a.csv", f"id;text;c,d\n1;{TEXT};3\n", {}),
        ("a.csv", f"\n\nid,text\n\n1,{TEXT}\n\n", {}),
        ("a.csv", f"1,{TEXT}\n", {"columns": "id,text"}),
        ("a.tsv", f"1\t{TEXT}\n", {"columns": "id,text"}),
    ],
)
def test_tables_as_programs_write_them(name: str, content: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Marks before a quoted header, a line that names the separator, empty lines and no header are accepted."""
    items = read(put(tmp_path / name, content), **settings)
    assert texts(items) == [TEXT] and not reasons(items)


def test_quotes_in_tabbed_tables_are_text(tmp_path: Path) -> None:
    """In .tsv a quotation mark that quotes nothing is text, and costs no row after it."""
    content = 'id\ttext\n1\t"Hello" he said\n2\t"open\n3\tplain\n4\t"quoted\tand "" so"\n5\t7" disk\0\n'
    items = read(put(tmp_path / "a.tsv", content))
    assert texts(items) == ['"Hello" he said', '"open', "plain", 'quoted\tand " so', '7" disk\0'] and not reasons(items)


def test_a_missing_header_is_told(tmp_path: Path) -> None:
    """Where no column holds text the reason says how to name the columns of a table without header."""
    (reason,) = reasons(read(put(tmp_path / "a.csv", f"1,{TEXT}\n")))
    assert "--read.columns" in reason


# ---- what people read


@pytest.mark.parametrize("settings", [{"domain": "field:sorce"}, {"title": "name"}, {"text": "body"}])
def test_a_field_that_no_record_has_is_refused(settings: dict[str, str], tmp_path: Path) -> None:
    """A setting that names a field which is not there stops a stage before it begins, with the fields there are."""
    path = put(tmp_path / "a.jsonl", json_lines({"text": TEXT, "source": "wiki"}, {"text": TEXT, "n": 1}))
    config = ReadConfig(**settings)  # type: ignore[arg-type]
    match = r"^--read\..*: none of the first 2 records has a field \w+; the fields there are: text, source, n$"
    with pytest.raises(UserError, match=match):
        clean([path], tmp_path / "out", CleanConfig(filters=()), read=config, work=ONE)
    with pytest.raises(UserError, match=match):
        find_sources([path], config, 1 << 20)


def test_what_readers_make_of_names_is_counted(tmp_path: Path) -> None:
    """The report counts texts found under another name, and documents whose field has no domain."""
    put(tmp_path / "in/a.jsonl", json_lines({"Text": TEXT, "kind": "k"}, {"text": TEXT}))
    read_config = ReadConfig(domain="field:kind")
    report = clean([tmp_path / "in"], tmp_path / "out", CleanConfig(filters=()), read=read_config, work=ONE)
    assert report and ("documents: text read from Text", 1) in report.facts
    assert ("documents: no field kind tells the domain", 1) in report.facts


def test_a_chat_file_called_conversations_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a chat file is called, inspect says which command takes it and calls nothing deletable."""
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
    put(tmp_path / "in/conversations.json", json_lines({"messages": turns}))
    with pytest.raises(UserError, match=r"1 record: a conversation, which train_sft\.py takes") as error:
        inspect.run(inspect.Flags(), str(tmp_path / "in"))
    assert "delete" not in str(error.value) + capsys.readouterr().err


@pytest.mark.parametrize("form", ["pretty array", "pretty objects", "joined"])
def test_chat_files_are_known_by_their_content_too(form: str, tmp_path: Path) -> None:
    """Conversations in .jsonl may be an array or values one after the other, and a rejected one names its line."""
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
    rows = [{"messages": turns}, {"messages": 5}, {"messages": turns}]
    indent = None if form == "joined" else 1
    content = dumped(rows, indent=1) if form == "pretty array" else "".join(dumped(r, indent=indent) for r in rows)
    items = list(read_conversations(put(tmp_path / "a.jsonl", content), FormatConfig()))
    assert [isinstance(item, Rejected) for item in items] == [False, True, False]
    rejected = items[1]
    assert isinstance(rejected, Rejected)
    before = content.encode()[: int(rejected.place.rpartition(":")[2])]
    assert rejected.line == before.count(b"\n") + 1
