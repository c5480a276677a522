"""Reward models, value heads and classifiers: what they compute, and transformers as the judge of their files."""

import json
from pathlib import Path

import pytest
import torch
from model_fixtures import Tiny, model_of, some_tokens, stirred
from safetensors.torch import load_file
from torch import nn
from training_fixtures import recording, stopping, tiny_config, tiny_state

from babyllm.data.batch import Batch
from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model, load_with_head, save_model
from babyllm.interop.peft import fill_adapter, load_adapter, read_adapter, save_adapter
from babyllm.interop.weights import VALUE_HEAD
from babyllm.model.adapt.lora import LoraConfig, add_lora, lora_layers
from babyllm.model.adapt.token_rows import train_token_rows
from babyllm.model.config import ModelConfig
from babyllm.model.heads import WithHead
from babyllm.model.interface import Model, Output
from babyllm.objectives import LossTerms
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.state import TrainState

LABELS = ("bad", "fair", "good")
LENGTHS = torch.tensor([20, 7])


def headed(config: ModelConfig, *labels: str, has_output: bool = False) -> WithHead:
    """Always the same weights, in evaluation mode, large enough to show in the output."""
    model = WithHead(model_of(config), labels or ("reward",), has_output=has_output).eval()
    with torch.no_grad():
        model.score.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(2))
    return model


@pytest.mark.parametrize("labels", [("reward",), LABELS], ids=["reward", "classes"])
def test_values_are_the_head_times_the_hidden_states(tiny: Tiny, labels: tuple[str, ...]) -> None:
    """A number per label for each token, or for the last token of each row; one label has no dimension."""
    model = headed(tiny(), *labels)
    tokens = some_tokens(model.config)
    expected = model.model.hidden(tokens) @ model.score.weight.T  # (B, T, N)
    last = expected[torch.arange(2), LENGTHS - 1]
    if len(labels) == 1:
        expected, last = expected.squeeze(-1), last.squeeze(-1)
    torch.testing.assert_close(model(tokens), expected)
    torch.testing.assert_close(model(tokens, lengths=LENGTHS), last)
    found = model(tokens, lengths=LENGTHS, returns=("hidden", "values"))
    assert list(found) == ["hidden", "values"] and torch.equal(found["values"], model(tokens, lengths=LENGTHS))


def test_values_are_not_rounded_under_autocast(tiny: Tiny) -> None:
    """In bfloat16 the head itself is multiplied in float32."""
    model = headed(tiny())
    tokens = some_tokens(model.config)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(tokens, returns=("hidden", "values"))
    assert found["values"].dtype == torch.float32
    torch.testing.assert_close(found["values"], found["hidden"].float() @ model.score.weight[0])


def test_losses_and_values_come_from_one_call(tiny: Tiny) -> None:
    """A policy with a value head has the losses and entropies of the policy."""
    policy, model = model_of(tiny()), headed(tiny(), "value", has_output=True)
    tokens = some_tokens(policy.config)
    found = model(tokens, tokens.roll(-1, 1), returns=("values", "nats", "entropy"))
    alone = policy(tokens, tokens.roll(-1, 1), returns=("nats", "entropy"))
    assert list(found) == ["values", "nats", "entropy"] and found["values"].shape == (2, 20)
    assert torch.equal(found["nats"], alone["nats"]) and torch.equal(found["entropy"], alone["entropy"])


@pytest.mark.parametrize("returns", [(), ("nats", "entropy")])
def test_answers_are_scored_at_the_temperature_of_their_sampling(tiny: Tiny, returns: tuple[Output, ...]) -> None:
    """Losses and entropies are those of the logits divided by the temperature."""
    model = model_of(tiny())
    tokens = some_tokens(model.config)
    targets = tokens.roll(-1, 1)
    logprobs = (model.logits(tokens) / 0.7).log_softmax(-1)
    found = model(tokens, targets, temperature=0.7, returns=returns)
    nats = found["nats"] if isinstance(found, dict) else found
    torch.testing.assert_close(nats, -logprobs.gather(-1, targets[..., None]).squeeze(-1))
    if isinstance(found, dict):
        torch.testing.assert_close(found["entropy"], -(logprobs.exp() * logprobs).sum(-1))


