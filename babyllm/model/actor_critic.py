"""A policy and its critic as one model, so that one call returns what the losses of both need.

tokens, targets -> actor -> nats, entropies        tokens -> critic -> values

Legend: B batch, T time, D model width.
With one trunk for both, the model is a `WithHead` that keeps its output layer instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from babyllm.model.config import ModelConfig
from babyllm.model.heads import WithHead
from babyllm.model.interface import Model, Output
from babyllm.model.transformer import Transformer

CRITIC = "critic"  # name of the critic's parameters, and of its folder beside the actor's files


class ActorCritic(Model):
    """A policy and a separate model of values; their shapes may differ, their vocabulary may not.

    Attributes:
        actor: the policy.
        critic: the model of values, with one label.
        lr_scales: factors of the learning rate, by the parts "actor" and "critic".
        weight_decays: weight decays by part, in place of `OptimConfig.weight_decay`.
    """

    def __init__(
        self, actor: Transformer, critic: WithHead, *, critic_lr: float = 1.0, critic_decay: float | None = None
    ) -> None:
        """Take over both models.

        Args:
            actor: the policy.
            critic: model of values without an output layer of its own.
            critic_lr: learning rate of the critic, as a multiple of the actor's.
            critic_decay: weight decay of the critic; None for that of the actor.

        Raises:
            ValueError: the critic has several labels, its own output layer or another vocabulary.
        """
        super().__init__()
        if len(critic.labels) != 1 or critic.has_output or critic.config.vocab_size != actor.config.vocab_size:
            raise ValueError("a critic has one label, no output layer, and the vocabulary of its actor")
        self.actor, self.critic = actor, critic
        self.lr_scales = {CRITIC: critic_lr}
        self.weight_decays = {} if critic_decay is None else {CRITIC: critic_decay}

    @property
    def config(self) -> ModelConfig:
        """The actor's shape."""
        return self.actor.config

    @property
    def origin(self) -> str | None:
        """The directory the actor's weights were read from; None if they were drawn."""
        return self.actor.origin

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks of both, the actor's first."""
        return nn.ModuleList([*self.actor.layers, *self.critic.layers])

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        n_targets: int | None = None,
        temperature: float = 1.0,
        returns: Sequence[Output] = (),
    ) -> Tensor | dict[str, Tensor]:
        """The actor's nats; or several results of both.

        Args:
            tokens: (B, T) int64 ids.
            targets: as in `Transformer.forward`.
            positions: as in `Transformer.forward`.
            documents: as in `Transformer.forward`.
            weights: as in `Transformer.forward`.
            n_targets: as in `Transformer.forward`.
            temperature: as in `Transformer.forward`.
            returns: names of the results wanted; "values" (B, T) float32 are the critic's, all others the actor's.

        Returns:
            (B, T) nats without `returns`; else the results by name, as `Output` describes them.

        Raises:
            KeyError: a result needs targets, and there are none; its name.
        """
        of_actor = [name for name in returns if name != "values"]
        found: dict[str, Any] = {}
        if of_actor or not returns:
            options = {"weights": weights, "n_targets": n_targets, "temperature": temperature}
            found = self.actor(tokens, targets, positions, documents, **options, returns=of_actor or ("nats",))
        if "values" in returns:
            found["values"] = self.critic(tokens, None, positions, documents)
        return {name: found[name] for name in returns} if returns else found["nats"]
