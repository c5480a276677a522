"""Causal grouped-query attention, in the form that is faster for the shape and the device.

queries, keys, values -> "fused": PyTorch's kernel   -> attended values
                      -> "blocks": products of blocks -> the same, up to rounding
                      -> "documents": "fused", and packed rows by document (`document_attention`)

`plain_attention` is the formula. "blocks" computes it for `BLOCK` queries at a time, each block with the keys up to its
last query, by batched products and a softmax. docs/en/training/pretraining.md has the times of both on a
CPU; a GPU takes the fused kernel. "blocks" keeps the probabilities for the backward pass: about half of
B x H x T x T numbers a layer.

Legend: B batch, T time, H query heads, K key heads, W width of a head.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.model.config import ModelConfig
from babyllm.model.document_attention import Part, attend_by_document
from babyllm.model.kernels.norm import RMSNorm
from babyllm.model.linear import joint
from babyllm.model.rope import split_rotated

if TYPE_CHECKING:
    from babyllm.model.document_attention import Seen

Form = Literal["fused", "blocks", "documents"]
FORMS: tuple[Form, ...] = get_args(Form)
BLOCK = 64
SHORTEST, LONGEST = 128, 1024  # tokens between which "blocks" can win and its memory is small
_TURNS = 4
_TOKENS = 2048  # of the measurement, which makes 2 rows at least
_GAIN = 0.95  # share of the time of "fused" below which "blocks" is worth its memory


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What `causal_attention` computes: (B, H, T, W), (B, K, T, W), (B, K, T, W) -> (B, H, T, W)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf)
    return scores.softmax(-1) @ v


def causal_attention(q: Tensor, k: Tensor, v: Tensor, seen: Seen | None, form: Form) -> Tensor:
    """Values averaged by softmax(q k / sqrt(W)) over the earlier positions and a position's own.

    Args:
        q: (B, H, T, W) queries, any floating type.
        k: (B, K, T, W) keys of the same tokens; H is a multiple of K.
        v: (B, K, T, W) values.
        seen: what queries may look at, as `document_attention.seen_in` returns it; None for plain causal attention.
        form: form of plain causal attention; "documents" is "fused" there.

    Returns:
        (B, H, T, W) in the type of `q`.
    """
    if seen is None and form == "blocks":
        attended: Tensor = _Blocks.apply(q, k, v)  # type: ignore[no-untyped-call]
        return attended
    if isinstance(seen, Part):
        return seen.attend(q, k, v)
    if seen is not None and not isinstance(seen, Tensor):
        return attend_by_document(q, k, v, seen)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=seen is None, enable_gqa=k.shape[1] != q.shape[1]
    )


def fastest_form(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Form:
    """The faster form for training on this CPU, by a measurement of some hundredths of a second.

    Args:
        shape: T, H, K and W.
        dtype: type of queries, keys and values.
    """
    T, H, K, W = shape
    generator = torch.Generator().manual_seed(0)  # the run's own numbers stay as they are
    rows = max(2, _TOKENS // T)
    q, k, v, grad = (torch.randn(rows, n, T, W, generator=generator).to(dtype) for n in (H, K, K, H))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    seconds: dict[Form, float] = {}
    for _ in range(_TURNS):
        for form in ("fused", "blocks"):
            began = time.perf_counter()
            attended = causal_attention(q, k, v, None, form)
            torch.autograd.grad(attended, inputs, grad)
            taken = time.perf_counter() - began
            seconds[form] = min(taken, seconds.get(form, math.inf))
    return "blocks" if seconds["blocks"] < _GAIN * seconds["fused"] else "fused"


class Attention(nn.Module):
    """Causal grouped-query self-attention with rotary positions; `form` says how it is computed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.kv_heads, config.head_width
        self.form: Form = "fused"
        self.is_selective = config.activation_checkpointing == "selective"
        width, kv_width = config.n_heads * config.head_width, config.kv_heads * config.head_width
        self.q_proj = nn.Linear(config.d_model, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.d_model, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.d_model, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, config.d_model, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_width, config.norm_eps)
            self.k_norm = RMSNorm(config.head_width, config.norm_eps)
        self.has_norms = config.qk_norm

    def forward(self, x: Tensor, norm: RMSNorm, cos: Tensor, sin: Tensor, seen: Seen | None) -> Tensor:
        """The attention of norm(x), (B, T, D) -> (B, T, D); `seen` is as in `causal_attention`."""
        B, T, _ = x.shape
        projections = (self.q_proj, self.k_proj, self.v_proj)
        qkv = joint(x, norm, projections, recompute=self.is_selective).view(B, T, -1, self.head_dim)
        if self.has_norms:
            q, k, v = torch.split(qkv, [self.n_heads, self.n_kv_heads, self.n_kv_heads], dim=2)
            qkv = torch.cat([self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v], dim=2)
        q, k, v = split_rotated(qkv, self.n_heads, cos, sin)  # (B, H, T, W), (B, K, T, W), (B, K, T, W)
        y = causal_attention(q, k, v, seen, self.form)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, -1))
        return out


