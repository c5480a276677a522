"""Functions with hand-written backward passes against the plain formulas beside them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from babyllm.model.attention import BLOCK, causal_attention, plain_attention
from babyllm.model.cross_entropy import plain_token_losses, token_losses
from babyllm.model.kernels.joined import joined_product
from babyllm.model.kernels.norm import RMSNorm, normed_product, plain_rms_norm
from babyllm.model.kernels.swiglu import plain_swiglu, swiglu, swiglu_product
from babyllm.model.linear import FrozenLinear, WeightStorage, plain_product
from babyllm.model.rope import plain_rotation, split_rotated

Pair = tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def uniform(*shape: int, low: float = -2.0, high: float = 2.0) -> Tensor:
    return torch.rand(*shape) * (high - low) + low


def rms_norm() -> Pair:
    """Both as functions of x (3, 5, 16) and the weight (16,)."""

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        norm = RMSNorm(16, 0.3).to(x.dtype)
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    return ours, lambda x, weight: plain_rms_norm(x, weight, 0.3), [uniform(3, 5, 16), uniform(16, low=0.5, high=1.5)]


def product_of_norm() -> Pair:
    """Both as functions of x (3, 5, 16), the norm's weight (16,) and weights (6, 16) and (2, 16)."""

    def ours(x: Tensor, norm_weight: Tensor, *weights: Tensor) -> Tensor:
        return normed_product(x, norm_weight, 0.3, weights, x.dtype)

    def plain(x: Tensor, norm_weight: Tensor, *weights: Tensor) -> Tensor:
        return plain_rms_norm(x, norm_weight, 0.3) @ torch.cat(weights).t()

    return ours, plain, [uniform(3, 5, 16), uniform(16, low=0.5, high=1.5), uniform(6, 16), uniform(2, 16)]


def product_of_layers() -> Pair:
    """Both as functions of x (3, 5, 16), a bias (8,) and two weights (6, 16) and (2, 16)."""

    def ours(x: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        return joined_product(x, bias, weights)

    def plain(x: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        return x @ torch.cat(weights).t() + bias

    return ours, plain, [uniform(3, 5, 16), uniform(8), uniform(6, 16), uniform(2, 16)]


def product_of_swiglu() -> Pair:
    """Both as functions of gate and up (3, 5, 2 * 8) and the weight (6, 8)."""
    return swiglu_product, lambda x, weight: plain_swiglu(x) @ weight.t(), [uniform(3, 5, 16), uniform(6, 8)]


def activation() -> Pair:
    """Both as functions of gate and up (3, 5, 2 * 8)."""
    return swiglu, plain_swiglu, [uniform(3, 5, 16)]


def rotation() -> Pair:
    """Both as functions of queries, keys and values (2, 5, 4 + 2 * 2, 8), at angles of their own for each row."""
    angles = uniform(2, 1, 5, 4)
    cos, sin = angles.cos(), angles.sin()

    def ours(qkv: Tensor) -> Tensor:
        return torch.cat(split_rotated(qkv, 4, cos.repeat(1, 1, 1, 2), sin), dim=1)

    def plain(qkv: Tensor) -> Tensor:
        by_head = qkv.transpose(1, 2)
        return torch.cat([plain_rotation(by_head[:, :6], cos.double(), sin.double()), by_head[:, 6:]], dim=1)

    return ours, plain, [uniform(2, 5, 8, 8)]


def losses() -> Pair:
    """Both as functions of hidden states (20, 6) and the output layer (30, 6)."""
    targets = torch.randint(30, (20,))
    targets[::4] = -100
    return (
        lambda hidden, weight: token_losses(hidden, weight, targets),
        lambda hidden, weight: plain_token_losses(hidden, weight, targets),
        [uniform(20, 6), uniform(30, 6)],
    )


def product(storage: WeightStorage) -> Callable[[], Pair]:
    """Both as functions of the input (3, 5, 128) of a frozen layer."""

    def pair() -> Pair:
        layer = FrozenLinear(torch.nn.Linear(128, 64, bias=False), storage)
        return layer, lambda x: plain_product(x, layer), [uniform(3, 5, 128)]

    return pair


def attention(length: int) -> Callable[[], Pair]:
    """Both as functions of queries (2, 4, T, 8), keys and values (2, 2, T, 8)."""

    def heads(n: int) -> Tensor:
        return uniform(2, n, length, 8)

    return lambda: (
        lambda q, k, v: causal_attention(q, k, v, None, "blocks"),
        plain_attention,
        [heads(4), heads(2), heads(2)],
    )


KERNELS = {
    "attention, one block": attention(9),
    "attention, three blocks": attention(2 * BLOCK + 5),
    "rms norm": rms_norm,
    "swiglu": activation,
    "product of a norm": product_of_norm,
    "product of layers": product_of_layers,
    "product of swiglu": product_of_swiglu,
    "rotation": rotation,
    "cross-entropy": losses,
    "bfloat16 product": product("bfloat16"),
    "int8 product": product("int8"),
    "nf4 product": product("nf4"),
    "nf4 product, scales in 8 bits": product("nf4_double"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_values_and_gradients_are_those_of_the_plain_formula(kernel: str, dtype: torch.dtype) -> None:
    """The fast function and its gradients differ from autograd of the formula in float64 by rounding alone."""
    torch.manual_seed(0)
    ours, plain, tensors = KERNELS[kernel]()
    inputs = [x.to(dtype).requires_grad_() for x in tensors]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    out, exact = ours(*inputs), plain(*wide)
    upstream = uniform(*out.shape)
    gradients = torch.autograd.grad(out, inputs, upstream.to(out.dtype))
    expected = torch.autograd.grad(exact, wide, upstream.to(out.dtype).double())
    for got, wanted in zip((out, *gradients), (exact, *expected), strict=True):
        assert (got - wanted).norm() <= (1e-5 if dtype == torch.float32 else 0.01) * wanted.norm()
