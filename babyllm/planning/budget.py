"""What to train with a budget: the size and the number of tokens that use its FLOPs best.

Hoffmann et al. 2022 ("Chinchilla"), table 3 and approach 1: for C = 6 N D FLOPs about D = 20 N tokens for N parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from babyllm.model.config import flops_per_token, parameter_counts
from babyllm.model.options import PRESETS

TOKENS_PER_PARAMETER = 20.0
MOST_EPOCHS = 4
"""Passes over the data up to which repeated tokens are worth nearly as much as new ones (Muennighoff et al. 2023)."""


@dataclass(frozen=True)
class Choice:
    """A preset within a budget.

    Attributes:
        preset: its name.
        parameters: number of its parameters.
        tokens: number of tokens that the budget allows.
    """

    preset: str
    parameters: int
    tokens: float

    @property
    def ratio(self) -> float:
        """Tokens per parameter."""
        return self.tokens / self.parameters


@dataclass(frozen=True)
class Budget:
    """A number of FLOPs, and what to do with them.

    Attributes:
        flops: useful FLOPs.
        parameters: number of parameters of the best size.
        tokens: number of tokens to train it on.
        choices: presets within the budget, the one nearest to the best ratio first.
    """

    flops: float
    parameters: float
    tokens: float
    choices: tuple[Choice, ...]


def plan_budget(flops: float) -> Budget:
    """The size and the tokens for a number of FLOPs, and what each preset makes of them."""
    size = math.sqrt(flops / (6 * TOKENS_PER_PARAMETER))
    choices = [
        Choice(name, sum(parameter_counts(shape).values()), flops / flops_per_token(shape, shape.max_seq_len))
        for name, shape in PRESETS.items()
    ]
    choices.sort(key=lambda choice: abs(math.log(choice.ratio / TOKENS_PER_PARAMETER)))
    return Budget(flops, size, TOKENS_PER_PARAMETER * size, tuple(choices))


def remark(tokens: float, available: int | None) -> str:
    """What a number of tokens asks of the data, in a sentence.

    Args:
        tokens: number of tokens to train on.
        available: number of tokens that there are; None if unknown.
    """
    if available is None:
        return f"that many tokens are about {4 * tokens / 1e9:,.1f} GB of text; --data says whether there are as many"
    epochs = tokens / max(available, 1)
    if epochs <= 1:
        return f"the data has {available:,} tokens, which is enough"
    if epochs <= MOST_EPOCHS:
        return f"the data has {available:,} tokens: {epochs:.1f} passes, nearly as good as new text"
    return (
        f"the data has {available:,} tokens: {epochs:,.0f} passes; more than {MOST_EPOCHS} bring little, so take more "
        "text, or a smaller model and a smaller budget"
    )
