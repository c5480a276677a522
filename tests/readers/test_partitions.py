"""Files cut and gathered into partitions, and what is left out."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers_fixtures import CHINESE, PACKERS, jsonl, put, read, reasons, texts

from babyllm.config import parse
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.store.corpus import Part, write_corpus, write_part
from babyllm.text.readers import ReadConfig, find_partitions, key_of, left_out, read_partition

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
    """A large file whose first Chinese character comes late is read as GB18030 in all its pieces."""
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
    """Hidden files and unknown kinds are left out and counted; links to folders are followed once."""
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
    """Ids begin with the given folder's name, and with that of the folder above it if two have the same name."""
    for name in ("x/wiki/a.jsonl", "y/wiki/a.jsonl"):
        put(tmp_path / name, jsonl({"text": name}))
    items = read(tmp_path / "y/wiki", tmp_path / "x/wiki")
    assert [d.id for d in items if isinstance(d, Document)] == ["x/wiki/a.jsonl:0", "y/wiki/a.jsonl:0"]


def test_wrong_paths_and_settings_are_refused(tmp_path: Path) -> None:
    """A path that does not exist, is given twice or holds nothing to read is an error, and so is an invalid setting."""
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
    """The key of the partitions changes with the content of a file, the set of files and the places of the cuts."""
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


def test_a_field_named_domain_is_the_domain(tmp_path: Path) -> None:
    """Unless set otherwise, a record's own domain counts, or the file's name if the record has none."""
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
    """In columns of every type an invalid text rejects only its row; a title that is not text is ignored."""
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
    """Files and folders whose names are not UTF-8 are read and written, with every compression."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + "语料".encode("gbk")))
    rows = jsonl({"text": CHINESE}).encode()
    for suffix, pack in PACKERS.items():
        put(folder / f"{folder.name}.jsonl{suffix}", pack(rows))
    part = Part("p.parquet", write_part([Document("text", "d", "i")], put(folder / "corpus/p.parquet", "")))
    write_corpus(folder / "corpus", [part], {"made of": str(folder)})
    items = read(folder)
    assert sorted(texts(items)) == ["text", *[CHINESE] * len(PACKERS)] and not reasons(items)
    assert all(item.id.isprintable() for item in items if isinstance(item, Document))
