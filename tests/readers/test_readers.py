"""Raw files of every format as documents, and what happens where they are broken."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import re
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babyllm.config import parse
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.store.corpus import Part, write_corpus, write_part
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, key_of, left_out, read_partition

CHINESE = "今天天气很好，我们去公园看书。这本小说很有意思，他说明年再来北京大学学习。"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def read(*paths: Path, size: int = 1 << 20, **settings: Any) -> list[Document | Rejected]:
    """Every record at the paths, in partitions of about `size` bytes."""
    config = ReadConfig(**settings)
    return [item for part in find_partitions(paths, config, size) for item in read_partition(part, config)]


def texts(items: Sequence[Document | Rejected]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]


def reasons(items: Sequence[Document | Rejected]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Rejected)]


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def jsonl(*values: Any) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


# ---- what is read


@pytest.mark.parametrize("suffix", PACKERS)
def test_every_line_format_also_packed(tmp_path: Path, suffix: str) -> None:
    """JSON lines, arrays and tables give the same texts, plain or packed; ids are places in the unpacked file."""
    rows = [{"text": f'{CHINESE}{i}, "quoted"\nline', "n": str(i)} for i in range(3)]
    table = io.StringIO()
    writer = csv.DictWriter(table, ["n", "text"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files = {
        "a.jsonl": jsonl(*rows),
        "b.ndjson": jsonl(*rows),
        "c.json": json.dumps(rows),
        "d.json": json.dumps(rows, indent=2, ensure_ascii=False),
        "e.json": jsonl(*rows),
        "f.csv": table.getvalue(),
    }
    for name, content in files.items():
        path = put(tmp_path / suffix.strip(".") / (name + suffix), PACKERS[suffix](content.encode()))
        items = read(path)
        assert texts(items) == [row["text"] for row in rows] and not reasons(items), name
        for item, begin in zip(items, ("{", "{", "{") if name != "f.csv" else ("0,", "1,", "2,"), strict=True):
            assert isinstance(item, Document)
            at = int(item.id.removeprefix(f"{path.name}:"))
            assert content.encode()[at:].startswith(begin.encode())


def test_whole_files(tmp_path: Path) -> None:
    """A text file is one document with its line breaks; line by line if asked for."""
    put(tmp_path / "in/a.txt", "one\r\n\r\n二\n")
    put(tmp_path / "in/b.md", "# Title\n\ntext")
    assert texts(read(tmp_path / "in")) == ["one\r\n\r\n二\n", "# Title\n\ntext"]
    lines = read(tmp_path / "in/a.txt", txt="line")
    assert [(d.id, d.text) for d in lines if isinstance(d, Document)] == [("a.txt:0", "one"), ("a.txt:7", "二")]


def test_tsv_and_semicolons(tmp_path: Path) -> None:
    """Tabs separate the fields of .tsv; a .csv without a comma in its head may use semicolons or tabs."""
    assert texts(read(put(tmp_path / "a.tsv", "id\ttext\n1\ta, b\n"))) == ["a, b"]
    assert texts(read(put(tmp_path / "a.csv", "id;text\n1;a, b\n"))) == ["a, b"]


def test_parquet_rows(tmp_path: Path) -> None:
    """Only what is needed of a table is read, row groups are partitions, and ids count rows of the file."""
    table = pa.table({"title": ["标题", None, "c"], "other": [1, 2, 3], "content": ["text", "b", "c begins so"]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    assert len(find_partitions([tmp_path / "a.parquet"], ReadConfig(), 1)) == 3
    for size in (1, 1 << 20):
        assert read(tmp_path / "a.parquet", size=size) == [
            Document("标题\ntext", "a", "a.parquet:0"),
            Document("b", "a", "a.parquet:1"),
            Document("c begins so", "a", "a.parquet:2"),
        ]


def test_own_corpora_keep_ids_and_domains(tmp_path: Path) -> None:
    """Of a corpus made by babyllm the files of its description are read, with the ids and domains they have."""
    made = [Document(f"文{i}", ("x", "y")[i % 2], f"raw/a.jsonl:{i}") for i in range(5)]
    part = Part("p.parquet", write_part(made, put(tmp_path / "in/corpus/p.parquet", "")))
    write_corpus(tmp_path / "in/corpus", [part], {})
    put(tmp_path / "in/corpus/report.html", "<p>no document</p>")
    put(tmp_path / "in/more.jsonl", jsonl({"text": "more"}))
    assert read(tmp_path / "in") == [*made, Document("more", "more", "in/more.jsonl:0")]
    assert read(tmp_path / "in/corpus/p.parquet") == made
    assert {d.domain for d in read(tmp_path / "in/corpus", domain="z") if isinstance(d, Document)} == {"z"}


PARAGRAPHS = [f"第{i}段。{CHINESE * 3}" for i in range(4)]
PAGE = (
    '<html><head><meta charset="{charset}"><title>t</title></head><body>'
    '<nav><a href="/">menu</a></nav><article><h1>标题</h1>'
    + "".join(f"<p>{paragraph}</p>" for paragraph in PARAGRAPHS)
    + "</article><footer>copyright</footer></body></html>"
)


def needs_trafilatura() -> None:
    pytest.importorskip("trafilatura", exc_type=ImportError)


@pytest.mark.parametrize("charset", ["utf-8", "gbk", "big5", "utf-16"])
def test_html_main_text(tmp_path: Path, charset: str) -> None:
    """Of a page in the encoding it declares the main text is kept, without the menu."""
    needs_trafilatura()
    page = PAGE.format(charset=charset)
    encoded = page.encode(charset) if charset != "big5" else page.encode(charset, "replace")
    [text] = texts(read(put(tmp_path / "a.html", encoded)))
    assert "公" in text and "menu" not in text
    assert charset == "big5" or all(paragraph in text for paragraph in PARAGRAPHS)
    assert reasons(read(put(tmp_path / "b.html", "<html></html>"))) == ["no main text found in the page"]


def warc(kind: str, body: bytes, media: str = "application/http; msgtype=response", length: int | None = None) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: {media}\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"


def answer(body: bytes, *more: str, status: str = "200 OK", media: str = "text/html; charset=gbk") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {media}", *more, "", ""]).encode() + body


def test_warc_and_wet(tmp_path: Path) -> None:
    """Pages and texts of web archives are read, plain, chunked or packed; requests, errors and images passed over."""
    needs_trafilatura()
    page = PAGE.format(charset="gbk").encode("gbk")
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
    records = [
        warc("warcinfo", b"software: x", "application/warc-fields"),
        warc("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        warc("response", answer(page)),
        warc("response", answer(page, status="404 Not Found")),
        warc("response", answer(b"\xff\xd8", media="image/jpeg")),
        warc("response", answer(chunked, "Transfer-Encoding: chunked")),
        warc("response", answer(gzip.compress(page), "Content-Encoding: gzip")),
        warc("response", answer(zlib.compress(page), "Content-Encoding: deflate")),
        warc("response", b"no answer at all"),
        warc("conversion", CHINESE.encode(), "text/plain"),
    ]
    starts = [len(b"".join(records[:i])) for i in range(len(records))]
    for name, data in (("a.warc", b"".join(records)), ("a.warc.gz", b"".join(map(gzip.compress, records)))):
        items = read(put(tmp_path / name, data))
        assert [item.id for item in items if isinstance(item, Document)] == [
            f"{name}:{starts[i]}" for i in (2, 5, 6, 7, 9)
        ]
        assert len(set(texts(items)[:-1])) == 1 and PARAGRAPHS[0] in texts(items)[0] and texts(items)[-1] == CHINESE
        assert reasons(items) == ["not a valid HTTP answer"]


def test_broken_warc_records(tmp_path: Path) -> None:
    """A record that is too long, has a wrong length or is rubbish takes no other with it; the last may be cut off."""
    good = [warc("conversion", f"text {i}".encode(), "text/plain") for i in range(5)]
    broken = [
        warc("conversion", b"x" * 3000, "text/plain"),
        warc("conversion", b"y" * 300, "text/plain", length=200),
        b"rubbish\r\n\r\n",
        warc("conversion", b"z", "text/plain", length=999_999_999),
    ]
    data = b"".join(g + b for g, b in zip(good, [*broken, warc("conversion", b"cut", "text/plain")[:-6]], strict=True))
    items = read(put(tmp_path / "a.wet", data), max_record_bytes=2000)
    assert texts(items) == [f"text {i}" for i in range(5)]
    assert reasons(items) == [
        *("longer than read.max_record_bytes", "its length is wrong", "not a WARC record"),
        *("longer than read.max_record_bytes", "the file ends within this record"),
    ]


# ---- which field, which domain


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"text": "a"}, "a"),
        ({"id": 1, "content": "a", "url": "u"}, "a"),
        ({"completion": "a"}, "a"),
        ({"response": "a"}, "a"),
        ({"title": "t", "content": "a"}, "t\na"),
        ({"title": "t", "text": "t\na"}, "t\na"),
        ({"title": " ", "text": "a"}, "a"),
        ({"text": None, "content": "a"}, "a"),
        ({"instruction": "i", "input": "", "output": "o"}, "i\no"),
        ({"instruction": "i", "input": "n", "output": "o"}, "i\nn\no"),
        ({"prompt": "p", "completion": "c"}, "p\nc"),
        ({"question": "q", "answer": "a"}, "q\na"),
        ({"title": "t", "desc": "", "answer": "a"}, "t\na"),
        ({"title": "t", "summary": None, "sections": [{"title": "s", "content": "c"}, {"content": "d"}]}, "t\ns\nc\nd"),
        ({"title": "t", "paragraphs": ["a", "b"]}, "t\na\nb"),
    ],
)
def test_the_text_is_found(tmp_path: Path, record: dict[str, Any], text: str) -> None:
    """The text is found among the names in use, with the title above it, the same in JSON and in Parquet."""
    assert texts(read(put(tmp_path / "a.jsonl", jsonl(record)))) == [text]
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    assert texts(read(tmp_path / "a.parquet")) == [text]


def test_fields_can_be_named(tmp_path: Path) -> None:
    """Flags name the fields of text, title and domain, also those within others, and several that are joined."""
    record = {"text": "no", "data": {"body": "b", "src": "web"}, "h": "head", "q": "q?", "title": "t"}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    for path in (put(tmp_path / "a.jsonl", jsonl(record)), tmp_path / "a.parquet"):
        [one] = read(path, text="q+data.body", title="h", domain="field:data.src")
        assert (one.text, one.domain) == ("head\nq?\nb", "web") if isinstance(one, Document) else False
        assert texts(read(path, title=None)) == ["no"]
        assert reasons(read(path, text="absent")) == ["no field absent holds text, which --read.text names"]


def test_domains(tmp_path: Path) -> None:
    """A domain is the first folder below the given one, else the file's name without its number, or what is asked."""
    for name in ("wiki/zh/a.jsonl", "wiki/b.jsonl", "news-00001-of-00002.jsonl", "news-00002-of-00002.jsonl", "x.txt"):
        put(tmp_path / "raw" / name, jsonl({"text": name, "kind": "k"}))

    def domains(**settings: Any) -> dict[str, str]:
        return {d.id.split(":")[0]: d.domain for d in read(tmp_path / "raw", **settings) if isinstance(d, Document)}

    assert list(domains().values()) == ["news", "news", "wiki", "wiki", "raw"]
    assert list(domains(domain="folder").values()) == ["raw", "raw", "wiki", "wiki", "raw"]
    assert list(domains(domain="file").values()) == ["news", "news", "b", "a", "x"]
    assert list(domains(domain="field:kind").values()) == ["k", "k", "k", "k", "raw"]
    assert set(domains(domain="web").values()) == {"web"}
    assert list(domains()) == sorted(domains()) and "raw/wiki/zh/a.jsonl" in domains()
    assert [d.domain for d in read(tmp_path / "raw/wiki/b.jsonl") if isinstance(d, Document)] == ["b"]


