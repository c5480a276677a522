"""`babyllm sample`: rules, rewards, resuming, ranks, and files that the next stages read."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_endpoint import faking, says
from model_fixtures import Tiny, decisive
from training_fixtures import Killer, Worker

from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.load import load_template
from babyllm.chat.messages import Message
from babyllm.chat.preferences import PreferenceFormat, PreferencePair, to_preference
from babyllm.commands.use.sample import Flags, run
from babyllm.endpoint.config import EndpointConfig
from babyllm.errors import UserError
from babyllm.generation import Sampling
from babyllm.interop.huggingface import save_model
from babyllm.model.heads import WithHead
from babyllm.model.transformer import Transformer
from babyllm.prediction import Choosing, Rewarding, Rule, Sampled, sample_file, tally
from babyllm.prediction.answering import Answering
from babyllm.prediction.questions import Asking
from babyllm.reward_model import load_reward_model
from babyllm.rollouts.rollout_config import AnswerRewards, JudgeConfig
from babyllm.runtime import Runtime, RuntimeConfig
from babyllm.tokenizer import Tokenizer

CPU = RuntimeConfig(device="cpu", dtype="float32", threads=1)
Record = dict[str, Any]


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Transformer:
    return decisive(tiny(max_seq_len=128))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory, model: Transformer, tokenizer: Tokenizer) -> str:
    folder = tmp_path_factory.mktemp("chat")
    template = load_template("chatml", tokenizer)
    save_model(folder, model, template.tokenizer)
    template.tokenizer.save(folder, chat_template=template.source)
    return str(folder)


def write(path: Path, *records: Record | str) -> Path:
    lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_name(name: str, timeout_s: float = 60.0) -> AnswerRewards:
    """A built-in reward, a function, or the directory of a reward model, alone."""
    if Path(name).is_dir():
        return AnswerRewards(model=name)
    return AnswerRewards({name: 1.0}, timeout_s=timeout_s)


def sampled(directory: str, source: Path, out: Path, **flags: Any) -> list[Record]:
    if isinstance(name := flags.get("reward"), str):
        flags["reward"] = by_name(name, timeout_s=flags.pop("timeout_s", 60.0))
    run(Flags(**{"max_new_tokens": 5, "cut": True, **flags}, runtime=CPU), directory, str(source), str(out))
    return read(out)


TALKS: list[Record] = [
    {"id": 7, "task": "small talk", "messages": [{"role": "user", "content": "今天"}]},
    {
        "messages": [
            {"role": "user", "content": "今"},
            {"role": "assistant", "content": "天"},
            {"role": "user", "content": "气"},
            {"role": "assistant", "content": "很好"},
        ]
    },
    {"instruction": "翻译", "input": "天", "output": "sky"},
]


def line(*answers: tuple[str, float | None], finish: str = "stop", **more: Any) -> Record:
    """A line of answers with rewards."""
    texts, rewards = [text for text, _ in answers], [reward for _, reward in answers]
    return {"prompt": "今", "predictions": texts, "finish": [finish] * len(texts), "rewards": rewards, **more}


@pytest.fixture
def longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reward function of a module in the working directory: the number of characters."""
    monkeypatch.chdir(tmp_path)
    code = (
        "def longer(prompts, answers, records):\n    print('scored')\n    return [len(answer) for answer in answers]\n"
    )
    (tmp_path / "my_rewards.py").write_text(code)
    return "my_rewards:longer"


QUESTION = [{"role": "user", "content": "今"}]


