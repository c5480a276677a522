"""Evaluation of chat models: losses and accuracies against plain computations, greedy answers, and `babyllm eval`."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_fixtures import Tiny, chain
from torch.nn import functional as F

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate, Supervise, load_template
from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Conversation, Message
from babyllm.commands.eval import Flags, run
from babyllm.config import dump
from babyllm.data.token_config import DataConfig
from babyllm.errors import UserError
from babyllm.evaluate.answers import (
    Accuracy,
    closed_turns,
    losses,
    majority_shares,
    samples_of,
    stored_samples,
    turn_accuracy,
)
from babyllm.evaluate.carry_over import ALL, Measured, drawn, greedy_answers, measure, reading
from babyllm.evaluate.perplexity import perplexity
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.conversations import prepare_conversations
from babyllm.runtime import Runtime, RuntimeConfig
from babyllm.store.conversations import ConversationStore
from babyllm.store.shards import open_tokens
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.pretraining_config import PretrainConfig

CPU = RuntimeConfig(device="cpu", dtype="float32", threads=1)
KINDS = ["有意思", "the end"]


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(tiny(max_seq_len=128)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


def talk(*texts: str, task: str = "kind", system: str = "") -> Conversation:
    messages = [Message(USER if i % 2 == 0 else ASSISTANT, text) for i, text in enumerate(texts)]
    return Conversation((*([Message(SYSTEM, system)] if system else []), *messages), task)


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    """40 of the closed task "kind", some with two turns, and 20 of the open task "write"."""
    rng = random.Random(5)

    def words() -> str:
        return "".join(rng.choices("今天气很好我们去公园看书", k=rng.randint(2, 12)))

    kinds = [talk(words(), rng.choice(KINDS), system=rng.choice(["", "判断"])) for _ in range(24)]
    kinds += [talk(words(), rng.choice(KINDS), words(), rng.choice(KINDS)) for _ in range(8)]
    kinds += [talk(words(), words(), words(), rng.choice(KINDS)) for _ in range(8)]
    return [*kinds, *(talk(words(), words(), task="write") for _ in range(20))]


def plain_nats(model: Transformer, ids: Sequence[int], n: int) -> float:
    """Nats of the last `n` ids."""
    logits = model.logits(torch.tensor([ids[:-1]]))[0].double()
    return float(F.cross_entropy(logits[-n:], torch.tensor(ids[-n:]), reduction="sum"))


def plain_choice(model: Transformer, template: ChatTemplate, messages: Sequence[Message]) -> str:
    """The most probable candidate as the answer to these messages."""
    nats = {}
    for text in KINDS:
        answer = [*template.tokenizer.encode(text), template.tokenizer.special["<|im_end|>"]]
        nats[text] = plain_nats(model, [*template.prompt(messages), *answer], len(answer))
    return min(nats, key=lambda text: nats[text])


def closed_answers(template: ChatTemplate, conversations: Iterable[Conversation]) -> dict[str, list[str]]:
    """Of each closed task, its answers as texts."""
    end, decode = [template.tokenizer.special["<|im_end|>"]], template.tokenizer.decode
    closed = closed_turns(samples_of(template, conversations, 128))
    assert all(list(answer[-1:]) == end for answers in closed.values() for answer in answers)
    return {task: sorted(decode(answer[:-1]) for answer in answers) for task, answers in closed.items()}


def accuracy(
    model: Transformer,
    template: ChatTemplate,
    conversations: Iterable[Conversation],
    candidates: dict[str, list[str]],
    runtime: Runtime,
    **more: int,
) -> dict[str, Accuracy]:
    """What `turn_accuracy` gives for conversations and candidates as texts."""
    turns = {
        task: [samples_of(template, [talk("?", text)], 128)[0].answers()[0][1] for text in texts]
        for task, texts in candidates.items()
    }
    samples = samples_of(template, conversations, model.config.max_seq_len)
    return turn_accuracy(model, samples, turns, runtime, **more)


def test_accuracy_is_that_of_one_candidate_at_a_time(
    model: Transformer, template: ChatTemplate, conversations: list[Conversation], runtime: Runtime
) -> None:
    """The last answer and earlier ones that are candidates count, each given the true messages before it."""
    candidates = closed_answers(template, conversations)
    assert candidates == {"kind": sorted(KINDS)}
    right = n = 0
    for conversation in conversations[:40]:
        messages = conversation.messages
        for i, message in enumerate(messages):
            if message.role == ASSISTANT and (i == len(messages) - 1 or message.content in KINDS):
                n += 1
                right += plain_choice(model, template, messages[:i]) == message.content
    assert 0 < right < n == 48
    for batch_tokens in (8192, 100):
        found = accuracy(model, template, conversations, candidates, runtime, batch_tokens=batch_tokens)
        assert found == {"kind": Accuracy(right, n)}


def test_answers_that_are_no_candidates_count_as_wrong(
    model: Transformer, template: ChatTemplate, runtime: Runtime
) -> None:
    """A last answer outside the candidates is asked for and wrong; an earlier one is not asked for; nor other tasks."""
    talks = [talk("今", "书", "天", "the next"), talk("今", "书", task="write")]
    assert accuracy(model, template, talks, {"kind": KINDS}, runtime) == {"kind": Accuracy(0, 1)}
    assert accuracy(model, template, talks[1:], {"kind": KINDS}, runtime) == {}


def test_ties_are_shared_and_no_numbers_are_wrong(template: ChatTemplate, tiny: Tiny, runtime: Runtime) -> None:
    """Of candidates that are equally probable the right one counts its share; a broken model is never right."""
    model = Transformer(tiny(tie_embeddings=False))
    torch.nn.init.zeros_(model.lm_head.weight)
    talks = [talk("今", answer) for answer in ("天", "书", "气", "好")]
    candidates = {"kind": ["天", "书", "气", "好"]}
    assert accuracy(model, template, talks, candidates, runtime) == {"kind": Accuracy(1.0, 4)}
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    assert accuracy(model, template, talks, candidates, runtime) == {"kind": Accuracy(0.0, 4)}
    assert model.training, "it is in the mode it was in"


class OneOfTwo(Runtime):
    """A rank of two that keeps its own sums instead of adding the other's."""

    def sum(self, values: Sequence[float]) -> list[float]:
        self.sums = [*getattr(self, "sums", []), *values]
        return [1.0] * len(values)


