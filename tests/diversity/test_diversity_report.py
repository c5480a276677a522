"""The report on diversity: its numbers, its warnings, two sets beside each other, and `babyllm inspect --diversity`."""

import json
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from diversity_fixtures import talk, varied

from babyllm.__main__ import run as babyllm
from babyllm.chat.messages import Conversation, Message
from babyllm.chat_corpus.diversity.diversity_report import report_of
from babyllm.chat_corpus.diversity.gather import diversity_of
from babyllm.chat_corpus.diversity.sameness import is_many, least_share, warnings_of
from babyllm.chat_corpus.diversity.totals import Diversity
from babyllm.commands.corpus.inspect import Flags, run
from babyllm.errors import UserError
from babyllm.pipeline.report import Cell, Report
from babyllm.pipeline.report_html import page
from babyllm.text.readers import Rejected


def rows(report: Report, title: str) -> dict[str, list[Cell]]:
    """The rows of the table whose title begins so, by their first cell."""
    (table,) = (table for table in report.tables if table.title.startswith(title))
    return {str(name): list(cells) for name, *cells in table.rows}


# ---- warnings


def test_no_warnings_without_reason() -> None:
    """Varied conversations have no warnings, nor has a small set of equal ones, which chance explains."""
    assert warnings_of(diversity_of(varied(500))) == []
    assert warnings_of(diversity_of([talk("你好", "好", system="a", id=str(i)) for i in range(5)])) == []
    assert warnings_of(diversity_of([])) == []
    assert warnings_of(diversity_of([*varied(100), *[Rejected("x", "no answer", "")] * 12])) == []


def test_many_rejected_records() -> None:
    """A share of rejected records beyond 10 % has a warning with the most frequent reason."""
    rejected = [Rejected("x", "no answer", "")] * 40 + [Rejected("x", "no question", "")] * 10
    assert warnings_of(diversity_of([*varied(150), *rejected])) == [
        "50 records (25 %) were rejected, 40 of them: no answer"
    ]


def test_equal_answers() -> None:
    """Equal answers are named with number, share and text; below the threshold, or in a small set, they are not."""
    refusal = "作为一个人工智能，我不能回答。"
    others = varied(900)
    same = [talk(f"{c.messages[0].content}?", refusal, id=c.id) for c in varied(300, 1)]
    (equal, repeated) = warnings_of(diversity_of([*others, *same]))
    assert equal == f'300 answers (25 %) are equal to "{refusal}"'
    assert repeated.startswith("299 answers (25 %) repeat an earlier one; ")
    assert warnings_of(diversity_of([*others, *same[:9]])) == []  # 1 %, within chance
    assert warnings_of(diversity_of([*others[:20], *same[:5]])) == []


def test_chance_is_considered() -> None:
    """A share must be above the threshold at three standard errors (Wilson), with at least ten things."""
    share, n, z = 0.3, 50, 3.0
    low = least_share(15, n)
    assert low < 0.3 and abs(share - low) == pytest.approx(
        z * (low * (1 - low) / n) ** 0.5
    )  # what defines the interval
    assert least_share(0, 0) == 0 and least_share(100, 100) == pytest.approx(100 / 109)
    assert is_many(100, 100, 0.9) and not is_many(50, 50, 0.9) and not is_many(9, 9, 0.1)


@pytest.mark.parametrize(
    ("conversations", "pattern"),
    [
        (varied(200, system="你是助手"), r'all 200 conversations have the same system message: "你是助手"'),
        (
            [*varied(990, system="你是助手"), *varied(10, 1)],
            r'99 % of the conversations have the same system message: "你是助手"',
        ),
        ([talk(f"请帮我写{c.messages[0].content}", c.messages[1].content) for c in varied(90)] + varied(10, 1),
         r'90 % of the prompts begin with "请帮我写"'),
        ([talk(c.messages[0].content, f"Sure, here{c.messages[1].content}") for c in varied(100)],
         r'100 % of the answers begin with "sure here"'),
        ([talk(c.messages[0].content, c.messages[1].content[:9]) for c in varied(300)] + varied(100, 1),
         r"75 % of the answers are under 10 characters"),
        ([talk(c.messages[0].content, " ") for c in varied(30)] + varied(300, 1), r"30 answers \(9.1 %\) are blank"),
        (varied(980, task="a/x") + varied(20, 1, task="a/y"), r'the task "a/x" holds 98 % of the conversations'),
        ([c for i, task in enumerate("aabbc" * 2 + "aabb" * 40 + "d") for c in varied(1, i, task=task)],
         r'two tasks, "a" and "b", hold 98 % of the conversations'),
        (varied(50) * 2, r"50 conversations \(50 %\) repeat an earlier one; `babyllm dedup` removes them"),
        ([talk(*(m.content for c in varied(4, i) for m in c.messages)) for i in range(60)],
         r"100 % of the later questions share next to nothing with the turn before; .*"),
        ([talk(c.messages[0].content, "".join(map(chr, range(0x4E00, 0x4E64)))) for c in varied(200)],
         r"two conversations have 7\d % of their pairs of tokens in common on average"),
        ([talk(c.messages[0].content, "".join(random.Random(i).choices("一二三四五六七八九十", k=100)))
          for i, c in enumerate(varied(200))],
         r"100 tokens make up 100 % of the text of the answers"),
    ],
)  # fmt: skip
def test_warnings_in_words(conversations: list[Conversation], pattern: str) -> None:
    """Each thing that a set says again and again has its warning, which the report lists first."""
    table = report_of(diversity_of(conversations)).tables[0]
    assert table.title == "Warnings"
    assert sum(bool(re.fullmatch(pattern, str(text))) for (text,) in table.rows) == 1, table.rows