def test_training_sees_a_model(tiny: Tiny) -> None:
    """A transformer, with a head or without, has what training asks of a model."""
    inner = model_of(tiny())
    inner.origin = "somewhere"
    for model in (inner, WithHead(inner, has_output=True)):
        assert isinstance(model, Model)
        assert model.config is inner.config and model.layers is inner.layers and model.origin == "somewhere"


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("has_output", [False, True])
@pytest.mark.parametrize("rank", [0, 4])
def test_every_trained_parameter_has_a_gradient_through_ddp(
    tiny: Tiny, is_tied: bool, has_output: bool, rank: int
) -> None:
    """DDP waits for no parameter that the values do not depend on, also where only an adapter is trained."""
    model = headed(tiny(tie_embeddings=is_tied), has_output=has_output).train()
    add_lora(model.model, LoraConfig(rank=rank))
    wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = make_optimizer(model, OptimConfig())
    optimizer.param_groups[0]["lr"] = 0.1
    tokens, before = some_tokens(model.config), model.score.weight.detach().clone()
    for _ in range(2):
        found = wrapped(tokens, tokens, lengths=LENGTHS, returns=("values", "nats") if has_output else ("values",))
        optimizer.zero_grad()
        sum(value.sum() for value in found.values()).backward()
        optimizer.step()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == [] and not torch.equal(model.score.weight, before)
    assert bool(lora_layers(model)) == bool(rank)


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("labels", [("reward",), ("no", "yes"), LABELS], ids=["reward", "two", "three"])
def test_transformers_reads_what_is_written(tiny: Tiny, tmp_path: Path, is_tied: bool, labels: tuple[str, ...]) -> None:
    """AutoModelForSequenceClassification has the same names, values and labels; reading the files back changes none."""
    from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification

    model = headed(tiny(tie_embeddings=is_tied), *labels)
    save_model(tmp_path, model, None)
    theirs, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(theirs, LlamaForSequenceClassification) and not any(report.values()), report
    assert theirs.config.id2label == dict(enumerate(labels))
    tokens = some_tokens(model.config)
    with torch.no_grad():
        expected = theirs.eval()(tokens[:1, :7]).logits
    mine = model(tokens[:1], lengths=torch.tensor([7]))
    torch.testing.assert_close(mine.view(1, -1), expected, rtol=0, atol=1e-5)
    again = load_with_head(tmp_path).eval()
    assert again.labels == labels and not again.has_output and again.origin == str(tmp_path)
    assert torch.equal(again(tokens), model(tokens))
    assert list(again.state_dict()) == list(model.state_dict())
    with pytest.raises(UserError, match="holds a reward model or classifier"):
        load_model(tmp_path)


