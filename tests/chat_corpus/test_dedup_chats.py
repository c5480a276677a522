"""Chat files through `babyllm dedup`, against brute force."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from babyllm.__main__ import run
from babyllm.chat.formats import FormatConfig
from babyllm.chat_corpus.dedup_chats import By, dedup_chats
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.text.dedup.dedup_config import DedupConfig

ONE = WorkConfig(workers=1)
WORDS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"


def written(file: Path, records: list[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return file


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; empty without the file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def random_chats(n: int, seed: int) -> list[dict[str, Any]]:
    """Conversations, about half of which repeat the question or the answer of another with some changes."""
    rng = random.Random(seed)
    chats: list[dict[str, Any]] = []
    for number in range(n):
        texts = ["".join(rng.choices(WORDS, k=40)) for _ in range(2)]
        if chats and rng.random() < 0.5:
            other = rng.choice(chats)
            side = rng.choice([0, 1])
            cut = rng.randrange(0, 30)
            texts[side] = (other["question"], other["answer"])[side][cut:] + texts[side][:cut]
        chats.append({"question": texts[0], "answer": texts[1], "id": number})
    return chats


def shingles(text: str) -> set[str]:
    """5-grams of characters, as the default compares them."""
    return {text[i : i + 5] for i in range(len(text) - 4)}


@pytest.mark.parametrize("by", ["question", "answer", "both"])
@pytest.mark.parametrize("threshold", [0.4, 0.7])
def test_near_duplicates_equal_brute_force(tmp_path: Path, by: By, threshold: float) -> None:
    """Those that stay are one of each set of conversations that pairs above the threshold connect."""
    chats = random_chats(60, seed=3)
    file = written(tmp_path / "chats.jsonl", chats)
    dedup_chats([file], tmp_path / "out", DedupConfig(threshold=threshold, work=ONE), by, FormatConfig())
    texts = {
        "question": [c["question"] for c in chats],
        "answer": [c["answer"] for c in chats],
        "both": [c["question"] + c["answer"] for c in chats],
    }[by]
    sets = [shingles(text) for text in texts]
    group = list(range(len(chats)))
    for a, b in combinations(range(len(chats)), 2):
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold and group[a] != group[b]:
            old, new = group[b], group[a]
            group = [new if g == old else g for g in group]
    kept = [record["id"] for record in lines_of(tmp_path / "out" / "chats.jsonl")]
    rejected = lines_of(tmp_path / "out" / "rejected.jsonl")
    assert sorted(group[number] for number in kept) == sorted(set(group))
    assert kept == sorted(kept) and len(kept) + len(rejected) == len(chats)
    assert all(line["line"] and " chats.jsonl" in line["reason"] for line in rejected)


def test_exact_repetitions_name_what_stays(tmp_path: Path) -> None:
    """Of equal conversations one stays, and the others name it with their line."""
    same = {"instruction": "问", "output": "答"}
    file = written(tmp_path / "chats.jsonl", [same, {"instruction": "别的", "output": "另外"}, same, {"bad": 1}])
    dedup_chats([file], tmp_path / "out", DedupConfig(near=[], work=ONE), "both", FormatConfig())
    repeated, bad = lines_of(tmp_path / "out" / "rejected.jsonl")
    assert repeated["line"] == 3 and repeated["reason"] == "repeats line 1 of chats.jsonl"
    assert bad["line"] == 4
    assert pq.read_table(tmp_path / "out" / "clusters.parquet").num_rows == 2


def test_other_files_and_evaluation_sets_are_kept_out(tmp_path: Path) -> None:
    """Conversations in the files of --against, and those that share words with an evaluation set, are removed."""
    chats = random_chats(12, seed=5)
    file, other = written(tmp_path / "chats.jsonl", chats), written(tmp_path / "old.jsonl", chats[:3])
    question = written(tmp_path / "eval.jsonl", [{"text": chats[5]["answer"]}])
    config = DedupConfig(near=[], against=[str(other)], decontaminate=[str(question)], work=ONE)
    dedup_chats([file], tmp_path / "out", config, "both", FormatConfig())
    reasons = {chats[line["line"] - 1]["id"]: line["reason"] for line in lines_of(tmp_path / "out" / "rejected.jsonl")}
    assert {number for number, reason in reasons.items() if "against/old.jsonl" in reason} == {0, 1, 2}
    assert "evaluation set eval.jsonl" in reasons[5]
    assert [r["id"] for r in lines_of(tmp_path / "out" / "chats.jsonl")] == [n for n in range(12) if n not in reasons]


def test_a_conversation_without_the_compared_text_stays(tmp_path: Path) -> None:
    """Conversations without a question are not repetitions of each other by their questions."""
    said = [{"messages": [{"role": "assistant", "content": text}]} for text in ("一", "二")]
    asked = {"instruction": "问", "output": "答"}
    file = written(tmp_path / "chats.jsonl", [*said, asked, asked])
    dedup_chats([file], tmp_path / "out", DedupConfig(work=ONE), "question", FormatConfig())
    assert len(lines_of(tmp_path / "out" / "chats.jsonl")) == 3


def test_the_command_goes_on_and_names_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command repeats nothing, and refuses settings of documents."""
    file = written(tmp_path / "chats.jsonl", random_chats(5, seed=1))
    command = ["dedup", str(file), str(tmp_path / "out"), "--kind=conversations"]
    run(command)
    run(command)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"lines\.min_documents: is for documents"):
        run([*command, "--lines.min_documents=2"])
    with pytest.raises(UserError, match="was made with other by"):
        run([*command, "--by=answer"])