# ---- broken files and records


def test_bad_json_lines(tmp_path: Path) -> None:
    """Each bad line is rejected with place, reason and beginning; the lines around it are kept."""
    bad = {
        b'{"text": "unfinished': "not JSON: Unterminated string starting at",
        b'{"text": "\xff\xfe"}': "not valid UTF-8 (see --read.encoding and --read.errors)",
        b'["text"]': "not an object with fields but a list",
        b"null": "not an object with fields but null",
        b'{"other": "x"}': "no field holds text; name it with --read.text",
        b'{"text": 5}': "the field text is not text but a number",
        b'{"text": ["a"]}': "the field text is not text but a list",
        b"\0" * 50: "not JSON: Expecting value",
        b"[" * 100_000: "not JSON: nested too deeply",
        b'{"text": ' + b"9" * 5000 + b"}": None,
        b'{"text": "%s"}' % (b"x" * 200_000): "longer than read.max_record_bytes",
    }
    data = b'{"text": "first"}\n\n  \r\n' + b"".join(line + b'\n{"text": "good"}\r\n' for line in bad)
    items = read(put(tmp_path / "a.jsonl", data), max_record_bytes=150_000)
    assert texts(items) == ["first"] + ["good"] * len(bad)
    for item, (line, reason) in zip([i for i in items if isinstance(i, Rejected)], bad.items(), strict=True):
        at = int(item.place.removeprefix("a.jsonl:"))
        assert data[at : at + len(line)] == line and len(item.excerpt) <= 200
        assert item.reason == reason or reason is None
        assert line.decode("utf-8", "replace").startswith(item.excerpt)


