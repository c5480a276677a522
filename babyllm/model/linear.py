"""Linear layers besides the plain one: with a frozen weight in fewer bits, and with a low-rank update of it.

    nn.Linear -> FrozenLinear: weight stored in fewer bits (`WeightStorage`), restored to float32 for each product
              -> LoraLinear: the same, plus x A^T B^T * scale, of which A and B are trained

Legend: I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.model.adapt import int8, nf4
from babyllm.model.kernels.joined import joined_product
from babyllm.model.kernels.norm import RMSNorm, normed_product
from babyllm.model.kernels.swiglu import swiglu, swiglu_product

T = TypeVar("T")
_ALIGNMENT = 64  # bytes, of memory that PyTorch allocates
_IN_NF4 = ("nf4", "nf4_double")

WeightStorage = Literal["float32", "bfloat16", "int8", "nf4", "nf4_double"]
"""How a frozen weight is stored in memory; nf4_double is nf4 with its scales in 8 bits (double quantisation)."""

_STORED = ("weight", "scales", "scale_steps", "scale_mean")  # tensors of a frozen weight, as far as it has them


class FrozenLinear(nn.Linear):
    """A linear layer whose weight is not trained; `weight` holds it in float32 or bfloat16, as int8 or packed as NF4.

    The tensors are parameters without gradient and not buffers, which DDP would send to every rank in every step.

    Attributes:
        storage: type in which the weight is stored.
        scales: scales of int8 and nf4; for nf4_double the numbers of steps from which `nf4` restores them.
    """

    scales: nn.Parameter

    def __init__(self, layer: nn.Linear, storage: WeightStorage) -> None:
        """Take over the weight of `layer`, with whatever is trained added, and its bias, which stays as it is.

        The tensors of a `FrozenLinear` of the same storage are shared, not copied.
        """
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.storage = storage
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        if type(layer) is FrozenLinear and layer.storage == storage:
            stored = layer._held()
        else:
            stored = _quantised(dense_weight(layer).detach(), storage)
        for name, tensor in zip(_STORED, stored, strict=False):
            setattr(self, name, nn.Parameter(tensor.detach(), requires_grad=False))
        if storage in _IN_NF4:
            self._table = nf4.pair_table(torch.device("cpu") if self.weight.is_meta else self.weight.device)

    def made_of(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The whole tensors of its parameters by name, made of those of the plain layer, which `read` returns by name.

        What is new begins as in a new layer.
        """
        found = dict(zip(_STORED, _quantised(read("weight"), self.storage), strict=False))
        return found if self.bias is None else found | {"bias": read("bias")}

    def base_weight(self) -> Tensor:
        """(O, I) float32: the frozen weight, restored from what is stored."""
        return _restored(self._stored_tensors(), torch.Size((self.out_features, self.in_features)))

    def merged_weight(self) -> Tensor:
        """(O, I) float32: what the layer multiplies by, with whatever is trained added to the frozen weight."""
        return self.base_weight()

    def _held(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in _STORED if hasattr(self, name))

    def _stored_tensors(self) -> tuple[Tensor, ...]:
        """The tensors that `_restored` needs: those held, and the table of nf4."""
        if self.storage not in _IN_NF4:
            return self._held()
        if self._table.device != self.weight.device:
            self._table = self._table.to(self.weight.device)
        return *self._held(), self._table

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        if self.storage == "float32":
            return F.linear(x, self.weight, self.bias)
        shape = torch.Size((self.out_features, self.in_features))
        y: Tensor = _Product.apply(x.to(product_dtype(x)), shape, *self._stored_tensors())  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)


def plain_product(x: Tensor, layer: FrozenLinear) -> Tensor:
    """The product of a `FrozenLinear`, but keeping the restored weight for the backward pass: (..., I) -> (..., O)."""
    return F.linear(x, layer.base_weight().to(x.dtype), layer.bias)


