"""`babyllm label`: labels of records by rules, a judge or several, and classifiers."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Answer, FakeEndpoint, fails, faking, says
from model_fixtures import Tiny

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.heads import WithHead
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

SAID = "task: maths\ndifficulty: hard\nquality: 4\nsafety: safe"


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Twelve conversations, a preference, a question alone, and a line that cannot be read."""
    lines: list[Any] = [{"id": i, "prompt": f"翻译第 {i} 句", "answer": f"Sentence {i}."} for i in range(12)]
    lines[3]["task"], lines[4]["labels"] = "own", "old"
    lines += [{"prompt": "2 + 2 = ?", "chosen": "4", "rejected": "5"}, {"prompt": "Who was first?"}, {"nothing": 1}]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")
    return path


def labelled(chats: Path, out: Path, *flags: str) -> list[dict[str, Any]]:
    run(["label", str(chats), str(out), *flags])
    return [json.loads(line) for line in (out / "records.jsonl").read_text("utf-8").splitlines()]


def flags_of(server: FakeEndpoint, *more: str) -> list[str]:
    prices = ["--endpoint.price_in=0", "--endpoint.price_out=1000000", "--endpoint.max_tokens=5"]
    return [f"--endpoint.url={server.url}", "--endpoint.model=m", "--endpoint.backoff_s=0.001", *prices, *more]


def answering(text: str) -> Callable[[str, int], Answer]:
    return lambda said, n: says(text)


