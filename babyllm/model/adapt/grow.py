"""More tokens in the vocabulary of a model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from babyllm.model.transformer import Transformer


@torch.no_grad()
def grow_vocabulary(model: Transformer, vocab_size: int) -> Transformer:
    """The same model with rows for more tokens; a new row, of the embedding or the output, is the mean of the old ones.

    The same model always grows the same rows, so an adapter's base can be grown again wherever it is loaded. New rows
    are all alike: the difference between new tokens has to be learned, by training the embedding or the output layer.

    Args:
        model: changed in place; must not have an adapter.
        vocab_size: rows wanted; a model that has as many or more is left unchanged.
    """
    if vocab_size <= model.config.vocab_size:
        return model
    model.embed_tokens = nn.Embedding(
        vocab_size, model.config.d_model, _weight=_grown(model.embed_tokens.weight, vocab_size)
    ).train(model.training)
    if model.config.tie_embeddings:
        output = model.embed_tokens.weight
    else:
        output = nn.Parameter(_grown(model.lm_head.weight, vocab_size))
    model.lm_head = nn.Linear(model.config.d_model, vocab_size, bias=False, device="meta").train(model.training)
    model.lm_head.weight = output
    model.config = replace(model.config, vocab_size=vocab_size)
    return model


def _grown(weight: Tensor, n_rows: int) -> Tensor:
    """(V, D) -> (`n_rows`, D)."""
    # In float64, so that the mean's last bit does not depend on the order of the sum.
    mean = weight.double().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight.detach(), mean.expand(n_rows - len(weight), -1)])