class _Product(torch.autograd.Function):
    """x W^T, (..., I) -> (..., O), with W (O, I) restored from the stored tensors.

    The backward pass restores W again, so that only the stored tensors are kept between the passes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: torch.Size, *stored: Tensor) -> Tensor:
        ctx.save_for_backward(*stored)
        ctx.shape = shape
        return F.linear(x, _restored(stored, shape).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        stored = ctx.saved_tensors
        nothing = (None,) * (1 + len(stored))
        if not ctx.needs_input_grad[0]:
            return None, *nothing
        return grads[0] @ _restored(stored, ctx.shape).to(grads[0].dtype), *nothing


def _restored(stored: tuple[Tensor, ...], shape: torch.Size) -> Tensor:
    """The weight of `shape` in float32, from the tensors of a `FrozenLinear`."""
    if len(stored) == 1:
        return stored[0].float()
    if len(stored) == 2:
        return int8.dequantise(*stored)
    packed, *scales, table = stored
    return nf4.dequantise(packed, scales[0] if len(scales) == 1 else nf4.restored_scales(*scales), table, shape)


def _quantised(weight: Tensor, storage: WeightStorage) -> tuple[Tensor, ...]:
    """The tensors that hold a weight (O, I), in the order of `_STORED`."""
    if storage == "int8":
        return int8.quantise(weight)
    if storage not in _IN_NF4:
        return (weight.bfloat16() if storage == "bfloat16" else weight,)
    packed, absmax = nf4.quantise(weight)
    return (packed, absmax) if storage == "nf4" else (packed, *nf4.quantise_scales(absmax))


class LoraLinear(FrozenLinear):
    """x W^T + scale * dropout(x) A^T B^T (Hu et al. 2021, equation 3), of which only A and B are trained.

    Attributes:
        lora_A: (R, I), starts as `nn.Linear` weights do, drawn from torch's current generator.
        lora_B: (O, R), starts at zero, so that at first the layer is the plain one.
        alpha: numerator of `scale`.
        rslora: whether `scale` is alpha / sqrt(rank) rather than alpha / rank (Kalajdzievski 2023, equation 5).
        scale: factor of the update.
        dropout: dropout probability, on the update's input.
        lr_scales: factors of the learning rate by the names of this layer's parameters (`babyllm.optim`).
        is_active: whether the update is added; `lora.adapter_off` switches it off.
    """

    def __init__(
        self,
        layer: nn.Linear,
        storage: WeightStorage,
        rank: int,
        alpha: float,
        *,
        rslora: bool = False,
        dropout: float = 0.0,
        lora_plus: float = 1.0,
    ) -> None:
        """Take over the weight and the bias of `layer`."""
        super().__init__(layer, storage)
        device = layer.weight.device
        self.lora_A = nn.Parameter(_drawn(rank, layer.in_features, device))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        self.alpha, self.rslora, self.dropout = alpha, rslora, dropout
        self.scale = update_scale(rank, alpha, rslora=rslora)
        self.lr_scales = {"lora_B": lora_plus}  # Hayou et al. 2024, LoRA+
        self.is_active = True

    def made_of(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """As `FrozenLinear.made_of`; A is drawn from torch's current generator, B is zero."""
        update = {"lora_A": _drawn(*self.lora_A.shape), "lora_B": torch.zeros(self.lora_B.shape)}
        return super().made_of(read) | update

    @property
    def rank(self) -> int:
        """Rows of A and columns of B."""
        return len(self.lora_A)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        y = super().forward(x)
        return y + self.update(x) if self.is_active else y

    def update(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O): the term that is added to the frozen weight's product."""
        x = F.dropout(x, self.dropout, self.training)
        return F.linear(F.linear(x, self.lora_A) * self.scale, self.lora_B)

    def merged_weight(self) -> Tensor:
        """(O, I) float32: the frozen weight, with the update added where it is active."""
        if not self.is_active:
            return self.base_weight()
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.base_weight() + self.scale * (self.lora_B.float() @ self.lora_A.float())


def update_scale(rank: int, alpha: float, *, rslora: bool) -> float:
    """The factor of an update."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def _drawn(rank: int, n_inputs: int, device: torch.device | None = None) -> Tensor:
    """A (R, I), drawn from torch's current generator; on "meta" a placeholder."""
    drawn = torch.empty(rank, n_inputs, device=device)
    return drawn if drawn.is_meta else nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))


def dense_weight(layer: nn.Linear) -> Tensor:
    """(O, I): the matrix a layer without dropout multiplies by, differentiable where it is trained."""
    return layer.merged_weight() if isinstance(layer, FrozenLinear) else layer.weight