@pytest.mark.parametrize(
    ("rule", "record", "expected"),
    [
        (Rule(), line(("a", 1), ("b", 3), ("c", -2)), ("b", "c", 3, -2)),
        (Rule(), line(("a", 1), ("b", 1)), "tied rewards"),
        (Rule(margin=2), line(("a", 1), ("b", 2.5)), "tied rewards"),
        (Rule(), line(("a", 1), (" a\n", 2)), "one answer of use, or equal ones"),
        (Rule(), line(("a", 1), ("", None), (" ", None)), "one answer of use, or equal ones"),
        (Rule(), line(("", None), ("\n", None)), "every answer is empty"),
        (Rule(), line(("a", None), ("b", None)), "every answer is without a reward"),
        (Rule(), line(("a", 1), ("b", 2), finish="length"), "every answer is cut off at max_new_tokens"),
        (Rule(cut=True), line(("a", 1), ("b", 2), finish="length"), ("b", "a", 2, 1)),
        (Rule(), line(("", None), ("b", None)), "no answer of use"),
        (Rule(at_least=4), line(("a", 1), ("b", 3)), "no answer has the least reward"),
        (Rule(), {"prompt": "今", "error": "broken"}, "broken"),
    ],
)
def test_pairs_of_the_best_and_the_worst(rule: Rule, record: Record, expected: Any) -> None:
    """The best and the worst answer make a pair; ties, equal, empty and cut answers make none, each with a reason."""
    found = Choosing(rule).choice(record)
    if isinstance(expected, str):
        assert found == expected
    else:
        names = ("chosen", "rejected", "chosen_reward", "rejected_reward")
        assert found == {"prompt": QUESTION, **dict(zip(names, expected, strict=True))}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (line(("a", None), ("b", None), reference="r"), ("r", "a")),
        (line(("a", 2), ("b", 1), reference="r"), ("r", "b")),
        (line(("r ", None), ("b", None), reference="r"), ("r", "b")),
        (line(("r", None), reference="r"), "equal to the answer in the data"),
        (line(("a", None)), "no answer in the data"),
        (line(("", None), reference="r"), "every answer is empty"),
    ],
)
def test_pairs_with_the_answer_of_the_data(record: Record, expected: Any) -> None:
    """The record's own answer is chosen; the worst of the model's, or the first without rewards, is rejected."""
    found = Choosing(Rule(chosen="data")).choice(record)
    expected = (
        expected if isinstance(expected, str) else {"prompt": QUESTION, "chosen": expected[0], "rejected": expected[1]}
    )
    assert found == expected


def test_the_best_answers_are_conversations(chat_model: str, longer: str, tmp_path: Path) -> None:
    """Rejection sampling writes messages that end with the answer of the highest reward, if that is high enough."""
    source = write(tmp_path / "in.jsonl", *TALKS)
    lines = sampled(chat_model, source, tmp_path / "all.jsonl", reward=longer, rule="all", temperature=2.0)
    answers = tmp_path / "all.answers.jsonl"
    flags = {"reward": longer, "rule": "best", "temperature": 2.0, "samples": 4, "answers": str(answers)}
    best = sampled(chat_model, source, tmp_path / "best.jsonl", **flags)
    for record, whole, talk in zip(best, lines, TALKS, strict=True):
        top = max(len(text) for text in whole["answers"] if text.strip())
        said = record["messages"].pop()
        assert said["content"] == next(t for t in whole["answers"] if len(t) == top) and record["reward"] == top
        assert record["messages"] == whole["prompt"] and record.get("task") == talk.get("task")
        record["messages"].append(said)
        assert to_conversation(record, FormatConfig(), task="", id="").messages[-1].content == said["content"]
    assert [whole["rewards"] for whole in lines] == [
        [len(text) if text.strip() else None for text in whole["answers"]] for whole in lines
    ]
    assert [whole.get("reference") for whole in lines] == [None, "很好", "sky"] and lines[0]["id"] == 7
    assert lines[1]["prompt"] == TALKS[1]["messages"][:3]
    assert sampled(chat_model, source, tmp_path / "no.jsonl", **{**flags, "at_least": 1000.0}) == []


