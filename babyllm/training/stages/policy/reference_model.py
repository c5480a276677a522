"""The model that a policy is held near to: the policy without its adapter, or a frozen copy of where it began."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.loading import is_adapter, load, model_directory
from babyllm.model.adapt.grow import grow_vocabulary
from babyllm.model.adapt.lora import adapter_off, merge_lora
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.training.adapted_config import AdaptedRunConfig

Reference = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Log-probabilities in nats (n, T), float32 on the CPU, of targets (n, T) after tokens (n, T); 0 without a target.

The third argument is `allowed` of `Transformer.forward`, the tokens that each target was drawn among, or None.
"""


def reference_of(
    config: AdaptedRunConfig, policy: Transformer, runtime: Runtime, temperature: float, micro_batch: int
) -> Reference:
    """The log-probabilities of the model that a run began with.

    With a new adapter it is the policy with the adapter switched off, so that no second model is in memory. Otherwise
    it is a frozen copy, read from `init_from` again, also when the run is resumed.

    Args:
        config: configuration of the stage.
        policy: model that is trained.
        runtime: runtime of the run.
        temperature: temperature of the answers.
        micro_batch: rows of a forward pass.

    Raises:
        UserError: `init_from` is not there any more.
    """
    try:
        directory = model_directory(config.init_from)
    except UserError as e:
        raise UserError(f"--init_from: {e}; the policy is held near to the model that the run began with") from e
    if config.lora.rank and not is_adapter(directory):
        model = policy
    else:
        model = merge_lora(load(directory, options=config.model)[0])
        model = grow_vocabulary(model, policy.config.vocab_size).to(runtime.device).eval().requires_grad_(False)

    def logprobs(tokens: Tensor, targets: Tensor, allowed: Tensor | None) -> Tensor:
        was_training = model.training
        model.eval()
        found = []
        with adapter_off(model), torch.no_grad(), reads_in(runtime.device, runtime.dtype):
            for first in range(0, len(tokens), micro_batch):
                part = slice(first, first + micro_batch)
                some = (x[part].to(runtime.device) for x in (tokens, targets))
                bits = None if allowed is None else allowed[part].to(runtime.device)
                nats = model(*some, temperature=temperature, allowed=bits)
                found.append(-nats.float().cpu())
        model.train(was_training)
        return torch.cat(found)

    return logprobs
