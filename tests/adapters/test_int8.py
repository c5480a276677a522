"""Weights in 8 bits: what is lost, and that everything that reads a model reads these."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_fixtures import model_of, some_tokens, stirred

import babyllm
from babyllm.errors import UserError
from babyllm.generation import Sampling, generate_ids
from babyllm.generation.decoder import Decoder
from babyllm.generation.matrix import Matrix
from babyllm.interop.huggingface import save_model
from babyllm.model.adapt.int8 import dequantise, quantise
from babyllm.model.adapt.lora import LoraConfig, add_lora, linear_layers, to_int8
from babyllm.model.config import ModelConfig
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]


def test_each_weight_becomes_the_nearest_step_of_its_row() -> None:
    """No weight moves by more than half a step, a row of zeros stays one, and steps come back as they were."""
    torch.manual_seed(0)
    weight = torch.randn(30, 64) * torch.logspace(-6, 3, 30).unsqueeze(1)
    weight[7] = 0
    steps, scale = quantise(weight)
    assert steps.dtype == torch.int8 and scale.dtype == torch.bfloat16
    error = (dequantise(steps, scale) - weight).abs()
    assert (error <= 0.505 * scale.float().unsqueeze(1) + 127 * scale.float().unsqueeze(1) * 2**-8).all()
    assert (error.mean(1) <= 0.3 * scale.float()).all() and not error[7].any()
    again, same = quantise(dequantise(steps, scale))
    assert torch.equal(dequantise(again, same), dequantise(steps, scale))


@pytest.mark.parametrize("rows", [1, 2, 5, 31, 32, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inputs", [64, 40, 33])
def test_products_are_those_of_the_restored_weight(rows: int, dtype: torch.dtype, inputs: int) -> None:
    """Whatever way a product is made, it is that of the weight in steps, within the rounding of bfloat16."""
    torch.manual_seed(0)
    steps, scale = quantise(torch.randn(48, inputs))
    x = torch.randn(rows, inputs).to(dtype)
    y = Matrix(steps, 4, scale.to(dtype))(x)
    assert y.dtype == dtype
    exact = x.double() @ dequantise(steps, scale).double().T
    assert (y.double() - exact).abs().max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("d_ff", [64, 40])
def test_a_model_in_8_bits_is_read_alike_everywhere(tiny: Tiny, is_tied: bool, d_ff: int) -> None:
    """The decoder's scores are those of the plain pass with the same weights, and near those of the whole model."""
    model = model_of(tiny(tie_embeddings=is_tied, d_ff=d_ff))
    tokens = some_tokens(model.config)
    whole = model.logits(tokens)
    embedding = model.embed_tokens.weight.clone()
    assert to_int8(model) is model
    assert torch.equal(model.embed_tokens.weight, embedding)
    assert {layer.weight.dtype for layer in linear_layers(model).values()} == {torch.int8}
    plain = model.logits(tokens)
    assert torch.nn.functional.cosine_similarity(plain, whole, dim=-1).min() > 0.999
    decoder = Decoder(model, 2, 24)
    with torch.inference_mode():
        read = decoder.read_all(tokens, 0, [0, 0])
    assert torch.nn.functional.cosine_similarity(read, plain, dim=-1).min() > 0.999
    loss = model(tokens[:, :-1], tokens[:, 1:])
    assert torch.allclose(loss, -plain[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0], atol=1e-4)


def test_the_matrices_take_a_byte_a_weight_and_decoders_none_of_their_own(tiny: Tiny) -> None:
    """Two decoders of a model read the same memory."""
    model = to_int8(model_of(tiny()))
    decoders = [Decoder(model, 1, 8), Decoder(model, 1, 8)]
    for decoder in decoders:
        for layer, block in zip(decoder._layers, model.layers, strict=True):
            assert layer.qkv._weight.data_ptr() == block.self_attn.q_proj.weight.data_ptr()
            assert layer.gate_up._weight.data_ptr() == block.mlp.gate_proj.weight.data_ptr()
        assert decoder._head._weight.data_ptr() == model.lm_head.weight.data_ptr()
    size = sum(layer.weight.nbytes + layer.scales.nbytes for layer in linear_layers(model).values())
    n = sum(layer.in_features * layer.out_features for layer in linear_layers(model).values())
    assert n < size < 1.1 * n


def test_an_adapter_is_merged_before(tiny: Tiny) -> None:
    """The weight stored in 8 bits is the adapted one."""
    model = stirred(add_lora(model_of(tiny()), LoraConfig(rank=4)))
    adapted = model.logits(some_tokens(model.config))
    held = to_int8(model).logits(some_tokens(model.config))
    assert torch.nn.functional.cosine_similarity(held, adapted, dim=-1).min() > 0.999


def test_loading_in_8_bits(tiny: Tiny, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """`babyllm.load(..., int8=True)` returns a model that writes; it cannot be saved as a plain one."""
    save_model(tmp_path, model_of(tiny()), tokenizer)
    model, _ = babyllm.load(tmp_path, int8=True)
    assert len(list(generate_ids(model, [5, 6], Sampling(max_new_tokens=5)))) == 5
    with torch.autocast("cpu", torch.bfloat16):
        assert len(list(generate_ids(model, [5, 6], Sampling(max_new_tokens=5)))) == 5
    with torch.inference_mode():
        held, _ = babyllm.load(tmp_path, int8=True)
        whole, _ = babyllm.load(tmp_path)
    for loaded in (held, whole):
        assert len(list(generate_ids(loaded, [5, 6], Sampling(max_new_tokens=5)))) == 5
    whole.train()(torch.tensor([[5, 6]]), torch.tensor([[6, 7]])).sum().backward()
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="merge_lora"):
        save_model(tmp_path / "out", model, tokenizer)
    assert not list((tmp_path / "out").iterdir())