def test_answers_of_the_data_against_those_of_the_model(
    chat_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a reward, one answer to each record is rejected in favour of its own, and the rest is counted."""
    source = write(tmp_path / "in.jsonl", *TALKS, "broken", {"nothing": 1})
    pairs = sampled(chat_model, source, tmp_path / "out.jsonl", chosen="data", temperature=0.0)
    told = read(tmp_path / "out.answers.jsonl")
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [
        ("很好", told[1]["prediction"]),
        ("sky", told[2]["prediction"]),
    ]
    printed = capsys.readouterr().out
    for fact in ("no answer in the data", "records written", "no conversation"):
        assert fact in printed
    assert not (tmp_path / "out.rewards.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "--rule=pairs: a reward chooses the answers; give --reward.functions or --reward.model, or --chosen=data"),
        ({"rule": "best"}, "--rule=best: a reward chooses the answers; give --reward.functions or --reward.model"),
        ({"reward": "length", "temperature": 0.0}, "--samples=4: equal answers at temperature 0"),
        ({"reward": "length", "samples": 1}, "--samples=1: a pair is the best and the worst"),
        ({"reward": "lenght"}, "there is no lenght; write one of exact_match, number_match, format"),
        ({"reward": "nowhere:nothing"}, "nowhere:nothing: there is no module nowhere here"),
    ],
)
def test_flags_that_cannot_be(chat_model: str, tmp_path: Path, flags: Record, message: str) -> None:
    """What cannot choose or be found is refused before anything is answered."""
    source = write(tmp_path / "in.jsonl", *TALKS)
    with pytest.raises(UserError, match=message):
        sampled(chat_model, source, tmp_path / "out.jsonl", **flags)
    assert not list(tmp_path.glob("out*"))


def scored_with(reward: Callable[..., Any]) -> Record:
    lines = Rewarding(reward, "mine").lines([line(("a", None), ("b", None), (" ", None))], 0)
    found: Record = json.loads(lines.text)
    return found


def test_what_a_reward_may_return() -> None:
    """NaN, infinities and None count for nothing, an empty answer is not asked about, and records are what was read."""
    seen: list[Any] = []

    def reward(prompts: Sequence[Any], answers: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[Any]:
        seen.append((prompts, answers, records))
        return [math.nan, 2]

    assert scored_with(reward)["rewards"] == [None, 2, None]
    assert seen == [([QUESTION, QUESTION], ["a", "b"], [{"prompt": "今", "rewards": [None] * 3}] * 2)]
    assert scored_with(lambda *_: [None, math.inf])["rewards"] == [None, None, None]
    for wrong, message in (
        (lambda *_: [1.0], "mine: gave 1 rewards for 2 answers"),
        (lambda *_: ["good", 1], "mine: gave 'good' for an answer"),
        (lambda *_: 1 / 0, "mine: raised ZeroDivisionError"),
    ):
        with pytest.raises(UserError, match=message):
            scored_with(wrong)


def test_a_reward_model_scores_answers(
    chat_model: str, tiny: Tiny, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reward model with its own template scores whole conversations, and its pairs are read as preferences."""
    folder = tmp_path / "reward"
    folder.mkdir()
    template = load_template("plain", tokenizer)
    torch.manual_seed(1)
    head = WithHead(Transformer(tiny(max_seq_len=24)))
    save_model(folder, head, template.tokenizer)
    template.tokenizer.save(folder, chat_template=template.source)
    source = write(tmp_path / "in.jsonl", *TALKS, {"prompt": "今天" * 20})
    pairs = sampled(chat_model, source, tmp_path / "out.jsonl", reward=str(folder), temperature=2.0)
    reward = load_reward_model(folder)
    for pair in pairs:
        prompt = [Message(turn["role"], turn["content"]) for turn in pair["prompt"]]
        scores = reward.scores([[*prompt, Message("assistant", pair[side])] for side in ("chosen", "rejected")])
        assert [pair["chosen_reward"], pair["rejected_reward"]] == pytest.approx(scores)
        found = to_preference(pair, PreferenceFormat(), task="", id="")
        assert isinstance(found, PreferencePair)
        assert found.margin == pair["chosen_reward"] - pair["rejected_reward"] > 0
        assert [m.content for m in (*found.prompt, found.chosen[-1])] == [*(m.content for m in prompt), pair["chosen"]]
    assert len(pairs) == 3 and "without a reward" in capsys.readouterr().out


@pytest.fixture
def sampling(model: Transformer, tokenizer: Tokenizer, runtime: Runtime, tmp_path: Path) -> Callable[..., Path]:
    """`sampling(out)`: pairs from 9 records, some of them unusable, in windows of 4."""
    prompts = ["今天", "天气", "很好", "我们", "去", "公园", "看书"]
    source = write(tmp_path / "in.jsonl", *({"prompt": text} for text in prompts), "broken", {"nothing": 1})
    answering = Answering(
        model, Asking(tokenizer, None), Sampling(temperature=1, max_new_tokens=3, seed=1), 2, slots=3, window=4
    )

    def sample(out: Path, name: str = "length") -> Path:
        rewarding = Rewarding(lambda p, answers, r: [len(text) for text in answers], name, window=4)
        choosing = Choosing(Rule(cut=True), window=4)
        sample_file(answering, rewarding, choosing, source, Sampled(out), runtime, {"temperature": 1})
        return out

    return sample


def test_a_killed_process_goes_on(killer: Killer, sampling: Callable[..., Path], tmp_path: Path) -> None:
    """Killed at any access to a file, again and again, the same command ends with the same bytes of all files."""
    expected = sampling(tmp_path / "0.jsonl").read_bytes()
    assert 0 < expected.count(b"\n") < 8
    for first in range(1, 130, 9):
        out = tmp_path / f"{first}.jsonl"
        again = partial(sampling, out)
        assert not killer.survives(first, again)
        for at in range(17, 400, 29):
            if killer.survives(at, again):
                break
        assert out.read_bytes() == expected
        for kind in ("answers", "rewards"):
            assert (tmp_path / f"{first}.{kind}.jsonl").read_bytes() == (tmp_path / f"0.{kind}.jsonl").read_bytes()
        assert not list(tmp_path.glob("*.partial"))


def test_another_reward_needs_another_file(sampling: Callable[..., Path], tmp_path: Path) -> None:
    """Rewards that were begun with one reward are not mixed with those of another; the counts are the files'."""
    out = sampling(tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"out\.rewards\.jsonl: was begun with reward='length', which is 'other' now"):
        sampling(out, "other")
    found = tally(tmp_path / "out.rewards.jsonl", Choosing(Rule(cut=True)))
    assert found.n_records == 9 and found.n_written == len(read(out)) and sum(found.dropped.values()) > 1
    assert len(found.rewards) + found.unused["empty"] == 14


def test_ranks_share_the_records(chat_model: str, worker: Worker, tmp_path: Path) -> None:
    """Two ranks write the same bytes as one, and rank 0 reports."""
    source = write(tmp_path / "in.jsonl", *TALKS, "broken")
    flags = [
        "--max_new_tokens=2",
        "--samples=128",
        "--temperature=1",
        "--cut=true",
        "--reward.functions={length: 1}",
        "--rule=all",
    ]
    flags += ["--runtime.device=cpu", "--runtime.threads=1"]
    one, two = (str(tmp_path / f"{n}.jsonl") for n in (1, 2))
    for out, ranks in ((one, 1), (two, 2)):
        worker.run("command", ranks=ranks, arguments=["sample", chat_model, str(source), out, *flags])
    assert Path(one).read_bytes() == Path(two).read_bytes()
    assert worker.output.read_text().count("records written") == 1


def test_a_function_that_fails(chat_model: str, longer: str, tmp_path: Path) -> None:
    """A function that raises, hangs or is not there ends the command with its name; once mended, it goes on."""
    source, module = write(tmp_path / "in.jsonl", *TALKS), tmp_path / "my_rewards.py"
    whole = module.read_text()
    flags = {"rule": "all", "temperature": 1.0, "timeout_s": 1.0, "samples": 2}
    for body, message in (
        ("raise ValueError('no')", "my_rewards:longer raised ValueError: no; mend it"),
        ("import time; time.sleep(60)", "my_rewards:longer took more than 1 s"),
    ):
        module.write_text(f"def longer(*arguments):\n    {body}\n")
        out = tmp_path / f"{len(body)}.jsonl"
        with pytest.raises(UserError, match=message):
            sampled(chat_model, source, out, reward=longer, **flags)
        assert len(read(out.with_suffix(".answers.jsonl"))) == len(TALKS)
    module.write_text(whole)
    with pytest.raises(UserError, match="was begun with another my_rewards:longer"):
        sampled(chat_model, source, out, reward=longer, **flags)
    answers = str(out.with_suffix(".answers.jsonl"))
    assert len(sampled(chat_model, source, tmp_path / "1.jsonl", reward=longer, answers=answers, **flags)) == 3


def test_rewards_are_those_of_the_stages(chat_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rewards that need settings and a judge add up by weight, and a second call pays nothing."""
    source = write(tmp_path / "in.jsonl", *TALKS)
    out = tmp_path / "out.jsonl"
    flags: Record = {"rule": "all", "temperature": 1.0, "samples": 3}
    with faking(lambda said, n: says("helpful: 4")) as server:
        judge = JudgeConfig(endpoint=EndpointConfig(url=server.url, model="m"))
        options = AnswerRewards({"format": 2.0, "judge": 0.5}, pattern=".+", judge=judge)
        for line in sampled(chat_model, source, out, reward=options, **flags):
            assert line["rewards"] == [4.0 if text.strip() else None for text in line["answers"]]
        n_asked = sum(server.asked.values())
        out.unlink()
        (tmp_path / "out.rewards.jsonl").unlink()
        sampled(chat_model, source, out, reward=options, **flags)
        assert sum(server.asked.values()) == n_asked == len(server.asked)
    assert "format, judge" in capsys.readouterr().out
