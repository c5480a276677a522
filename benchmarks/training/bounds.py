"""Bounds of a training step: only the matrix products, or the least of all that the model's arithmetic needs.

    gemm(shape, batch, seq_len, device, dtype) -> step()     products of the linear layers, forward and backward
    floor(shape, batch, seq_len, device, dtype) -> step()    the same, attention, one softmax over the vocabulary, one
                                                             multiplication for each element-wise operation, clipping
                                                             and AdamW

Neither has gradients, graphs or data. Results are written over the same tensors, so that memory is never new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from babyllm.model.config import ModelConfig

Step = Callable[[], None]
Make = Callable[["ModelConfig", int, int, "torch.device", "torch.dtype"], Step]


def gemm(shape: ModelConfig, batch: int, seq_len: int, device: torch.device, dtype: torch.dtype) -> Step:
    """The products of the linear layers: three for each layer, of its input, its gradient and its weights."""
    import torch

    sizes = _layer_sizes(shape) * shape.n_layers + [(shape.d_model, shape.vocab_size)]

    def filled(rows: int, n_columns: set[int]) -> dict[int, torch.Tensor]:
        return {n: torch.randn(rows, n, dtype=dtype, device=device) for n in n_columns}

    inputs, grads = filled(batch * seq_len, {i for i, _ in sizes}), filled(batch * seq_len, {o for _, o in sizes})
    weights = {size: torch.randn(size[1], size[0], dtype=dtype, device=device) for size in set(sizes)}

    @torch.no_grad()
    def step() -> None:
        for size in sizes:
            x, g, w = inputs[size[0]], grads[size[1]], weights[size]
            torch.nn.functional.linear(x, w)
            _ = g @ w
            _ = g.t() @ x

    return step


def floor(shape: ModelConfig, batch: int, seq_len: int, device: torch.device, dtype: torch.dtype) -> Step:
    """`gemm` and the least of what else a step needs, by single operations of PyTorch.

    A layer has two norms, a rotation, attention, SwiGLU and two additions, forward and backward. Each but attention
    counts as one multiplication of its result, though none can be done by one. Attention is that of babyllm.
    """
    import torch

    from babyllm.model.attention import causal_attention, fastest_form

    n, products = batch * seq_len, gemm(shape, batch, seq_len, device, dtype)
    heads = (seq_len, shape.n_heads, shape.kv_heads, shape.head_width)
    form = fastest_form(heads, dtype) if device.type == "cpu" else "fused"
    q, k, v = (
        torch.randn(batch, n_heads, seq_len, shape.head_width, dtype=dtype, device=device).requires_grad_()
        for n_heads in (shape.n_heads, shape.kv_heads, shape.kv_heads)
    )
    hidden, rotated, gated = (
        torch.rand(n, width, dtype=dtype, device=device)
        for width in (shape.d_model, shape.d_model + shape.kv_heads * shape.head_width, shape.ff_width)
    )
    logits = torch.randn(n, shape.vocab_size, dtype=dtype, device=device)
    layer = [torch.randn(o, i, device=device) for i, o in _layer_sizes(shape)]
    weights = [torch.nn.Parameter(w.clone()) for _ in range(shape.n_layers) for w in layer]
    weights.append(torch.nn.Parameter(torch.randn(shape.vocab_size, shape.d_model, device=device)))
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-3)
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)

    def step() -> None:
        products()
        for _ in range(shape.n_layers):
            attended = causal_attention(q, k, v, None, form)
            torch.autograd.grad(attended, (q, k, v), attended)
            for _ in range(2):  # forward and backward
                for result in (hidden, hidden, hidden, hidden, rotated, gated):
                    torch.mul(result, 1.0, out=result)
        with torch.no_grad():
            for chunk in torch.split(logits, 512):
                torch.softmax(chunk, -1, out=chunk)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return step


def _layer_sizes(shape: ModelConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers of a block, those of one input joined."""
    width, kv_width = shape.d_model, shape.head_width * shape.kv_heads
    return [(width, width + 2 * kv_width), (width, width), (width, 2 * shape.ff_width), (shape.ff_width, width)]


BOUNDS: dict[str, Make] = {"gemm": gemm, "floor": floor}
