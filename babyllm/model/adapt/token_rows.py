"""Rows of a few tokens, trained while all others of the embedding and the output layer are frozen.

model -> train_token_rows -> RowEmbedding, RowLinear: a frozen weight, and trained rows that replace some of its own

LoRA needs them for tokens that its base has not learned. The rows are stored by babyllm.interop.peft.

Legend: V vocabulary, D model width, N tokens whose rows are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.errors import UserError
from babyllm.model.interface import Model
from babyllm.model.linear import FrozenLinear
from babyllm.model.transformer import EMBEDDING, OUTPUT, Transformer


class RowEmbedding(nn.Embedding):
    """An embedding of which only the rows of some tokens are trained.

    Parameters without gradient take the place of buffers, which DDP would send to every rank in every step.

    Attributes:
        token_ids: (N,) int64, ascending.
        rows: (N, D), used instead of those of `weight`, from which they start.
        is_active: whether `rows` count; `lora.adapter_off` switches them off.
    """

    def __init__(self, layer: nn.Embedding, token_ids: Tensor) -> None:
        """Take over the weight of `layer`."""
        super().__init__(layer.num_embeddings, layer.embedding_dim, _weight=layer.weight.detach())
        self.weight.requires_grad_(False)
        self.token_ids = nn.Parameter(token_ids, requires_grad=False)
        self.rows = nn.Parameter(_rows_of(layer.weight.detach(), token_ids))
        self.is_active = True

    def made_of(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The whole tensors of the weight and the rows, made of the plain weight, which `read` returns by name."""
        return {"weight": read("weight"), "rows": _rows_of(read("weight"), self.token_ids.cpu())}

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., D)."""
        if not self.is_active:
            return super().forward(tokens)
        place = torch.searchsorted(self.token_ids, tokens).clamp(max=len(self.token_ids) - 1)
        is_trained = (self.token_ids[place] == tokens).unsqueeze(-1)
        return torch.where(is_trained, F.embedding(place, self.rows), super().forward(tokens))


class RowLinear(FrozenLinear):
    """An output layer of which only the rows of some tokens are trained.

    Attributes:
        token_ids: (N,) int64, ascending.
        rows: (N, D), used instead of those of `weight`, from which they start.
        is_active: whether `rows` count; `lora.adapter_off` switches them off.
    """

    def __init__(self, layer: nn.Linear, token_ids: nn.Parameter, rows: nn.Parameter) -> None:
        """Take over the weight of `layer`; `token_ids` and `rows` may be those of an embedding, tied to it."""
        super().__init__(layer, "float32")
        self.token_ids, self.rows, self.is_active = token_ids, rows, True

    def made_of(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """As `RowEmbedding.made_of`."""
        return super().made_of(read) | {"rows": _rows_of(read("weight"), self.token_ids.cpu())}

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return F.linear(x, self.merged_weight())

    def merged_weight(self) -> Tensor:
        """(V, D): the frozen weight, with the trained rows in their places where they are active."""
        return self.weight.index_copy(0, self.token_ids, self.rows) if self.is_active else self.weight


def train_token_rows(model: Transformer, tokens: Mapping[str, Sequence[int]]) -> Transformer:
    """The same model with trained rows of some tokens; the matrices they belong to are frozen.

    Args:
        model: changed in place.
        tokens: ids by the name of the matrix, "embed_tokens" and "lm_head"; tied ones are named "embed_tokens" alone.

    Raises:
        UserError: an id is outside the vocabulary.
    """
    highest = max((i for ids in tokens.values() for i in ids), default=0)
    if highest >= model.config.vocab_size:
        raise UserError(f"token {highest} cannot be trained: the model has {model.config.vocab_size} tokens")
    ids = {name: torch.tensor(sorted(set(mine))) for name, mine in tokens.items() if mine}
    if EMBEDDING in ids:
        embedding = RowEmbedding(model.embed_tokens, _beside(model.embed_tokens.weight, ids[EMBEDDING]))
        model.embed_tokens = embedding.train(model.training)
        if model.config.tie_embeddings:
            head = RowLinear(model.lm_head, embedding.token_ids, embedding.rows)
            head.weight = embedding.weight
            model.lm_head = head.train(model.training)
    if OUTPUT in ids and not model.config.tie_embeddings:
        place = _beside(model.lm_head.weight, ids[OUTPUT])
        rows = nn.Parameter(_rows_of(model.lm_head.weight.detach(), place))
        head = RowLinear(model.lm_head, nn.Parameter(place, requires_grad=False), rows)
        model.lm_head = head.train(model.training)
    return model


def _beside(weight: Tensor, token_ids: Tensor) -> Tensor:
    """Ids on the device of a weight; on the CPU where that is "meta", which has no values."""
    return token_ids if weight.is_meta else token_ids.to(weight.device)


def _rows_of(weight: Tensor, token_ids: Tensor) -> Tensor:
    """(V, D), (N,) -> (N, D), not a view; on "meta" a placeholder."""
    return weight.new_empty(len(token_ids), weight.shape[1]) if weight.is_meta else weight[token_ids]


def matrices_of(model: Transformer, token_ids: Sequence[int]) -> dict[str, list[int]]:
    """The argument of `train_token_rows` that trains tokens in the embedding and in an untied, plain output layer."""
    ids = sorted(set(token_ids))
    is_plain = type(model.lm_head) is nn.Linear and not model.config.tie_embeddings
    return {EMBEDDING: ids, OUTPUT: ids} if ids and is_plain else {EMBEDDING: ids} if ids else {}


def token_rows(model: Model) -> dict[str, RowEmbedding | RowLinear]:
    """The matrices that have trained rows, by "embed_tokens" and "lm_head"; tied ones are "embed_tokens" alone."""
    is_tied = model.config.tie_embeddings
    return {
        name.rpartition(".")[2]: layer
        for name, layer in model.named_modules()
        if isinstance(layer, RowEmbedding) or (isinstance(layer, RowLinear) and not is_tied)
    }


def dense_embedding(layer: nn.Embedding) -> Tensor:
    """(V, D): the rows of all tokens."""
    if isinstance(layer, RowEmbedding) and layer.is_active:
        return layer.weight.index_copy(0, layer.token_ids, layer.rows)
    return layer.weight
