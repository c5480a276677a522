"""Exact repetitions: which are dropped, which stay, and what the report says of them."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conversations_fixtures import ONE, chats, write_jsonl

from babyllm.chat.formats import FormatConfig, PreferenceFormat
from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import read_conversations
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.prepare.conversations import prepare_conversations
from babyllm.prepare.preference_pairs import prepare_pairs
from babyllm.prepare.rendered import repetitions
from babyllm.store.conversations import IDS, INDEX, MANIFEST, TURNS, ConversationStore
from babyllm.training.stages.fine_tuning_config import FineTuneConfig, resolved
from babyllm.training.stages.preference.dpo_config import DpoConfig
from babyllm.training.stages.preference.dpo_config import resolved as resolved_dpo

LONG = 1000  # tokens: more than any conversation here


def asked(question: str, answer: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer} | more]
    return {"messages": messages, "task": "t"}


@pytest.fixture
def repeating(tmp_path: Path) -> Path:
    """90 records of 30 conversations in two files, three times each in random order, between broken lines."""
    records = [{**record, "number": i} for i, record in enumerate(chats(30, 5) * 3)]
    random.Random(1).shuffle(records)
    folder = tmp_path / "files"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", ["{broken", *records[:50]])
    write_jsonl(folder / "b.jsonl", [*records[50:], "{broken"])
    return folder


def prepare(files: Path, directory: Path, template: ChatTemplate, **options: Any) -> Report | None:
    settings: dict[str, Any] = {"seq_len": LONG, "supervise": Supervise(), "held_out": 0.0, "work": ONE}
    return prepare_conversations([files], directory, template, FormatConfig(), **settings | options)


def facts_of(report: Report | None) -> dict[str, Any]:
    assert report is not None
    return dict(report.facts)


def dropped_in(directory: Path) -> list[dict[str, Any]]:
    """The repetitions in rejected.jsonl."""
    lines = (directory / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["reason"].startswith("repeats ")]


def contents(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in (IDS, TURNS, INDEX, "rejected.jsonl")]


def test_each_conversation_is_trained_on_once(repeating: Path, tmp_path: Path, template: ChatTemplate) -> None:
    """The first of equal conversations stays; each other one is counted, and listed with both lines."""
    out = tmp_path / "out"
    report = prepare(repeating, out, template, repetitions="drop", held_out=0.2)
    assert facts_of(report)["exact repetitions dropped"] == 60
    store = ConversationStore.open(out)
    assert len(store.index) == 30
    first: dict[str, tuple[str, int]] = {}
    expected = []
    for name in ("a.jsonl", "b.jsonl"):
        for number, line in enumerate((repeating / name).read_text(encoding="utf-8").splitlines(), 1):
            if not line.startswith("{broken"):
                said = json.dumps(json.loads(line)["messages"])
                if said in first:
                    expected.append((f"files/{name}", number, "repeats line {1} of files/{0}".format(*first[said])))
                first.setdefault(said, (name, number))
    found = [(record["place"].rpartition(":")[0], record["line"], record["reason"]) for record in dropped_in(out)]
    assert found == expected


def test_the_outcomes_add_up(repeating: Path, tmp_path: Path, template: ChatTemplate) -> None:
    """Repeated conversations are an outcome of their own beside the others."""
    report = prepare(repeating, tmp_path / "out", template, repetitions="drop")
    assert report is not None
    table = report.tables[1]
    rows: list[dict[str, Any]] = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    names = ("whole", "dropped", "truncated", "skipped", "repeated")
    for row in rows:
        assert row["conversations"] == sum(row[name] for name in names)
    assert sum(row["repeated"] for row in rows) == 60
    assert facts_of(report)["records"] == 92 and facts_of(report)["conversations"] == 90


@pytest.mark.parametrize("work, held_out", [(WorkConfig(1, 500), 0.2), (WorkConfig(2, 3000), 7)])
def test_workers_and_pieces_change_nothing(
    repeating: Path, tmp_path: Path, template: ChatTemplate, work: WorkConfig, held_out: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Another number of processes, pieces of another size and ranges of another length give the same store."""
    prepare(repeating, tmp_path / "one", template, repetitions="drop", held_out=held_out)
    monkeypatch.setattr(repetitions, "RANGE", 13)
    monkeypatch.setattr("babyllm.chat.reading.MIN_PIECE_BYTES", 500)
    prepare(repeating, tmp_path / "two", template, repetitions="drop", held_out=held_out, work=work)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_number_of_held_out_conversations_counts_each_once(
    repeating: Path, tmp_path: Path, template: ChatTemplate
) -> None:
    """Seven held-out conversations are seven different ones, however often each is in the files."""
    prepare(repeating, tmp_path / "out", template, repetitions="drop", held_out=7)
    assert len(ConversationStore.open(tmp_path / "out").span("val")) == 7


def test_no_held_out_conversation_is_trained_on(repeating: Path, tmp_path: Path, template: ChatTemplate) -> None:
    """A copy of a held-out file's conversation is dropped from the files to train on, wherever their names sort."""
    apart = tmp_path / "z_held.jsonl"  # after the others
    records = [json.loads(line) for line in (repeating / "a.jsonl").read_text(encoding="utf-8").splitlines()[1:6]]
    write_jsonl(apart, records)
    different = len({json.dumps(record["messages"]) for record in records})
    prepare(repeating, tmp_path / "out", template, repetitions="drop", held_out_paths=[apart])
    store = ConversationStore.open(tmp_path / "out")
    seen = {split: {store.conversation(n)[0].tobytes() for n in store.span(split)} for split in ("train", "val")}
    assert len(seen["val"]) == different and len(seen["train"]) == 30 - different
    assert not seen["train"] & seen["val"]
    reasons = [record["reason"] for record in dropped_in(tmp_path / "out")]
    assert sum("z_held.jsonl" in reason for reason in reasons) >= 3 * different


