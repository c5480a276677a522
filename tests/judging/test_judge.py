"""`babyllm judge`: pairs in both orders, scores, what is reported, and resuming."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import SECRET, Answer, FakeEndpoint, cut, fails, faking, hangs_up, says, sends

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.judging.answer_files import FieldNames, read_answers

PAIR = re.compile(r"<answer_a>\n(.*)\n</answer_a>.*<answer_b>\n(.*)\n</answer_b>", re.DOTALL)


def write(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two files of ten answers to the same prompts, as `babyllm predict` and others write them."""
    ours = [{"prompt": f"问题 {i}", "prediction": f"A{i} " + "x" * i, "reference": f"ref {i}"} for i in range(10)]
    theirs = [{"messages": [{"role": "user", "content": f"问题 {i}"}], "answer": f"B{i}"} for i in reversed(range(10))]
    return [str(write(tmp_path / "a.jsonl", ours)), str(write(tmp_path / "b.jsonl", theirs))]


def flags(server: FakeEndpoint, *more: str) -> list[str]:
    return [f"--endpoint.url={server.url}", "--endpoint.model=m", "--endpoint.backoff_s=0.001", *more]


def shown(prompt: str) -> tuple[str, str]:
    """The two answers of a judge's prompt, without what makes them differ in length."""
    found = PAIR.search(prompt)
    assert found
    return found[1].split()[0], found[2].split()[0]


def prefers(prompt: str) -> str:
    """A judge who prefers A up to item 5, the first place for 6, B for 7 and nobody for the others."""
    first, _ = shown(prompt)
    number = int(first[1:])
    if number <= 5 or number == 7:
        return "A" if (first[0] == "A") == (number <= 5) else "B"
    return "A" if number == 6 else "tie"