def test_odd_but_readable(tmp_path: Path) -> None:
    """NUL characters stay, a lone surrogate becomes U+FFFD, a pair its character, and the last of equal keys counts."""
    lines = [r'{"text": "a\u0000b"}', r'{"text": "x\ud800y\ud83d\ude00"}', '{"text": "1", "text": "2"}']
    items = read(put(tmp_path / "a.jsonl", "\n".join(lines)))
    assert texts(items) == ["a\0b", "x\ufffdy😀", "2"] and not reasons(items)
    assert texts(read(put(tmp_path / "nul.txt", b"\0" * 5000))) == ["\0" * 5000]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "big5"])
def test_encodings(tmp_path: Path, name: str, encoding: str) -> None:
    """UTF-8 with or without a mark, UTF-16 with one and GB18030 are told apart; others are named by a flag."""
    text = "今天天氣很好，我們去公園看書。" if encoding == "big5" else CHINESE
    content = {
        "a.jsonl": jsonl({"text": text}, {"text": text * 2}),
        "a.json": json.dumps([{"text": text}, {"text": text * 2}], ensure_ascii=False, indent=1),
        "a.csv": f"text,n\n{text},1\n{text * 2},2\n",
        "a.txt": text,
    }[name]
    flag = "big5" if encoding == "big5" else "auto"
    items = read(put(tmp_path / name, content.encode(encoding)), encoding=flag)
    assert texts(items) == ([text] if name == "a.txt" else [text, text * 2]) and not reasons(items)


