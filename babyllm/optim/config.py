"""The section `optim` of a configuration; reading it loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from babyllm.config.values import Positive, Rate, ShareBelow1


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2), alone or with Muon for the matrices of the blocks.

    Attributes:
        matrices: optimizer of the matrices inside the blocks: adamw, or muon (Jordan et al. 2024), which takes about an
            eighth more time for a step of a small model. All other parameters are AdamW's.
        weight_decay: weight decay of parameters with two or more dimensions; norms and biases have none.
        embedding_lr: learning rate of the token embedding as a multiple of plan.peak_lr, also where it is the output
            layer.
        matrices_lr: learning rate of the matrices inside the blocks as a multiple of plan.peak_lr.
        beta1: decay of the running mean of the gradient.
        beta2: decay of the running mean of the squared gradient.
        eps: term added to the root of the mean squared gradient.
        momentum: decay of Muon's running mean of the gradient.
        average: decay of a moving average of the weights, such as 0.999, which is evaluated and saved in their place;
            0 keeps no average.
    """

    matrices: Literal["adamw", "muon"] = "adamw"
    weight_decay: Rate = 0.1
    embedding_lr: Positive = 1.0
    matrices_lr: Positive = 1.0
    beta1: ShareBelow1 = 0.9
    beta2: ShareBelow1 = 0.95
    eps: Positive = 1e-8
    momentum: ShareBelow1 = 0.95
    average: ShareBelow1 = 0.0
