"""Muon (Jordan et al. 2024): momentum whose matrix is brought near to an orthogonal one before each update.

gradient -> momentum (Nesterov) -> orthogonalised by Newton-Schulz steps -> scaled to AdamW's size -> update

Updates have the root mean square of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", equation 4), so both
optimizers take one learning rate and one weight decay. `torch.optim.Muon` always computes in bfloat16, which is slow
and coarse on a CPU without such products; here a CPU computes in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STEPS = 5  # of Newton-Schulz
A, B, C = 3.4445, -4.7750, 2.0315  # coefficients of its polynomial: a steep slope at 0
SIZE = 0.2  # root mean square of an update of AdamW
_EPS = 1e-7


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups with `is_muon` are updated by Muon; state and learning rates are those of one optimizer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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
            if group.get("is_muon"):
                self._update(group)

    def _update(self, group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault(parameter.shape, []).append(parameter)
        for parameters in shapes.values():
            updates = [self._momentum(p, p.grad, group["momentum"]) for p in parameters if p.grad is not None]
            directions = orthogonalised(torch.stack(updates)).to(parameters[0].dtype)
            size = SIZE * max(parameters[0].shape) ** 0.5
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, list(directions.unbind()), alpha=-group["lr"] * size)

    def _momentum(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """The gradient with momentum as Nesterov adds it."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["step"] = torch.zeros(())  # AdamW looks for it when it loads a state
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return torch.lerp(gradient, state["momentum"], momentum)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (N, R, C) with their singular values brought to about 1 (0.7 to 1.2); float32, or bfloat16 on a GPU."""
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    if is_tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = torch.as_tensor(x / (torch.linalg.matrix_norm(x, keepdim=True) + _EPS))
    for _ in range(STEPS):
        gram = x @ x.mT
        x = A * x + torch.baddbmm(gram, gram, gram, beta=B, alpha=C) @ x
    return x.mT if is_tall else x