def read(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = (out / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((out / "report.json").read_text(encoding="utf-8"))


def rows(report: dict[str, Any], title: str) -> list[list[Any]]:
    return next(table["rows"] for table in report["tables"] if table["title"].startswith(title))


def test_pairs_are_judged_in_both_orders(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A win takes both orders, a disagreement is a tie and is counted; a second call costs nothing and agrees."""
    out = tmp_path / "out"
    with faking(lambda said, n: says(f"...\nVerdict: {prefers(said)}")) as server:
        run(["judge", *files, str(out), *flags(server, "--endpoint.price_in=1", "--endpoint.price_out=2")])
        assert sum(server.asked.values()) == 20 and all("ref" in said for said in server.asked)
        text = capsys.readouterr().out
        verdicts, report = read(out)
        run(["judge", *files, str(out), *flags(server)])
        assert sum(server.asked.values()) == 20
    assert [verdict["choice"] for verdict in verdicts] == ["A"] * 6 + ["tie", "B", "tie", "tie"]
    assert [[said["choice"] for said in verdict["judgements"]] for verdict in verdicts[6:8]] == [["A", "B"], ["B", "B"]]
    plain, controlled = rows(report, "Win rate")
    assert plain[:5] == ["as judged", 10, 6, 3, 1] and plain[5] == 0.75 and 0 < plain[6] < 0.75 < plain[7] < 1
    assert controlled[0] == "controlled for length" and 0 < controlled[6] < controlled[5] < controlled[7] < 1
    judge = {row[0]: row[1:] for row in rows(report, "The judge")}
    assert judge["comparisons whose two orders disagree (ties)"] == [1, 10, 0.1]
    assert judge["verdicts for the answer shown first"] == [9, 16, 0.5625]
    assert "75.0 %" in text and "controlled for length" in text and "cost" in text
    assert dict(report["facts"])["cost"] == "0.0004" and "requests sent" in dict(report["facts"])
    assert read(out)[0] == verdicts and dict(read(out)[1]["facts"])["replies from the cache"] == 20
    assert sorted(os.listdir(out)) == ["cache", "report.html", "report.json", "verdicts.jsonl"]


def test_equal_answers_are_ties_without_asking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers without a partner are counted, equal ones are ties for free, ids and field names are flags."""
    ours = [{"id": i, "q": f"q{i % 2}", "text": "same" if i else "one"} for i in range(4)]
    theirs = [{"id": i, "q": f"q{i % 2}", "text": "same"} for i in range(3)]
    paths = [str(write(tmp_path / "a.jsonl", ours)), str(write(tmp_path / "b.jsonl", theirs))]
    names = ["--fields.id=id", "--fields.prompt=q", "--fields.answer=text", "--language=zh"]
    with faking(lambda said, n: says("结论：A")) as server:
        run(["judge", *paths, str(tmp_path / "out"), *flags(server, *names)])
        assert sum(server.asked.values()) == 2 and all("结论：平局" in said for said in server.asked)
    facts = dict(read(tmp_path / "out")[1]["facts"])
    assert facts["answers of A without one of B"] == 1 and facts["equal answers, ties without asking"] == 2
    assert "disagree" in capsys.readouterr().out


def test_what_has_no_verdict_is_counted_and_not_guessed(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors, cuts and unclear replies leave their pair out and are counted by reason; errors are asked again later."""
    problems: dict[str, Answer] = {
        "0": fails(400, "no"),
        "1": cut,
        "2": hangs_up,
        "3": sends(b"<html>"),
        "4": says("Verdict: A", "length"),
        "5": says("I cannot decide"),
    }
    with faking(lambda said, n: problems.get(shown(said)[0][1:], says("Verdict: tie"))) as server:
        run(["judge", *files, str(tmp_path / "out"), *flags(server, "--endpoint.retries=1")])
        told = capsys.readouterr()
        problems.clear()
        before = sum(server.asked.values())
        run(["judge", *files, str(tmp_path / "out"), *flags(server, "--endpoint.retries=1")])
        assert sum(server.asked.values()) - before == 8
    judge = {row[0].strip(): row[1:] for row in rows(read(tmp_path / "out")[1], "The judge")}
    assert judge["replies without a verdict"] == [4, 20, 0.2]
    assert "12 replies have no verdict" in told.err and "replies without a verdict" in told.out
    assert rows(read(tmp_path / "out")[1], "Win rate")[0][:3] == ["as judged", 8, 0]


def test_nothing_is_written_without_a_verdict(files: list[str], tmp_path: Path) -> None:
    """If no reply has a verdict, the command ends with the reason and writes no report."""
    why = r"none of the 20 replies has a verdict: .* 403 \(no access\)"
    with faking(lambda said, n: fails(403, "no access")) as server, pytest.raises(UserError, match=why):
        run(["judge", *files, str(tmp_path / "out"), *flags(server)])
    assert not (tmp_path / "out" / "report.json").exists()


def test_repeats_are_other_requests_and_have_a_spread(files: list[str], tmp_path: Path) -> None:
    """Each repeat is asked with a seed of its own, and the report has the spread of the pairs' results."""

    def choose(said: str, n: int) -> Answer:
        return says(f"Verdict: {'A' if shown(said)[0][0] == 'A' or n > 1 else 'B'}")

    more = ["--repeats=3", "--n=4", "--endpoint.seed=10", "--endpoint.temperature=1", "--endpoint.concurrency=1"]
    with faking(choose) as server:
        run(["judge", *files, str(tmp_path / "out"), *flags(server, *more)])
    assert sorted({body["seed"] for body in server.bodies}) == [10, 11, 12] and len(server.bodies) == 24
    assert all(body["temperature"] == 1 for body in server.bodies)
    verdicts, report = read(tmp_path / "out")
    assert [verdict["preference"] for verdict in verdicts] == [pytest.approx(2 / 3)] * 4
    judge = {row[0]: row[1:] for row in rows(report, "The judge")}
    assert judge["pairs whose repeats differ"] == [4, 4, 1.0]


def test_scores_have_weights_errors_and_differences(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each answer has its scores, the total is weighted, files are compared on the same prompts, gaps are counted."""

    def choose(said: str, n: int) -> Answer:
        name = re.findall(r"<answer>\n(\w)(\d)", said)[0]
        if name == ("B", "9"):
            return says("helpful: 12\nbrief: 3")
        return says(f"helpful: {8 if name[0] == 'A' else 5}\nbrief: {2 + int(name[1]) % 2}")

    out = tmp_path / "out"
    with faking(choose) as server:
        more = ["--method=scores", "--dimensions={helpful: 3, brief: 1}", "--repeats=2", "--endpoint.temperature=0.7"]
        run(["judge", *files, str(out), *flags(server, *more)])
    verdicts, report = read(out)
    assert len(verdicts) == 20 and verdicts[0]["means"] == {"helpful": 8, "brief": 2, "total": 6.5}
    table = {(Path(row[0]).name, row[1]): row[2:] for row in rows(report, "Scores")}
    assert table["a.jsonl", "helpful"] == [3.0, 10, 8.0, 8.0, 8.0, None]
    assert table["a.jsonl", "total"][:3] == [None, 10, 6.625] and table["b.jsonl", "total"][1] == 9
    assert table["a.jsonl", "total"][-1] == 0
    ((_, n, difference, low, high, p),) = rows(report, "Total less that of")
    assert (n, difference, low, high, p) == (9, -2.25, -2.25, -2.25, 0)
    assert rows(report, "Replies without")[0][1] == 2
    assert "2 replies have no verdict" in capsys.readouterr().err


def test_a_killed_judge_goes_on(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After kill -9 the same command asks only for the rest; the key is in no file and no output."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)

    def choose(said: str, n: int) -> Answer:
        if sum(server.asked.values()) > 10 and not server.is_open.is_set():
            server.is_open.wait(20)
        return says(f"key {SECRET}\nVerdict: {prefers(said)}")

    with faking(choose) as server:
        more = flags(server, "--endpoint.key_variable=JUDGE_KEY", "--endpoint.concurrency=2")
        command = [sys.executable, "-m", "babyllm", "judge", *files, str(tmp_path / "out"), *more]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while sum(server.asked.values()) < 8 and time.monotonic() < deadline:
            time.sleep(0.005)
        server.is_open.clear()
        worker.send_signal(signal.SIGKILL)
        told = b"".join(worker.communicate(timeout=20))
        server.is_open.set()
        done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sum(server.asked.values()) <= 22 and set(server.asked.values()) <= {1, 2}
    assert len(read(tmp_path / "out")[0]) == 10
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert SECRET.encode() not in written + told + done.stdout + done.stderr and b"key [key]" in written


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "a.jsonl:2: is not JSON"),
        ("[1]", "a.jsonl:2: is not a JSON object"),
        ('{"prompt": "p"}', r"a.jsonl:2: has no answer \(fields prompt\); name its field with --fields.answer"),
        ('{"answer": "p"}', "a.jsonl:2: no conversation: .*name its fields with --fields.prompt"),
        ('{"messages": [1], "answer": "p"}', "a.jsonl:2: a message is not an object"),
    ],
)
def test_a_bad_record_is_named(line: str, words: str, tmp_path: Path) -> None:
    """A record that cannot be judged is refused with its file and line before anything is asked."""
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_text('{"prompt": "p", "answer": "a"}\n' + line)
    with pytest.raises(UserError, match=words):
        run(["judge", *map(str, paths), str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "--endpoint.url and --endpoint.model are needed"),
        (["--method=scores", "--sheet"], "are for pairs"),
        (["--method=scores", "--dimensions={}"], "--dimensions: give at least one"),
        (["--method=scores", "--dimensions={helpful: 0}"], "dimensions=0.0: must be above 0"),
        (["--method=scores", "--dimensions={total: 1}"], "'total' cannot be the name of a dimension"),
        (["--prompt_file=missing.txt"], "--prompt_file: missing.txt cannot be read"),
        (["--people=missing.json"], "missing.json: cannot be read"),
    ],
)
def test_wrong_flags_are_named(more: list[str], words: str, files: list[str], tmp_path: Path) -> None:
    """A flag that cannot work is refused by its name, and files of others in OUT stay."""
    with pytest.raises(UserError, match=words):
        run(["judge", *files, str(tmp_path / "out"), *more])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds mine\.txt"):
        run(["judge", *files, str(tmp_path / "full"), "--sheet"])


def test_one_file_and_two_methods(files: list[str], tmp_path: Path) -> None:
    """One file is scored; pairs of one file, or of a file with itself, are refused."""
    with pytest.raises(UserError, match="--method=pairs: compares two files"):
        run(["judge", files[0], str(tmp_path / "out"), "--method=pairs"])
    with pytest.raises(UserError, match="is given twice"):
        run(["judge", files[0], files[0], str(tmp_path / "out")])
    with faking(lambda said, n: says("helpful: 5\nhonest: 6\nharmless: 7")) as server:
        run(["judge", files[0], str(tmp_path / "out"), *flags(server)])
    assert read(tmp_path / "out")[0][0]["means"]["total"] == 6


@pytest.mark.parametrize(
    ("record", "prompt", "answers", "reference"),
    [
        ({"instruction": "译", "input": "猫", "prediction": "cat", "output": "Cat"}, "译\n猫", ["cat"], "Cat"),
        ({"prompt": "p", "predictions": ["a", "b"], "references": ["x", "y"]}, "p", ["a", "b"], "x\ny"),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]}, "p", ["a"], None),
        (
            {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}], "prediction": "a"},
            *("p", ["a"], "r"),
        ),
        ({"kind": "QA", "input": "p", "target": "r", "prediction": "a", "reference": "own"}, "p", ["a"], "own"),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}], "prediction": "a"},
            *("[system]\ns\n\n[user]\np", ["a"], None),
        ),
    ],
)
def test_usual_records_are_read(
    record: dict[str, Any], prompt: str, answers: list[str], reference: str | None, tmp_path: Path
) -> None:
    """Prompt, answers and reference are found in what `predict` writes for the usual formats."""
    found = read_answers(write(tmp_path / "a.jsonl", [record]), FieldNames())
    assert [(answer.prompt, answer.text, answer.reference) for answer in found] == [
        (prompt, answer, reference) for answer in answers
    ]
    assert len({answer.key for answer in found}) == len(answers)


def test_a_record_that_was_not_answered_is_left_out(tmp_path: Path) -> None:
    """Where `predict` reports an error, the right answer is not taken for the model's; equal ids are refused."""
    records = [{"question": f"q{i}", "answer": "right", "id": 1} | ({"prediction": "p"} if i else {}) for i in range(3)]
    found = read_answers(write(tmp_path / "a.jsonl", records), FieldNames())
    assert [(answer.prompt, answer.text) for answer in found] == [("q1", "p"), ("q2", "p")]
    with pytest.raises(UserError, match=r"a\.jsonl:3: the id 1 occurs twice"):
        read_answers(tmp_path / "a.jsonl", FieldNames(id="id"))


def test_a_dry_run_asks_nothing(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows the first prompts, the number of requests and the largest price, of pairs and of scores."""
    prices = ["--endpoint.price_in=0", "--endpoint.price_out=1000000", "--endpoint.max_tokens=5", "--dry_run"]
    with faking(lambda said, n: says("Verdict: A")) as server:
        run(["judge", *files, str(tmp_path / "out"), *flags(server, *prices)])
        shown_pairs = capsys.readouterr().out
        run(["judge", files[0], str(tmp_path / "out"), "--repeats=3", *flags(server, *prices)])
        shown_scores = capsys.readouterr().out
        assert not server.asked and not (tmp_path / "out").exists()
    assert "<answer_a>\nA0" in shown_pairs and "--- request 3, user" in shown_pairs and "request 4" not in shown_pairs
    assert re.search(r"requests +20\n", shown_pairs) and re.search(r"cost at most +100", shown_pairs)
    assert re.search(r"requests +30\n", shown_scores) and "问题 0" in shown_scores


def test_several_judges_and_a_budget(files: list[str], tmp_path: Path) -> None:
    """Both orders of a pair are for the same judge; what a budget leaves out is asked with a larger one."""
    out, asked = tmp_path / "out", dict[str, set[int]]()

    def judge(name: str) -> Callable[[str, int], Answer]:
        def choose(said: str, n: int) -> Answer:
            asked.setdefault(name, set()).add(int(shown(said)[0][1:]))
            return says(f"Verdict: {prefers(said)}")

        return choose

    with faking(judge("one")) as one, faking(judge("two")) as two:
        lines = [f"{name}: {{url: '{s.url}', model: {name}}}" for name, s in (("one", one), ("two", two))]
        (tmp_path / "endpoints.yaml").write_text("\n".join(lines))
        several = f"--endpoints={tmp_path / 'endpoints.yaml'}"
        run(["judge", *files, str(out), several, "--budget.requests=6"])
        assert one.asked.total() + two.asked.total() == 6 and None in [found["choice"] for found in read(out)[0]]
        run(["judge", *files, str(out), several])
        assert one.asked.total() + two.asked.total() == 20 and one.asked and two.asked
    verdicts, report = read(out)
    assert [verdict["choice"] for verdict in verdicts] == ["A"] * 6 + ["tie", "B", "tie", "tie"]
    assert not asked["one"] & asked["two"] and asked["one"] | asked["two"] == set(range(10))
    facts = dict(report["facts"])
    assert facts["judge one"].startswith("one at ") and "two: requests sent" in facts
