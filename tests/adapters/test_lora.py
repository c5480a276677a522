"""LoRA: what is trained, what stays, and what the merged model is."""

from typing import Any

import pytest
import torch
from model_fixtures import Tiny, frozen_as, model_of, some_tokens, stirred
from torch import nn

from babyllm.config import parse
from babyllm.errors import UserError
from babyllm.interop.peft import adapter_parameters
from babyllm.model.adapt.lora import LoraConfig, add_lora, lora_layers, merge_lora
from babyllm.model.linear import FrozenLinear, LoraLinear, WeightStorage, dense_weight
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("targets", [["all"], ["q_proj", "down_proj"], ["layers.1.mlp.up_proj"], ["all", "lm_head"]])
def test_at_the_start_the_model_is_the_base(tiny: Tiny, targets: list[str]) -> None:
    """Logits and losses of a model with fresh updates are the base's to the last bit."""
    config = tiny()
    base, adapted = model_of(config), add_lora(model_of(config), LoraConfig(rank=4, targets=targets))
    tokens = some_tokens(config)
    assert torch.equal(adapted.logits(tokens), base.logits(tokens))
    with torch.no_grad():
        assert torch.equal(adapted(tokens, tokens), base(tokens, tokens))


def test_updates_suit_any_shape_and_change_the_output(tiny: Tiny) -> None:
    """Each kind of layer, square or not, has A of (rank, inputs) and B of (outputs, rank), and B counts."""
    config = tiny(n_kv_heads=1, d_ff=96)
    model = add_lora(model_of(config), LoraConfig(rank=3, targets=["all", "lm_head"]))
    layers = lora_layers(model)
    assert len(layers) == 7 * config.n_layers + 1 and {n.rpartition(".")[2] for n in layers} == {*LINEAR, "lm_head"}
    tokens = some_tokens(config)
    for layer in layers.values():
        assert layer.lora_A.shape == (3, layer.in_features) and layer.lora_B.shape == (layer.out_features, 3)
        before = model.logits(tokens)
        nn.init.normal_(layer.lora_B)
        assert (model.logits(tokens) - before).abs().max() > 1e-6
    assert layers["layers.0.self_attn.k_proj"].lora_B.shape[0] == 8


@pytest.mark.parametrize("tied", [False, True])
def test_only_the_updates_are_trained(tiny: Tiny, tied: bool) -> None:
    """A step changes B alone at first, then A too, and no other weight ever; nothing else has a gradient."""
    config = tiny(tie_embeddings=tied)
    model = add_lora(model_of(config), LoraConfig(rank=4, targets=["q_proj", "v_proj", "down_proj"]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.0))
    optimizer.param_groups[0]["lr"] = 0.01
    tokens = some_tokens(config)
    for parts in ({"lora_B"}, {"lora_A", "lora_B"}):
        optimizer.zero_grad()
        model(tokens, tokens).sum().backward()
        optimizer.step()
        changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
        assert {name.rpartition(".")[2] for name in changed} == parts
        assert len(changed) == len(parts) * 3 * config.n_layers
    assert {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8", "nf4", "nf4_double"])
def test_the_merged_model_is_the_adapted_one(tiny: Tiny, storage: WeightStorage, rslora: bool) -> None:
    """Merging returns a plain model in float32 with the same logits and losses within 1e-5."""
    config = tiny()
    targets = ["q_proj", "up_proj", "down_proj", "lm_head"]
    options = LoraConfig(rank=4, **frozen_as(storage), rslora=rslora, targets=targets)
    model = stirred(add_lora(model_of(config), options))
    tokens = some_tokens(config)
    expected = model.logits(tokens)
    with torch.no_grad():
        losses = model(tokens, tokens)
    merged = merge_lora(model)
    assert merged is model and {type(x) for x in merged.modules()} == {type(x) for x in model_of(config).modules()}
    assert all(p.dtype == torch.float32 and p.requires_grad for p in merged.parameters())
    assert merged.state_dict().keys() == model_of(config).state_dict().keys()
    torch.testing.assert_close(merged.logits(tokens), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens, tokens), losses, rtol=0, atol=1e-5)


