"""`babyllm predict`: all formats, bad records, resuming, several answers, and its report."""

import json
import random
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from model_fixtures import Tiny, decisive
from training_fixtures import Killer, Worker

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import USER, Message
from babyllm.chat.session import answer_lead
from babyllm.commands.use.predict import Flags, run
from babyllm.errors import UserError
from babyllm.evaluate.answer_metrics import METRICS
from babyllm.evaluate.predictions import evaluate_predictions
from babyllm.generation import Sampling, answers, generate
from babyllm.interop.huggingface import save_model
from babyllm.loading import load
from babyllm.model.transformer import Transformer
from babyllm.prediction import Answering, Asking, predict_file
from babyllm.runtime import Runtime, RuntimeConfig, derive_seed
from babyllm.tokenizer import Tokenizer

CPU = RuntimeConfig(device="cpu", dtype="float32", threads=1)
N_NEW = 5
Record = dict[str, Any]


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Transformer:
    return decisive(tiny(max_seq_len=128))


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory, model: Transformer, template: ChatTemplate) -> str:
    folder = tmp_path_factory.mktemp("chat")
    save_model(folder, model, template.tokenizer)
    template.tokenizer.save(folder, chat_template=template.source)
    return str(folder)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory, model: Transformer, tokenizer: Tokenizer) -> str:
    folder = tmp_path_factory.mktemp("base")
    save_model(folder, model, tokenizer)
    return str(folder)


def write(path: Path, *records: Record | str) -> Path:
    lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def predicted(directory: str, source: Path, out: Path, **flags: Any) -> list[Record]:
    run(Flags(**{"max_new_tokens": N_NEW, **flags}, runtime=CPU), directory, str(source), str(out))
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def questions(n: int) -> list[Record]:
    rng = random.Random(1)
    return [
        {"id": i, "prompt": "".join(rng.choices("今天气很好我们去公园看书", k=rng.randint(1, 30)))} for i in range(n)
    ]


TALKS: list[tuple[Record, list[str], str | None]] = [
    ({"instruction": "翻译", "input": "天", "output": "sky"}, ["翻译\n天"], "sky"),
    ({"instruction": "翻译", "input": "天", "output": ""}, ["翻译\n天"], None),
    ({"instruction": "翻译"}, ["翻译"], None),
    ({"kind": "a", "input": "今天", "target": "很好"}, ["今天"], "很好"),
    ({"question": "今?", "answer": "天"}, ["今?"], "天"),
    ({"问题": "今?"}, ["今?"], None),
    ({"conversations": [{"from": "human", "value": "今"}, {"from": "gpt", "value": "天"}]}, ["今"], "天"),
    ({"messages": [{"role": "user", "content": "今"}]}, ["今"], None),
    ({"messages": [{"role": "user", "content": "今"}, {"role": "assistant", "content": "  "}]}, ["今"], None),
    (
        {"messages": [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, "今天气很", strict=True)]},
        ["今", "天", "气"],
        "很",
    ),
    ({"messages": [{"role": "user", "content": "今"}], "reference": "天", "extra": {"a": [1, None]}}, ["今"], None),
]


def test_every_format_of_conversations(
    chat_model: str, model: Transformer, template: ChatTemplate, tmp_path: Path
) -> None:
    """The last answer is kept from the model and becomes the reference; every field stays, and the order too."""
    source = write(tmp_path / "in.jsonl", *(record for record, *_ in TALKS))
    for (record, contents, reference), line in zip(
        TALKS, predicted(chat_model, source, tmp_path / "out.jsonl"), strict=True
    ):
        messages = [Message(USER if i % 2 == 0 else "assistant", text) for i, text in enumerate(contents)]
        sampling = Sampling(temperature=0, max_new_tokens=N_NEW)
        (expected,) = answers(model, template.tokenizer, [(template.prompt(messages), sampling)], template.end_ids)
        added = {} if reference is None else {"reference": reference}
        text = expected.text.removeprefix(answer_lead(template))
        assert line == {**record, **added, "prediction": text, "finish": expected.finish}
        assert list(line)[: len(record)] == list(record)


def test_a_base_model_continues_prompts(base_model: str, chat_model: str, tmp_path: Path) -> None:
    """A model without a chat template continues plain texts, and one with a template does so on request."""
    records: list[Record] = [*questions(20), {"prompt": "今天", "completion": "气"}, {"question": "今", "answer": "天"}]
    source = write(tmp_path / "in.jsonl", *records)
    prompts = [record.get("prompt") or record["question"] for record in records]
    for directory in (base_model, chat_model):
        lines = predicted(directory, source, tmp_path / f"{Path(directory).name}.jsonl", chat=False)
        expected = generate(*load(directory), prompts, temperature=0, max_new_tokens=N_NEW)
        assert [line["prediction"] for line in lines] == expected
        assert [line.get("reference") for line in lines[-2:]] == ["气", "天"]
    talk = {"messages": [{"role": role, "content": "今"} for role in ("user", "assistant", "user", "assistant")]}
    (line,) = predicted(base_model, write(tmp_path / "talk.jsonl", talk), tmp_path / "3.jsonl")
    assert line["error"].startswith("several messages")


