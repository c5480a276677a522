"""Preferences from records: every usual shape, the reason for every bad one, and what becomes of all of them."""

import csv
import gzip
import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preference_fixtures import SEQ_LEN, facts, pairs, prepare, template, write

from babyllm.chat.limits import MessageLimits
from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import Message, Unusable
from babyllm.chat.preferences import (
    PreferenceFormat,
    PreferencePair,
    RatedAnswer,
    read_preference_partition,
    to_preference,
)
from babyllm.chat.reading import find_conversation_partitions
from babyllm.commands.corpus.inspect import Flags
from babyllm.commands.corpus.inspect import run as inspect
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.serve.api.feedback.feedback_file import feedback_line
from babyllm.store.pair_store import PairStore

__all__ = ["template"]
QUESTION, BETTER, WORSE = ("user", "q"), ("assistant", "good"), ("assistant", "bad")
EARLIER = (("user", "before"), ("assistant", "yes"), QUESTION)


def messages(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def spoken(*turns: tuple[str, str]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[role], "value": content} for role, content in turns]


def transcript(*turns: tuple[str, str]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[role]}: {content}" for role, content in turns)


def said(found: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message.role, message.content) for message in found)


def read(record: dict[str, Any], **settings: Any) -> Any:
    return to_preference(record, PreferenceFormat(**settings), task="file", id="x:0")


def is_pair(found: Any, prompt: Sequence[tuple[str, str]] = (QUESTION,)) -> bool:
    assert isinstance(found, PreferencePair) and said(found.prompt) == tuple(prompt)
    return (said(found.chosen), said(found.rejected)) == ((BETTER,), (WORSE,))


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, [QUESTION]),
        ({"Prompt": "q", "Chosen": "good", "Rejected": "bad"}, [QUESTION]),
        ({"prompt": messages(*EARLIER), "chosen": messages(BETTER), "rejected": messages(WORSE)}, EARLIER),
        ({"prompt": messages(*EARLIER), "chosen": "good", "rejected": "bad"}, EARLIER),
        ({"system": "s", "question": "q", "chosen": "good", "rejected": "bad"}, [("system", "s"), QUESTION]),
        ({"conversations": spoken(*EARLIER), "chosen": spoken(BETTER)[0], "rejected": spoken(WORSE)[0]}, EARLIER),
        ({"conversations": spoken(QUESTION), "chosen": json.dumps(spoken(BETTER)), "rejected": "bad"}, [QUESTION]),
        ({"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"}, [QUESTION]),
        ({"question": "q", "response_chosen": "good", "response_rejected": "bad"}, [QUESTION]),
        ({"question": "q", "chosen_response": "good", "rejected_response": "bad"}, [QUESTION]),
        ({"chosen": transcript(*EARLIER, BETTER), "rejected": transcript(*EARLIER, WORSE)}, EARLIER),
        ({"prompt": transcript(QUESTION) + "\n\nAssistant:", "chosen": "good", "rejected": "bad"}, [QUESTION]),
        ({"prompt": "q", "chosen": messages(QUESTION, BETTER), "rejected": messages(QUESTION, WORSE)}, [QUESTION]),
        ({"chosen": messages(*EARLIER, BETTER), "rejected": messages(*EARLIER, WORSE)}, EARLIER),
        (
            {"system": "s", "prompt": "q", "chosen": messages(QUESTION, BETTER), "rejected": messages(QUESTION, WORSE)},
            [("system", "s"), QUESTION],
        ),
    ],
)
def test_every_usual_shape_is_read(record: dict[str, Any], prompt: Sequence[tuple[str, str]]) -> None:
    """The prompt, the better and the worse answer are found wherever the usual data sets keep them."""
    assert is_pair(read(record), prompt)


def test_only_the_answers_are_trained_on() -> None:
    """All messages before the last answer have weight 0, and it has weight 1, whatever the record says."""
    earlier = [message | {"weight": 1} for message in messages(*EARLIER)]
    found = read({"prompt": earlier, "chosen": "good", "rejected": "bad"})
    assert [message.weight for message in (*found.prompt, *found.chosen, *found.rejected)] == [0, 0, 0, 1, 1]


def test_a_text_that_quotes_a_conversation_is_an_answer() -> None:
    """Where a prompt says something else, an answer that begins like a transcript is kept as it is."""
    sides = (transcript(("user", "x"), BETTER).strip(), transcript(("user", "x"), WORSE).strip())
    found = read({"prompt": "Write a dialogue.", "chosen": sides[0], "rejected": sides[1]})
    assert (found.chosen[0].content, found.rejected[0].content) == sides


