"""`babyllm eval`: runs, files and token data, and what it says where something is missing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fixtures import talk

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.chat.messages import Conversation
from babyllm.commands.use.eval import Flags, run
from babyllm.config import dump
from babyllm.data.token_config import DataConfig
from babyllm.errors import UserError
from babyllm.evaluate.conversations.answers import closed_turns
from babyllm.evaluate.conversations.by_task import measure
from babyllm.evaluate.conversations.samples import samples_of, split_samples
from babyllm.evaluate.language.perplexity import perplexity
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.conversations import prepare_conversations
from babyllm.runtime import Runtime, RuntimeConfig
from babyllm.store.conversations import ALL, ConversationStore
from babyllm.store.shards import open_tokens
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.pretraining_config import PretrainConfig

CPU = RuntimeConfig(device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def run_dir(
    tmp_path_factory: pytest.TempPathFactory,
    model: Transformer,
    template: ChatTemplate,
    conversations: list[Conversation],
) -> Path:
    """A run directory with one step and its conversations, a third of them held out; not to be changed."""
    directory = tmp_path_factory.mktemp("sft")
    file = directory / "chats.jsonl"
    write_chats(file, conversations)
    step = directory / "run" / "step_00000001"
    step.mkdir(parents=True)
    save_model(step, model, template.tokenizer)
    template.tokenizer.save(step, chat_template=template.source)
    prepare_conversations(
        [file],
        directory / "run" / "conversations",
        template,
        FormatConfig(),
        seq_len=128,
        supervise=Supervise(),
        held_out=0.33,
        work=WorkConfig(workers=1),
    )
    return directory / "run"


def write_chats(file: Path, conversations: Sequence[Conversation]) -> None:
    records = (
        {"task": c.task, "messages": [{"role": m.role, "content": m.content} for m in c.messages]}
        for c in conversations
    )
    file.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), "utf-8")


def evaluated(directory: Path, tmp_path: Path, **flags: Any) -> dict[str, Any]:
    out = tmp_path / "out.json"
    run(Flags(**flags, json=str(out), runtime=CPU), str(directory))
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


def test_eval_of_a_run(
    run_dir: Path, model: Transformer, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the run held out is evaluated by task; the training part decides which tasks are closed."""
    store = ConversationStore.open(run_dir / "conversations")
    held_out, train = split_samples(store, "val"), split_samples(store, "train")
    expected = measure(model, held_out, closed_turns(train), runtime)
    report = evaluated(run_dir, tmp_path)
    assert report["values"]["kind"]["accuracy"] == expected["kind"].accuracy is not None
    assert report["values"]["kind"]["chance"] == 0.5
    for task in ("kind", "write", ALL):
        assert report["values"][task]["loss"] == pytest.approx(expected[task].loss, rel=1e-6)
        assert report["values"][task]["n"] == expected[task].n
    shown = capsys.readouterr().out
    assert "kind" in shown and f"{expected[ALL].loss:.4g}" in shown
    assert evaluated(run_dir / "step_00000001", tmp_path)["values"] == report["values"]


