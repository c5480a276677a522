"""Conversations through clean, dedup, select and training: each record is kept, or listed with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babyllm.__main__ import run
from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import Supervise, load_template
from babyllm.prepare.conversations import prepare_conversations
from babyllm.store.conversations import ConversationStore
from babyllm.tokenizer import Tokenizer


def records() -> list[dict[str, Any]]:
    """Conversations with ids and unknown fields: some repeat others, some are one-sided, one has another shape."""
    found: list[dict[str, Any]] = [
        {
            "id": n,
            "instruction": f"问题 {n % 40}",
            "output": f"回答 {n % 45}",
            "meta": {"from": ["网", n]},
            "score": n % 7,
        }
        for n in range(60)
    ]
    found[5]["output"] = ""
    found[6] = {"id": 6, "text": "文章"}
    found[59] = dict(found[14], id=59)  # repeats it after all that the stages remove
    return found


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; empty without the file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.json"])
def test_each_record_is_kept_or_listed_at_every_stage(tmp_path: Path, name: str) -> None:
    """The records of each stage are those that the next one keeps or lists, with all their fields."""
    file = tmp_path / name
    everything = records()
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in everything)
    file.write_text(text if name.endswith("jsonl") else json.dumps(everything, ensure_ascii=False), encoding="utf-8")
    stages = {
        "clean": ["clean", "--kind=conversations"],
        "unique": ["dedup", "--kind=conversations", "--near=[]"],
        "chosen": ["select", "--scores=[field:score]", "--within={score: [1, null]}"],
    }
    source, before = file, {record["id"]: record for record in everything}
    for out, (command, *flags) in stages.items():
        run([command, str(source), str(tmp_path / out), *flags])
        own = tmp_path / out / "data" / name  # chats.json is the name of a file of ours
        source = own if own.exists() else tmp_path / out / name
        kept = lines_of(source) if name.endswith("jsonl") else json.loads(source.read_text(encoding="utf-8"))
        rejected = lines_of(tmp_path / out / "rejected.jsonl")
        assert len(kept) + len(rejected) == len(before), out
        assert all(record == before[record["id"]] for record in kept)
        assert all(line["place"].startswith(f"{name}:") and line["reason"] and line["line"] for line in rejected)
        before = {record["id"]: record for record in kept}
    tokenizer = Tokenizer.train([text], 400, hard_vocab_limit=False)
    report = prepare_conversations(
        [tmp_path / "chosen"],
        tmp_path / "store",
        load_template("chatml", tokenizer),
        FormatConfig(),
        seq_len=256,
        supervise=Supervise(),
        held_out=0.1,
    )
    store = ConversationStore.open(tmp_path / "store")
    listed = lines_of(tmp_path / "store" / "rejected.jsonl")
    assert report and sum(group.conversations for group in store.manifest.groups) + len(listed) == len(before)
