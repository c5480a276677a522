"""Files of chats: mixed formats, broken records, tables, folders."""

import csv
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_formats_fixtures import AUTO, FORMATS, TALK, messages, said, sharegpt, turns

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation, Message
from babyllm.chat.reading import find_conversation_partitions, read_conversation_partition, read_conversations
from babyllm.errors import UserError
from babyllm.text.readers import Rejected


def put(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def jsonl(*values: Any) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def read(path: Path, config: FormatConfig = AUTO) -> tuple[list[Conversation], list[Rejected]]:
    items = list(read_conversations(path, config))
    return [i for i in items if isinstance(i, Conversation)], [i for i in items if isinstance(i, Rejected)]


# ---- files


def test_formats_may_be_mixed_in_a_file(tmp_path: Path) -> None:
    """Each record is read by its own fields; ids are places in the file, tasks its name where no field has one."""
    records = [record for _, record, _ in FORMATS]
    path = put(tmp_path / "mixed-001.jsonl", jsonl(*records))
    found, bad = read(path)
    assert [turns(item) for item in found] == [expected for _, _, expected in FORMATS] and not bad
    data = path.read_bytes()
    for item, record in zip(found, records, strict=True):
        assert json.loads(data[int(item.id.removeprefix("mixed-001.jsonl:")) :].partition(b"\n")[0]) == record
    assert {item.task for item in found} == {"mixed", "NLI"}


BROKEN = (
    json.dumps(messages(*TALK)) + "\n"
    '{"messages": [{"role": "user", "content": "tru\n'
    "\n"
    "[1, 2]\n"
    '"text"\n'
    "null\n"
    '{"instruction": "q", "output": ""}\n'
    '{"instruction": null, "output": null}\n'
    '{"prompt": "q", "completion": "\\ud800"}\n' + json.dumps(sharegpt(*TALK)) + "\n"
    '{"prompt": "q", "comp'
)


REASONS = {
    2: "not JSON: Unterminated string starting at",
    4: "not an object with fields but a list",
    5: "not an object with fields but a text",
    6: "not an object with fields but null",
    7: "an empty answer",
    8: "no conversation: it has the fields (none)",
    9: "a lone surrogate, so it is not valid Unicode",
    11: "not JSON: Unterminated string starting at",
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_broken_records_are_reported_with_file_line_and_reason(tmp_path: Path, suffix: str) -> None:
    """A bad line ends nothing: it is reported with its line, place and beginning, and all others are used."""
    data = BROKEN.encode()
    path = put(tmp_path / f"a.jsonl{suffix}", gzip.compress(data) if suffix else data)
    found, bad = read(path)
    assert [turns(item) for item in found] == [TALK, TALK]
    assert {item.line: item.reason.partition("; expected")[0] for item in bad} == REASONS
    for item in bad:
        assert item.line is not None and item.excerpt == BROKEN.split("\n")[item.line - 1]
        name, _, offset = item.place.rpartition(":")
        assert name == path.name and data[: int(offset)].count(b"\n") + 1 == item.line


def test_lines_of_other_text_formats(tmp_path: Path) -> None:
    """Errors of indented JSON, tables and wide encodings name their line, also far after the first block."""
    good, bad = messages(("user", "长" * 300), ("assistant", "a")), messages(("user", "坏"))
    text = json.dumps([good] * 3000 + [bad], ensure_ascii=False, indent=1)
    line = len(text[: text.index("坏")].splitlines()) - 4  # the object begins four lines above the content
    for name, data in {
        "a.json": text.encode(),
        "b.json": text.encode("gb18030"),
        "c.json": text.encode("utf-16"),
        "d.json.gz": gzip.compress(text.encode()),
    }.items():
        found, rejected = read(put(tmp_path / name, data))
        assert (len(found), [item.line for item in rejected]) == (3000, [line]), name
    lines = jsonl(*[good] * 3000, bad)
    for encoding in ("utf-8-sig", "gb18030", "utf-16"):
        for suffix in (".jsonl", ".json"):
            found, rejected = read(put(tmp_path / f"{encoding}{suffix}", lines.encode(encoding)))
            assert (len(found), [item.line for item in rejected]) == (3000, [3001]), (encoding, suffix)
    _, rejected = read(put(tmp_path / "t.csv", 'prompt,completion\n"a\nb",c\nq,\n'))
    assert [(item.line, item.reason) for item in rejected] == [(4, "an empty answer")]


def test_json_arrays_encodings_and_marks(tmp_path: Path) -> None:
    """An array, one object, indented or not, in UTF-8 with a mark, GB18030 or UTF-16, yields the same conversations."""
    records = [messages(*TALK), {"instruction": "今天天气怎么样？", "input": "", "output": "今天天气很好。"}]
    expected = [said(record) for record in records]
    for i, indent in enumerate((None, 2)):
        text = json.dumps(records, ensure_ascii=False, indent=indent)
        for encoding in ("utf-8", "utf-8-sig", "gb18030", "utf-16"):
            found, bad = read(put(tmp_path / f"{encoding}{i}.json", text.encode(encoding)))
            assert [turns(item) for item in found] == expected and not bad, (encoding, indent)
    found, bad = read(put(tmp_path / "one.json", json.dumps(records[0], indent=2)))
    assert [turns(item) for item in found] == expected[:1] and not bad
    found, bad = read(put(tmp_path / "cut.json", json.dumps(records, indent=2)[:-30]))
    assert [turns(item) for item in found] == expected[:1] and bad


def test_tables(tmp_path: Path) -> None:
    """CSV with a column for each field or with messages in JSON, and Parquet with either or with nested lists."""
    listed = sharegpt(*TALK)["conversations"]
    rows = [{"conversations": json.dumps(listed, ensure_ascii=False), "task": "t", "n": "1"}]
    pairs = [{"prompt": 'a, "b"\n', "completion": "c\nd", "n": "1"}, {"prompt": "", "completion": "c", "n": "2"}]
    for name, table, delimiter in (("a.csv", rows, ","), ("b.tsv", rows, "\t"), ("c.csv", pairs, ",")):
        out = io.StringIO()
        writer = csv.DictWriter(out, list(table[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)
        put(tmp_path / name, out.getvalue().replace("\r\n", "\n"))
    for name in ("a.csv", "b.tsv"):
        found, bad = read(tmp_path / name)
        assert [(turns(item), item.task) for item in found] == [(TALK, "t")] and not bad
    found, bad = read(tmp_path / "c.csv")
    assert [turns(item) for item in found] == [[("user", 'a, "b"\n'), ("assistant", "c\nd")]]
    assert [item.reason for item in bad] == ["an empty question"]

    nested = [{"conversations": listed, "system": "s"}, {"conversations": [], "system": None}]
    weighed = [{"role": "user", "content": "q", "weight": None}, {"role": "assistant", "content": "a", "weight": 0}]
    for name, parquet in {"d": rows, "e": pairs[:1], "f": nested, "g": [{"messages": weighed}]}.items():
        pq.write_table(pa.Table.from_pylist(parquet), tmp_path / f"{name}.parquet", row_group_size=1)
    assert [turns(item) for item in read(tmp_path / "d.parquet")[0]] == [TALK]
    assert [turns(item) for item in read(tmp_path / "e.parquet")[0]] == [
        [("user", 'a, "b"\n'), ("assistant", "c\nd")],
    ]
    found, bad = read(tmp_path / "f.parquet")
    assert [(turns(item), item.id) for item in found] == [([("system", "s"), *TALK], "f.parquet:0")]
    assert [(item.place, item.line, item.reason) for item in bad] == [("f.parquet:1", None, "an empty conversation")]
    (one,) = read(tmp_path / "g.parquet")[0]
    assert one.messages == (Message("user", "q"), Message("assistant", "a", 0))


def test_tables_without_conversations_are_reported_once(tmp_path: Path) -> None:
    """A table whose columns hold none is one rejected file, which names its columns and what would do."""
    pq.write_table(pa.table({"word": ["a", "b"], "id": [1, 2]}), tmp_path / "a.parquet")
    put(tmp_path / "b.csv", "word,id\na,1\nb,2\n")
    for name in ("a.parquet", "b.csv"):
        found, bad = read(tmp_path / name)
        assert not found and [item.place for item in bad] == [name]
        assert bad[0].reason.startswith("no conversation: it has the fields word, id; expected messages")


def test_folders_and_pieces(tmp_path: Path) -> None:
    """A folder yields its files by name without other kinds; cut into pieces it yields the same records."""
    folder = tmp_path / "chats"
    folder.mkdir()
    put(folder / "README.md", "# about")
    put(folder / "b.jsonl", jsonl(*({"prompt": f"{i}", "completion": "b"} for i in range(50)), [], {"text": ""}))
    put(folder / "a.json", json.dumps([{"prompt": f"{i}", "completion": "a"} for i in range(5)]))
    pq.write_table(pa.table({"question": ["q"] * 9, "answer": ["c"] * 9}), folder / "c.parquet", row_group_size=2)
    whole = list(read_conversations(folder, AUTO))
    found = [item for item in whole if isinstance(item, Conversation)]
    assert Counter(item.task for item in found) == {"a": 5, "b": 50, "c": 9}
    assert [item.id for item in found][:2] == ["chats/a.json:1", "chats/a.json:37"]
    partitions = find_conversation_partitions([folder], 100)
    pieces = [item for part in partitions for item in read_conversation_partition(part, AUTO)]
    assert len(partitions) > 10 and len({item.id for item in found}) == len(found)
    assert [item for item in pieces if isinstance(item, Conversation)] == found
    bad, cut = ([(i.place, i.reason) for i in items if isinstance(i, Rejected)] for items in (whole, pieces))
    assert bad == cut and len(bad) == 2
    put(tmp_path / "note.txt", "text")
    for path, error in {
        tmp_path / "note.txt": "no conversations to read here",
        tmp_path / "none": "does not exist",
    }.items():
        with pytest.raises(UserError, match=error):
            list(read_conversations(path, AUTO))


def test_records_too_long_and_empty_files_are_reported(tmp_path: Path) -> None:
    """A record beyond the limit never fills the memory; it, an empty file and a damaged one are named with a reason."""
    long = json.dumps({"prompt": "x" * (17 << 20), "completion": "a"})
    assert [i.reason for i in read(put(tmp_path / "a.jsonl", f"{long}\n"))[1]] == ["longer than 16 MiB"]
    assert [i.reason for i in read(put(tmp_path / "b.jsonl", ""))[1]] == ["the file is empty"]
    packed = gzip.compress(jsonl(*(messages(*TALK) for _ in range(9))).encode())
    found, bad = read(put(tmp_path / "c.jsonl.gz", packed[:-12]))
    assert bad[-1].reason == "damaged: what follows is lost" and all(turns(item) == TALK for item in found)


REAL = {"alpaca_en_demo.json": 999, "alpaca_zh_demo.json": 1000, "identity.json": 91, "sharegpt_zh_1k.jsonl": 999}


@pytest.mark.skipif("BABYLLM_DATA" not in os.environ, reason="needs BABYLLM_DATA")
@pytest.mark.parametrize("name", REAL)
def test_every_record_of_real_sets_is_used_or_accounted_for(name: str) -> None:
    """Real Alpaca and ShareGPT files come out whole and unchanged; the one record without an answer is reported."""
    path = Path(os.environ["BABYLLM_DATA"]) / "sft" / name
    text = path.read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
    found, bad = read(path)
    assert len(found) == REAL[name] and len(found) + len(bad) == len(records)
    good = [r for r in records if "output" in r or any(item["from"] == "gpt" for item in r["conversations"])]
    for item, record in zip(found, good, strict=True):
        assert item.task == name.partition(".")[0]
        if "conversations" in record:
            assert [content for _, content in turns(item)] == [m["value"] for m in record["conversations"]]
        else:
            question = "\n".join(part for part in (record["instruction"], record["input"]) if part)
            assert turns(item) == [("user", question), ("assistant", record["output"])]
    for rejected in bad:
        assert rejected.reason == "no message of the assistant" and rejected.line is not None
        assert records[rejected.line - 1] not in good


@pytest.mark.skipif("BABYLLM_DATA" not in os.environ, reason="needs BABYLLM_DATA")
@pytest.mark.parametrize("name", ["dpo_en_demo.json", "dpo_zh_demo.json"])
def test_real_preferences_are_told_from_conversations(name: str) -> None:
    """Every record of a preference set is refused with the reason."""
    found, bad = read(Path(os.environ["BABYLLM_DATA"]) / "preference" / name)
    assert not found and len(bad) == 300
    assert {item.reason.partition(":")[0] for item in bad} == {"made for preferences, not for conversations"}
