"""The tokens that each draw of a constrained answer was made among, found again from the answer's own tokens.

targets (n, T) -> a Matcher for each answer, which takes its tokens one by one -> allowed sets as bits (n, T, V / 8)

Nothing is stored for this: a constraint and the tokens before a draw decide what was allowed there. So a checkpoint has
no masks, and a run that goes on amid a rollout makes them again.

Legend: n answers, T columns of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from babyllm.generation.constraints.constraint import Constraint
from babyllm.generation.constraints.matcher import matcher_of
from babyllm.model.cross_entropy import IGNORE
from babyllm.tokenizer import Tokenizer


class AllowedTokens:
    """What `Transformer.forward` takes as `allowed`, for answers to a constraint."""

    def __init__(self, constraint: Constraint, tokenizer: Tokenizer, end_ids: Collection[int], vocab_size: int) -> None:
        """Compile the constraint.

        Args:
            constraint: what every answer says.
            tokenizer: tokenizer of the policy.
            end_ids: ids of all tokens that end an answer.
            vocab_size: number of scores of the policy, V.

        Raises:
            UserError: llguidance is not installed, or the constraint is wrong, cannot be met, or is too large.
        """
        self._arguments = constraint, tokenizer, end_ids, vocab_size
        self._width = -(-vocab_size // 8)
        matcher_of(*self._arguments)

    def __call__(self, targets: Tensor) -> Tensor:
        """(n, T, ceil(V / 8)) uint8 bits for the targets (n, T) of answers; all are 1 where there is no target."""
        found = np.full((*targets.shape, self._width), 0xFF, np.uint8)
        for bits, row in zip(found, targets.tolist(), strict=True):
            matcher = matcher_of(*self._arguments)
            for place, token in enumerate(row):
                if token != IGNORE:
                    bits[place] = matcher.packed()
                    matcher.accept(token)
        return torch.from_numpy(found)