def set_attention(model: nn.Module, form: str) -> None:
    """Let all attention layers of a model compute in this form; "fused" stands for one that is not known."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.form = next((known for known in FORMS if known == form), "fused")


def attention_form(model: nn.Module) -> Form:
    """The form in which the attention layers of a model compute."""
    return next((module.form for module in model.modules() if isinstance(module, Attention)), "fused")


class _Blocks(torch.autograd.Function):
    """(B, H, T, W), (B, K, T, W), (B, K, T, W) -> (B, H, T, W); softmax in float32 or wider."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, H, T, W = q.shape
        K, scale = k.shape[1], 1 / math.sqrt(W)
        queries, keys, values = q.reshape(B * K, H // K, T, W), k.reshape(B * K, T, W), v.reshape(B * K, T, W)
        out, probs = torch.empty_like(queries), []
        future = torch.full((BLOCK, BLOCK), -math.inf, device=q.device).triu_(1)
        for first in range(0, T, BLOCK):
            last = min(T, first + BLOCK)
            scores = _scaled_bmm(_rows(queries, first, last), keys[:, :last].mT, scale)  # (B K, H / K x BLOCK, last)
            scores = scores.to(torch.promote_types(q.dtype, torch.float32)).view(B * K, -1, last - first, last)
            scores[..., first:] += future[: last - first, : last - first]
            probs.append(torch.softmax(scores, -1, out=scores).to(q.dtype).view(B * K, -1, last))
            out[:, :, first:last] = torch.bmm(probs[-1], values[:, :last]).view(B * K, -1, last - first, W)
        ctx.save_for_backward(queries, keys, values, *probs)
        return out.view(B, H, T, W)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values, *probs = ctx.saved_tensors
        BK, G, T, W = queries.shape
        scale = 1 / math.sqrt(W)
        grad = grads[0].reshape(BK, G, T, W)
        d_queries, d_keys, d_values = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        for p, first in reversed(list(zip(probs, range(0, T, BLOCK), strict=True))):
            last = min(T, first + BLOCK)
            d_out = _rows(grad, first, last)
            d_probs = torch.bmm(d_out, values[:, :last].mT)
            # p (d_probs - sum of p d_probs), the derivative of a softmax
            d_scores = torch._softmax_backward_data(d_probs, p, -1, p.dtype)
            d_queries[:, :, first:last] = _scaled_bmm(d_scores, keys[:, :last], scale).view(BK, G, last - first, W)
            of_keys = _scaled_bmm(d_scores.mT, _rows(queries, first, last), scale)
            of_values = torch.bmm(p.mT, d_out)  # written into `d_values`, it would be a product for each head
            for total, part in ((d_keys, of_keys), (d_values, of_values)):
                if last == T:
                    total.copy_(part)
                else:
                    total[:, :last] += part
        B, K = grads[0].shape[0], BK // grads[0].shape[0]
        return d_queries.view(B, K * G, T, W), d_keys.view(B, K, T, W), d_values.view(B, K, T, W)


def _rows(x: Tensor, first: int, last: int) -> Tensor:
    """(B K, G, T, W) -> the positions from `first` to `last` as rows, (B K, G x (last - first), W)."""
    return x[:, :, first:last].reshape(len(x), -1, x.shape[-1])


def _scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """(N, R, I), (N, I, C) -> `scale` times their products (N, R, C), without a pass for the scale."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)