def test_an_invalid_byte_spoils_one_record(tmp_path: Path) -> None:
    """In UTF-8, UTF-16 and GB18030 a damaged character rejects its record alone."""
    for encoding, broken in (("utf-8", b"\xe4\xbd"), ("utf-16-le", b"\x00\xd8"), ("gb18030", b"\xff")):
        good = [jsonl({"text": f"{CHINESE}{i}"}).encode(encoding) for i in range(4)]
        mark = codecs.BOM_UTF16_LE if encoding == "utf-16-le" else b""
        bad = jsonl({"text": "AB"}).encode(encoding).replace("B".encode(encoding), broken)
        for name in ("a.jsonl", "a.json"):
            items = read(put(tmp_path / name, mark + b"".join([*good[:2], bad, *good[2:]])))
            assert texts(items) == [f"{CHINESE}{i}" for i in range(4)], (encoding, name)
            assert len(reasons(items)) == 1 and reasons(items)[0].startswith("not valid")
    latin = put(tmp_path / "latin.jsonl", '{"text": "caf\xe9s et th\xe9s"}\n{"text": "ok"}\n'.encode("latin-1"))
    assert texts(read(latin)) == ["ok"] and texts(read(latin, encoding="latin-1")) == ["cafés et thés", "ok"]
    [reason] = reasons(read(put(tmp_path / "a.txt", CHINESE.encode() + b"\xff")))
    assert reason == "not valid UTF-8 (see --read.encoding and --read.errors)"