@pytest.mark.parametrize("n_labels", [1, 2, 4])
def test_models_of_transformers_are_read(tiny: Tiny, tmp_path: Path, n_labels: int) -> None:
    """A LlamaForSequenceClassification that transformers saved has the same values here."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        num_labels=n_labels,
    )
    theirs = LlamaForSequenceClassification(shape).eval()
    theirs.save_pretrained(tmp_path)
    model = load_with_head(tmp_path).eval()
    tokens = torch.randint(50, (1, 12))
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens, lengths=torch.tensor([12])).view(1, -1), theirs(tokens).logits, rtol=0, atol=1e-5
        )
    assert model.labels == tuple(f"LABEL_{i}" for i in range(n_labels))
    assert all(p.requires_grad == (len(p) > 0) for p in model.parameters())


def test_a_policy_with_a_value_head_is_a_language_model_to_others(tiny: Tiny, tmp_path: Path) -> None:
    """Its directory is a LlamaForCausalLM without a stray tensor; the head lies beside it and is read with it."""
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    model = headed(tiny(), "value", has_output=True)
    save_model(tmp_path, model, None)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(theirs, LlamaForCausalLM) and not any(report.values())
    assert list(load_file(tmp_path / VALUE_HEAD)) == ["score.weight"]
    tokens = some_tokens(model.config)
    again = load_with_head(tmp_path).eval()
    for one in (lambda m: m(tokens), lambda m: m.model.logits(tokens)):
        assert torch.equal(one(again), one(model))
    assert torch.equal(load_model(tmp_path).logits(tokens), model.model.logits(tokens))


@pytest.mark.parametrize("kind", ["no head", "no score", "other shape"])
def test_directories_without_a_fitting_head_are_refused(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    """A language model, a classifier without its head and one of another width are named."""
    if kind == "no head":
        save_model(tmp_path, model_of(tiny()), None)
        message = "has neither the architecture LlamaForSequenceClassification nor a value_head.safetensors"
    else:
        save_model(tmp_path, headed(tiny(), *LABELS), None)
        config = json.loads((tmp_path / "config.json").read_text())
        model = model_of(tiny(d_model=64)) if kind == "other shape" else model_of(tiny())
        save_model(tmp_path, model, None)
        if kind == "other shape":
            message = "hidden_size asks for 32 columns"
        else:
            message = "its files hold no tensor 'score.weight'"
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_with_head(tmp_path)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_an_adapter_beside_a_head_is_that_of_peft(tiny: Tiny, tmp_path: Path) -> None:
    """The head is stored with the updates and rows; peft reads all on the base, and so does a fresh model here."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    def fresh() -> WithHead:
        model = load_with_head(tmp_path / "base").eval()
        train_token_rows(add_lora(model.model, LoraConfig(rank=4)), {"embed_tokens": [3, 7]})
        return model

    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", headed(tiny(), *LABELS), None)
    model, other = stirred(fresh()), fresh()
    with torch.no_grad():
        model.score.weight.mul_(2.0)
    save_adapter(tmp_path, model, str(tmp_path / "base"))
    tokens = some_tokens(model.config)
    tokens[0, :2] = torch.tensor([3, 7])
    theirs = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "base"), str(tmp_path)
    ).eval()
    with torch.no_grad():
        expected = theirs(tokens[:1]).logits
        torch.testing.assert_close(model(tokens[:1], lengths=LENGTHS[:1]), expected, rtol=0, atol=1e-4)
    fill_adapter(other, read_adapter(tmp_path), tmp_path)
    assert torch.equal(other(tokens), model(tokens))
    with pytest.raises(UserError, match=r"'score.weight' is missing, unknown"):
        load_adapter(model_of(tiny()), tmp_path)


@pytest.mark.parametrize(("has_output", "rank"), [(False, 0), (True, 0), (False, 4), (True, 4)])
def test_a_run_of_a_model_with_a_head_goes_on(
    tiny: Tiny, data: Path, runtime: Runtime, tmp_path: Path, has_output: bool, rank: int
) -> None:
    """The loop trains a head as it trains a language model, and a checkpoint brings all of it back."""

    def state() -> TrainState:
        fresh = tiny_state(tiny_config(data), runtime)
        fresh.model = headed(tiny(), has_output=has_output)
        add_lora(fresh.model.model, LoraConfig(rank=rank))
        fresh.optimizer = make_optimizer(fresh.model, OptimConfig())
        return fresh

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        found = model(batch["tokens"], batch["targets"], returns=("values", "nats") if has_output else ("values",))
        total = (found["values"] - 1.0).square().sum() + sum(x.sum() for name, x in found.items() if name == "nats")
        return LossTerms({"token": total}, {"loss": (total.detach(), torch.tensor(float(batch.units["token"])))})

    losses: list[float] = []
    plan, one, other = Plan(steps=4, peak_lr=1e-2), state(), state()
    train(one, loss, plan, [recording(losses), stopping(2)])
    checkpoint.save(one, tmp_path, None, 1)
    checkpoint.load(other, tmp_path / "step_00000002")
    resumed: list[float] = []
    train(one, loss, plan, [recording(losses)])
    train(other, loss, plan, [recording(resumed)])
    assert resumed == losses[2:] and len(resumed) == 2 and losses[-1] < losses[0]
    assert all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))