def test_what_makes_conversations_different(tmp_path: Path, template: ChatTemplate) -> None:
    """Roles, contents, reasoning, tools and weights count; the task, the fields and the format do not."""
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    same = [asked("问", "答"), asked("问", "答") | {"task": "another"}, {"instruction": "问", "output": "答", "id": 3}]
    others = [
        *(asked("问 ", "答"), asked("问", "答。"), asked("问", "答", weight=1), asked("问", "答", weight=0)),
        *(asked("问", "答", reasoning_content="想"), asked("问", "答") | {"tools": [tool]}),
        {"messages": [{"role": "tutor", "content": "问"}, {"role": "assistant", "content": "答"}]},
    ]
    file = write_jsonl(tmp_path / "chats.jsonl", [*same, *others])
    assert all(isinstance(found, Conversation) for found in read_conversations(file, FormatConfig()))
    prepare(file, tmp_path / "out", template, repetitions="drop")
    assert [record["line"] for record in dropped_in(tmp_path / "out")] == [2, 3]


def test_rows_of_tables_are_named_by_their_place(tmp_path: Path, template: ChatTemplate) -> None:
    """A file without lines names the row that stays."""
    pq.write_table(pa.table({"prompt": ["a", "b", "a"], "answer": ["x", "y", "x"]}), tmp_path / "t.parquet")
    prepare(tmp_path / "t.parquet", tmp_path / "out", template, repetitions="drop")
    (found,) = dropped_in(tmp_path / "out")
    assert (found["place"], found["reason"]) == ("t.parquet:2", "repeats t.parquet:0")


def test_kept_repetitions_leave_a_store_as_it_was(repeating: Path, tmp_path: Path, template: ChatTemplate) -> None:
    """Without dropping, all are trained on, and a store of an earlier version is not made again."""
    out = tmp_path / "out"
    assert prepare(repeating, out, template) is not None
    assert len(ConversationStore.open(out).index) == 90
    made_of = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["made_of"]
    assert "repetitions" not in made_of["settings"]
    assert prepare(repeating, out, template, repetitions="keep") is None
    assert prepare(repeating, out, template, repetitions="drop") is not None
    assert prepare(repeating, out, template, repetitions="drop") is None


def test_files_that_only_repeat_held_out_ones_are_refused(tmp_path: Path, template: ChatTemplate) -> None:
    """Nothing is left to train on: one line says why."""
    files = [write_jsonl(tmp_path / f"{name}.jsonl", [asked("问", "答")]) for name in ("train", "held")]
    with pytest.raises(UserError, match="all of its 1 conversations repeat held-out ones"):
        prepare(files[0], tmp_path / "out", template, repetitions="drop", held_out_paths=files[1:])


def test_an_empty_file_and_one_record_are_no_repetitions(tmp_path: Path, template: ChatTemplate) -> None:
    """Partitions without usable records and stores without repetitions count none."""
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "a.jsonl", ["{broken"])
    write_jsonl(tmp_path / "in" / "b.jsonl", [asked("问", "答")])
    report = prepare(tmp_path / "in", tmp_path / "out", template, repetitions="drop")
    assert "exact repetitions dropped" not in facts_of(report)


def test_equal_preferences_are_one(tmp_path: Path, template: ChatTemplate) -> None:
    """Pairs and single answers that repeat one another are dropped, and counted, too."""
    pairs = [{"prompt": f"q{i % 5}", "chosen": "yes", "rejected": "no"} for i in range(20)]
    rated = [{"prompt": "q9", "completion": f"a{i % 2}", "label": bool(i % 2)} for i in range(6)]
    file = write_jsonl(tmp_path / "pairs.jsonl", [*pairs, *rated])
    report = prepare_pairs(
        [file], tmp_path / "out", template, PreferenceFormat(), seq_len=64, held_out=0, repetitions="drop", work=ONE
    )
    facts = facts_of(report)
    assert facts["exact repetitions dropped"] == 15 + 4 and facts["pairs used"] == 5 + 1
    assert dropped_in(tmp_path / "out")[0]["reason"] == "repeats line 1 of pairs.jsonl"


@pytest.mark.parametrize("kind, resolve", [(FineTuneConfig, resolved), (DpoConfig, resolved_dpo)])
def test_an_older_run_keeps_its_repetitions(tmp_path: Path, kind: type[Any], resolve: Callable[[Any], Any]) -> None:
    """A run whose config.yaml lacks the key goes on with the data it has; a new run drops repetitions."""
    config = kind(run_dir=str(tmp_path / "run"))
    assert resolve(config).data.repetitions == "drop"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": {"seq_len": 64}}), encoding="utf-8")
    assert resolve(config).data.repetitions == "keep"
    for value in ("drop", "keep"):
        text = yaml.safe_dump({"data": {"repetitions": value}})
        (tmp_path / "run" / "config.yaml").write_text(text, encoding="utf-8")
        assert resolve(config).data.repetitions == "drop"


def test_repetitions_equal_a_direct_comparison(tmp_path: Path, template: ChatTemplate) -> None:
    """For random multisets of conversations, what stays is the set of different ones."""
    rng = np.random.default_rng(3)
    for n in (1, 2, 17, 300):
        numbers = rng.integers(0, max(1, n // 3), n)
        file = write_jsonl(tmp_path / f"{n}.jsonl", [asked(f"q{k}", f"a{k}") for k in numbers])
        prepare(file, tmp_path / f"out{n}", template, repetitions="drop")
        assert len(ConversationStore.open(tmp_path / f"out{n}").index) == len(set(numbers.tolist()))