@pytest.mark.parametrize("suffix", [suffix for suffix in PACKERS if suffix])
def test_truncated_packed_files(tmp_path: Path, suffix: str) -> None:
    """What can be unpacked in front of the damage is kept to the last whole record, and the damage is reported."""
    rows = [{"text": f"{i} {os.urandom(30).hex()}"} for i in range(20_000 if suffix == ".bz2" else 4000)]
    data = PACKERS[suffix](jsonl(*rows).encode())
    items = read(put(tmp_path / f"a.jsonl{suffix}", data[: len(data) * 2 // 3]))
    assert reasons(items) == ["damaged: what lies behind is lost"]
    # bz2 and zstd unpack blocks, the others nearly everything
    assert len(rows) * 0.3 < len(items) < len(rows) and texts(items) == [r["text"] for r in rows[: len(items) - 1]]
    short = read(put(tmp_path / f"b.jsonl{suffix}", PACKERS[suffix](jsonl(*rows[:50]).encode()) + b"rubbish"))
    assert texts(short) == [row["text"] for row in rows[:50]]
    assert reasons(read(put(tmp_path / f"c.json{suffix}", b"not packed"))) == ["damaged: what lies behind is lost"]


def test_truncated_json_arrays(tmp_path: Path) -> None:
    """An array cut anywhere yields its whole records and one rejection; so does text after its end."""
    rows: list[dict[str, Any]] = [{"text": "a, [b]"}, {"text": 'x"}\\', "n": {"m": [1, {"k": "]"}]}}, {"text": "c"}]
    for indent in (None, 1):
        content = json.dumps(rows, indent=indent)
        ends = [content.index(value) for value in ('"x', '"c"')]
        for end in range(1, len(content)):
            items = read(put(tmp_path / "a.json", content[:end]))
            n_whole = len(texts(items))
            assert texts(items) == [row["text"] for row in rows[:n_whole]] and len(reasons(items)) == 1, content[:end]
            assert n_whole >= sum(end > e for e in ends)
    assert reasons(read(put(tmp_path / "a.json", json.dumps(rows) + "]{"))) == ["text behind the end of the array"]
    assert texts(read(put(tmp_path / "b.json", '{"text": "a"} {\n"text":\n"b"}[]'))) == ["a", "b"]


def test_a_broken_record_of_an_array_spoils_no_other(tmp_path: Path) -> None:
    """Where records begin on lines of their own a missing quotation mark or bracket costs one of them."""
    rows = [{"text": f"t{i}", "list": [{"text": "inner"}]} for i in range(30)]
    for content in (json.dumps(rows, indent=2), "[" + ",\n".join(map(json.dumps, rows)) + "]"):
        for old, new in (('t7"', "t7"), (r'"inner"\s*}', '"inner"'), ('"t7', "t7")):
            at = content.index("t7")
            broken = content[: at - 1] + re.sub(old, new, content[at - 1 :], count=1)
            items = read(put(tmp_path / "a.json", broken))
            assert texts(items) == [row["text"] for i, row in enumerate(rows) if i != 7], (content[:20], old)
            assert len(reasons(items)) == 1
    items = read(put(tmp_path / "a.json", '[{"text": "a"}, {"text": b}, , {"text": "c"}, 5]'))
    assert texts(items) == ["a", "c"] and len(reasons(items)) == 2


def test_bad_rows_of_a_table(tmp_path: Path) -> None:
    """Rows with other numbers of fields and lone quotation marks are rejected; the rows after them are kept."""
    content = 'id,text\n1,a\n2\n3,b,c\n\n4,"d\n\ne"\n5,"open\n6,f\n7,"g"h\n8,"i ""j"""\n'
    items = read(put(tmp_path / "a.csv", content))
    assert texts(items) == ["a", "d\n\ne", "f", 'i "j"']
    assert [i.excerpt for i in items if isinstance(i, Rejected)] == ["2", "3,b,c", '5,"open', '7,"g"h']
    items = read(put(tmp_path / "a.csv", "id,text\n1,a\n2," + "x" * 5000 + "\n3,b\n"), max_record_bytes=1000)
    assert texts(items) == ["a", "b"] and reasons(items) == ["longer than read.max_record_bytes"]
    assert reasons(read(put(tmp_path / "a.csv", "a,b\n1,2\n3,4\n"))) == [
        "no field holds text; name it with --read.text, or if the first row names no columns, do so with --read.columns"
    ]


def test_damaged_parquet(tmp_path: Path) -> None:
    """A damaged row group costs its own rows, a missing end the file, invalid UTF-8 and overlong texts their row."""
    good = pa.table({"text": [f"{i} {os.urandom(500).hex()}" for i in range(30)]})
    pq.write_table(good, tmp_path / "a.parquet", row_group_size=10, compression="zstd", use_dictionary=False)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        chunk = file.metadata.row_group(1).column(0)
        middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 200] = b"\0" * 200
    items = read(put(tmp_path / "b.parquet", bytes(data)), size=1)
    assert texts(items) == [t for i, t in enumerate(good["text"].to_pylist()) if not 10 <= i < 20]
    assert reasons(items) == ["damaged: the rest of this row group is lost"]
    for cut in (bytes(data)[:-100], b"rubbish"):
        assert reasons(read(put(tmp_path / "c.parquet", cut))) == ["not a Parquet file, or a damaged one"]
    invalid = pa.array([b"a", b"\xff", b"x" * 2000, None, b"b"]).view(pa.string())
    pq.write_table(pa.table({"text": invalid}), tmp_path / "d.parquet")
    items = read(tmp_path / "d.parquet", max_record_bytes=1000)
    assert texts(items) == ["a", "b"]
    missing = "no field holds text; name it with --read.text"
    assert reasons(items) == ["not valid UTF-8 (see --read.errors)", "longer than read.max_record_bytes", missing]
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "e.parquet")
    assert texts(read(tmp_path / "e.parquet")) == ["b"]


def test_empty_and_unreachable_files(tmp_path: Path) -> None:
    """Files that are empty or hold no records are one line of the report each; what cannot be read stops the work."""
    names = ["a.jsonl", "b.json", "c.csv", "d.txt", "e.parquet", "f.warc", "g.html", "h.jsonl.gz", "i.json.xz"]
    for name in names:
        put(tmp_path / "empty" / name, b"")
    items = read(tmp_path / "empty")
    assert reasons(items) == ["the file is empty"] * len(names) and len(items) == len(names)
    for name, data in (
        ("a.json", "[]"),
        ("b.csv", "text\n"),
        ("c.jsonl.gz", gzip.compress(b"\n")),
        ("d.jsonl", " \n"),
        ("e.wet", "\r\n"),
    ):
        assert reasons(read(put(tmp_path / name, data))) == ["the file holds no records"], name
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "f.parquet")
    assert reasons(read(tmp_path / "f.parquet")) == ["the file holds no records"]
    (tmp_path / "links").mkdir()
    for name, target in (("a.jsonl", "nowhere"), ("b.jsonl", "b.jsonl"), ("c.parquet", "nowhere")):
        link = tmp_path / "links" / name
        link.symlink_to(target)
        with pytest.raises(UserError, match=r"(a|b|c)\..*: cannot be read \(.*start the same command again"):
            read(tmp_path / "links")
        link.unlink()
    gone = put(tmp_path / "gone.jsonl", jsonl({"text": "a"}))
    [part] = find_partitions([gone], ReadConfig(), 100)
    gone.unlink()
    with pytest.raises(UserError, match=r"gone\.jsonl: cannot be read \(No such file or directory\)"):
        list(read_partition(part, ReadConfig()))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_forbidden_files(tmp_path: Path) -> None:
    """A file that may not be read, and a folder that may not be listed, is a user's error."""
    put(tmp_path / "in/a.jsonl", jsonl({"text": "a"})).chmod(0)
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read \(Permission denied\)"):
        read(tmp_path / "in")
    (tmp_path / "in").chmod(0)
    with pytest.raises(UserError, match="cannot be listed: Permission denied"):
        read(tmp_path / "in")
    (tmp_path / "in").chmod(0o700)