def test_eval_fit_shows_both_sides(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training and held-out conversations stand side by side, with examples, and a line says what that means."""
    report = evaluated(run_dir, tmp_path, fit=True, n=8, examples=2, characters=15, max_new_tokens=10)
    shown = capsys.readouterr().out
    for name in ("training", "held-out"):
        values = report["values"][name]
        assert values[ALL]["n"] == 8 and values["kind"]["n"] == values["write"]["n"] == 4
        assert values[ALL]["exact"] is not None and values["kind"]["accuracy"] is not None
    columns = report["tables"][0]["columns"]
    names = ["conversations", "loss", "exact", "accuracy", "of answers"]
    assert columns[1:11] == [f"{side} {name}" for side in ("train", "held-out") for name in names]
    assert all(len(row) == len(columns) for row in report["tables"][0]["rows"])
    assert "has not learned the training set" in shown or "has learned little" in shown
    assert shown.count("  expected  ") == 4 and shown.count("  answered  ") == 4
    again = evaluated(run_dir, tmp_path, fit=True, n=8, examples=2, characters=15, max_new_tokens=10)
    assert again == report


def test_eval_of_a_file(
    run_dir: Path,
    conversations: list[Conversation],
    tmp_path: Path,
    model: Transformer,
    runtime: Runtime,
    template: ChatTemplate,
) -> None:
    """Files take the place of what the run held out, in fit too; records that are not conversations are counted."""
    file = tmp_path / "new.jsonl"
    write_chats(file, conversations[20:50])
    with file.open("a", encoding="utf-8") as f:
        f.write('{"nothing": 1}\n')
    report = evaluated(run_dir, tmp_path, data=str(file))
    expected = measure(model, samples_of(template, conversations[20:50], 128), {}, runtime)
    assert report["values"][ALL]["loss"] == pytest.approx(expected[ALL].loss, rel=1e-6)
    assert ["records that could not be used", 1] in report["facts"]
    assert evaluated(run_dir, tmp_path, data=[str(file)], fit=True, n=4)["values"]["held-out"][ALL]["n"] == 4
    alone = evaluated(run_dir / "step_00000001", tmp_path, data=str(file))
    assert alone["values"] == report["values"]
    kind, columns = report["values"]["kind"], report["tables"][0]["columns"]
    assert kind["n_answers"] >= kind["n"] and columns[1] == "conversations" and columns[4] == "of answers"


def test_eval_tells_why_nothing_can_be_used(run_dir: Path, tmp_path: Path) -> None:
    """For files without a usable conversation the reasons are named and counted; an empty file is called empty."""
    file = tmp_path / "new.jsonl"
    long = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "今" * 500}]}
    file.write_text("not json\n" * 2 + json.dumps(long) + "\n", "utf-8")
    with pytest.raises(
        UserError, match=r"none of the 3 records of .*new\.jsonl can be used \(2 x .*JSON.*; 1 x nothing"
    ):
        evaluated(run_dir, tmp_path, data=str(file))
    file.write_text("")
    with pytest.raises(UserError, match=r"new\.jsonl holds no records|new\.jsonl.*empty"):
        evaluated(run_dir, tmp_path, data=str(file))


def test_eval_of_a_pretraining_run(
    token_dir: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    runtime: Runtime,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The held-out documents of the run's data give loss, perplexity and bits per byte by domain."""
    step = tmp_path / "run" / "step_00000003"
    step.mkdir(parents=True)
    save_model(step, model, tokenizer)
    config = PretrainConfig(data=DataConfig(path=str(token_dir), seq_len=32))
    (tmp_path / "run" / "config.yaml").write_text(dump(config), "utf-8")
    expected = perplexity(model, open_tokens(token_dir), runtime, seq_len=32)
    for report in (
        evaluated(tmp_path / "run", tmp_path),
        evaluated(step, tmp_path, data=str(token_dir), seq_len=32),
    ):
        assert report["values"] == pytest.approx(expected, rel=1e-9)
    rows = {row[0]: row[1:] for row in report["tables"][0]["rows"]}
    assert rows["all"] == pytest.approx([expected["all/loss"], np.exp(expected["all/loss"]), expected["all/bpb"]])
    assert "bits per byte" in capsys.readouterr().out
    with pytest.raises(UserError, match="--fit"):
        run(Flags(fit=True, runtime=CPU), str(tmp_path / "run"))


def test_eval_tells_what_is_missing(run_dir: Path, tmp_path: Path, model: Transformer, template: ChatTemplate) -> None:
    """Missing data, training conversations or records and another tokenizer are named with the way out."""
    alone = tmp_path / "alone"
    alone.mkdir()
    save_model(alone, model, template.tokenizer)
    with pytest.raises(UserError, match="give some with --data"):
        run(Flags(runtime=CPU), str(alone))
    file = tmp_path / "new.jsonl"
    write_chats(file, [talk("今", "天")])
    with pytest.raises(UserError, match=r"--fit: .* has no training conversations"):
        run(Flags(data=str(file), fit=True, runtime=CPU), str(alone))
    file.write_text('{"nothing": 1}\n')
    with pytest.raises(UserError, match=r"none of the 1 records of .* can be used \(1 x no conversation"):
        run(Flags(data=str(file), runtime=CPU), str(alone))
    other = Tokenizer.train(["今天气很好我们去公园看书the end"] * 9, 310, n_threads=1)
    strange = tmp_path / "strange"
    (strange / "step_00000001").mkdir(parents=True)
    save_model(strange / "step_00000001", model, other)
    (strange / "conversations").symlink_to(run_dir / "conversations")
    with pytest.raises(UserError, match="made with another tokenizer"):
        run(Flags(runtime=CPU), str(strange))
    with pytest.raises(UserError, match=r"--json: .*missing/out\.json cannot be written \(No such file"):
        run(Flags(json=str(tmp_path / "missing" / "out.json"), runtime=CPU), str(run_dir))
