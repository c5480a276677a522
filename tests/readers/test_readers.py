"""Raw files of every format as documents: what is read, from which field, in which domain."""

import csv
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers_fixtures import CHINESE, PACKERS, jsonl, put, read, reasons, texts, warc

from babyllm.documents import Document
from babyllm.store.corpus import Part, write_corpus, write_part
from babyllm.text.readers import ReadConfig, find_partitions

# ---- what is read


@pytest.mark.parametrize("suffix", PACKERS)
def test_every_line_format_also_packed(tmp_path: Path, suffix: str) -> None:
    """JSON lines, arrays and tables yield the same texts, plain or packed; ids are offsets in the unpacked file."""
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
    """A text file is one document with its line breaks, or one document per line if asked for."""
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
    """Only the needed columns of a table are read, row groups are partitions, and ids count rows of the file."""
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
    """The files that a corpus's manifest lists are read, with their stored ids and domains."""
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
    """The main text of a page is read in the declared encoding, without the menu."""
    needs_trafilatura()
    page = PAGE.format(charset=charset)
    encoded = page.encode(charset) if charset != "big5" else page.encode(charset, "replace")
    [text] = texts(read(put(tmp_path / "a.html", encoded)))
    assert "公" in text and "menu" not in text
    assert charset == "big5" or all(paragraph in text for paragraph in PARAGRAPHS)
    assert reasons(read(put(tmp_path / "b.html", "<html></html>"))) == ["no main text found in the page"]


def answer(body: bytes, *more: str, status: str = "200 OK", media: str = "text/html; charset=gbk") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {media}", *more, "", ""]).encode() + body


def test_warc_and_wet(tmp_path: Path) -> None:
    """Pages and texts of web archives are read, plain, chunked or packed; requests, errors and images are skipped."""
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
    """A record that is too long, has a wrong length or is rubbish is rejected alone; the last may be cut off."""
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
    """The text is found under the usual names, with the title above it, in JSON and in Parquet alike."""
    assert texts(read(put(tmp_path / "a.jsonl", jsonl(record)))) == [text]
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    assert texts(read(tmp_path / "a.parquet")) == [text]


def test_fields_can_be_named(tmp_path: Path) -> None:
    """Flags name the fields of text, title and domain, also nested ones and several that are joined."""
    record = {"text": "no", "data": {"body": "b", "src": "web"}, "h": "head", "q": "q?", "title": "t"}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    for path in (put(tmp_path / "a.jsonl", jsonl(record)), tmp_path / "a.parquet"):
        [one] = read(path, text="q+data.body", title="h", domain="field:data.src")
        assert (one.text, one.domain) == ("head\nq?\nb", "web") if isinstance(one, Document) else False
        assert texts(read(path, title=None)) == ["no"]
        assert reasons(read(path, text="absent")) == ["--read.text=absent: no field of this name holds text"]


def test_domains(tmp_path: Path) -> None:
    """A domain is the first folder below the given one, else the file's name without its number, or as set."""
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
