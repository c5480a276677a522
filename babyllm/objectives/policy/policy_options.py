"""How a policy is trained on its own answers, as sections of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from babyllm.config.values import Limits, Positive, Rate, Share
from babyllm.errors import UserError

LossName = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce", "ppo"]
Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True)
class KlConfig:
    """What keeps the policy near the reference model.

    Attributes:
        place: where the divergence is charged: none (no reference model is needed), reward (each token pays for it) or
            loss.
        estimator: estimator by name; without one k1 in the reward and k2 in the loss, both with the gradient of
            KL(policy || reference). k3 in the loss has that of KL(reference || policy).
        of: what is estimated in the loss: the divergence of each token after what was written, or of whole answers.
        coefficient: weight, in reward or loss per nat.
        target: divergence of an answer in nats that the weight is adapted to (Ziegler et al. 2019, section 2.2); 0
            keeps the weight. In the reward alone.
    """

    place: Literal["none", "reward", "loss"] = "none"
    estimator: Estimator | None = None
    of: Literal["token", "answer"] = "token"
    coefficient: Rate = 0.05
    target: Rate = 0.0

    @property
    def chosen(self) -> Estimator:
        """The estimator, or the default of the place."""
        return self.estimator or ("k2" if self.place == "loss" else "k1")

    def check(self, prefix: str = "kl.") -> None:
        """Refuse what would not train what it says.

        Args:
            prefix: what stands before the names of the fields in a message.

        Raises:
            UserError: the estimator has another gradient than that of a divergence, or the weight cannot be adapted.
        """
        if self.place == "loss" and self.chosen == "k1":
            raise UserError(
                f"--{prefix}estimator=k1 has no effect in the loss, where its gradient is 0 on average; choose k2 or "
                f"k3, or --{prefix}place=reward"
            )
        if self.place == "reward" and self.chosen != "k1":
            raise UserError(
                f"--{prefix}estimator={self.chosen} has in the reward the gradient of no divergence; choose k1, or "
                f"--{prefix}place=loss"
            )
        if self.target and self.place != "reward":
            raise UserError(
                f"--{prefix}target adapts the weight in the reward alone; set --{prefix}place=reward, or "
                f"--{prefix}target=0"
            )


@dataclass(frozen=True)
class PolicyOptions:
    """The loss of a policy over its own answers.

    Attributes:
        loss: loss by name. ppo, dapo and cispo are means over tokens, the others over answers.
        clip_low: how far below 1 a ratio of new to old probability still has a gradient.
        clip_high: how far above 1; without it as far as clip_low. For cispo it caps the weight of a token.
        dual_clip: largest ratio that counts where the advantage is negative, above 1 + clip_high (Ye et al. 2020,
            equation 5); 0 for no limit.
        kl: divergence from the reference model.
        entropy: weight of the mean entropy of a token, which the loss raises.
        mask_truncated: whether answers that were cut off have no part in the loss.
    """

    loss: LossName = "grpo"
    clip_low: Share = 0.2
    clip_high: Positive | None = None
    dual_clip: Annotated[float, Limits(0)] = 0.0
    kl: KlConfig = field(default_factory=KlConfig)
    entropy: Rate = 0.0
    mask_truncated: bool = False

    @property
    def clip_up(self) -> float:
        """How far above 1 a ratio still has a gradient."""
        return self.clip_low if self.clip_high is None else self.clip_high

    def check(self, prefix: str = "") -> None:
        """Refuse options that do not fit each other.

        Args:
            prefix: what stands before the names of the fields in a message.

        Raises:
            UserError: as `KlConfig.check`, or the dual clip lies within the other.
        """
        self.kl.check(f"{prefix}kl.")
        if 0 < self.dual_clip <= 1 + self.clip_up:
            raise UserError(
                f"--{prefix}dual_clip={self.dual_clip:g} must be above 1 + {prefix}clip_high, {1 + self.clip_up:g}; "
                "give a larger one, such as 3, or 0"
            )


@dataclass(frozen=True)
class ValueOptions:
    """The loss of a critic beside that of its policy.

    Attributes:
        weight: weight of the critic's loss, whose gradient is clipped together with the policy's.
        clip: largest change of a value over the epochs of a rollout that has a gradient; 0 for no limit.
    """

    weight: Positive = 0.1
    clip: Rate = 0.2


@dataclass(frozen=True)
class CreditOptions:
    """How the scores of answers become advantages of tokens.

    Attributes:
        gamma: discount of a reward one token later.
        lam: weight of estimates that reach one token further (lambda of GAE); 1 takes what was earned alone.
        whiten: whether advantages are brought to mean 0 and variance 1 over the global batch.
        clip_score: largest size of a score; 0 for no limit.
        normalise: whether scores are divided by the standard deviation of all scores so far, after their mean is taken
            off.
        truncated: what an answer that was cut off earns: bootstrap (no score; the value of the state it has reached
            stands for what was to come) or score (its own, as if it had ended there).
    """

    gamma: Share = 1.0
    lam: Share = 0.95
    whiten: bool = True
    clip_score: Rate = 0.0
    normalise: bool = False
    truncated: Literal["bootstrap", "score"] = "bootstrap"
