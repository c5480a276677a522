"""The state of an optimizer as named tensors, for checkpoints.

Beside a moving average, which is saved as the model, they include the weights themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from babyllm.parallel.tensors import like, local

PLAIN = "plain"


def optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, *, has_average: bool
) -> dict[str, Tensor]:
    """The moments, named "moment.parameter", and with an average the trainable weights as "plain.parameter".

    They are the optimizer's and the model's own tensors, which the next step changes.

    Args:
        parameters: parameters by the names they are stored under.
        optimizer: optimizer of the trainable ones.
        has_average: whether the saved model is an average of the weights.
    """
    return {
        f"{key}.{name}": tensor.detach()
        for name, parameter in parameters.items()
        for key, tensor in {
            **optimizer.state.get(parameter, {}),
            **({PLAIN: parameter} if has_average and parameter.requires_grad else {}),
        }.items()
    }


def load_optimizer_tensors(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    names: Collection[str],
    read: Callable[[str, Tensor], Tensor],
) -> None:
    """Restore moments and weights, in place, from what `optimizer_tensors` returned; missing moments begin with 0.

    Args:
        parameters: parameters by the names they are stored under.
        optimizer: optimizer of the trainable ones.
        names: names of the stored tensors.
        read: function of a stored name and a parameter that returns this rank's part of the tensor, in memory of its
            own, divided as the parameter is.
    """
    plain = {**optimizer.state_dict(), "state": {}}
    of_parameter = {id(parameter): name for name, parameter in parameters.items()}
    keys = sorted({name.split(".", 1)[0] for name in names} - {PLAIN})
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        stored = {key: f"{key}.{of_parameter[id(parameter)]}" for key in keys}
        if mine := {key: like(parameter, read(name, parameter)) for key, name in stored.items() if name in names}:
            plain["state"][index] = mine
    optimizer.load_state_dict(plain)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if f"{PLAIN}.{name}" in names:
                local(parameter).copy_(read(f"{PLAIN}.{name}", parameter))
