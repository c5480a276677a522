"""The decoder of generation: rows side by side, and products that are the plain ones (parity: test_parity.py)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_fixtures import model_of, some_tokens
from safetensors.torch import load_file, save_file

from babyllm.generation.decoder import Decoder
from babyllm.generation.matrix import Matrix
from babyllm.model.config import ModelConfig
from babyllm.model.linear import joined_weight

Tiny = Callable[..., ModelConfig]


def test_rows_of_different_lengths_are_read_together(tiny: Tiny) -> None:
    """What fills up a shorter row changes nothing, neither now nor when the row goes on."""
    model = model_of(tiny())
    tokens, decoder = some_tokens(model.config), Decoder(model, 2, 24)
    expected = model.logits(tokens)
    with torch.inference_mode():
        first = decoder.read(tokens[:, :9], 0, [0, 0], [4, 9])
        assert torch.allclose(first, torch.stack([expected[0, 3], expected[1, 8]]), atol=1e-4)
        parts = torch.stack([tokens[0, 4:10], tokens[1, 9:15]])
        then = decoder.read(parts, 0, [4, 9], [6, 2])
    assert torch.allclose(then, torch.stack([expected[0, 9], expected[1, 10]]), atol=1e-4)


def test_one_beside_another_has_rows_of_its_own(tiny: Tiny) -> None:
    """Decoders that share weights do not see what the other has read."""
    model = model_of(tiny())
    tokens, decoder = some_tokens(model.config), Decoder(model, 1, 24)
    with torch.inference_mode():
        decoder.read(tokens[:1, :8], 0, [0])
        decoder.beside(1, 12).read(tokens[1:, :8], 0, [0])
        last = decoder.read(tokens[:1, 8:9], 0, [8])
    assert torch.allclose(last, model.logits(tokens[:1, :9])[:, -1], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
def test_products_are_the_plain_ones(rows: int, dtype: torch.dtype) -> None:
    """A matrix made for any number of rows multiplies any number of them, however it does it."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 40, generator=generator).to(dtype)
    matrix = Matrix(weight, rows)
    for n in (1, 2, 3, 4, 5, 8, 9, 16, 17, 40, 63, 64, 130):
        x = torch.randn(n, 40, generator=generator).to(dtype)
        expected = x.double() @ weight.double().T
        assert torch.allclose(matrix(x).double(), expected, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=0.01)


def test_joined_weights_take_no_memory_and_can_be_trained_and_saved(tiny: Tiny, tmp_path: Path) -> None:
    """Weights become parts of one matrix, which follows them; everything else about them stays as it was."""
    model = model_of(tiny())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    attention = model.layers[0].self_attn
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    with torch.inference_mode():
        joined = joined_weight(layers, torch.float32)
    assert torch.equal(joined, torch.cat([layer.weight for layer in layers]))
    assert joined_weight(layers, torch.float32).data_ptr() == joined.data_ptr() == layers[0].weight.data_ptr()
    assert joined_weight(layers, torch.bfloat16).dtype == torch.bfloat16
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert all(torch.equal(weight, before[name]) for name, weight in load_file(tmp_path / "model.safetensors").items())
    tokens = some_tokens(model.config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(tokens[:, :-1], tokens[:, 1:]).sum().backward()
    optimizer.step()
    assert not torch.equal(layers[1].weight, before["layers.0.self_attn.k_proj.weight"])
    assert torch.equal(joined, torch.cat([layer.weight for layer in layers]))


def test_weights_of_odd_sizes_stay_where_they_are() -> None:
    """What could not be aligned as before is copied, so that training after it is the same to the bit."""
    layers = [torch.nn.Linear(6, n, bias=False) for n in (4, 3)]
    places = [layer.weight.data_ptr() for layer in layers]
    joined = joined_weight(layers, torch.float32)
    assert torch.equal(joined, torch.cat([layer.weight for layer in layers]))
    assert [layer.weight.data_ptr() for layer in layers] == places


def test_weights_that_lie_apart_are_not_taken_for_one(tiny: Tiny) -> None:
    """After one of the layers got another weight, the matrix is joined again."""
    model = model_of(tiny())
    mlp = model.layers[0].mlp
    joined_weight((mlp.gate_proj, mlp.up_proj), torch.float32)
    mlp.up_proj.weight = torch.nn.Parameter(torch.zeros_like(mlp.up_proj.weight))
    joined = joined_weight((mlp.gate_proj, mlp.up_proj), torch.float32)
    assert torch.equal(joined, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
