"""The model that a policy is held near to: the policy without its adapter, or a frozen copy of where it began."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.loading import grown_to, is_adapter, model_directory, unread
from babyllm.model.adapt.lora import adapter_off
from babyllm.model.transformer import Transformer
from babyllm.parallel.distribute import prepare
from babyllm.parallel.filling import fill
from babyllm.parallel.twin import readable, whole
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
    it is a frozen copy, read from `init_from` again, also when the run is resumed, and divided as the policy is.

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
        model, weights = grown_to(policy.config.vocab_size, unread(directory, config.model))
        model = prepare(model.requires_grad_(False), runtime, config.parallel)
        fill(model, weights, runtime.device)

    read = readable(model)

    def logprobs(tokens: Tensor, targets: Tensor, allowed: Tensor | None) -> Tensor:
        was_training = read.training
        read.eval()
        found = []
        runtime.sum([0.0])  # of the policy, which may be divided too, all ranks have read what they read
        with whole(model), adapter_off(read), torch.no_grad(), reads_in(runtime.device, runtime.dtype):
            for first in range(0, len(tokens), micro_batch):
                part = slice(first, first + micro_batch)
                some = (x[part].to(runtime.device) for x in (tokens, targets))
                bits = None if allowed is None else allowed[part].to(runtime.device)
                nats = read(*some, temperature=temperature, allowed=bits)
                found.append(-nats.float().cpu())
        read.train(was_training)
        return torch.cat(found)

    return logprobs
