"""A policy with a critic: one call, one step, one directory."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from actor_critic_jobs import LOSS, MODELS, PLAN, actor_critic_runs, new_state, two_models
from model_fixtures import Tiny, decisive, some_tokens, unread
from training_fixtures import Worker

from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model, load_with_head, save_model
from babyllm.interop.weights import load_weights
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.heads import ActorCritic, WithHead, transformer_of
from babyllm.model.interface import Model
from babyllm.model.transformer import Transformer
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.stages.policy.critic import values_of, with_critic
from babyllm.training.stages.policy.critic_config import CriticConfig
from babyllm.training.state import Every, TrainState


def test_one_call_reads_both() -> None:
    """Nats and entropies are the actor's, values the critic's, and each has its gradient."""
    model = two_models()
    tokens = some_tokens(model.config, 8)
    found = model(tokens, tokens, temperature=0.7, returns=("nats", "entropy", "values"))
    of_actor = model.actor(tokens, tokens, temperature=0.7, returns=("nats", "entropy"))
    expected = {**of_actor, "values": model.critic(tokens)}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(model(tokens, tokens), model.actor(tokens, tokens), rtol=0, atol=0)
    assert list(model(tokens, returns=("values",))) == ["values"]
    sum(x.sum() for x in found.values()).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {"critic.model.lm_head.weight"}
    assert transformer_of(model) is model.actor and len(model.layers) == 3
    assert (model.config, model.origin) == (model.actor.config, None)


def test_a_critic_must_fit() -> None:
    """Several labels or another vocabulary are refused."""
    model = two_models()
    several = WithHead(Transformer(model.config), ["a", "b"])
    with pytest.raises(ValueError, match="one label"):
        ActorCritic(model.actor, several)


def test_the_critic_has_its_own_learning_rate_and_decay() -> None:
    """Both are those of its groups in the optimizer, on top of the factors of the configuration."""
    model = two_models(critic_lr=3.0)
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.1, embedding_lr=2.0))
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {
        name: (group.get("lr_scale", 1.0), group["weight_decay"])
        for name, p in model.named_parameters()
        if (group := groups.get(id(p)))
    }
    assert {found[name] for name in found if name.startswith("actor.")} == {(1.0, 0.1), (1.0, 0.0), (2.0, 0.1)}
    assert {found[name] for name in found if name.startswith("critic.")} == {(3.0, 0.01), (3.0, 0.0), (6.0, 0.01)}
    assert found["critic.score.weight"] == (3.0, 0.01) and found["actor.lm_head.weight"] == (1.0, 0.1)


def test_a_directory_holds_both(tmp_path: Path) -> None:
    """It is the actor's own, with the critic's in a folder, and transformers opens each."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    model = two_models().eval()
    save_model(tmp_path, model, None)
    again = ActorCritic(load_model(tmp_path), load_with_head(tmp_path / "critic"))
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert again.origin == str(tmp_path) and again.critic.labels == ("value",)
    torch.testing.assert_close(load_model(tmp_path).state_dict(), model.actor.state_dict(), rtol=0, atol=0)
    tokens = some_tokens(model.config, 8)[:1]
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits
        torch.testing.assert_close(logits, model.actor.logits(tokens), rtol=1e-5, atol=1e-5)
        score = AutoModelForSequenceClassification.from_pretrained(tmp_path / "critic")(tokens).logits
        torch.testing.assert_close(score[0, 0], model.critic(tokens)[0, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_run_is_the_straight_one(kind: str, tmp_path: Path) -> None:
    """Every file of every later step has the same bits, the critic's too."""
    actor_critic_runs(str(tmp_path), kind)
    seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    assert seen["resumed"] == seen["straight"][2:]
    assert {"loss", "kl", "value_loss", "ratio", "entropy"} < set(seen["straight"][0])
    last = [tmp_path / name / f"step_{PLAN.steps:08d}" for name in ("straight", "resumed")]
    files = [{p.relative_to(step): p.read_bytes() for p in step.rglob("*") if p.is_file()} for step in last]
    assert files[0] == files[1]
    assert (Path("critic", "model.safetensors") in files[0]) == (kind == "two_models")


@pytest.fixture(scope="module")
def worker(worker: Worker) -> Worker:
    """Processes that know these runs."""
    worker.load("tests.alignment.policy.actor_critic_jobs")
    return worker


@pytest.mark.parametrize(
    ("kind", "splits"),
    [
        ("two_models", ((1, 8), (2, 2))),
        ("one_trunk", ((1, 8), (2, 2))),
        pytest.param("two_models", ((1, 8), (4, 1)), marks=pytest.mark.campaign),
    ],
)
def test_ranks_take_the_step_of_one(
    worker: Worker, kind: str, splits: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    """Several ranks with another micro-batch have the same weights after a step as one with the whole batch."""
    found = {}
    for ranks, micro_batch in splits:
        out = tmp_path / str(ranks)
        out.mkdir()
        worker.run("actor_critic_runs", ranks=ranks, out=str(out), kind=kind, micro_batch=micro_batch)
        of_ranks = [np.load(out / f"rank_{rank}.npy") for rank in range(ranks)]
        assert all((weights == of_ranks[0]).all() for weights in of_ranks)
        found[ranks] = of_ranks[0]
        seen = json.loads((out / "seen.json").read_text(encoding="utf-8"))
        assert seen["resumed"] == seen["straight"][2:]
    for weights in found.values():
        np.testing.assert_allclose(weights, found[1], atol=1e-5)


@pytest.fixture
def trained(tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer) -> tuple[Transformer, Tokenizer, Path]:
    """A policy, its tokenizer, and the directory of a reward model."""
    policy = decisive(replace(tiny(), vocab_size=tokenizer.vocab_size))
    reward = WithHead(decisive(replace(tiny(), vocab_size=tokenizer.vocab_size), 1))
    (tmp_path / "reward").mkdir()
    save_model(tmp_path / "reward", reward, tokenizer)
    return policy, tokenizer, tmp_path / "reward"


def critical(
    config: CriticConfig, trained: tuple[Transformer, Tokenizer, Path], reward_model: str, step: Path | None = None
) -> Model:
    """A copy of the policy, with a critic."""
    policy, tokenizer, _ = trained
    model, fill = with_critic(config, tokenizer, reward_model, step, unread(copy.deepcopy(policy)))
    fill(torch.device("cpu"))
    return model


def test_where_a_critic_comes_from(trained: tuple[Transformer, Tokenizer, Path], tmp_path: Path) -> None:
    """From the reward model with its head, the policy with a new head, or its trunk; when resumed from the step."""
    policy, tokenizer, reward = trained
    critic = load_with_head(reward)
    tokens = some_tokens(policy.config, 6)
    for of in ("reward", "own"):
        config = CriticConfig(of=of, lr=5.0, weight_decay=0.0)  # type: ignore[arg-type]
        model = critical(config, trained, str(reward))
        assert isinstance(model, ActorCritic) and model.lr_scales == {"critic": 5.0}
        expected = critic if of == "reward" else policy
        weight = model.critic.model.embed_tokens.weight
        torch.testing.assert_close(weight, transformer_of(expected).embed_tokens.weight)
        assert (weight is not model.actor.embed_tokens.weight) and model.critic.labels == ("value",)
        values = values_of(model, tokens, micro_batch=1)
        assert model.training and values.shape == (2, 6)
        torch.testing.assert_close(values, model.critic(tokens))
        if of == "reward":
            torch.testing.assert_close(values, critic(tokens))
        (step := tmp_path / f"from_{of}").mkdir()
        save_model(step, model, tokenizer)
        again = critical(config, trained, "nothing", step)
        torch.testing.assert_close(again.state_dict(), model.state_dict())
    add_lora(policy, LoraConfig(rank=2))
    trunk = critical(CriticConfig(of="trunk", lr=5.0), trained, "nothing")
    assert isinstance(trunk, WithHead) and trunk.has_output
    groups = make_optimizer(trunk, OptimConfig()).param_groups
    assert {g["lr_scale"]: len(g["params"]) for g in groups if "lr_scale" in g} == {5.0: 1}


def test_a_critic_that_does_not_fit_is_refused(trained: tuple[Transformer, Tokenizer, Path], tmp_path: Path) -> None:
    """No reward model, a language model, another tokenizer, or an adapter without one trunk: a line says what to do."""
    policy, tokenizer, reward = trained
    wrong = {"missing": "the critic begins as the reward model", "policy": "has neither", "other": "another tokenizer"}
    for name, message in wrong.items():
        if name != "missing":
            (tmp_path / name).mkdir()
        if name == "policy":
            save_model(tmp_path / name, policy, tokenizer)
        if name == "other":
            narrow = replace(policy.config, vocab_size=tokenizer.vocab_size - 1)
            save_model(tmp_path / name, WithHead(Transformer(narrow)), tokenizer)
        with pytest.raises(UserError, match=message):
            critical(CriticConfig(), trained, str(tmp_path / name))
    add_lora(policy, LoraConfig(rank=2))
    with pytest.raises(UserError, match=r"set --critic\.of=trunk"):
        critical(CriticConfig(), trained, str(reward))


def test_a_damaged_critic_is_named(runtime: Runtime, tmp_path: Path) -> None:
    """A step whose critic is not as it was saved, or is not there, is refused."""

    def save(state: TrainState) -> None:
        checkpoint.save(state, tmp_path, None, keep=1)

    train(new_state("two_models", runtime), LOSS, PLAN, [Every(PLAN.steps or 0, save)])
    file = tmp_path / "step_00000004" / "critic" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match=r"critic/model\.safetensors: is missing or not as it was saved"):
        checkpoint.load(new_state("two_models", runtime), file.parents[1])
    file.unlink()
    (tmp_path / "step_00000004" / "resume.json").unlink()
    with pytest.raises(UserError, match=r"critic: holds no model\.safetensors"):
        load_weights(file.parents[1], two_models())


def test_a_critic_learns_its_returns(runtime: Runtime) -> None:
    """Its error falls over steps, with one trunk as with two models."""
    for kind in ("two_models", "one_trunk"):
        seen: list[float] = []

        def look(state: TrainState, seen: list[float] = seen) -> None:
            seen.append(state.take_metrics()["value_loss"])

        train(new_state(kind, runtime), LOSS, replace(PLAN, steps=30), [Every(1, look)])
        assert np.mean(seen[-4:]) < 0.9 * np.mean(seen[:4])
