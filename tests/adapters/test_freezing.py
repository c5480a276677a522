"""Frozen parts of a model and grown vocabularies."""

import pytest
import torch
from model_fixtures import Tiny, model_of, some_tokens, trained

from babyllm.errors import UserError
from babyllm.model.adapt.freezing import FreezeConfig, freeze
from babyllm.model.adapt.grow import grow_vocabulary
from babyllm.model.adapt.lora import LoraConfig, add_lora


def test_the_last_blocks_can_be_trained_alone(tiny: Tiny) -> None:
    """Of three blocks the last, the last norm and the output layer are trained; a tied output layer stays frozen."""
    names = {name for name, _ in model_of(tiny(n_layers=3)).named_parameters() if name.startswith("layers.2.")}
    model = model_of(tiny(n_layers=3))
    freeze(model, FreezeConfig(last_n_layers=1))
    assert trained(model) == {*names, "norm.weight", "lm_head.weight"}
    tied = model_of(tiny(n_layers=3, tie_embeddings=True))
    freeze(tied, FreezeConfig(last_n_layers=1))
    assert trained(tied) == {*names, "norm.weight"}


def test_named_parts_can_be_frozen(tiny: Tiny) -> None:
    """Parts are whole words of names, so that block 1 is not block 10; everything else is trained."""
    model = model_of(tiny(n_layers=11))
    freeze(model, FreezeConfig(parts=["model.embed_tokens", "layers.1", "mlp.down_proj"]))
    frozen = {name for name, _ in model.named_parameters()} - trained(model)
    blocks = {name for name in dict(model.named_parameters()) if name.startswith("layers.1.")}
    assert frozen == {"embed_tokens.weight", *blocks, *(f"layers.{i}.mlp.down_proj.weight" for i in range(11))}
    tied = model_of(tiny(tie_embeddings=True))
    freeze(tied, FreezeConfig(parts=["lm_head"]))
    assert "embed_tokens.weight" not in trained(tied)


def test_one_kind_of_module_can_be_trained_alone(tiny: Tiny) -> None:
    """Of the last two blocks the down projections alone are trained, and nothing outside of them."""
    model = model_of(tiny(n_layers=3))
    freeze(model, FreezeConfig(last_n_layers=2, only=["mlp.down_proj"]))
    assert trained(model) == {"layers.1.mlp.down_proj.weight", "layers.2.mlp.down_proj.weight"}
    model = model_of(tiny())
    freeze(model, FreezeConfig(only=["model.self_attn", "norm"], parts=["layers.0"]))
    attention = {name for name, _ in model.named_parameters() if name.startswith("layers.1.self_attn.")}
    assert trained(model) == {*attention, "norm.weight"}


def test_freezing_leaves_an_adapter_in_the_last_blocks(tiny: Tiny) -> None:
    """After `add_lora`, freezing removes from what is trained and adds nothing."""
    model = add_lora(model_of(tiny()), LoraConfig(rank=2, targets=["q_proj"]))
    freeze(model, FreezeConfig(last_n_layers=1))
    assert trained(model) == {"layers.1.self_attn.q_proj.lora_A", "layers.1.self_attn.q_proj.lora_B"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FreezeConfig(parts=["embed_token"]), "'embed_token' is not a part of the model; did you mean 'embed_tokens'"),
        (FreezeConfig(parts=["layers.2"]), "'layers.2' is not a part"),
        (FreezeConfig(only=["down_prj"]), "freeze.only: 'down_prj' is not a part .*'down_proj'"),
        (FreezeConfig(last_n_layers=1, only=["embed_tokens"]), "nothing is left to train"),
        (FreezeConfig(last_n_layers=3), "freeze.last_n_layers=3: must be from 0 to the model's 2"),
        (FreezeConfig(parts=["layers", "norm", "embed_tokens", "lm_head"]), "nothing is left to train"),
    ],
)
def test_freezing_that_cannot_be_is_named(tiny: Tiny, config: FreezeConfig, message: str) -> None:
    """An unknown part, too many blocks, and nothing left to train are refused."""
    with pytest.raises(UserError, match=message):
        freeze(model_of(tiny()), config)


@pytest.mark.parametrize("tied", [False, True])
def test_a_grown_vocabulary_starts_at_the_mean(tiny: Tiny, tied: bool) -> None:
    """New rows of embedding and output are the mean of the old, old tokens score as before, new ones all alike."""
    config = tiny(tie_embeddings=tied)
    base, model = model_of(config), model_of(config)
    tokens = some_tokens(config)
    assert grow_vocabulary(model, 432) is model and model.config.vocab_size == 432
    assert (model.lm_head.weight is model.embed_tokens.weight) == tied
    for grown, old in ((model.embed_tokens, base.embed_tokens), (model.lm_head, base.lm_head)):
        assert grown.weight.shape == (432, config.d_model) and torch.equal(grown.weight[:400], old.weight)
        torch.testing.assert_close(grown.weight[400:], old.weight.mean(0).expand(32, -1), rtol=1e-5, atol=1e-7)
    scores = model.logits(tokens)
    torch.testing.assert_close(scores[..., :400], base.logits(tokens), rtol=1e-5, atol=1e-6)
    assert torch.equal(model.logits(torch.tensor([[400]])), model.logits(torch.tensor([[431]])))
    model(tokens, torch.full_like(tokens, 431)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert grow_vocabulary(model, 100).config.vocab_size == 432