def test_the_scale_is_alpha_over_the_rank_or_its_root(tiny: Tiny) -> None:
    """The update is alpha / rank times B A, with rslora alpha / sqrt(rank) times."""
    for rslora, scale in ((False, 6 / 4), (True, 6 / 2)):
        model = stirred(add_lora(model_of(tiny()), LoraConfig(rank=4, alpha=6.0, rslora=rslora)))
        layer = lora_layers(model)["layers.0.mlp.down_proj"]
        expected = layer.weight + scale * layer.lora_B @ layer.lora_A
        torch.testing.assert_close(dense_weight(layer), expected)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8", "nf4", "nf4_double"])
def test_gradients_of_the_updates_are_those_of_the_merged_weights(tiny: Tiny, storage: WeightStorage) -> None:
    """With W = W0 + s B A, the gradients of A and B are s B^T dW and s dW A^T, also of the output layer."""
    config = tiny()
    options = LoraConfig(rank=4, **frozen_as(storage), targets=["all", "lm_head"])
    adapted, merged = (stirred(add_lora(model_of(config), options)) for _ in range(2))
    merge_lora(merged)
    tokens = some_tokens(config)
    for model in (adapted, merged):
        (model(tokens, tokens) * torch.linspace(0, 1, 20)).sum().backward()
    for name, layer in lora_layers(adapted).items():
        slope = merged.get_submodule(name).weight.grad
        assert isinstance(slope, torch.Tensor)
        torch.testing.assert_close(layer.lora_A.grad, layer.scale * layer.lora_B.T @ slope, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(layer.lora_B.grad, layer.scale * slope @ layer.lora_A.T, rtol=1e-3, atol=1e-4)


def test_dropout_is_on_the_update_alone_and_in_training_alone(tiny: Tiny) -> None:
    """A fresh update with dropout leaves training losses as they are, a stirred one does not; evaluation has none."""
    config = tiny()
    model = add_lora(model_of(config), LoraConfig(rank=4, dropout=0.5))
    tokens = some_tokens(config)
    with torch.no_grad():
        plain = model(tokens, tokens)
        assert torch.equal(model.train()(tokens, tokens), plain)
        stirred(model)
        assert not torch.allclose(model(tokens, tokens), model(tokens, tokens))
        assert torch.equal(model.eval()(tokens, tokens), model(tokens, tokens))


@pytest.mark.parametrize("storage", ["bfloat16", "int8", "nf4", "nf4_double"])
def test_a_coarse_base_is_near_the_fine_one(tiny: Tiny, storage: WeightStorage) -> None:
    """Every linear layer of the blocks is stored in fewer bits, targets or not, and losses stay close."""
    config = tiny(d_model=64)
    options = LoraConfig(rank=4, **frozen_as(storage), targets=["q_proj"])
    base, model = model_of(config), add_lora(model_of(config), options)
    kinds = [type(layer) for name, layer in model.named_modules() if name.endswith(LINEAR)]
    assert kinds.count(LoraLinear) == 2 and kinds.count(FrozenLinear) == 12
    tokens = some_tokens(config)
    with torch.no_grad():
        difference = (model(tokens, tokens) - base(tokens, tokens)).abs().mean()
    assert 0 < difference < {"bfloat16": 0.001, "int8": 0.005, "nf4": 0.03, "nf4_double": 0.03}[storage]


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8", "nf4", "nf4_double"])
def test_checkpointed_activations_and_autocast_leave_gradients_as_they_are(tiny: Tiny, storage: WeightStorage) -> None:
    """Recomputing blocks changes no gradient; products in bfloat16 change them by rounding alone."""
    gradients = []
    for changes, autocast in (({}, False), ({"activation_checkpointing": True}, False), ({}, True)):
        config = tiny(**changes)
        model = stirred(add_lora(model_of(config), LoraConfig(rank=4, **frozen_as(storage)))).train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses = model(some_tokens(config), some_tokens(config))
        losses.mean().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in adapter_parameters(model).values() if p.grad is not None])
        )
    plain, recomputed, coarse = gradients
    assert torch.equal(plain, recomputed)
    assert 0 < (coarse - plain).norm() < 0.05 * plain.norm()