# ---- the report


def test_a_report_on_a_small_set() -> None:
    """Facts, shares, lengths, tasks and tops are those computed by hand."""
    report = report_of(
        diversity_of(
            [
                talk("你好", "你好！", "再见", "再见！", task="a/x", id="1"),
                talk("你好", "你好！", task="a/y", system="s", id="2"),
                talk("hello there friend", "hi", task="b", id="3"),
            ]
        )
    )
    facts = dict(report.facts)
    assert (facts["conversations"], facts["turns"], facts["different prompts"], facts["tasks"]) == (3, 4, 3, 3)
    assert facts["effective number of tasks (e to the entropy)"] == pytest.approx(3)
    assert facts["effective number of tasks of the first level"] == pytest.approx(3 / 2 ** (2 / 3))
    shares = rows(report, "Shares")
    assert shares["prompts that repeat an earlier one"] == [pytest.approx(0.25)]
    assert shares["conversations that repeat an earlier one"] == [0]
    assert shares["conversations without a system message"] == [pytest.approx(2 / 3)]
    assert shares["later questions that switch the topic"] == [1]
    lengths = rows(report, "Lengths")
    assert lengths["prompts: mean"] == [6] and lengths["prompts: median"] == [2] and lengths["prompts: longest"] == [18]
    assert rows(report, "Tasks, summed up") == {"a": [2, pytest.approx(2 / 3)], "b": [1, pytest.approx(1 / 3)]}
    assert rows(report, "Turns") == {"1": [2, pytest.approx(2 / 3)], "2": [1, pytest.approx(1 / 3)]}
    assert rows(report, "Equal prompts") == {"你好": [2, 0.5]}
    assert rows(report, "Scripts of tokens") == {"Chinese": [12, 0.75], "Latin": [4, 0.25]}
    tokens = rows(report, "Tokens")
    assert tokens["prompts: different tokens / tokens (distinct-1)"] == [pytest.approx(7 / 9)]
    assert tokens["prompts: different pairs / pairs (distinct-2)"] == [pytest.approx(4 / 5)]
    assert rows(report, "Distances")["conversations in the sample"] == [3]
    assert report.histograms is not None
    assert [h.title for h in report.histograms] == ["Length of prompts", "Length of answers", "Turns"]
    assert report.histograms[0].series["conversations"] == [(2, 3, 3), (16, 20, 1)]
    stored = json.dumps(report.to_json())
    assert json.dumps(Report.from_json(json.loads(stored)).to_json()) == stored
    assert "<svg" in page(report)


def test_before_and_after() -> None:
    """Two sets stand beside each other with the change; what one of them lacks has the number 0."""
    before = [*varied(60, task="a"), *(talk("你好", "好" * 5, task="b", id=f"x{i}") for i in range(20))]
    report = report_of(diversity_of(before[:60]), diversity_of(before))
    assert rows(report, "Sizes")["conversations"] == [80, 60, -20]
    assert rows(report, "Tasks") == {"a": [60, 0.75, 60, 1.0, 0.25], "b": [20, 0.25, 0, 0.0, -0.25]}
    assert rows(report, "Equal answers") == {"好好好好好": [20, 0.25, 0, 0.0, -0.25]}
    assert rows(report, "Lengths")["answers: longest"] == [40, 40, 0]
    assert {tuple(row) for row in rows(report, "Warnings").values()} == {("before",)}
    assert report.histograms is not None and list(report.histograms[0].series) == ["before", "after"]
    sample = rows(report, "Distances")
    assert sample["conversations in the sample"] == [60, 60, 0]
    assert sample["standard error of this distance of tf-idf"][1:] == [0, None]
    assert page(report)


def test_sets_without_conversations_or_turns() -> None:
    """A selection that keeps nothing, or conversations without an answer, have a report too."""
    silent = diversity_of([Conversation((Message("user", "?"),)), Conversation((Message("system", "x"),))])
    whole = diversity_of(varied(3))
    nothing = Diversity.nothing({"broken": 2})
    for report in (report_of(silent), report_of(nothing, whole), report_of(silent, nothing)):
        assert page(report) and "Distances" not in [table.title for table in report.tables]
    assert rows(report_of(nothing, whole), "Sizes")["conversations"] == [3, 0, -3]
    assert Diversity.of(json.loads(json.dumps(nothing.to_json()))).rejected == {"broken": 2}