# ---- memory


def test_one_long_line_is_never_held(tmp_path: Path) -> None:
    """A line of 200 MB, alone or as a record of any format, is rejected in the memory of a record."""
    good = b'{"text": "good"}'

    def sparse(name: str, before: bytes, after: bytes) -> Path:
        with (tmp_path / name).open("wb") as file:
            file.write(before)
            file.seek(200_000_000, os.SEEK_CUR)
            file.write(after)
        return tmp_path / name

    files = {
        sparse("a.jsonl", good + b"\n", b"\n" + good): 2,
        sparse("a.json", b"[" + good + b',{"text": "', b'"},' + good + b"]"): 2,
        sparse("a.csv", b'text\nx\n"', b'"\ngood\n'): 2,
        sparse("a.txt", b"x", b"y"): 0,
        sparse("a.html", b"<p>", b"</p>"): 0,
        sparse(
            "a.wet",
            b"WARC/1.0\r\nContent-Length: 200000000\r\n\r\n",
            b"\r\n\r\n" + warc("conversion", b"g", "text/plain"),
        ): 1,
    }
    tracemalloc.start()
    for path, n_texts in files.items():
        tracemalloc.reset_peak()
        items = read(path, size=1 << 40, max_record_bytes=2 << 20)
        assert reasons(items)[0].startswith("longer than read.max_record_bytes") and len(texts(items)) == n_texts, path
        assert len(reasons(items)) == 1, path
        assert tracemalloc.get_traced_memory()[1] < 16 << 20, path
    tracemalloc.stop()


def test_packed_zeros_stay_small(tmp_path: Path) -> None:
    """Few bytes that unpack to many are read a block at a time."""
    path = put(tmp_path / "a.jsonl.gz", gzip.compress(b"\0" * (64 << 20)))
    tracemalloc.start()
    assert reasons(read(path, max_record_bytes=1 << 20)) == ["longer than read.max_record_bytes"]
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


# ---- partitions