def test_fields_can_be_named() -> None:
    """Settings name the fields of the answers where their names are not the usual ones."""
    assert is_pair(read({"prompt": "q", "win": "good", "lose": "bad"}, chosen="win", rejected="lose"))
    record = {"标题": "q", "two": {"win": "good", "lose": "bad"}}
    assert is_pair(read(record, prompt="标题", chosen="two.win", rejected="two.lose"))
    with pytest.raises(Unusable, match=r"no chosen answer: there is no field win; name it with format\.chosen"):
        read({"prompt": "q", "chosen": "good", "rejected": "bad"}, chosen="win")


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet", ".jsonl.gz"])
def test_every_kind_of_file_is_read(tmp_path: Path, suffix: str) -> None:
    """Tables, which hold lists as such or as JSON text, and compressed files hold the same pairs as JSON lines."""
    sides = {"chosen": messages(*EARLIER, BETTER), "rejected": messages(*EARLIER, WORSE)}
    records = [{"prompt": "q", "score_chosen": 8.5, "score_rejected": 3.0, **sides}] * 2
    file = tmp_path / f"pairs{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(records), encoding="utf-8")
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), file)
    elif suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as table:
            writer = csv.DictWriter(table, list(records[0]))
            writer.writeheader()
            texts = {name: json.dumps(value) for name, value in sides.items()}
            writer.writerows([{**record, **texts} for record in records])
    else:
        file.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    (partition,) = find_conversation_partitions([file], 1 << 30)
    found = list(read_preference_partition(partition, PreferenceFormat()))
    assert len(found) == 2 and all(is_pair(pair, EARLIER) for pair in found)
    assert [pair.margin for pair in found if isinstance(pair, PreferencePair)] == [5.5, 5.5]


@pytest.mark.parametrize(
    ("more", "margin", "difficulty"),
    [
        ({}, None, None),
        ({"margin": 0.5, "difficulty": 3}, 0.5, 3.0),
        ({"margin": "0.5", "difficulty": "hard"}, 0.5, 1.0),
        ({"score_chosen": 8.5, "score_rejected": 3}, 5.5, None),
        ({"chosen-rating": 4, "rejected-rating": 1}, 3.0, None),
        ({"score_chosen": 8.5}, None, None),
        ({"difficulty": "of another kind"}, None, None),
    ],
)
def test_margins_and_difficulties(more: dict[str, Any], margin: float | None, difficulty: float | None) -> None:
    """A margin is a field or the difference of two scores, a difficulty a number or one of three words."""
    found = read({"prompt": "q", "chosen": "good", "rejected": "bad"} | more)
    assert (found.margin, found.difficulty) == (margin, difficulty) and is_pair(found)


def test_the_best_and_the_worst_of_several_answers() -> None:
    """Of answers with scores, the best and the worst make the pair, and their scores its margin."""
    answers = [{"response": "good", "overall_score": "7.5"}, {"response": "fair", "overall_score": 5}]
    found = read({"instruction": "q", "completions": [answers[1], answers[0], {"response": "bad", "overall_score": 1}]})
    assert is_pair(found) and found.margin == 6.5


@pytest.mark.parametrize(
    ("record", "is_desirable"),
    [
        ({"prompt": "q", "completion": "good", "label": True}, True),
        ({"prompt": "q", "completion": "good", "label": "false"}, False),
        ({"messages": messages(QUESTION, BETTER), "kto_tag": True}, True),
        (json.loads(feedback_line([Message(*QUESTION), Message(*BETTER)], 1, datetime.now(timezone.utc))), True),
        (json.loads(feedback_line([Message(*QUESTION), Message(*BETTER)], -1, datetime.now(timezone.utc))), False),
    ],
)
def test_single_answers_with_a_verdict(record: dict[str, Any], is_desirable: bool) -> None:
    """A label, a tag or a rating of the server says whether an answer is a good one."""
    found = read(record)
    assert isinstance(found, RatedAnswer) and found.is_desirable == is_desirable
    assert said(found.messages) == (QUESTION, BETTER)
    assert [message.weight for message in found.messages] == [0, 1]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"prompt": "q", "completion": "a"}, "no preference: it has the fields prompt, completion; expected"),
        ({"prompt": "q", "chosen": "a"}, "no rejected answer: there is no field rejected; name it with format.rej"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "an empty answer"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "an empty question"),
        ({"chosen": "a", "rejected": "b"}, "no conversation: it has the fields"),
        ({"prompt": "q", "chosen": 1, "rejected": "b"}, "the field chosen is neither a text nor messages but"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "much"}, "the field margin is not a finite number"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": float("nan")}, "the field margin is not a finite"),
        ({"prompt": "q", "chosen": "a", "rejected": "\ud800"}, "a lone surrogate"),
        ({"prompt": "q", "chosen": messages(QUESTION), "rejected": "b"}, "the last message is not the assistant's"),
        (
            {"chosen": transcript(QUESTION, BETTER), "rejected": transcript(("user", "other"), WORSE)},
            "chosen and rejected differ before their last messages",
        ),
        ({"instruction": "q", "completions": [{"response": "a", "overall_score": 1}]}, "fewer than two of its"),
        (
            {"instruction": "q", "completions": [{"response": t, "overall_score": 1} for t in "ab"]},
            "all of its completions have the same score",
        ),
        ({"messages": messages(QUESTION, BETTER), "label": True, "rating": -1}, "its label and kto_tag and rating"),
    ],
)
def test_bad_records_are_refused_with_the_reason(record: dict[str, Any], told: str) -> None:
    """Nothing is guessed where a record lacks a part of a preference; the reason names the part."""
    with pytest.raises(Unusable) as error:
        read(record)
    assert str(error.value).startswith(told)


