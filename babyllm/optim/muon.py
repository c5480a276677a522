"""Muon (Jordan et al. 2024): momentum whose matrix is brought near to an orthogonal one before each update.

gradient -> momentum (Nesterov) -> orthogonalised by Newton-Schulz steps -> scaled to AdamW's size -> update

Updates have the root mean square of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", equation 4), so both
optimizers take one learning rate and one weight decay. `torch.optim.Muon` always computes in bfloat16, which is slow
and coarse on a CPU without such products; here a CPU computes in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

STEPS = 5  # of Newton-Schulz
A, B, C = 3.4445, -4.7750, 2.0315  # coefficients of its polynomial: a steep slope at 0
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
                torch._foreach_mul_(mine, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(mine, [directions[p] for p in mine], alpha=-group["lr"])

    def _directions(self, parameters: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """The update of each matrix; ranks share the work, and each matrix is orthogonalised by one of them."""
        rank, n_ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        shapes: dict[torch.Size, list[Tensor]] = {}
        for parameter in parameters:
            shapes.setdefault(parameter.shape, []).append(parameter)
        momenta = {parameter: self._momentum(parameter) for parameter in parameters}
        found = {parameter: torch.zeros_like(parameter) for parameter in parameters} if n_ranks > 1 else {}
        for shape, alike in shapes.items():
            mine = alike[rank::n_ranks]
            if mine:
                stacked = orthogonalised(torch.stack([momenta[parameter] for parameter in mine]))
                size = SIZE * max(shape) ** 0.5
                found.update(zip(mine, (stacked * size).to(mine[0].dtype).unbind(), strict=True))
        if n_ranks > 1:
            together = torch.cat([found[parameter].flatten() for parameter in parameters])
            dist.all_reduce(together)  # zeros but from the matrix's own rank, so the sum is exact
            parts = torch.split(together, [parameter.numel() for parameter in parameters])
            found = {p: part.view_as(p) for p, part in zip(parameters, parts, strict=True)}
        return found

    def _momentum(self, parameter: Tensor) -> Tensor:
        """The gradient with momentum as Nesterov adds it."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["step"] = torch.zeros(())  # AdamW looks for it when it loads a state
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - self._decay)
        return torch.lerp(gradient, state["momentum"], self._decay)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (N, R, C) with their singular values brought to about 1 (0.7 to 1.2); float32, or bfloat16 on CUDA."""
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices.float()
    if is_tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = torch.as_tensor(x / (torch.linalg.matrix_norm(x, keepdim=True) + _EPS))
    for _ in range(STEPS):
        gram = x @ x.mT
        x = A * x + torch.baddbmm(gram, gram, gram, beta=B, alpha=C) @ x
    return x.mT if is_tall else x
