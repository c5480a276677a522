"""How files and records that are broken, empty or too large are read or rejected."""

import codecs
import gzip
import json
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers_fixtures import CHINESE, PACKERS, jsonl, put, read, reasons, texts, warc

from babyllm.errors import UserError
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition

# ---- broken files and records


def test_bad_json_lines(tmp_path: Path) -> None:
    """Each bad line is rejected with its place, reason and beginning; the lines around it are kept."""
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
    """NULs stay, a lone surrogate becomes U+FFFD, a pair becomes its character, and the last of equal keys counts."""
    lines = [r'{"text": "a\u0000b"}', r'{"text": "x\ud800y\ud83d\ude00"}', '{"text": "1", "text": "2"}']
    items = read(put(tmp_path / "a.jsonl", "\n".join(lines)))
    assert texts(items) == ["a\0b", "x\ufffdy😀", "2"] and not reasons(items)
    assert texts(read(put(tmp_path / "nul.txt", b"\0" * 5000))) == ["\0" * 5000]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "big5"])
def test_encodings(tmp_path: Path, name: str, encoding: str) -> None:
    """UTF-8 with or without a mark, UTF-16 with one and GB18030 are told apart; a flag names other encodings."""
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
    """The whole records that can be unpacked before the damage are kept, and the damage is reported."""
    rows = [{"text": f"{i} {os.urandom(30).hex()}"} for i in range(20_000 if suffix == ".bz2" else 4000)]
    data = PACKERS[suffix](jsonl(*rows).encode())
    items = read(put(tmp_path / f"a.jsonl{suffix}", data[: len(data) * 2 // 3]))
    assert reasons(items) == ["damaged: what follows is lost"]
    # bz2 and zstd unpack whole blocks, the others nearly every byte.
    assert len(rows) * 0.3 < len(items) < len(rows) and texts(items) == [r["text"] for r in rows[: len(items) - 1]]
    short = read(put(tmp_path / f"b.jsonl{suffix}", PACKERS[suffix](jsonl(*rows[:50]).encode()) + b"rubbish"))
    assert texts(short) == [row["text"] for row in rows[:50]]
    assert reasons(read(put(tmp_path / f"c.json{suffix}", b"not packed"))) == ["damaged: what follows is lost"]


def test_truncated_json_arrays(tmp_path: Path) -> None:
    """An array that is cut off yields its whole records and one rejection, and so does one with text after its end."""
    rows: list[dict[str, Any]] = [{"text": "a, [b]"}, {"text": 'x"}\\', "n": {"m": [1, {"k": "]"}]}}, {"text": "c"}]
    for indent in (None, 1):
        content = json.dumps(rows, indent=indent)
        ends = [content.index(value) for value in ('"x', '"c"')]
        for end in range(1, len(content)):
            items = read(put(tmp_path / "a.json", content[:end]))
            n_whole = len(texts(items))
            assert texts(items) == [row["text"] for row in rows[:n_whole]] and len(reasons(items)) == 1, content[:end]
            assert n_whole >= sum(end > e for e in ends)
    assert reasons(read(put(tmp_path / "a.json", json.dumps(rows) + "]{"))) == ["text after the end of the array"]
    assert texts(read(put(tmp_path / "b.json", '{"text": "a"} {\n"text":\n"b"}[]'))) == ["a", "b"]


def test_a_broken_record_of_an_array_is_rejected_alone(tmp_path: Path) -> None:
    """Where records begin on lines of their own, a missing quotation mark or bracket costs only one of them."""
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
    """Rows with a wrong number of fields or a lone quotation mark are rejected; the rows after them are kept."""
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
    """Damage costs the rows of its row group, a missing end the file, invalid UTF-8 or an overlong text its row."""
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
    """A file that is empty or holds no records is one line of the report; one that cannot be read stops the work."""
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
    """A file without permission to read, or a folder without permission to list, raises a `UserError`."""
    put(tmp_path / "in/a.jsonl", jsonl({"text": "a"})).chmod(0)
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read \(Permission denied\)"):
        read(tmp_path / "in")
    (tmp_path / "in").chmod(0)
    with pytest.raises(UserError, match="cannot be listed: Permission denied"):
        read(tmp_path / "in")
    (tmp_path / "in").chmod(0o700)


# ---- memory


def test_one_long_line_is_never_held(tmp_path: Path) -> None:
    """A line of 200 MB, alone or as a record of any format, is rejected without holding it in memory."""
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
    """A few bytes that unpack to many are read a block at a time."""
    path = put(tmp_path / "a.jsonl.gz", gzip.compress(b"\0" * (64 << 20)))
    tracemalloc.start()
    assert reasons(read(path, max_record_bytes=1 << 20)) == ["longer than read.max_record_bytes"]
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()