def test_no_record_is_lost(chat_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be used becomes a line with the error, in its place, and is counted by reason."""
    bad = [
        '{"prompt": "今"',
        {"nothing": 1},
        "[1, 2]",
        {"prompt": "今" * 500},
        {"prompt": "今", "prediction": "old"},
        {"messages": [{"role": "user", "content": "今"}, {"role": "assistant", "content": "天"}], "reference": "气"},
        {"messages": [{"role": "client", "content": "今"}, {"role": "doctor", "content": "天"}]},
        {"messages": [{"role": "system", "content": "今"}]},
        '{"prompt": "\\ud800"}',
    ]
    source = write(tmp_path / "in.jsonl", *(each for record in bad for each in (record, {"prompt": "天"})))
    lines = predicted(chat_model, source, tmp_path / "out.jsonl")
    assert len(lines) == 2 * len(bad) and all("prediction" in line for line in lines[1::2])
    errors = [line["error"] for line in lines[::2]]
    for error, expected in zip(
        errors,
        [
            *("JSON", "no conversation", "not an object", "context of 128", "prediction", "reference", "assistant"),
            *("nothing before", "surrogate"),
        ],
        strict=True,
    ):
        assert expected in error
    assert lines[0]["line"] == 1 or lines[0]["excerpt"].startswith('{"prompt"')
    assert lines[4] | {"error": ""} == {"place": lines[4]["place"], "line": None, "excerpt": "[1, 2]", "error": ""}
    assert "records that could not be used" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_other_kinds_of_files(chat_model: str, tmp_path: Path, suffix: str) -> None:
    """Arrays of JSON and tables are read like JSON lines, with all their columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{"id": str(i), "prompt": record["prompt"]} for i, record in enumerate(questions(3))]
    source = tmp_path / f"in{suffix}"
    if suffix == ".json":
        source.write_text(json.dumps(records), "utf-8")
    elif suffix == ".csv":
        source.write_text("id,prompt\n" + "".join(f"{r['id']},{r['prompt']}\n" for r in records), "utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(records), source)
    expected = predicted(chat_model, write(tmp_path / "in.jsonl", *records), tmp_path / "expected.jsonl")
    assert predicted(chat_model, source, tmp_path / "out.jsonl") == expected


def test_several_answers(base_model: str, model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Sampled answers depend on the seed and the number of their record alone; several are listed."""
    source = write(tmp_path / "in.jsonl", *questions(6))
    flags = {"samples": 3, "temperature": 1.5, "seed": 7}
    lines = predicted(base_model, source, tmp_path / "out.jsonl", **flags, slots=2)
    for number, line in enumerate(lines):
        sampling = replace(Sampling(temperature=1.5, top_k=50, max_new_tokens=N_NEW), seed=derive_seed(7, number))
        ids = [tokenizer.begin_id, *tokenizer.encode(line["prompt"])]
        found = answers(model, tokenizer, [(ids, each) for each in sampling.several(3)], (tokenizer.eos_id,))
        assert line["predictions"] == [answer.text for answer in found]
        assert line["finish"] == [answer.finish for answer in found]
    with pytest.raises(UserError, match=r"--samples=3: equal answers"):
        predicted(base_model, source, tmp_path / "no.jsonl", samples=3)


@pytest.fixture
def predicting(model: Transformer, tokenizer: Tokenizer, runtime: Runtime, tmp_path: Path) -> Callable[..., Path]:
    """`predicting(out)`: 10 records answered in windows of 4, some of them unusable."""
    source = write(tmp_path / "in.jsonl", *questions(5), "broken", {"nothing": 1}, *questions(3))
    sampling = Sampling(temperature=1, max_new_tokens=2, seed=1)
    answering = Answering(model, Asking(tokenizer, None), sampling, samples=2, slots=3, window=4)

    def predict(out: Path, **settings: Any) -> Path:
        predict_file(answering, source, out, runtime, {"temperature": 1, "model": "0" * 64, **settings})
        return out

    return predict


def test_a_killed_process_goes_on(killer: Killer, predicting: Callable[..., Path], tmp_path: Path) -> None:
    """Killed at any access to a file, again and again, the same command ends with the same bytes."""
    expected = predicting(tmp_path / "expected.jsonl").read_bytes()
    assert expected.count(b"\n") == 10
    for first in range(0, 52, 3):
        out = tmp_path / f"{first}.jsonl"
        again = partial(predicting, out)
        assert not killer.survives(first, again)
        for at in range(11, 300, 13):
            assert not out.exists() or out.read_bytes() == expected
            if killer.survives(at, again):
                break
        assert out.read_bytes() == expected
        assert sorted(path.name for path in tmp_path.glob(f"{out.name}*")) == [out.name, f"{out.name}.settings.json"]


def test_torn_bytes_are_cut_off(predicting: Callable[..., Path], killer: Killer, tmp_path: Path) -> None:
    """What a kill left after the last complete window is not part of the file."""
    expected = predicting(tmp_path / "expected.jsonl").read_bytes()
    out = tmp_path / "out.jsonl"
    assert not killer.survives(40, partial(predicting, out))
    with (tmp_path / "out.jsonl.partial" / "done.jsonl").open("ab") as file:
        file.write(b'{"half": ' + b"x" * len(expected))
    assert predicting(out).read_bytes() == expected


def test_other_settings_are_refused(predicting: Callable[..., Path], killer: Killer, tmp_path: Path) -> None:
    """A file that was begun with other settings or another input is left as it is; a complete one is only reported."""
    out = tmp_path / "out.jsonl"
    assert not killer.survives(40, partial(predicting, out))
    with pytest.raises(UserError, match=r"out\.jsonl: was begun with temperature=1, which is 2 now"):
        predicting(out, temperature=2)
    with pytest.raises(UserError, match=r"was begun with another model; give the same"):
        predicting(out, model="1" * 64)
    before = predicting(out).read_bytes()
    assert predicting(out).read_bytes() == before
    write(tmp_path / "in.jsonl", {"prompt": "今"})
    with pytest.raises(UserError, match=r"was begun with another input"):
        predicting(out)
    (tmp_path / "out.jsonl.settings.json").unlink()
    with pytest.raises(UserError, match=r"out\.jsonl: already exists"):
        predicting(out)
    with pytest.raises(UserError, match=r"lies in .*, which is read"):
        predicting(tmp_path / "in.jsonl" / "x.jsonl")


def test_the_report(base_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts and metrics are printed and stored; metrics asked for later need no new answers."""
    records = [*questions(5), {"prompt": "今", "references": ["天", "天气"]}, {"prompt": "天", "completion": "很好"}]
    source, out = write(tmp_path / "in.jsonl", *records, "broken"), tmp_path / "out.jsonl"
    lines = predicted(base_model, source, out)
    capsys.readouterr()
    assert predicted(base_model, source, out, metrics=["rouge_l", "exact"], json=str(tmp_path / "r.json")) == lines
    values = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["values"]
    scores = [
        METRICS["rouge_l"](lines[5]["prediction"], ["天", "天气"]),
        METRICS["rouge_l"](lines[6]["prediction"], ["很好"]),
    ]
    assert values["metrics"]["rouge_l"]["value"] == pytest.approx(sum(scores) / 2)
    assert values["records"] == 8 and sum(values["unused"].values()) == 1 and values["metrics"]["exact"]["n"] == 2
    assert "rouge_l" in capsys.readouterr().out
    with pytest.raises(UserError, match="metric rouge: unknown"):
        predicted(base_model, source, tmp_path / "2.jsonl", metrics=["rouge"])


def test_ranks_share_the_records(base_model: str, worker: Worker, tmp_path: Path) -> None:
    """Two ranks write the same bytes as one, and rank 0 reports."""
    source = write(tmp_path / "in.jsonl", *questions(6), "broken")
    flags = ["--max_new_tokens=2", "--samples=128", "--temperature=1", "--runtime.device=cpu", "--runtime.threads=1"]
    one, two = (str(tmp_path / f"{n}.jsonl") for n in (1, 2))
    for out, ranks in ((one, 1), (two, 2)):
        worker.run("command", ranks=ranks, arguments=["predict", base_model, str(source), out, *flags])
    assert Path(one).read_bytes() == Path(two).read_bytes()
    assert worker.output.read_text().count("records that could not be used") == 1


def test_predicted_queries_are_run(tmp_path: Path) -> None:
    """With databases, a file of predictions has an execution accuracy, with its error over databases."""
    with sqlite3.connect(tmp_path / "shop.sqlite") as shop:
        shop.execute("create table item(name text)")
        shop.execute("insert into item values ('pen')")
    (tmp_path / "school.sqlite").write_bytes((tmp_path / "shop.sqlite").read_bytes())
    sql = "select name from item"
    rows = [("shop", sql.upper()), ("shop", "select 1"), ("school", "drop table item"), ("school", sql)]
    records = [{"database": n, "sql": sql, "prediction": q, "finish": "stop", "reference": sql} for n, q in rows]
    file = tmp_path / "predictions.jsonl"
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    found = evaluate_predictions(file, [], databases=tmp_path)
    execution = found.values["metrics"]["execution"]
    assert execution["value"] == 0.5 and execution["error"] == pytest.approx(0.0)
    assert execution["by_database"]["shop"] == {"right": 1, "n": 2}
    assert {row[0] for row in found.report.tables[1].rows} == {"other rows", "not allowed"}
