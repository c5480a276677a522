"""An optimizer whose state is in the memory of the CPU, where it computes its step (Ren et al. 2021, ZeRO-Offload).

weights, gradients -> copied to the CPU -> step -> weights copied back
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from babyllm.optim.muon import MuonAdamW
from babyllm.parallel.tensors import local


class OffloadedMuonAdamW(MuonAdamW):
    """`MuonAdamW` on the CPU, for parameters on any device; on a CPU it is the same, bit for bit."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        copies: dict[Tensor, nn.Parameter] = {}
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            copied = copies[parameter] = nn.Parameter(parameter.detach().cpu())
            copied.grad = parameter.grad.cpu()
        originals = {copied: parameter for parameter, copied in copies.items()}
        self._put(copies)
        try:
            super().step(closure)
        finally:
            self._put(originals)
        for parameter, copied in copies.items():
            local(parameter).copy_(local(copied.detach()))

    def _put(self, others: Mapping[Any, Tensor]) -> None:
        """Put other parameters in the place of parameters, with their state."""
        for group in self.param_groups:
            group["params"] = [others.get(parameter, parameter) for parameter in group["params"]]
        for parameter, other in others.items():
            if parameter in self.state:
                self.state[other] = self.state.pop(parameter)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, on the CPU."""
        super().load_state_dict(state_dict)
        for of_parameter in self.state.values():
            of_parameter.update({name: tensor.cpu() for name, tensor in of_parameter.items()})
