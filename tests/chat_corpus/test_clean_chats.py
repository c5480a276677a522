"""Chat files through `babyllm clean`: every record is kept in its form, or rejected with file, line and reason."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyllm.__main__ import run
from babyllm.chat.formats import FormatConfig
from babyllm.chat_corpus.chat_filters import ChatFilters
from babyllm.chat_corpus.clean_chats import clean_chats
from babyllm.chat_corpus.record_texts import texts_in, with_texts
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.chat_folders import open_chat_files
from babyllm.text.clean.filters import CleanConfig

ONE = WorkConfig(workers=1)


def alpaca(n: int, answer: str = "", **more: Any) -> dict[str, Any]:
    """A record with an id, an unknown field, and an answer."""
    return {
        "id": f"r{n}",
        "instruction": f"问题 {n}",
        "input": "",
        "output": answer or f"回答 {n}",
        "score": n / 7,
        **more,
    }


def cleaned(inputs: list[Path], out: Path, filters: ChatFilters | None = None, **options: Any) -> list[dict[str, Any]]:
    """Clean chat files; returns the lines of rejected.jsonl."""
    config = options.pop("config", CleanConfig())
    clean_chats(inputs, out, config, filters or ChatFilters(), options.pop("format", FormatConfig()), work=ONE)
    file = out / "rejected.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def write_all_forms(folder: Path, records: list[dict[str, Any]]) -> None:
    """The same records as JSON lines, a JSON array, compressed lines, CSV, TSV, Parquet and Arrow."""
    folder.mkdir()
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "b.json").write_text(json.dumps(records, ensure_ascii=False, indent=2), encoding="utf-8")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name, delimiter in (("d.csv", ","), ("e.tsv", "\t")):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(records)
    table = pa.Table.from_pylist(records)
    pq.write_table(table, folder / "f.parquet")
    with pa.ipc.new_file(folder / "g.arrow", table.schema) as out:
        out.write_table(table)


def read_form(file: Path) -> list[dict[str, Any]]:
    """The records of a file of any of these forms, read by other programs' libraries."""
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    if file.suffix == ".arrow":
        return list(pa.ipc.open_file(file).read_all().to_pylist())
    if file.suffix in (".csv", ".tsv"):
        with file.open(encoding="utf-8", newline="") as rows:
            return [dict(row) for row in csv.DictReader(rows, delimiter="\t" if file.suffix == ".tsv" else ",")]
    text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text(encoding="utf-8")
    return list(json.loads(text)) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_records_come_out_in_the_form_they_came_in(tmp_path: Path) -> None:
    """Files of each form keep their form, and kept records keep ids, unknown fields, numbers and order."""
    records = [alpaca(n) for n in range(5)]
    records[2]["output"] = " "
    write_all_forms(tmp_path / "in", records)
    rejected = cleaned([tmp_path / "in"], tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    assert sorted(file.file for file in open_chat_files(tmp_path / "out").files) == [f"in/{name}" for name in names]
    for name in names:
        kept, before = read_form(tmp_path / "out" / "in" / name), read_form(tmp_path / "in" / name)
        assert kept == [record for record in before if record["output"].strip()], name
    assert len(rejected) == len(names)
    assert {line["reason"] for line in rejected} == {"an empty answer"}
    lines = {line["place"].split(":")[0]: line["line"] for line in rejected}
    assert lines["in/a.jsonl"] == 3
    assert lines["in/d.csv"] == 4
    schema = pq.read_schema(tmp_path / "in" / "f.parquet")
    assert pq.read_schema(tmp_path / "out" / "in" / "f.parquet").equals(schema)


def test_partitions_and_workers_change_nothing(tmp_path: Path) -> None:
    """The files do not depend on where they are cut, and each record is accounted for once."""
    file = tmp_path / "many.jsonl"
    records = [alpaca(n, "" if n % 7 else "没有" * (n % 5)) for n in range(3000)]
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    filters = ChatFilters(min_answer=3)
    outs = []
    for name, work in (("one", ONE), ("two", WorkConfig(workers=2, partition_bytes=1 << 14))):
        clean_chats([file], tmp_path / name, CleanConfig(), filters, FormatConfig(), work=work)
        outs.append([(tmp_path / name / part).read_bytes() for part in ("many.jsonl", "rejected.jsonl", "report.json")])
    assert outs[0] == outs[1]
    kept, rejected = ((tmp_path / "one" / name).read_bytes().splitlines() for name in ("many.jsonl", "rejected.jsonl"))
    assert len(kept) + len(rejected) == len(records)
    found = [json.loads(line) for line in rejected]
    assert all(records[line["line"] - 1]["output"].strip() == line["excerpt"] or line["reason"] for line in found)


TALK = [
    {"role": "user", "content": "ｆｕｌｌ ﬁ"},
    {"role": "assistant", "content": "ﬁne\x07"},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "yes"},
]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": TALK, "id": 7},
        {"conversations": [{"from": {"user": "human"}.get(m["role"], "gpt"), "value": m["content"]} for m in TALK]},
        {"messages": json.dumps(TALK), "id": "json within text"},
        {"question": TALK[0]["content"], "answer": TALK[1]["content"], "history": [["again", "yes"]]},
    ],
)
def test_an_edit_changes_the_fields_where_the_text_stands(tmp_path: Path, record: dict[str, Any]) -> None:
    """Edits reach nested fields and JSON in text; everything else of the record stays."""
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps(record) + "\n", encoding="utf-8")
    assert cleaned([file], tmp_path / "out") == []
    (after,) = read_form(tmp_path / "out" / "talk.jsonl")
    assert after.keys() == record.keys()
    assert "\x07" not in json.dumps(after) and "\\u0007" not in json.dumps(after)
    assert json.dumps(after).replace("\\\\", "\\") != json.dumps(record)
    assert after.get("id") == record.get("id")


