"""Heads that rate texts: rewards, values and classes from a transformer's hidden states; and a policy with a critic.

tokens (B, T) -> Transformer -> hidden states (B, T, D) -> score -> values of each token, or of the last one of each row
tokens, targets -> ActorCritic: actor -> nats, entropies; critic -> values
tokens, targets -> WithAuxiliary: nats, and values of a head that is dropped after training

Legend: B batch, T time, D model width, N labels.
Parameters carry the names of transformers' LlamaForSequenceClassification: `model.layers...`, `score.weight`. They are
read and written by babyllm.interop.huggingface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from babyllm.model.config import ModelConfig
from babyllm.model.interface import Model, Output
from babyllm.model.transformer import INIT_STD, Transformer

SCORE = "score"  # name of the head in files
CRITIC = "critic"  # name of a critic's parameters, and of its folder beside its actor's files


class WithHead(Model):
    """A transformer with one linear layer after its last norm: a number per label for each token or each row.

    One label makes a reward or value model, whose values have no dimension for it; several make a classifier, whose
    values are logits. The head starts as normal with std 0.02, drawn from torch's current generator.

    Attributes:
        model: the transformer.
        score: the head, D -> N, without bias.
        labels: a name for each of the N outputs.
        has_output: whether the transformer keeps its output layer, so that losses and values come from one call.
        lr_scales: factors of the learning rate by the names of its parts (`babyllm.optim`).
        weight_decays: weight decays by part, in place of `OptimConfig.weight_decay`.
    """

    def __init__(self, model: Transformer, labels: Sequence[str] = ("reward",), *, has_output: bool = False) -> None:
        """Take over `model`.

        Args:
            model: transformer; without `has_output` it loses its output layer in place, since no value depends on it.
            labels: names of the outputs.
            has_output: True for a policy with a value head; False for reward models and classifiers.
        """
        super().__init__()
        self.model, self.labels, self.has_output = model, tuple(labels), has_output
        self.lr_scales: dict[str, float] = {}
        self.weight_decays: dict[str, float] = {}
        width, device = model.config.d_model, model.embed_tokens.weight.device
        if not has_output:
            model.lm_head = _no_output(width, device)
        self.score = nn.Linear(width, len(self.labels), bias=False, device="meta")
        # On "meta" torch would load its compiler to draw, which takes seconds.
        weight = torch.empty(len(self.labels), width, device=device) if device.type == "meta" else self.drawn()
        self.score.weight = nn.Parameter(weight.to(device))

    def drawn(self) -> Tensor:
        """New weights (N, D) of the head, drawn from torch's current generator."""
        return nn.init.normal_(torch.empty(len(self.labels), self.config.d_model), std=INIT_STD)

    @property
    def config(self) -> ModelConfig:
        """The transformer's shape."""
        return self.model.config

    @property
    def origin(self) -> str | None:
        """The directory the transformer's weights were read from; None if they were drawn."""
        return self.model.origin

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer's blocks."""
        return self.model.layers

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        weights: Tensor | None = None,
        n_targets: int | None = None,
        temperature: float = 1.0,
        allowed: Tensor | None = None,
        returns: Sequence[Output] = (),
    ) -> Tensor | dict[str, Tensor]:
        """The head's values; or several results of one pass.

        Args:
            tokens: (B, T) int64 ids.
            targets: as in `Transformer.forward`; needed for "nats" and "entropy" alone, as is the output layer.
            positions: as in `Transformer.forward`.
            documents: as in `Transformer.forward`.
            lengths: (B,) int64 numbers of tokens of each row; with it, the values are those of each row's last token.
            weights: as in `Transformer.forward`.
            n_targets: as in `Transformer.forward`.
            temperature: as in `Transformer.forward`; values do not depend on it.
            allowed: as in `Transformer.forward`.
            returns: names of the results wanted, those of `Transformer.forward` and "values".

        Returns:
            Without `returns` the values, float32: (B, T) for one label, else (B, T, N); with `lengths` (B,) or (B, N).
            Else the results by name, as `Output` describes them.

        Raises:
            KeyError: a result needs targets, and there are none; its name.
        """
        asked = (*(name for name in returns if name not in ("values", "hidden")), "hidden")
        of_targets: dict[str, Any] = {
            "weights": weights,
            "n_targets": n_targets,
            "temperature": temperature,
            "allowed": allowed,
        }
        found = self.model(tokens, targets, positions, documents, **of_targets, returns=asked)
        if not returns or "values" in returns:
            found["values"] = self._values(found["hidden"], lengths)
        return {name: found[name] for name in returns} if returns else found["values"]

    def _values(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T), (B, T, N), (B,) or (B, N) float32."""
        if lengths is not None:
            hidden = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
        with torch.autocast(hidden.device.type, enabled=False):  # 16-bit values could not tell close rewards apart
            values: Tensor = self.score(hidden.to(self.score.weight.dtype)).float()
        return values.squeeze(-1) if len(self.labels) == 1 else values


class WithAuxiliary(WithHead):
    """A language model with a head that only helps to train it; to every reader of its files it has no head.

    Only the files for resuming a run have the head.
    """

    def __init__(self, model: Transformer, labels: Sequence[str]) -> None:
        """Take over `model`, with its output layer.

        Args:
            model: transformer.
            labels: names of the outputs, at least two.
        """
        super().__init__(model, labels, has_output=True)


def _no_output(width: int, device: torch.device) -> nn.Linear:
    """An output layer without rows: it takes no memory, and DDP does not wait for its gradient."""
    layer = nn.Linear(width, 1, bias=False, device="meta")  # torch warns of a layer that begins with 0 rows
    layer.weight, layer.out_features = nn.Parameter(torch.empty(0, width, device=device), requires_grad=False), 0
    return layer


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
        allowed: Tensor | None = None,
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
            allowed: as in `Transformer.forward`.
            returns: names of the results wanted; "values" (B, T) float32 are the critic's, all others the actor's.

        Returns:
            (B, T) nats without `returns`; else the results by name, as `Output` describes them.

        Raises:
            KeyError: a result needs targets, and there are none; its name.
        """
        of_actor = [name for name in returns if name != "values"]
        found: dict[str, Any] = {}
        if of_actor or not returns:
            of_targets = {"weights": weights, "n_targets": n_targets, "temperature": temperature, "allowed": allowed}
            found = self.actor(tokens, targets, positions, documents, **of_targets, returns=of_actor or ("nats",))
        if "values" in returns:
            found["values"] = self.critic(tokens, None, positions, documents)
        return {name: found[name] for name in returns} if returns else found["nats"]


def transformer_of(model: Model) -> Transformer:
    """The transformer that a model is, or that its head is on, or its actor: what generation and evaluation read."""
    if isinstance(model, WithHead):
        return model.model
    if isinstance(model, ActorCritic):
        return model.actor
    assert isinstance(model, Transformer)
    return model


def writes(model: Model) -> bool:
    """Whether a model can write text; reward models and classifiers cannot."""
    return not isinstance(model, WithHead) or model.has_output
