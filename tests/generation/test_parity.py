"""The two forward passes, of training and of generation, against each other for every variant of the model."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from model_fixtures import Tiny, model_of, some_tokens, stirred

from babyllm.generation.decoder import Decoder
from babyllm.model.adapt.grow import grow_vocabulary
from babyllm.model.adapt.lora import LoraConfig, adapter_off, add_lora, to_int8
from babyllm.model.adapt.token_rows import matrices_of, train_token_rows
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.model.heads import WithHead
from babyllm.model.transformer import Transformer


def unchanged(model: Transformer) -> Transformer:
    """The model as it is drawn."""
    return model


def adapted(model: Transformer) -> Transformer:
    """With updates of every layer, the output layer too where it is not tied."""
    targets = ["all"] if model.config.tie_embeddings else ["all", "lm_head"]
    return stirred(add_lora(model, LoraConfig(rank=4, targets=targets)))


def with_rows(model: Transformer) -> Transformer:
    """With updates of the blocks and trained rows of a few tokens."""
    return stirred(train_token_rows(add_lora(model, LoraConfig(rank=4)), matrices_of(model, (3, 7, 11))))


def in_nf4(model: Transformer) -> Transformer:
    """With updates of a base of four bits."""
    return stirred(add_lora(model, LoraConfig(rank=4, base="nf4")))


def in_nf4_twice(model: Transformer) -> Transformer:
    """The same, with scales in eight bits."""
    return stirred(add_lora(model, LoraConfig(rank=4, base="nf4", double_quant=True)))


def with_value_head(model: Transformer) -> Transformer:
    """The policy within a model that has a value head."""
    return WithHead(model, has_output=True).model


class Variant(NamedTuple):
    """A model that both passes must read alike.

    Attributes:
        shape: differences from the tiny shape.
        change: what is made of the drawn model.
        tolerance: largest difference of a logit.
    """

    shape: Mapping[str, object] = MappingProxyType({})
    change: Callable[[Transformer], Transformer] = unchanged
    tolerance: float = 1e-4


# A variant of the architecture is written twice, once in each pass: name it here.
VARIANTS = {
    "grouped queries": Variant(),
    "a key head for each query head": Variant({"n_kv_heads": 4}),
    "one key head": Variant({"n_kv_heads": 1}),
    "one head": Variant({"n_heads": 1, "n_kv_heads": 1}),
    "tied embedding": Variant({"tie_embeddings": True}),
    "other widths": Variant({"d_ff": 72, "n_layers": 3}),
    "theta and eps": Variant({"rope_theta": 500.0, "norm_eps": 1e-2}),
    "dropout, which generation has not": Variant({"dropout": 0.5}),
    "norms of queries and keys": Variant({"qk_norm": True}),
    "biases": Variant({"qkv_bias": True}),
    "biases, adapter": Variant({"qkv_bias": True}, adapted),
    "biases, base in nf4": Variant({"qkv_bias": True}, in_nf4),
    "heads wider than their share": Variant({"head_dim": 24}),
    "heads narrower than their share, with norms": Variant({"head_dim": 8, "qk_norm": True}),
    "linear": Variant({"rope_scaling": RopeScaling("linear", 4.0)}),
    "dynamic": Variant({"rope_scaling": RopeScaling("dynamic", 4.0)}),
    "llama3": Variant({"rope_scaling": RopeScaling("llama3", 8.0, 16, low_freq_factor=0.5, high_freq_factor=3.0)}),
    "yarn": Variant({"rope_scaling": RopeScaling("yarn", 4.0, 16)}),
    "grown vocabulary": Variant(change=lambda model: grow_vocabulary(model, 450)),
    "adapter": Variant(change=adapted),
    "adapter, tied": Variant({"tie_embeddings": True}, adapted),
    "trained rows": Variant(change=with_rows),
    "trained rows, tied": Variant({"tie_embeddings": True}, with_rows),
    "base in nf4": Variant(change=in_nf4),
    "base in nf4, scales in 8 bits": Variant(change=in_nf4_twice),
    "value head": Variant(change=with_value_head),
    "int8, multiplied in bfloat16": Variant(change=to_int8, tolerance=0.1),
    "int8, biases": Variant({"qkv_bias": True}, to_int8, tolerance=0.1),
}


def variant_of(tiny: Callable[..., ModelConfig], name: str) -> Transformer:
    """The model of a variant, with weights large enough for every part to show."""
    model = model_of(tiny(**VARIANTS[name].shape))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)  # biases too
    return VARIANTS[name].change(model).eval()


@pytest.mark.parametrize("chunks", [[20], [1] * 20, [5, 1, 7, 1, 6], [19, 1]])
@pytest.mark.parametrize("name", VARIANTS)
def test_both_passes_have_the_same_logits(tiny: Tiny, name: str, chunks: list[int]) -> None:
    """Read with a cache, in any chunks, a model has the logits of its plain pass."""
    model = variant_of(tiny, name)
    tokens, decoder = some_tokens(model.config), Decoder(model, 3, 24)
    found, start = [], 0
    with torch.inference_mode():
        for part in tokens.split(chunks, 1):
            found.append(decoder.read_all(part, 1, [start, start]))
            start += part.shape[1]
    expected = model.logits(tokens)
    assert expected.std() > 0.3, "the logits say something"
    assert (torch.cat(found, 1) - expected).abs().max() < VARIANTS[name].tolerance


def test_both_passes_go_beyond_the_context_of_training_alike(tiny: Tiny) -> None:
    """Where rotary positions stretch with the length, a prompt of that length is read alike."""
    model = model_of(tiny(rope_scaling=RopeScaling("dynamic", 4.0), max_seq_len=16))
    tokens, decoder = some_tokens(model.config), Decoder(model, 2, 20)
    with torch.inference_mode():
        found = decoder.read_all(tokens, 0, [0, 0])
    torch.testing.assert_close(found, model.logits(tokens), rtol=0, atol=1e-4)


def test_a_decoder_made_without_the_adapter_reads_the_base(tiny: Tiny) -> None:
    """What a decoder reads is decided when it is made."""
    base, model = model_of(tiny()), with_rows(model_of(tiny()))
    tokens = some_tokens(base.config)
    with adapter_off(model):
        decoder = Decoder(model, 2, 24)
    with torch.inference_mode():
        torch.testing.assert_close(decoder.read_all(tokens, 0, [0, 0]), base.logits(tokens), rtol=0, atol=1e-4)