def test_ranks_share_the_work(
    model: Transformer, template: ChatTemplate, conversations: list[Conversation], runtime: Runtime
) -> None:
    """Both ranks' sums together are those of one process, and each does a part."""
    samples = samples_of(template, conversations, 128)
    ranks = [OneOfTwo(**{**vars(runtime), "world_size": 2, "rank": rank}) for rank in (0, 1)]
    alone = OneOfTwo(**vars(replace(runtime)))
    for one in (*ranks, alone):
        turn_accuracy(model, samples, closed_turns(samples), one)
        losses(model, samples, one)
    assert [a + b for a, b in zip(ranks[0].sums, ranks[1].sums, strict=True)] == pytest.approx(alone.sums, rel=1e-6)
    assert all(min(rank.sums) > 0 for rank in ranks)


def test_losses_are_exact_over_conversations(
    model: Transformer, template: ChatTemplate, conversations: list[Conversation], runtime: Runtime
) -> None:
    """Nats and tokens of each task are those of its answers and end tokens, one conversation at a time."""
    expected: dict[str, list[float]] = {"kind": [0.0, 0.0], "write": [0.0, 0.0]}
    for conversation in conversations:
        for i, message in enumerate(conversation.messages):
            if message.role == ASSISTANT:
                prompt = template.prompt(conversation.messages[:i])
                answer = [*template.tokenizer.encode(message.content), template.tokenizer.special["<|im_end|>"]]
                expected[conversation.task][0] += plain_nats(model, [*prompt, *answer], len(answer))
                expected[conversation.task][1] += len(answer)
    for batch_tokens in (8192, 150):
        found = losses(model, samples_of(template, conversations, 128), runtime, batch_tokens=batch_tokens)
        assert found.keys() == expected.keys()
        for task, pair in expected.items():
            assert found[task] == pytest.approx(tuple(pair), rel=1e-5)
    measured = measure(model, samples_of(template, conversations, 128), {}, runtime)
    totals = [sum(pair[i] for pair in expected.values()) for i in (0, 1)]
    assert measured[ALL].loss == pytest.approx(totals[0] / totals[1], rel=1e-5)
    assert (measured[ALL].n, measured["kind"].n, measured[ALL].accuracy) == (60, 40, None)


