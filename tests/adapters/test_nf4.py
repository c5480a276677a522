"""Four-bit NormalFloat, and frozen layers stored in fewer bits."""

import itertools
from statistics import NormalDist

import pytest
import torch
from torch import nn

from babyllm.model.adapt.nf4 import (
    BLOCK,
    SCALE_BLOCK,
    VALUES,
    dequantise,
    pair_table,
    quantise,
    quantise_scales,
    restored_scales,
)
from babyllm.model.linear import FrozenLinear, WeightStorage, dense_weight

CPU = torch.device("cpu")


def layer_of(outputs: int, inputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=False)


def restored(weight: torch.Tensor) -> torch.Tensor:
    packed, absmax = quantise(weight)
    return dequantise(packed, absmax, pair_table(CPU), weight.shape)


def test_the_values_are_those_of_the_paper() -> None:
    """The 16 values are quantiles of the normal distribution: 7 below zero, zero and 8 above, over the largest."""
    outermost, inverse = 0.9677083, NormalDist().inv_cdf

    def quantiles(n: int) -> list[float]:
        return [inverse(outermost + (0.5 - outermost) * i / n) for i in range(n)]

    levels = sorted([*(-q for q in quantiles(7)), 0.0, *quantiles(8)])
    assert [level / levels[-1] for level in levels] == pytest.approx(VALUES, abs=2e-6)


def test_the_values_come_back_as_they_were() -> None:
    """Weights that are one of the 16 values times the largest of their block are kept exactly, each byte's both."""
    pairs = torch.tensor(list(itertools.product(VALUES, VALUES))).flatten().view(-1, 32)  # all 256 bytes
    weight = torch.cat([pairs, torch.tensor([1.0, -1.0] * 16).expand(len(pairs), 32)], dim=1)  # each block has a 1
    scaled = weight * torch.arange(1, len(weight) + 1).unsqueeze(1)
    assert scaled.shape[1] == BLOCK
    assert torch.equal(restored(scaled), scaled)


def test_each_weight_becomes_the_nearest_value() -> None:
    """No other of the 16 values lies nearer to a weight, in each block by its own scale."""
    torch.manual_seed(0)
    weight = torch.randn(40, 48) * torch.logspace(-3, 3, 40).unsqueeze(1)
    blocks = weight.view(-1, BLOCK)
    choices = torch.tensor(VALUES) * blocks.abs().amax(1)[:, None, None]
    best = (choices - blocks.unsqueeze(2)).abs().amin(2)
    error = (restored(weight).view(-1, BLOCK) - blocks).abs()
    torch.testing.assert_close(error, best, rtol=1e-4, atol=1e-9)


def test_normal_weights_lose_a_tenth() -> None:
    """The root mean square error on normal weights is below a tenth of theirs."""
    torch.manual_seed(0)
    weight = torch.randn(512, 512)
    assert 0.05 < (restored(weight) - weight).std() < 0.1


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (7, 64), (65, 63)])
def test_any_shape_can_be_stored(shape: tuple[int, int]) -> None:
    """Sizes that are not a multiple of a block, and blocks of zeros, are stored too."""
    torch.manual_seed(0)
    weight = torch.randn(shape)
    weight[0] = 0.0
    back = restored(weight)
    assert back.shape == weight.shape and torch.isfinite(back).all()
    assert not back[0].any()
    assert (back - weight).abs().max() <= 0.16 * weight.abs().max()


@pytest.mark.parametrize("n", [1, 255, 256, 1000])
def test_each_scale_becomes_the_nearest_step_of_its_block(n: int) -> None:
    """No scale moves by more than half a step of its 256, equal scales stay as they are, and none becomes negative."""
    torch.manual_seed(0)
    absmax = torch.rand(n) * torch.logspace(-2, 1, n)
    restored = restored_scales(*quantise_scales(absmax))
    _, steps, _ = quantise_scales(absmax)
    assert restored.shape == absmax.shape and (restored >= 0).all()
    half = 0.501 * steps.repeat_interleave(SCALE_BLOCK)[:n]
    assert ((restored - absmax).abs() <= half + 1e-6).all()
    assert torch.equal(restored_scales(*quantise_scales(torch.full((n,), 0.75))), torch.full((n,), 0.75))


def test_double_quantisation_loses_little_more() -> None:
    """The error on normal weights grows by less than a hundredth of itself."""
    layer = layer_of(512, 512)
    with torch.no_grad():
        layer.weight.normal_()
    once, twice = ((dense_weight(FrozenLinear(layer, s)) - layer.weight).std() for s in ("nf4", "nf4_double"))
    assert once < 0.1 and abs(twice / once - 1) < 0.01


@pytest.mark.parametrize(
    ("storage", "size"),
    [
        *(("float32", 4.0), ("bfloat16", 2.0), ("int8", 1 + 2 / 128), ("nf4", 0.5 + 4 / 64)),
        ("nf4_double", 0.5 + 1 / 64 + 4 / (64 * 256) + 4 / (256 * 128)),
    ],
)
def test_bytes_a_weight(storage: WeightStorage, size: float) -> None:
    """A weight takes 4 bytes, 2, or half a byte and its 64th of a scale, which takes 4 bytes or a little over one."""
    layer = FrozenLinear(layer_of(256, 128), storage)
    held_bytes = sum(p.nbytes for p in [*layer.parameters(), *layer.buffers()])
    assert held_bytes / (256 * 128) == size


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8", "nf4", "nf4_double"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_products_and_gradients_are_those_of_the_restored_weight(
    storage: WeightStorage, dtype: torch.dtype | None
) -> None:
    """Forward and backward are those of a plain layer with the restored weight, with autocast and without."""
    layer = FrozenLinear(layer_of(24, 40), storage)
    plain = nn.Linear(40, 24, bias=False)
    plain.weight = nn.Parameter(dense_weight(layer).clone())
    x = torch.randn(2, 3, 40)
    results = []
    for one in (layer, plain):
        mine = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            y = one(mine)
        (y.float() * torch.linspace(-1, 1, 24)).sum().backward()
        results.append((y.detach(), mine.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert all(parameter.grad is None for parameter in layer.parameters())


@pytest.mark.parametrize("storage", ["bfloat16", "nf4", "nf4_double"])
def test_only_what_is_stored_is_kept_for_the_backward_pass(storage: WeightStorage) -> None:
    """Between forward and backward pass no copy of the weight in float32 is kept."""
    layer = FrozenLinear(layer_of(64, 128), storage)
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(1, 128, requires_grad=True))
    assert kept and max(kept) <= layer.weight.nbytes < 64 * 128 * 4
