"""Which files are read, tables as programs write them, and the messages about both."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from records_fixtures import ONE, ROWS, TEXT, documents, dumped, json_lines, put, read, reasons, texts

from babyllm.chat.formats import FormatConfig
from babyllm.chat.reading import read_conversations
from babyllm.commands.corpus import inspect
from babyllm.errors import UserError
from babyllm.prepare.inputs import documents_of, find_sources
from babyllm.store.corpus import open_corpus
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.stage import clean
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, left_out

# ---- which files are read


def test_a_file_without_suffix_is_read_if_it_is_named(tmp_path: Path) -> None:
    """A file without suffix is left out of a folder, and read by its content if its own path or a suffix is given."""
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
    """Files about the data are left out and counted, unless they are asked for, given by path, or the only files."""
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
    """Files that differ only in a number or a hash are one domain, named after their folder if they have no name."""
    for name in names:
        data = dumped({"text": TEXT}).encode()
        put(tmp_path / "in" / name, gzip.compress(data) if name.endswith(".gz") else data)
    assert [d.domain for d in documents(read(tmp_path / "in"))] == domains
    if domains[0] == "in" and "/" not in names[0]:
        assert [d.domain for d in documents(read(*[tmp_path / "in" / name for name in names]))] == domains


def test_a_limit_takes_the_first_of_all(tmp_path: Path) -> None:
    """A limit takes the first documents, bytes or files by name, however files are cut, and opens no further file."""
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
    """A corpus made with a limit is not reused without it, and a limit also applies to a corpus."""
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
    """Marks before a quoted header, a line that names the separator, empty lines and a missing header are accepted."""
    items = read(put(tmp_path / name, content), **settings)
    assert texts(items) == [TEXT] and not reasons(items)


def test_quotes_in_tabbed_tables_are_text(tmp_path: Path) -> None:
    """In .tsv a lone quotation mark is text, and no row after it is lost."""
    content = 'id\ttext\n1\t"Hello" he said\n2\t"open\n3\tplain\n4\t"quoted\tand "" so"\n5\t7" disk\0\n'
    items = read(put(tmp_path / "a.tsv", content))
    assert texts(items) == ['"Hello" he said', '"open', "plain", 'quoted\tand " so', '7" disk\0'] and not reasons(items)


def test_a_missing_header_is_reported(tmp_path: Path) -> None:
    """If no column holds text, the reason says how to name the columns of a table without header."""
    (reason,) = reasons(read(put(tmp_path / "a.csv", f"1,{TEXT}\n")))
    assert "--read.columns" in reason


# ---- messages


@pytest.mark.parametrize("settings", [{"domain": "field:sorce"}, {"title": "name"}, {"text": "body"}])
def test_a_field_that_no_record_has_is_refused(settings: dict[str, str], tmp_path: Path) -> None:
    """A setting that names a missing field stops a stage before it begins; the message lists the fields there are."""
    path = put(tmp_path / "a.jsonl", json_lines({"text": TEXT, "source": "wiki"}, {"text": TEXT, "n": 1}))
    config = ReadConfig(**settings)  # type: ignore[arg-type]
    match = r"^--read\..*: none of the first 2 records has a field \w+; the fields there are: text, source, n$"
    with pytest.raises(UserError, match=match):
        clean([path], tmp_path / "out", CleanConfig(filters=()), read=config, work=ONE)
    with pytest.raises(UserError, match=match):
        find_sources([path], config, 1 << 20)


def test_what_readers_make_of_names_is_counted(tmp_path: Path) -> None:
    """The report counts texts found under an alternative name, and documents without the field of the domain."""
    put(tmp_path / "in/a.jsonl", json_lines({"Text": TEXT, "kind": "k"}, {"text": TEXT}))
    read_config = ReadConfig(domain="field:kind")
    report = clean([tmp_path / "in"], tmp_path / "out", CleanConfig(filters=()), read=read_config, work=ONE)
    assert report and ("documents: text read from Text", 1) in report.facts
    assert ("documents: no field kind names the domain", 1) in report.facts


def test_a_chat_file_called_conversations_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a chat file is called, inspect says which command reads it and calls nothing deletable."""
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
    put(tmp_path / "in/conversations.json", json_lines({"messages": turns}))
    with pytest.raises(UserError, match=r"1 record: a conversation, which train_sft\.py takes") as error:
        inspect.run(inspect.Flags(), str(tmp_path / "in"))
    assert "delete" not in str(error.value) + capsys.readouterr().err


@pytest.mark.parametrize("form", ["pretty array", "pretty objects", "joined"])
def test_chat_files_are_known_by_their_content_too(form: str, tmp_path: Path) -> None:
    """Conversations in .jsonl may be an array or values one after the other; a rejection names the line."""
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