def test_no_task_can_be_named_as_the_total(model: Transformer, template: ChatTemplate, runtime: Runtime) -> None:
    """A task of that name would be lost among the measurements, so it is refused."""
    samples = samples_of(template, [talk("今", "天", task=ALL)], 128)
    with pytest.raises(UserError, match="the name 'all'"):
        measure(model, samples, {}, runtime)


def test_what_makes_a_task_closed(template: ChatTemplate) -> None:
    """Twenty conversations end in two to ten answers that all occur twice; weight 0 takes an answer out."""

    def closed(answers: Sequence[str]) -> list[str] | None:
        found = closed_answers(template, (talk("今", answer) for answer in answers))
        assert found.keys() <= {"kind"}
        return found.get("kind")

    assert closed(["b", "a"] * 10) == ["a", "b"]
    assert closed(["a", "b"] * 9 + ["a"]) is None, "too few conversations"
    assert closed(["a"] * 20) is None, "nothing to choose"
    assert closed(["a", "b"] * 10 + ["c"]) is None, "an answer that occurs once"
    assert closed([str(i % 10) for i in range(20)]) == [str(i) for i in range(10)]
    assert closed([str(i % 11) for i in range(22)]) is None, "too many answers"
    unweighted = Conversation((Message(USER, "今"), Message(ASSISTANT, "c", weight=0)), "kind")
    assert closed_answers(template, [*(talk("今", x) for x in "ab" * 10), unweighted]) == {"kind": ["a", "b"]}
    turns = closed_answers(template, (talk("今", "z", "天", answer) for answer in "ab" * 10))
    assert turns == {"kind": ["a", "b"]}, "the last answer decides"


def test_the_most_frequent_answer(template: ChatTemplate) -> None:
    """Always giving the most frequent answer is right as often as that occurs among what is asked for."""
    samples = samples_of(template, [talk("今", x) for x in "aaab"] + [talk("今", "b", "天", "b")], 128)
    candidates = {"kind": [s.answers()[0][1] for s in samples[2:4]]}
    assert majority_shares(samples, candidates) == {"kind": 0.5}
    assert majority_shares(samples, {}) == {}


def test_prompts_too_long_lose_their_oldest(template: ChatTemplate, tiny: Tiny, runtime: Runtime) -> None:
    """A conversation longer than the context loses its oldest turns; where a candidate needs more, ids; none fails."""
    torch.manual_seed(1)
    model = Transformer(tiny(max_seq_len=40)).eval()
    long = talk("今天气很好我们去公园看书" * 3, "书", "今", "天")
    samples = samples_of(template, [long, talk("今", "天")], 40)
    assert np.array_equal(samples[0].ids, samples[1].ids)
    assert samples_of(template, [talk("今天" * 40, "书")], 40) == []
    found = accuracy(model, template, [long, talk("今天气", "天")], {"kind": ["天", "今天" * 12]}, runtime)
    assert found["kind"].n == 2