def through(layer: nn.Linear, function: Callable[..., T], x: Tensor, *args: Any) -> T:
    """`function(x, W, *args)` with the matrix W of a layer, where other code than the layer's computes its product.

    What is done around the layer's passes is done around the function, if the layer has a method `through`.
    """
    own: Callable[..., T] | None = getattr(layer, "through", None)
    return function(x, dense_weight(layer), *args) if own is None else own(function, x, *args)


def joined_weight(layers: Sequence[nn.Linear], dtype: torch.dtype) -> Tensor:
    """The weights of layers that share an input, stacked into one (sum of O, I) matrix of `dtype`; read-only.

    It takes no memory of its own where plain layers have that type: their weights become views of it, unchanged.
    """
    if all(type(layer) is nn.Linear and layer.weight.dtype == dtype for layer in layers):
        return _joined([layer.weight for layer in layers])
    return torch.cat([dense_weight(layer).detach().to(dtype) for layer in layers])


def joined_int8(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor] | None:
    """The same of layers stored as int8: int8 (sum of O, I) and their scales (sum of O,); None for other layers."""
    frozen = [layer for layer in layers if type(layer) is FrozenLinear and layer.storage == "int8"]
    if len(frozen) < len(layers):
        return None
    return _joined([layer.weight for layer in frozen]), _joined([layer.scales for layer in frozen])


def joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    """The biases of layers that share an input, (sum of O,); None if they have none."""
    return None if any(layer.bias is None for layer in layers) else torch.cat([layer.bias for layer in layers])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Parameters concatenated along the first dimension; they become views of the result.

    Views stay aligned like allocated memory, since products of unaligned memory may round differently. Parameters of
    other sizes are copied instead.
    """
    first = parts[0].detach()
    if len(parts) == 1:
        return first
    starts, ends = [part.data_ptr() for part in parts], [part.data_ptr() + part.nbytes for part in parts]
    is_one = len({part.untyped_storage().data_ptr() for part in parts}) == 1 and starts[1:] == ends[:-1]
    if is_one and all(part.is_contiguous() for part in parts):
        return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
    with torch.inference_mode(False), torch.no_grad():  # weights made in inference mode could not be trained
        whole = torch.cat(list(parts))
        if any(part.nbytes % _ALIGNMENT or part.is_inference() for part in parts):
            return whole
        for part, place in zip(parts, torch.split(whole, [len(part) for part in parts]), strict=True):
            part.data = place
    return whole


def joint(x: Tensor, norm: RMSNorm, layers: Sequence[nn.Linear], *, recompute: bool) -> Tensor:
    """The outputs of several layers for norm(x), side by side: (..., D) -> (..., sum of the layers' outputs).

    In training it is one product, since many rows make up for joining the weights. Layers that are more than their
    weight compute their own products. `recompute` is that of `after_swiglu`, for norm(x).
    """
    if not torch.is_grad_enabled() or any(type(layer) is not nn.Linear for layer in layers):
        normed = norm(x)
        return torch.cat([layer(normed) for layer in layers], dim=-1)
    weights, bias, dtype = [layer.weight for layer in layers], joined_bias(layers), product_dtype(x)
    if not recompute:
        return joined_product(norm(x).to(dtype), None if bias is None else bias.to(dtype), weights)
    y = normed_product(x, norm.weight, norm.eps, weights, dtype)
    return y if bias is None else y + bias.to(y.dtype)


def after_swiglu(gate_up: Tensor, layer: nn.Linear, *, recompute: bool) -> Tensor:
    """The output of a layer for swiglu(gate_up): (..., 2 F) -> (..., the layer's outputs).

    With `recompute` the backward pass computes the layer's input again instead of keeping it, with the same gradients
    bit for bit. A layer that is more than its weight keeps its input.
    """
    if recompute and type(layer) is nn.Linear:
        return swiglu_product(gate_up, layer.weight.to(gate_up.dtype))
    out: Tensor = layer(swiglu(gate_up))
    return out


def product_dtype(x: Tensor) -> torch.dtype:
    """The type of a layer's products with `x`: that of autocast when it is on, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
