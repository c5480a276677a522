"""The reference model: the policy as the run began, which never changes, and its log-probabilities.

init_from -> make_reference -> the model itself with its adapter switched off, or a frozen copy -> log-probabilities

Legend: n answers, T places of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.loading import is_adapter, load, model_directory
from babyllm.model.adapt.grow import grow_vocabulary
from babyllm.model.adapt.lora import adapter_off, lora_layers
from babyllm.model.heads import transformer_of
from babyllm.model.interface import Model
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer


@dataclass(frozen=True)
class Reference:
    """A model whose log-probabilities the policy is compared with.

    Attributes:
        model: the frozen copy, or the policy itself.
        is_policy: whether it is the policy, to be read with its adapter switched off.
    """

    model: Transformer
    is_policy: bool

    def __call__(self, tokens: Tensor, targets: Tensor, temperature: float, micro_batch: int) -> Tensor:
        """Log-probabilities (n, T) of the targets in nats, 0 where there is none, without gradient.

        Args:
            tokens: (n, T) int64 ids, padded on the right.
            targets: (n, T) int64 ids, or `IGNORE`.
            temperature: temperature that the answers were drawn at.
            micro_batch: rows read at a time.
        """
        model, was_training = self.model, self.model.training
        model.eval()  # without dropout
        try:
            with adapter_off(model):  # which also switches gradients off
                parts = zip(torch.split(tokens, micro_batch), torch.split(targets, micro_batch), strict=True)
                return torch.cat([-model(*part, temperature=temperature) for part in parts])
        finally:
            model.train(was_training)


def make_reference(init_from: str, model: Model, options: ModelOptions) -> Reference:
    """The reference of a policy.

    A policy with a new adapter is its own reference, so no second model is in memory. One that goes on with an adapter
    it began with is not, since without it the policy would be an earlier one.

    Args:
        init_from: run, step or directory of the model that the run began with, also when the run is resumed.
        model: policy on its device, with or without a critic.
        options: what differs from the stored shape, as for the policy.

    Raises:
        UserError: the model that the run began with is not there any more.
    """
    policy = transformer_of(model)
    try:
        directory = model_directory(init_from)
    except UserError as e:
        raise UserError(f"--init_from: {e}; the reference of the policy is the model that the run began with") from e
    if lora_layers(policy) and not is_adapter(directory):
        return Reference(policy, is_policy=True)
    frozen = grow_vocabulary(load(directory, options=options)[0], policy.config.vocab_size)
    return Reference(frozen.to(policy.embed_tokens.weight.device).eval().requires_grad_(False), is_policy=False)