def test_drawing_is_even_and_repeatable() -> None:
    """As many of each task as can be had, the rest from larger ones; a seed decides which."""
    sizes = {"a": 100, "b": 3, "c": 50}
    chosen = drawn(sizes, 40, 1)
    assert {task: len(indices) for task, indices in chosen.items()} in (
        {"a": 19, "b": 3, "c": 18},
        {"a": 18, "b": 3, "c": 19},
    )
    assert all(len(set(indices)) == len(indices) for indices in chosen.values())
    assert all(max(indices) < sizes[task] for task, indices in chosen.items())
    assert chosen == drawn(dict(reversed(sizes.items())), 40, 1) != drawn(sizes, 40, 2)
    assert drawn(sizes, 1000, 1) == {task: list(range(size)) for task, size in sizes.items()}


def test_greedy_answers(template: ChatTemplate, tiny: Tiny, runtime: Runtime) -> None:
    """The last answer is asked for behind all before it; exact is the same text with an end, within the limit."""
    tokenizer = template.tokenizer
    end = tokenizer.special["<|im_end|>"]
    model = chain(tiny(max_seq_len=100, tie_embeddings=False), [*tokenizer.encode("今天好"), end])
    talks = [talk("书", "看", "书书", "今天好"), talk("书", "今天"), talk("书", "今天好 ")]
    samples = samples_of(template, talks, 100)

    def answers(limit: int) -> list[Any]:
        return greedy_answers(model, tokenizer, samples, template.end_ids, runtime, max_new_tokens=limit)

    found = answers(20)
    assert [a.answered for a in found] == ["今天好"] * 3
    assert [a.expected for a in found] == ["今天好", "今天", "今天好 "]
    assert [a.is_exact for a in found] == [True, False, True]
    assert all(a.has_ended for a in found)
    assert found[0].prompt.count("书") == 3 and "看" in found[0].prompt
    found = answers(1)
    assert [a.answered for a in found] == ["今天好", "今天好", "今天好"], (
        "a limit below what is expected is raised to it"
    )
    assert [a.has_ended for a in found] == [True, False, True]
    assert not found[1].is_exact


def side(loss: float, exact: float, accuracy: float | None = None) -> dict[str, Measured]:
    """Numbers of one split with one task of two candidates, or an open one."""
    one = Measured(20, loss, exact, accuracy, None if accuracy is None else 0.5)
    return {"kind": one, ALL: one}


@pytest.mark.parametrize(
    ("train", "held_out", "expected"),
    [
        (side(3.0, 0.0), side(3.1, 0.0), "has not learned the training set"),
        (side(3.0, 0.0), side(5.0, 0.0), "has learned little, and that only of the training set"),
        (side(0.8, 0.5, 0.6), side(0.8, 0.5, 0.5), "has not learned the training set"),
        (side(0.1, 1.0), side(4.0, 0.1), "fits the training set but not the held-out one"),
        (side(0.3, 1.0, 1.0), side(0.4, 0.6, 0.6), "fits the training set but not the held-out one"),
        (side(0.3, 0.1), side(2.0, 0.1), "fits the training set but not the held-out one"),
        (side(0.3, 0.95, 0.95), side(0.32, 0.9, 0.9), "has learned the training set, and it carries over"),
        (side(0.3, 0.1), side(0.35, 0.1), "has learned the training set, and it carries over"),
    ],
)
def test_what_the_numbers_say(train: dict[str, Measured], held_out: dict[str, Measured], expected: str) -> None:
    """One line says whether the training set was learned and whether that carries over, from scores and losses."""
    line = reading(train, held_out)
    assert line.startswith(f"{expected} (score ") and "\n" not in line


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
    """What the run held out is evaluated by task; what is closed the training part tells."""
    store = ConversationStore.open(run_dir / "conversations")
    held_out, train = (stored_samples(store, store.span(split)) for split in ("val", "train"))  # type: ignore[arg-type]
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
    """Files take the place of what the run held out, in fit too; records that are no conversations are counted."""
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
    """Of files without a usable conversation the reasons are told and counted; an empty one is told as such."""
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
    """No data, no training conversations for fit, nothing in a file and another tokenizer are told with the way out."""
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