@pytest.mark.skipif("BABYLLM_DATA" not in os.environ, reason="needs BABYLLM_DATA")
@pytest.mark.parametrize("name", ["dpo_en_demo.json", "dpo_zh_demo.json"])
def test_real_preferences_are_read_in_full(name: str) -> None:
    """Every record of a real set becomes the pair that its fields spell out."""
    path = Path(os.environ["BABYLLM_DATA"]) / "preference" / name
    records = json.loads(path.read_text(encoding="utf-8"))
    (partition,) = find_conversation_partitions([path], 1 << 30)
    found = list(read_preference_partition(partition, PreferenceFormat()))
    for record, pair in zip(records, found, strict=True):
        assert isinstance(pair, PreferencePair)
        assert [message.content for message in pair.prompt] == [turn["value"] for turn in record["conversations"]]
        assert [message.content for message in pair.chosen] == [record["chosen"]["value"]]
        assert [message.content for message in pair.rejected] == [record["rejected"]["value"]]


# ---- prepared


def test_every_record_is_accounted_for(tmp_path: Path, template: ChatTemplate) -> None:
    """Identical, over-long and bad records are dropped and counted, and listed with their reason and line."""
    good = pairs(20)
    same = {"prompt": "q", "chosen": "a", "rejected": "a "}
    long = {"prompt": "q", "chosen": "a", "rejected": "b" * 5 * SEQ_LEN}
    file = write(tmp_path / "records.jsonl", [*good, same, long, '{"prompt": ', {"prompt": "q"}, same])
    found = facts(prepare(file, tmp_path / "store", template, seq_len=96))
    assert (found["pairs read"], found["pairs used"]) == (23, 20)
    assert found["skipped: chosen and rejected are the same"] == 2
    assert found["skipped: longer than seq_len 96"] == 1
    lines = (tmp_path / "store" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in lines] == [21, 22, 23, 24, 25]


def test_an_option_cuts_prompts_from_the_left(tmp_path: Path, template: ChatTemplate) -> None:
    """With a limit for prompts an over-long pair is kept: the end of its prompt is, and the answers are whole."""
    records = [*pairs(5), {"prompt": "x" * 500 + " why?", "chosen": "good", "rejected": "bad"}]
    file = write(tmp_path / "records.jsonl", records)
    report = prepare(file, tmp_path / "store", template, limits=MessageLimits(max_prompt=10), held_out=0)
    assert facts(report)["pairs used"] == 6
    chats = PairStore.open(tmp_path / "store").chats
    texts = [template.tokenizer.decode(chats.conversation(i)[0].tolist()) for i in range(len(chats.index))]
    assert sum("why?" in text and "x" * 20 not in text for text in texts) == 2


def test_the_same_store_for_any_number_of_workers(tmp_path: Path, template: ChatTemplate) -> None:
    """One and two workers, and pieces of another size, make the same files; a second call makes nothing."""
    file = write(tmp_path / "records.jsonl", pairs(60))
    made = []
    for workers, size in ((1, 1 << 20), (2, 4000)):
        directory = tmp_path / str(workers)
        assert prepare(file, directory, template, work=WorkConfig(workers, size))
        made.append([(directory / name).read_bytes() for name in ("ids.bin", "turns.bin", "index.bin", "pairs.bin")])
        assert prepare(file, directory, template, work=WorkConfig(workers, size)) is None
    assert made[0] == made[1]


@pytest.mark.parametrize("held_out", [0.5, 10])
def test_a_prompt_is_in_one_split_alone(tmp_path: Path, template: ChatTemplate, held_out: float) -> None:
    """Pairs with the same prompt are held out together, by share as by number."""
    sides = [{"chosen": "好", "rejected": letter} for letter in "abc"]
    records = [{"prompt": f"question {i}", **side} for i in range(30) for side in sides]
    directory = tmp_path / "store"
    assert prepare(write(tmp_path / "records.jsonl", records), directory, template, held_out=held_out)
    store = PairStore.open(directory)
    prompts = {
        split: {bytes(ids[turns == 0]) for ids, turns in map(store.chats.conversation, store.chats.span(split))}
        for split in ("train", "val")
    }
    assert prompts["train"] and prompts["val"] and not prompts["train"] & prompts["val"]
    assert len(store.span("train")) + len(store.span("val")) == 90
    assert held_out != 10 or len(store.span("val")) == 12  # those equal to the last are held out as well