def test_a_random_part_repeats_as_much() -> None:
    """Repetitions and different tokens are as many among as many drawn from a random quarter, which has fewer."""
    rng = random.Random(7)
    words = [f"w{i}" for i in range(300)]
    before = [talk(" ".join(rng.choices(words, k=3)), f"answer {rng.randrange(1000)}", id=f"{i}") for i in range(2000)]
    after = rng.sample(before, 500)
    report = report_of(diversity_of(after), diversity_of(before))
    shares, tokens = rows(report, "Shares"), rows(report, "Tokens")
    assert shares["answers that repeat an earlier one"][2] == pytest.approx(0, abs=0.03)
    assert tokens["answers: different pairs among 500 drawn"][2] == pytest.approx(0, abs=25)
    plain = [rows(report_of(diversity_of(part)), "Shares") for part in (before, after)]
    repeated = [float(str(one["answers that repeat an earlier one"][0])) for one in plain]
    assert repeated[0] - repeated[1] > 0.2


# ---- the command


def shown(capsys: pytest.CaptureFixture[str], path: Path, **flags: Any) -> str:
    run(Flags(diversity=True, **flags), str(path))
    return capsys.readouterr().out


def write_jsonl(file: Path, records: Sequence[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def record(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def test_a_file_of_chats_and_bad_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the report without a tokenizer; rejected records are listed with their reasons."""
    good = [record(f"问题{i}", "作为一个人工智能，我不会。", task="a/b") for i in range(200)]
    file = write_jsonl(tmp_path / "chats.jsonl", [*good, '{"messages": ', {"text": "no chat"}, record("只有问题", "")])
    babyllm(["inspect", str(file), "--diversity"])
    out = capsys.readouterr().out
    assert f"diversity: {file}" in out
    assert '200 answers (100 %) are equal to "作为一个人工智能，我不会。"' in out
    assert re.search(r"rejected records +3\n", out) and "Rejected records" in out


def test_a_selection_beside_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--compared_with shows the set before and the set after; files' order and division do not matter."""
    records = [record(*(message.content for message in one.messages)) for one in varied(40)]
    before, after = tmp_path / "before", tmp_path / "after.jsonl"
    before.mkdir()
    write_jsonl(before / "b.jsonl", records[:25])
    write_jsonl(before / "a.jsonl", records[25:])
    write_jsonl(after, records[::4])
    out = shown(capsys, after, compared_with=str(before))
    assert f"diversity: {before} (before), {after} (after)" in out
    assert re.search(r"conversations +40 +10 +-30\n", out) and "Warnings" not in out


def test_what_holds_no_conversations(tmp_path: Path) -> None:
    """Empty files, files without conversations, other data and contradicting flags are errors of one line."""
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    write_jsonl(tmp_path / "texts.jsonl", [{"text": "abc"}] * 3)
    (tmp_path / "note.md").write_text("# hi", encoding="utf-8")
    file = write_jsonl(tmp_path / "good.jsonl", [record("a", "b")])
    for name, message in (
        ("empty.jsonl", "empty.jsonl: holds no conversations"),
        ("texts.jsonl", r"texts.jsonl: holds no conversations: all 3 records: "),
        ("note.md", "no conversations to read here"),
        ("missing", "missing: no such file"),
    ):
        with pytest.raises(UserError, match=message) as error:
            run(Flags(diversity=True), str(tmp_path / name))
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=message.partition(":")[0]):
            run(Flags(diversity=True, compared_with=str(tmp_path / name)), str(file))
    with pytest.raises(UserError, match="--compared_with: is for --diversity"):
        run(Flags(compared_with=str(file)), str(file))
    with pytest.raises(UserError, match="leave out --conversations"):
        run(Flags(diversity=True, conversations=2), str(file))


def test_one_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A single conversation has a report without distances."""
    out = shown(capsys, write_jsonl(tmp_path / "one.jsonl", [record("？", "！")]))
    assert "Distances" not in out and "Warnings" not in out and "no letters" in out


@pytest.mark.skipif("BABYLLM_DATA" not in os.environ, reason="needs BABYLLM_DATA")
def test_real_chats(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of real chat files of three shapes is reported on, and no warning appears without reason."""
    out = shown(capsys, Path(os.environ["BABYLLM_DATA"]) / "sft")
    assert re.search(r"\n  conversations +3,089\n", out) and re.search(r"sharegpt_zh_1k +999 +32\.3 %", out)
    assert re.search(r"作为一个 +45 +0\.7 %", out) and "no message of the assistant" in out and "Warnings" not in out
