"""Rollouts: what is drawn, what is counted, and when the policy itself warns of trouble."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from policy_run_fixtures import base, configured, write_prompts

from babyllm.chat.load import load_template
from babyllm.data.prompt_config import PromptConfig
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.transformer import Transformer
from babyllm.rollouts.alarms import Alarms
from babyllm.rollouts.answering_prompts import draw_answers
from babyllm.rollouts.prompt_files import TOO_LONG, read_prompts
from babyllm.rollouts.rollout_config import AlarmConfig
from babyllm.rollouts.rollout_stream import is_flat
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.policy.grpo import begin

__all__ = ["base"]


@pytest.fixture(scope="module")
def model(tiny: Callable[..., ModelConfig]) -> Transformer:
    """A random model whose scores are spread; not to be changed."""
    torch.manual_seed(1)
    found = Transformer(tiny())
    with torch.no_grad():
        found.embed_tokens.weight.mul_(10)
    return found


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_log_probabilities_are_those_of_the_draw(model: Transformer, temperature: float) -> None:
    """Answers end at every end id, which is a target too; the model scores each token as it was drawn, within 1e-5."""
    ends = set(range(20, 60))
    drawn = draw_answers(
        model, [[1, 5, 9]] * 12, range(12), max_new_tokens=8, temperature=temperature, end_ids=ends, slots=5
    )
    assert {each.finish for each in drawn} == {"stop", "length"}
    for each in drawn:
        assert [i in ends for i in each.ids] == [False] * (len(each.ids) - 1) + [each.finish == "stop"]
        assert each.finish == "stop" or len(each.ids) == 8
        assert each.content == [i for i in each.ids if i not in ends]
        tokens = torch.tensor([[1, 5, 9, *each.ids]])
        with torch.no_grad():
            nats = model(tokens[:, :-1], tokens[:, 1:], temperature=temperature)[0, 2:]
        torch.testing.assert_close(-nats, torch.tensor(each.logprobs), rtol=0, atol=1e-5)


def test_draws_do_not_depend_on_what_is_drawn_beside_them(model: Transformer) -> None:
    """An answer is the same alone and among others, and a temperature of 0 is refused."""
    options = {"max_new_tokens": 8, "temperature": 1.0, "end_ids": [3]}
    prompts = [[1, 5, 9], [1, 7], [1, 8, 8, 8]]
    together = draw_answers(model, prompts, [4, 5, 6], slots=3, **options)  # type: ignore[arg-type]
    alone = [draw_answers(model, [p], [s], slots=1, **options)[0] for p, s in zip(prompts, [4, 5, 6], strict=True)]  # type: ignore[arg-type]
    assert [each.ids for each in together] == [each.ids for each in alone]
    with pytest.raises(UserError, match="must be above 0"):
        draw_answers(model, prompts, [1, 2, 3], slots=1, **(options | {"temperature": 0.0}))  # type: ignore[arg-type]


def test_prompts_are_read_with_their_records(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Last answers become references; long prompts and unreadable records are counted; equal prompts stay together."""
    records = [
        {"prompt": "ab", "answer": "c"},
        {"messages": [{"role": "user", "content": "cd"}], "reference": "e"},
        {"prompt": "ab", "answer": "d"},
        {"prompt": "abcdefg" * 30},
        {"nothing": 1},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    template = load_template("chatml", tokenizer, tmp_path, False, None)
    config = PromptConfig(path=str(file), seq_len=48, max_new_tokens=8, held_out=1)
    found = read_prompts(config, template)
    assert found.left_out[TOO_LONG] == 1 and sum(found.left_out.values()) == 2
    everything = [*found.train, *found.held_out]
    assert sorted(prompt.record["reference"] for prompt in everything) == ["c", "d", "e"]
    assert not {prompt.text for prompt in found.train} & {prompt.text for prompt in found.held_out}
    assert template.tokenizer.decode(found.train[0].ids).rstrip().endswith("assistant")
    assert "left out: longer than data.max_prompt" in str(found)
    data = found.described(config.data_sets()[0])
    assert data.paths == [file.as_posix()] and (data.records, data.unused) == (5, 2)
    assert (data.train["prompts"], data.val["prompts"]) == (len(found.train), len(found.held_out))


def test_batches_have_what_the_losses_read(base: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Micro-batches make up the rollout, with units that count targets; each is handed out `epochs` times."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    config = configured(base, prompts, tmp_path / "run", "--data.micro_batch=4", "--loss.mask_truncated")
    stream = begin(config, runtime).state.stream
    first, second, third = (next(stream) for _ in range(3))
    assert [len(batch["tokens"]) for batch in first] == [4] * 4
    assert first[0].rows == second[0].rows == range(16) and third[0].rows == range(16, 32)
    for one, two in zip(first, second, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one.tensors)
        mask = one["targets"] != IGNORE
        assert one.units["token"] == int((mask & ~one["truncated"]).sum())
        assert ((one["old"] != 0) <= mask).all() and (one["old"] <= 0).all()
        assert one["advantages"].sum().abs() < 1e-5  # a group
    numbers = stream.metrics()
    assert 0 <= numbers["rollout/flat"] <= 1 and numbers["rollout/answer_tokens_per_s/sampling"] > 0
    assert {f"rollout/seconds/{name}" for name in ("sampling", "scoring", "training")} <= set(numbers)


@pytest.mark.parametrize("wrong", ["rollout.group", "rollout.seed", "prompts"])
def test_a_run_goes_on_with_its_own_prompts_alone(base: Path, tmp_path: Path, runtime: Runtime, wrong: str) -> None:
    """Another order of prompts or draws is refused by name."""
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    stored = begin(configured(base, prompts, tmp_path / "run"), runtime).state.stream.state_dict()
    if wrong == "prompts":
        write_prompts(prompts, n=16)
    more = [] if wrong == "prompts" else [f"--{wrong}=2"]
    other = begin(configured(base, prompts, tmp_path / "run", *more), runtime).state.stream
    with pytest.raises(UserError, match=f"^{wrong}: not as when the run began"):
        other.load_state_dict(stored)


def test_groups_without_variance_are_replaced_on_request(base: Path, tmp_path: Path, runtime: Runtime) -> None:
    """With `resample` fewer groups are flat, and the count of those replaced is recorded."""
    prompts, flat = write_prompts(tmp_path / "prompts.jsonl"), []
    for times in (0, 5):
        config = configured(
            base, prompts, tmp_path / str(times), f"--rollout.resample={times}", "--data.global_batch=64"
        )
        stream = begin(config, runtime).state.stream
        next(stream)
        flat.append(stream.metrics()["rollout/flat"])
        assert (stream.metrics()["rollout/resampled"] > 0) == (times > 0)
    assert flat[0] > flat[1] == 0


def test_failing_rewards_do_not_end_a_run_at_once(
    base: Path, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers without a reward have no advantage and are counted; the third failed rollout ends the run."""
    (tmp_path / "failing.py").write_text("def reward(prompts, answers, records): raise OSError('no disk')\n")
    monkeypatch.chdir(tmp_path)
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    config = configured(
        base, prompts, tmp_path / "run", "--reward.functions={'failing:reward': 1}", "--rollout.epochs=1"
    )
    stream = begin(config, runtime).state.stream
    for _ in range(2):
        (batch,) = next(stream)
        assert not batch["advantages"].any() and stream.metrics()["rollout/unrewarded"] == 1
    assert "16 answers have no reward" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"failing:reward raised OSError: no disk, 3 times in a row"):
        next(stream)


START = {"flat": 0.1, "entropy": 2.0, "length": 10.0, "reward": 0.1}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"flat": 0.9}, "90% of the groups"),
        ({"clipped": 0.5}, "50% of the tokens are clipped"),
        ({"entropy": 0.5}, "the entropy fell from 2.00 to 0.50"),
        ({"length": 25.0}, "answers grew from 10 to 25 tokens"),
        ({"kl": 1.0}, "the divergence from the reference is 1.00"),
        ({}, None),
    ],
)
def test_an_alarm_compares_with_the_start(change: dict[str, float], line: str | None) -> None:
    """Each limit has a line, which is not repeated at once and goes on after a resume."""
    alarms = Alarms(AlarmConfig(every=3))
    assert alarms.rollout(0, START) == []
    again = Alarms(AlarmConfig(every=3))
    again.load(json.loads(json.dumps(alarms.state())))
    found = again.rollout(1, START | change)
    assert len(found) == (line is not None) and (line or "") in "".join(found)
    assert again.rollout(2, START | change) == [] and again.rollout(4, START | change) == found


def test_a_reward_that_rises_in_training_alone_is_named() -> None:
    """Three evaluations with a rising training reward and no gain on held-out prompts cause a line; a gain does not."""
    for held_out, n_lines in (([0.2, 0.2, 0.19], 1), ([0.2, 0.3, 0.4], 0)):
        alarms, lines = Alarms(AlarmConfig()), list[str]()
        for number, (train, held) in enumerate(zip([0.1, 0.4, 0.8], held_out, strict=True)):
            alarms.rollout(number, START | {"reward": train})
            lines += alarms.evaluated(held, 0.02)
        assert len(lines) == n_lines


def test_a_group_without_two_known_rewards_is_flat() -> None:
    """NaN is not a reward."""
    nan = float("nan")
    assert is_flat([nan, nan]) and is_flat([1.0, nan]) and is_flat([1.0, 1.0]) and not is_flat([1.0, nan, 0.0])