def test_rules_label_without_asking(chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records keep their fields and order, unread ones are named, and the report counts each label."""
    found = labelled(chats, tmp_path / "out")
    assert [one["id"] for one in found[:12]] == list(range(12)) and found[12]["chosen"] == "4"
    assert found[0]["task"] == "translation" and found[3]["task"] == "own"
    assert found[0]["labels"] == found[4]["labels"] | {"task": "translation"}
    assert found[0]["labels"]["by"] == "rules" and found[0]["labels"]["quality"] is None
    assert len((tmp_path / "out/rejected.jsonl").read_text().splitlines()) == 1
    assert "translation" in capsys.readouterr().out and not (tmp_path / "out/cache").exists()
    (tmp_path / "empty.jsonl").write_text('{"nothing": 1}\n')
    with pytest.raises(UserError, match="no records; the first was refused"):
        labelled(tmp_path / "empty.jsonl", tmp_path / "other")


def test_a_judge_labels(chats: Path, tmp_path: Path) -> None:
    """Clear replies label, unclear and failed ones leave the rules; a second call asks for failed ones alone."""

    def choose(said: str, n: int) -> Answer:
        if "第 5 句" in said:
            return fails(400)
        return says("I like it" if "第 7 句" in said else SAID)

    with faking(choose) as judge:
        found = labelled(chats, tmp_path / "out", *flags_of(judge))
        assert judge.asked.total() == 14
        by = [one["labels"]["by"] for one in found]
        assert [i for i, who in enumerate(by) if who == "rules"] == [5, 7]
        assert found[0]["labels"] == {
            **{"task": "maths", "difficulty": "hard", "quality": 4.0, "language": "zh", "safety": "safe", "by": "judge"}
        }
        assert found[13]["labels"]["quality"] is None and found[12]["labels"]["quality"] == 4.0
        report = json.loads((tmp_path / "out/report.json").read_text())
        missing = next(t["rows"] for t in report["tables"] if t["title"].startswith("Records without the judge"))
        assert len(missing) == 2 and sum(n for _, n in missing) == 2
        judge.choose = answering(SAID)
        again = labelled(chats, tmp_path / "out", *flags_of(judge))
        assert judge.asked.total() == 15 and again[5]["labels"]["by"] == "judge" and again[0] == found[0]
    with faking(answering("no idea")) as judge, pytest.raises(UserError, match="none of the 14 replies has labels"):
        labelled(chats, tmp_path / "none", *flags_of(judge))


def test_a_judge_is_held_to_a_schema(chats: Path, tmp_path: Path) -> None:
    """With `--structured` requests name the schema of the labels, and replies are JSON."""
    said = json.dumps({"task": "code", "difficulty": "easy", "quality": 2, "safety": "unsafe"})
    with faking(answering(said)) as judge:
        found = labelled(chats, tmp_path / "out", "--structured", *flags_of(judge))
        schemas = [body["response_format"]["json_schema"]["schema"] for body in judge.bodies]
    assert {one["labels"]["task"] for one in found} == {"code"} and found[0]["labels"]["safety"] == "unsafe"
    assert found[0]["labels"]["quality"] == 2.0 and "maths" in schemas[0]["properties"]["task"]["enum"]


def test_a_dry_run_asks_nothing(chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows the first prompts, and the price of all as the budget counts it."""
    with faking(answering(SAID)) as judge:
        run(["label", str(chats), str(tmp_path / "out"), "--dry_run", "--language=zh", *flags_of(judge)])
        shown = capsys.readouterr().out
        assert not judge.asked and not (tmp_path / "out").exists()
    assert "--- request 3, user" in shown and "--- request 4" not in shown and "翻译第 0 句" in shown
    assert re.search(r"requests +14\n", shown) and re.search(r"cost at most +70", shown)


def test_several_judges_and_a_budget(chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Endpoints share the records and the budget; a larger one goes on from where the first ended."""
    with faking(answering(SAID)) as one, faking(answering(SAID)) as two:
        settings = "model: m, price_in: 0, price_out: 1000000, max_tokens: 5, concurrency: 2"
        lines = [f'{name}: {{url: "{s.url}", {settings}}}' for name, s in (("one", one), ("two", two))]
        (tmp_path / "endpoints.yaml").write_text("\n".join(lines))
        several = f"--endpoints={tmp_path / 'endpoints.yaml'}"
        found = labelled(chats, tmp_path / "out", several, "--budget.cost=25")
        shown = capsys.readouterr()
        assert "the budget is used up" in shown.out + shown.err
        assert sum(one["labels"]["by"] == "judge" for one in found) == 5 == one.asked.total() + two.asked.total()
        found = labelled(chats, tmp_path / "out", several, "--budget.cost=100")
        assert {record["labels"]["by"] for record in found} == {"judge"}
        assert one.asked.total() + two.asked.total() == 14 and one.asked and two.asked
        with pytest.raises(UserError, match="give one of them"):
            labelled(chats, tmp_path / "out", several, *flags_of(one))


def test_a_killed_call_goes_on(chats: Path, tmp_path: Path) -> None:
    """After kill -9 the same command asks only for the rest, and has every label."""
    with faking(answering(SAID)) as judge:
        command = ["label", str(chats), str(tmp_path / "out"), *flags_of(judge, "--endpoint.concurrency=2")]
        judge.choose = lambda said, n: (judge.is_open.clear() if judge.asked.total() == 6 else None) or says(SAID)
        worker = subprocess.Popen([sys.executable, "-m", "babyllm", *command], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while judge.asked.total() < 7 and time.monotonic() < deadline:
            time.sleep(0.005)
        worker.send_signal(signal.SIGKILL)
        worker.wait(20)
        n = judge.asked.total()
        judge.choose = answering(SAID)
        judge.is_open.set()
        run(command)
        found = [json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text("utf-8").splitlines()]
        assert 6 < n < 14 <= judge.asked.total() <= 14 + 3 and max(judge.asked.values()) <= 2
    assert {one["labels"]["by"] for one in found} == {"judge"} and len(found) == 14


def test_classifiers_label(chats: Path, tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A classifier replaces the label of the rules; one of quality says nothing of a question alone."""
    for name, labels in (("tasks", ("alpha", "beta")), ("quality", ("5", "5.0"))):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, WithHead(Transformer(tiny(max_seq_len=64)), labels), tokenizer)
        tokenizer.save(tmp_path / name)
    chosen = f"{{task: {tmp_path / 'tasks'}, quality: {tmp_path / 'quality'}}}"
    found = labelled(chats, tmp_path / "out", f"--classifiers={chosen}")
    assert {one["labels"]["by"] for one in found} == {"classifier"}
    assert all(one["labels"]["task"] in ("alpha", "beta") for one in found)
    assert [one["labels"]["quality"] for one in found] == [5.0] * 13 + [None]
    with pytest.raises(UserError, match="'kind' is not a label"):
        labelled(chats, tmp_path / "out", "--classifiers={kind: runs/x}")