@pytest.mark.parametrize("storage", ["float32", "nf4"])
def test_ddp_sees_the_updates_alone(tiny: Tiny, one_rank: None, storage: WeightStorage) -> None:
    """Wrapped for several ranks the model has the same gradients, and has no buffers to be sent in every step."""
    config = tiny()
    plain, wrapped = (stirred(add_lora(model_of(config), LoraConfig(rank=4, **frozen_as(storage)))) for _ in range(2))
    tokens = some_tokens(config)
    for model in (plain, nn.parallel.DistributedDataParallel(wrapped, gradient_as_bucket_view=True)):
        model(tokens, tokens).sum().backward()
    assert list(wrapped.buffers()) == []
    for mine, theirs in zip(adapter_parameters(wrapped).values(), adapter_parameters(plain).values(), strict=True):
        assert mine.grad is not None and torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["q_porj"]}, "'q_porj' is not a linear layer; did you mean 'q_proj'"),
        ({"targets": ["embed_tokens"]}, "'embed_tokens' is not a linear layer"),
        ({"targets": ["proj"]}, "'proj' is not a linear layer"),
        ({"targets": []}, "lora.targets: names no layer"),
        ({"targets": ["lm_head"]}, "lm_head is this model's embedding too"),
    ],
)
def test_targets_that_cannot_be_are_named(tiny: Tiny, changes: dict[str, list[str]], message: str) -> None:
    """An unknown target is refused with the nearest known one, a tied output layer with the reason."""
    model = model_of(tiny(tie_embeddings=True))
    with pytest.raises(UserError, match=message):
        add_lora(model, LoraConfig(rank=2, **changes))
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


def test_settings_that_cannot_be_are_named() -> None:
    """Each impossible number is refused with its key."""
    impossible: list[dict[str, Any]] = [{"rank": -1}, {"alpha": 0.0}, {"dropout": 1.0}, {"lora_plus": 0.0}]
    impossible += [{"rank": 0, "base": "nf4"}, {"base": "int8", "double_quant": True}, {"double_quant": True}]
    for changes in impossible:
        with pytest.raises(UserError, match=f"lora.{list(changes)[-1]}="):
            LoraConfig(**{"rank": 4, **changes})


@pytest.mark.parametrize("name", ["fp4", "int4", "fp8"])
def test_other_types_of_few_bits_are_refused_with_the_reason(name: str) -> None:
    """A flag and a value in Python are answered in one line, which says what the 4-bit type is and why."""
    message = rf"base.*{name}.*nf4 is the 4-bit type, since its 16 values follow a normal distribution"
    options: dict[str, Any] = {"rank": 4, "base": name}
    with pytest.raises(UserError, match=message):
        LoraConfig(**options)
    with pytest.raises(UserError, match=message) as found:
        parse(LoraConfig, [f"--base={name}"], prog="test")
    assert "\n" not in str(found.value)


def test_rank_nothing_is_no_adapter_and_two_are_refused(tiny: Tiny) -> None:
    """Rank 0 leaves a model as it is, and a model has one adapter."""
    model = add_lora(model_of(tiny()), LoraConfig())
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())
    add_lora(model, LoraConfig(rank=2))
    with pytest.raises(UserError, match="has an adapter already"):
        add_lora(model, LoraConfig(rank=2))


def test_lora_plus_gives_b_a_group_of_its_own(tiny: Tiny) -> None:
    """B's group is scaled by the ratio, A's is not, and both hold every update once; a ratio of 1 makes one group."""
    model = add_lora(model_of(tiny()), LoraConfig(rank=4, targets=["q_proj"], lora_plus=16.0))
    groups = make_optimizer(model, OptimConfig()).param_groups
    layers = lora_layers(model).values()
    assert [group.get("lr_scale", 1.0) for group in groups] == [1.0, 16.0]
    assert [set(map(id, g["params"])) for g in groups] == [
        {id(layer.lora_A) for layer in layers},
        {id(layer.lora_B) for layer in layers},
    ]
    plain = add_lora(model_of(tiny()), LoraConfig(rank=4, targets=["q_proj"]))
    assert len(make_optimizer(plain, OptimConfig()).param_groups) == 1