LINES = st.lists(
    st.one_of(
        st.builds(
            lambda t: json.dumps({"text": t}, ensure_ascii=False).encode(),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        ),
        st.sampled_from([b"", b"\r", b"{", b"\xff", b'{"text": 1}', b'{"text": "%s"}' % (b"x" * 90), b"\xef\xbb\xbf"]),
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(lines=LINES, end=st.sampled_from([b"", b"\n"]), size=st.integers(1, 200))
def test_cutting_changes_nothing(tmp_path: Path, lines: list[bytes], end: bytes, size: int) -> None:
    """However a file of lines is cut, its documents and rejected records are the same, with the same ids."""
    for name in ("a.jsonl", "a.txt"):
        path = put(tmp_path / name, b"\n".join([*lines, b"x"]) + end)
        whole = read(path, size=1 << 20, max_record_bytes=64, txt="line")
        config = ReadConfig(max_record_bytes=64, txt="line")
        parts = find_partitions([path], config, size)
        assert [item for part in parts for item in read_partition(part, config)] == whole
        assert sum(part.size_bytes for part in parts) == path.stat().st_size
        assert max(part.size_bytes for part in parts) <= size


def test_encodings_do_not_depend_on_the_piece(tmp_path: Path) -> None:
    """A large file whose first Chinese character comes late is GB18030 in all its pieces."""
    english = jsonl(*({"text": f"plain {i}"} for i in range(10_000))).encode()
    chinese = jsonl(*({"text": f"{CHINESE}{i}"} for i in range(12_000))).encode("gb18030")
    path = put(tmp_path / "a.jsonl", english + chinese)
    items = read(path, size=200_000)
    assert not reasons(items) and len(items) == 22_000
    assert texts(items)[-1] == f"{CHINESE}11999" and items == read(path, size=1 << 30)


def test_small_files_are_gathered(tmp_path: Path) -> None:
    """Many small files share partitions of about the size asked for, in the order of their names."""
    for i in range(60):
        put(tmp_path / "in" / f"{i:02d}.txt", f"{i:02d}" * 50)
    parts = find_partitions([tmp_path / "in"], ReadConfig(), 1000)
    assert [len(part.sources) for part in parts] == [10] * 6 and {part.size_bytes for part in parts} == {1000}
    items = [item for part in parts for item in read_partition(part, ReadConfig())]
    assert [d.id for d in items if isinstance(d, Document)] == [f"in/{i:02d}.txt" for i in range(60)]
    assert {d.domain for d in items if isinstance(d, Document)} == {"in"}


def test_what_is_left_out(tmp_path: Path) -> None:
    """Hidden files and unknown kinds are left out but counted; links to folders are followed, once."""
    for name in (
        "a.jsonl",
        ".hidden.jsonl",
        ".git/a.jsonl",
        "b.pdf",
        "c.PDF",
        "README",
        "p.parquet.gz",
        "deep/d.JSONL",
    ):
        put(tmp_path / "in" / name, jsonl({"text": name}))
    (tmp_path / "in/deep/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/linked").symlink_to(put(tmp_path / "far/x.jsonl", jsonl({"text": "x"})).parent)
    os.mkfifo(tmp_path / "in/pipe.txt")
    assert [d.id for d in read(tmp_path / "in") if isinstance(d, Document)] == [
        *("in/a.jsonl:0", "in/deep/d.JSONL:0", "in/linked/x.jsonl:0"),
    ]
    assert left_out([tmp_path / "in"]) == {".gz": 1, ".pdf": 2, "hidden": 2, "not a file": 1, "without suffix": 1}


def test_names_tell_the_given_folders_apart(tmp_path: Path) -> None:
    """Ids begin with the given folder's name, and with the one above it where two are called alike."""
    for name in ("x/wiki/a.jsonl", "y/wiki/a.jsonl"):
        put(tmp_path / name, jsonl({"text": name}))
    items = read(tmp_path / "y/wiki", tmp_path / "x/wiki")
    assert [d.id for d in items if isinstance(d, Document)] == ["x/wiki/a.jsonl:0", "y/wiki/a.jsonl:0"]


def test_mistakes_at_the_door(tmp_path: Path) -> None:
    """A path that is not there, given twice or without anything to read, and settings without sense, are errors."""
    a = put(tmp_path / "in/a.jsonl", jsonl({"text": "a"}))
    put(tmp_path / "pdf/b.pdf", "x")
    for paths, message in (
        ([tmp_path / "no"], r"no: does not exist; give files or folders"),
        ([tmp_path / "in", a], r"a\.jsonl: is given twice"),
        ([a, a], r"a\.jsonl: is given twice"),
        ([tmp_path / "pdf"], r"pdf: nothing to read here \(1 \.pdf\); what can be read ends in \.jsonl"),
        ([tmp_path / "pdf/b.pdf"], r"b\.pdf: a file of a kind that is not read"),
    ):
        with pytest.raises(UserError, match=message):
            read(*paths)
    with pytest.raises(UserError, match="encoding=klingon: no such encoding"):
        read(a, encoding="klingon")
    with pytest.raises(UserError, match="max_record_bytes=0"):
        read(a, max_record_bytes=0)


def test_the_key_follows_the_files(tmp_path: Path) -> None:
    """The key of the partitions changes with a file's content, with files and with where they are cut."""
    a = put(tmp_path / "in/a.jsonl", jsonl({"text": "a"}, {"text": "b"}))
    first = key_of(find_partitions([tmp_path / "in"], ReadConfig(), 1000))
    assert first == key_of(find_partitions([tmp_path / "in"], ReadConfig(), 1000))
    assert first != key_of(find_partitions([tmp_path / "in"], ReadConfig(), 10))
    os.utime(a, (0, time.time() + 5))
    assert first != (second := key_of(find_partitions([tmp_path / "in"], ReadConfig(), 1000)))
    put(tmp_path / "in/b.txt", "x")
    assert second != key_of(find_partitions([tmp_path / "in"], ReadConfig(), 1000))


def test_the_settings_are_flags() -> None:
    """Every setting can be given on the command line."""
    flags = ["--text=body", "--title=null", "--domain=field:src", "--encoding=big5", "--txt=line"]
    config = parse(ReadConfig, [*flags, "--max_record_bytes=10"], prog="x")
    assert config == ReadConfig("body", None, "field:src", "big5", txt="line", max_record_bytes=10)
    assert replace(config, text=None).text is None


@pytest.mark.skipif("BABYLLM_DATA" not in os.environ, reason="needs BABYLLM_DATA")
def test_real_data() -> None:
    """Poems, instruction data and conversations are read, or rejected for a reason that says what to do."""
    data = Path(os.environ["BABYLLM_DATA"])
    items = read(data / "sft", size=1 << 20)
    assert len(texts(items)) == 1000 + 999 + 91 and len(reasons(items)) == 1000
    assert all(reason.startswith("a conversation, which train_sft.py takes") for reason in reasons(items))
    config = ReadConfig()
    parts = find_partitions([data / "corpora/chinese-poetry.parquet"], config, 1 << 20)
    assert len(parts) == 8
    poems = list(read_partition(parts[-1], config))
    assert poems[-1].id == "chinese-poetry.parquet:388270" if isinstance(poems[-1], Document) else False


def test_a_field_named_domain_tells_the_domain(tmp_path: Path) -> None:
    """Unless set otherwise, a record's own domain counts, and the file's name where a record has none."""
    (tmp_path / "mixed.jsonl").write_text('{"text": "甲", "domain": "news"}\n{"text": "乙"}\n')
    (partition,) = find_partitions([tmp_path / "mixed.jsonl"], ReadConfig(), 1 << 20)
    documents = [d for d in read_partition(partition, ReadConfig()) if isinstance(d, Document)]
    assert [d.domain for d in documents] == ["news", "mixed"]


INVALID = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
COLUMNS: dict[str, tuple[pa.Array, str | None]] = {
    "large": (pa.array([b"a", b"\xff", b"c"], pa.large_binary()).view(pa.large_string()), None),
    **{
        f"dictionary {kind}": (pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], kind), INVALID), None)
        for kind in (pa.int8(), pa.int32(), pa.int64())
    },
    "struct": (pa.StructArray.from_arrays([INVALID], names=["t"]), "text.t"),
    "list": (pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), INVALID), "paragraphs"),
    "map": (pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), pa.array(["t"] * 3), INVALID), "text.t"),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_an_invalid_cell_costs_its_row(tmp_path: Path, kind: str) -> None:
    """In columns of every kind one invalid text rejects its row alone; a title that is not text is ignored."""
    column, field = COLUMNS[kind]
    name = "paragraphs" if field == "paragraphs" else "text"
    table = pa.table({name: column, "title": pa.array([2**62 + 1, 2, 3], pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with pa.OSFile(str(tmp_path / "c.feather"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    for path in ("a.parquet", "b.arrow", "c.feather"):
        items = read(tmp_path / path, text=field)
        assert texts(items) == ["a", "c"] and reasons(items) == ["not valid UTF-8 (see --read.errors)"], path
        assert texts(read(tmp_path / path, text=field, errors="replace")) == ["a", "\ufffd", "c"], path


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Files and folders with names of any bytes are read and written in every compression and kind."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + "语料".encode("gbk")))
    rows = jsonl({"text": CHINESE}).encode()
    for suffix, pack in PACKERS.items():
        put(folder / f"{folder.name}.jsonl{suffix}", pack(rows))
    part = Part("p.parquet", write_part([Document("text", "d", "i")], put(folder / "corpus/p.parquet", "")))
    write_corpus(folder / "corpus", [part], {"made of": str(folder)})
    items = read(folder)
    assert sorted(texts(items)) == ["text", *[CHINESE] * len(PACKERS)] and not reasons(items)
    assert all(item.id.isprintable() for item in items if isinstance(item, Document))