def test_the_report_compares_lengths(tmp_path: Path, template: ChatTemplate) -> None:
    """It shows the lengths of chosen and rejected answers in tokens, and how often the chosen one is longer."""
    answers = [("aaaaa", "bb"), ("aaaaa", "bb"), ("a", "bbbbbbbb")]
    records = [{"prompt": f"{i}", "chosen": a, "rejected": b} for i, (a, b) in enumerate(answers)]
    report = prepare(write(tmp_path / "records.jsonl", records), tmp_path / "store", template, held_out=0)
    assert report is not None
    table = next(table for table in report.tables if table.title == "answers, in tokens")
    row = dict(zip(table.columns, table.rows[0], strict=True))
    n = [[len(template.tokenizer.encode(text)) + 1 for text in side] for side in zip(*answers, strict=True)]
    assert row["chosen mean"] == pytest.approx(sum(n[0]) / 3) and row["rejected mean"] == pytest.approx(sum(n[1]) / 3)
    assert row["chosen median"] == sorted(n[0])[1] and row["chosen longer, share"] == pytest.approx(2 / 3)


def ratings() -> list[dict[str, Any]]:
    """Ratings as the server writes them: one prompt with three answers, one with two of them, one with one."""
    rated = [("q", "good", 1), ("r", "fine", 1), ("q", "bad", -1), ("s", "alone", -1), ("q", "worse", -1)]
    now = datetime.now(timezone.utc)
    lines = [feedback_line([Message("user", q), Message("assistant", a)], rating, now) for q, a, rating in rated]
    return [json.loads(line) for line in (*lines, feedback_line([Message(*QUESTION), Message(*BETTER)], 1, now))]


@pytest.mark.parametrize("size", [1 << 20, 200])
def test_ratings_of_one_prompt_make_pairs(tmp_path: Path, template: ChatTemplate, size: int) -> None:
    """Good and bad answers to one prompt are paired, wherever they lie in the file; those alone are counted."""
    file = write(tmp_path / "feedback.jsonl", ratings())
    found = facts(prepare(file, tmp_path / "store", template, held_out=0, work=WorkConfig(1, size)))
    assert found["pairs used"] == 2
    assert found["rejected: a rating without a partner: no answer to the same prompt has the other rating"] == 2
    chats = PairStore.open(tmp_path / "store").chats
    answers = [template.tokenizer.decode(ids[turns > 0].tolist()) for ids, turns in map(chats.conversation, range(4))]
    assert [answer.partition("<")[0] for answer in answers] == ["good", "bad", "good", "worse"]


def test_answers_are_kept_with_their_verdicts(tmp_path: Path, template: ChatTemplate) -> None:
    """A store of answers holds every rating, and each pair as a good and a bad answer."""
    file = write(tmp_path / "both.jsonl", [*ratings(), *pairs(4)])
    found = facts(prepare(file, tmp_path / "store", template, held_out=0, kind="answers"))
    assert found["answers used"] == 6 + 8
    store = PairStore.open(tmp_path / "store", "answers")
    assert sorted(store.labels["desirable"].tolist()) == [0.0] * (3 + 4) + [1.0] * (3 + 4)
    with pytest.raises(UserError, match="holds answers, not pairs"):
        PairStore.open(tmp_path / "store")


def test_files_without_preferences_are_refused(tmp_path: Path, template: ChatTemplate) -> None:
    """The error says what the records are instead."""
    file = write(tmp_path / "chats.jsonl", [{"messages": messages(QUESTION, BETTER)}])
    with pytest.raises(UserError, match=r"none of its 1 records is a preference; most often: no preference: it has"):
        prepare(file, tmp_path / "store", template)


def test_inspect_shows_both_sides(tmp_path: Path, template: ChatTemplate, capsys: pytest.CaptureFixture[str]) -> None:
    """Each pair is shown as it is trained on, the chosen side first."""
    records = [{"prompt": "q", "chosen": "good", "rejected": "bad"}]
    assert prepare(write(tmp_path / "records.jsonl", records), tmp_path / "store", template, held_out=0)
    inspect(Flags(), str(tmp_path / "store"))
    out = capsys.readouterr().out
    assert out.index("chosen | ") < out.index("[[good") < out.index("rejected | ") < out.index("[[bad")