def test_edits_by_role_leave_other_roles_alone(tmp_path: Path) -> None:
    """A filter of one role does not change the texts of another."""
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"instruction": "问\x07题", "output": "回\x07答"}) + "\n", encoding="utf-8")
    cleaned([file], tmp_path / "out", ChatFilters(filters={"assistant": ["controls"]}))
    (after,) = read_form(tmp_path / "out" / "talk.jsonl")
    assert after == {"instruction": "问\x07题", "output": "回答"}


@pytest.mark.parametrize(
    ("messages", "filters", "reason"),
    [
        (["q", "a", "q", "a"], ChatFilters(), "an answer that occurs more than 1 time in it"),
        (["q", "a", "p", "b"], ChatFilters(max_turns=1), "more than 1 answers"),
        (["q", "a"], ChatFilters(min_turns=2), "fewer than 2 answers"),
        (["q", "a"], ChatFilters(min_question=2), "a question of fewer than 2 characters"),
        (["q", "abc"], ChatFilters(max_answer=2), "an answer of more than 2 characters"),
        (["", "abc"], ChatFilters(), "a question is empty"),
        (["q", "长" * 600], ChatFilters(filters={"assistant": ["repetition"]}), "one 2-gram"),
    ],
)
def test_rules_reject_with_their_reason(tmp_path: Path, messages: list[str], filters: ChatFilters, reason: str) -> None:
    """Each rule about turns, and a text filter of a role, rejects the conversation and says why."""
    roles = ["user", "assistant"] * 2
    said = [{"role": role, "content": text} for role, text in zip(roles, messages, strict=False)]
    good = {"messages": [{"role": "user", "content": "qq"}, {"role": "assistant", "content": "aa"}]}
    good["messages"] *= 1 if filters.min_turns == 1 else 2
    if filters.min_turns == 2:
        good["messages"] = [*good["messages"][:3], {"role": "assistant", "content": "bb"}]
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in (good, {"messages": said})), encoding="utf-8")
    (line,) = cleaned([file], tmp_path / "out", filters)
    assert line["reason"].startswith(reason) and line["line"] == 2


@pytest.mark.parametrize(
    ("roles", "is_kept"),
    [
        (["user", "assistant", "user"], True),
        (["user", "user", "assistant"], False),
        (["assistant", "user", "assistant"], False),
        (["system", "user", "assistant"], True),
        (["user", "assistant", "tool", "assistant"], True),
        (["narrator", "assistant"], True),
    ],
)
def test_one_sided_turns_are_rejected(tmp_path: Path, roles: list[str], is_kept: bool) -> None:
    """A question without an answer in the middle, and an answer without a question, are one-sided."""
    said = [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)]
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in (good, {"messages": said})), encoding="utf-8")
    assert (cleaned([file], tmp_path / "out") == []) == is_kept
    assert cleaned([file], tmp_path / "lenient", ChatFilters(one_sided=True)) == []


def test_texts_are_found_by_message_and_put_back() -> None:
    """A title above a question and a transcript belong to their messages; other fields do not."""
    from babyllm.chat.formats import to_conversation

    record = {"title": "标题", "desc": "说明", "answer": "回答", "url": "http://x.example"}
    chat = to_conversation(record, FormatConfig(prompt="title+desc", answer="answer"), task="t", id="1")
    assert texts_in(record, chat) == {
        ("title",): ("user", "标题"),
        ("desc",): ("user", "说明"),
        ("answer",): ("assistant", "回答"),
    }
    assert with_texts(record, {("desc",): "新"}) == {**record, "desc": "新"}
    assert record["desc"] == "说明"


def test_the_command_finishes_once_and_names_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command repeats nothing, refuses other settings, and says what to do about a mistake."""
    file, out = tmp_path / "talk.jsonl", tmp_path / "out"
    file.write_text(json.dumps(alpaca(1)) + "\n", encoding="utf-8")
    command = ["clean", str(file), str(out), "--kind=conversations"]
    run(command)
    run(command)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="was made with other chat"):
        run([*command, "--chat.min_answer=2"])
    with pytest.raises(UserError, match=r"--chat\.filters, by role"):
        run(["clean", str(file), str(tmp_path / "b"), "--kind=conversations", "--filters=[unicode]"])
    with pytest.raises(UserError, match="did you mean 'unicode'"):
        run(["clean", str(file), str(tmp_path / "b"), "--kind=conversations", "--chat.filters={user: [unicod]}"])
    with pytest.raises(
        UserError, match="no conversation is left: 1 record: turns: an answer of fewer than 99 characters"
    ):
        run(["clean", str(file), str(tmp_path / "b"), "--kind=conversations", "--chat.min_answer=99"])


def test_cleaned_files_are_read_without_their_reports(tmp_path: Path) -> None:
    """A folder of chat files is read by its description, which a damaged file contradicts."""
    file, out = tmp_path / "talk.jsonl", tmp_path / "out"
    file.write_text("".join(json.dumps(alpaca(n)) + "\n" for n in range(3)) + "{}\n", encoding="utf-8")
    cleaned([file], out)
    assert cleaned([out], tmp_path / "again") == []
    assert read_form(tmp_path / "again" / "talk.jsonl") == read_form(out / "talk.jsonl")
    with (out / "talk.jsonl").open("a", encoding="utf-8") as damaged:
        damaged.write("{}\n")
    with pytest.raises(UserError, match=r"talk\.jsonl"):
        cleaned([out], tmp_path / "third")
