"""Muon (Jordan et al. 2024): momentum whose matrix is brought near to an orthogonal one before each update.

gradient -> momentum (Nesterov) -> orthogonalised by four Polar Express steps -> scaled to AdamW's size -> update

Updates have the root mean square of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", equation 4), so both
optimizers take one learning rate and one weight decay. `torch.optim.Muon` always computes in bfloat16, which is slow
and coarse on a CPU without such products; here a CPU computes in float32. Instead of five equal Newton-Schulz steps it
takes the first four of Polar Express (Amsel et al. 2025): each has the polynomial that is best after those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from babyllm.parallel.tensors import by_owners, is_divided, local

# a, b, c of the polynomials a x + b x^3 + c x^5, best for singular values from 0.001 to 1
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)
MARGIN = 1.01  # keeps rounding from a singular value above 1, where the first polynomial is steep
SIZE = 0.2  # root mean square of an update of AdamW
_EPS = 1e-7


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups with `is_muon` are updated by Muon; state and learning rates are those of one optimizer."""

    def __init__(self, *args: Any, momentum: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decay = momentum
        self._step_supports_amp_scaling = False  # a gradient scaler then skips both optimizers' steps itself

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get("is_muon")]
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            mine = [p for p in group["params"] if p.grad is not None] if group.get("is_muon") else []
            if mine:
                directions = self._directions(mine)
                parts = [local(p) for p in mine]
                torch._foreach_mul_(parts, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parts, [directions[p] for p in mine], alpha=-group["lr"])

    def _directions(self, parameters: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """The update of this rank's part of each matrix; each matrix is orthogonalised by one rank."""
        kinds: dict[Any, list[Tensor]] = {}
        for parameter in parameters:
            division = parameter.placements if is_divided(parameter) else None
            kinds.setdefault((parameter.shape, division), []).append(parameter)
        found: dict[Tensor, Tensor] = {}
        if is_divided(parameters[0]):
            for (shape, _), alike in kinds.items():
                mine = [self._momentum(parameter) for parameter in alike]
                found.update(zip(alike, by_owners(alike[0], mine, partial(_direction, shape)), strict=True))
            return found
        rank, n_ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for (shape, _), alike in kinds.items():
            momenta = [self._momentum(parameter) for parameter in alike][rank::n_ranks]
            if mine := alike[rank::n_ranks]:
                stacked = torch.stack(momenta)
                momenta.clear()
                of_mine = _direction(shape, stacked)
                found.update(zip(mine, of_mine.to(mine[0].dtype).unbind(), strict=True))
                del stacked, of_mine
        return _exchanged(found, parameters) if n_ranks > 1 else found

    def _momentum(self, parameter: Tensor) -> Tensor:
        """This rank's part of the gradient with momentum as Nesterov adds it."""
        state = self.state[parameter]
        assert parameter.grad is not None
        if "momentum" not in state:
            state["step"] = torch.zeros(())  # AdamW looks for it when it loads a state
            state["momentum"] = torch.zeros_like(parameter)
        momentum, gradient = local(state["momentum"]), local(parameter.grad)
        momentum.lerp_(gradient, 1 - self._decay)
        nesterov: Tensor = torch.lerp(gradient, momentum, self._decay)
        return nesterov


def _exchanged(found: dict[Tensor, Tensor], parameters: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """The updates of all parameters, each of which one rank has found."""
    together = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
    parts = torch.split(together, [parameter.numel() for parameter in parameters])
    views = {parameter: part.view_as(parameter) for parameter, part in zip(parameters, parts, strict=True)}
    for parameter in list(found):
        views[parameter].copy_(found.pop(parameter))
    dist.all_reduce(together)  # zeros but from the matrix's own rank, so the sum is exact
    return views


def _direction(shape: torch.Size, matrices: Tensor) -> Tensor:
    """The updates of matrices (N, R, C) of a shape, before the learning rate."""
    return orthogonalised(matrices).mul_(float(SIZE * max(shape) ** 0.5))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (N, R, C) with their singular values brought to 0.4 to 1.6; float32, or bfloat16 on CUDA.

    Singular values below 0.001 of a matrix's norm stay smaller.
    """
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices.float()
    if is_tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = torch.as_tensor(x / (torch.linalg.matrix_norm(x, keepdim=True) * MARGIN + _EPS))
    for a, b, c in POLYNOMIALS:
        _iterate(x, a, b, c)
    return x.mT if is_tall else x


def _iterate(x: Tensor, a: float, b: float, c: float) -> None:
    """Replace X (N, R, C) by a X + b (X X') X + c (X X')^2 X; beside X it holds one tensor of its size."""
    gram = x @ x.mT
    product = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    x.mul_(a).add_(product)
