"""More tokens in the vocabulary of a model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from babyllm.model.transformer import EMBEDDING, OUTPUT, Transformer


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


def grown(name: str, weight: Tensor, vocab_size: int) -> Tensor:
    """The weight that the parameter `name` of a model has in float32 after `grow_vocabulary`, given that from before.

    Weights that do not grow are returned as they are.
    """
    has_rows = name in (f"{EMBEDDING}.weight", f"{OUTPUT}.weight")
    return _grown(weight.float(), vocab_size) if has_rows and 0 < len(weight) < vocab_size else weight


def _grown(weight: Tensor, n_rows: int) -> Tensor:
    """(V, D) -> (`n_rows`, D); on "meta" a placeholder."""
    if weight.is_meta:
        return weight.new_empty(n_rows, weight.shape[1])
    # In float64, so that the mean's last bit does not depend on the order of the sum.
    mean = weight.mean(dim=0, keepdim=True, dtype=torch.float64).to(weight.dtype)
    return torch.cat([weight.detach(), mean.expand(n_rows - len(weight), -1)])
