"""The model with a head that a reward model or classifier begins with: a trained model, or one with a head already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from babyllm.interop.huggingface import Unread
from babyllm.model.heads import WithHead
from babyllm.model.interface import Model
from babyllm.parallel.filling import fill_head
from babyllm.runtime import Runtime
from babyllm.training.adapted_config import AdaptedRunConfig
from babyllm.training.stages.opening import Opening
from babyllm.training.starting_model import adapted, starting_model


def starting_head(
    config: AdaptedRunConfig, opening: Opening, labels: Sequence[str], runtime: Runtime
) -> tuple[Model, str]:
    """The model to train, divided, and the origin of its weights in words; every rank must call it.

    The transformer is adapted or frozen as the configuration says; the head is always trained. It is drawn at random,
    unless the directory has a head with as many labels.

    Raises:
        UserError: the model cannot be read, or changed as the configuration says.
    """
    start = starting_model(
        config, opening.directory, opening.tokenizer, opening.template, is_resumed=opening.is_resumed
    )

    def headed(base: Unread) -> tuple[Model, Callable[[torch.device], None]]:
        model = WithHead(base.model, labels)
        is_same = start.head is not None and start.head.shape == model.score.weight.shape
        return model, lambda device: fill_head(model, device, start.head if is_same else None)

    return adapted(config, start, opening.template, runtime, headed), start.source
