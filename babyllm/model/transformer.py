"""The Llama-style transformer: pre-norm RMSNorm, rotary positions, grouped-query attention, SwiGLU.

tokens (B, T) -> embed -> n_layers x [x + attention(norm(x)); x + mlp(norm(x))] -> norm -> losses (B, T) or logits

Legend: B batch, T time, D model width, H heads, K kv heads, W width of a head, V vocabulary.
Modules carry the names of Hugging Face files, so that a checkpoint needs no renaming.

There are two forward passes. This one is for training and scoring: whole rows, gradients, dropout, autocast, document
masks, and losses in place of logits. `babyllm.generation.decoder` reads the same weights for generation: a few new
tokens per step, a key-value cache, and as few operations as possible, because at one token a step the time goes into
starting operations and reading weights. One pass that did both would branch in every layer. The price is that a variant
of the architecture is written twice; tests/generation/test_parity.py compares the two for a list of variants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from babyllm.errors import UserError
from babyllm.model.attention import Attention, attention_form
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import token_losses
from babyllm.model.document_attention import seen_in
from babyllm.model.entropy import losses_and_entropies
from babyllm.model.interface import Model, Output
from babyllm.model.kernels.norm import RMSNorm
from babyllm.model.linear import after_swiglu, dense_weight, joint, product_dtype, through
from babyllm.model.rope import rope_table

if TYPE_CHECKING:
    from babyllm.model.document_attention import Part, Seen

EMBEDDING, OUTPUT = "embed_tokens", "lm_head"  # names of the matrices with a row for each token
INIT_STD = 0.02
_SHORTEST_TABLE = 1 << 16  # rotary positions, which may lie beyond the length of a row


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(h)) * up(h)), where h is the normed input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.ff_width, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.ff_width, bias=False)
        self.down_proj = nn.Linear(config.ff_width, config.d_model, bias=False)
        self.is_selective = config.activation_checkpointing == "selective"

    def forward(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        gate_up = joint(x, norm, (self.gate_proj, self.up_proj), recompute=self.is_selective)
        return after_swiglu(gate_up, self.down_proj, recompute=self.is_selective)


class Block(nn.Module):
    """One layer: attention, then MLP, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config)
        self.dropout = config.dropout

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Seen | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        attended = self.self_attn(x, self.input_layernorm, cos, sin, seen)
        x = x + F.dropout(attended, self.dropout, self.training)
        return x + F.dropout(self.mlp(x, self.post_attention_layernorm), self.dropout, self.training)


class Transformer(Model):
    """A language model: per-token losses for training and evaluation, logits for generation.

    Weights start as normal with std 0.02, the projections that write into the residual stream (`o_proj`, `down_proj`)
    with 0.02 / sqrt(2 n_layers) (Radford et al. 2019, section 2.3); they are drawn from torch's current generator.
    Biases start at 0.

    Attributes:
        config: shape.
        origin: directory the weights were read from, which an adapter names as its base; None if they were drawn.
        layers: blocks.
        end_ids: ids of tokens that end its text, by the files it was read from; empty if the weights were drawn.
        part: place of the tokens of the pass at hand in their rows; None: they are whole rows.
    """

    config: ModelConfig
    origin: str | None
    layers: nn.ModuleList

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.origin = None
        self.end_ids: frozenset[int] = frozenset()
        self.part: Part | None = None
        V, D = config.vocab_size, config.d_model
        # A weight handed in is not drawn here, nor on "meta", where that would load the compiler for seconds.
        self.embed_tokens = nn.Embedding(V, D, _weight=torch.empty(V, D))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self._rope: tuple[Tensor, Tensor] | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Redraw all weights from torch's current random generator; weights on "meta" are left as placeholders."""
        if self.embed_tokens.weight.is_meta:  # torch would load its compiler, which takes seconds
            return
        for name, weight in self.named_parameters():
            self.draw(name, weight)

    def draw(self, name: str, weight: Tensor) -> None:
        """Draw the initial values of the parameter `name` into `weight`, from torch's current random generator."""
        if weight.dim() < 2:
            nn.init.constant_(weight, 0.0 if name.endswith(".bias") else 1.0)
        else:
            is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(weight, std=INIT_STD / math.sqrt(2 * self.config.n_layers) if is_residual else INIT_STD)

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
        """Negative log-likelihood of every target in nats, 0 where it is `IGNORE`; or several results of one pass.

        Args:
            tokens: (B, T) int64 ids.
            targets: (B, T) int64 ids, or `IGNORE` (-100); None where only hidden states are asked for.
            positions: (B, T) int64 rotary positions; None counts from 0 in every row.
            documents: (B, T) int64; a token sees only earlier tokens with its own number. None: the whole row.
            weights: (B, T) float32 constants that the nats are multiplied by; None for 1.
            n_targets: upper bound on the number of targets other than `IGNORE`, if known: the output layer then skips
                most of the others without reading from the device.
            temperature: divisor of the logits, so that answers are scored in the distribution they were sampled from.
            allowed: (B, T, ceil(V / 8)) uint8, the tokens that each target was drawn among, as bits
                (`chunk_logits`); nats and entropy are those of the distribution over them. None for all.
            returns: names of the results wanted: "nats", "entropy" (per token, in nats) and "hidden". All of them
                carry gradients. Entropy costs one more product with the output layer in the backward pass.

        Returns:
            (B, T) float32, the nats, without `returns`; else the results by name, as `Output` describes them.

        Raises:
            KeyError: a result needs targets or a head, and there are none; its name.
        """
        hidden = self.hidden(tokens, positions, documents)
        wanted, found = returns or ("nats",), {"hidden": hidden}
        scaled = hidden if temperature == 1 else hidden / temperature  # the output layer has no bias
        if targets is not None and "entropy" in wanted:
            of_targets = (targets, n_targets, allowed)
            nats, found["entropy"] = through(self.lm_head, losses_and_entropies, scaled, *of_targets)
            found["nats"] = nats if weights is None else nats * weights
        elif targets is not None and "nats" in wanted:
            found["nats"] = through(self.lm_head, token_losses, scaled, targets, weights, n_targets, allowed)
        return {name: found[name] for name in returns} if returns else found["nats"]

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Scores (B, T, V) float32 of the token after each of `tokens` (B, T), read in one pass."""
        hidden = self.hidden(tokens)
        return F.linear(hidden, dense_weight(self.lm_head).to(hidden.dtype)).float()

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        """The final hidden states (B, T, D), after the last norm; arguments are those of `forward`.

        In training call the model with `returns=("hidden",)` instead, so that a wrapper such as DDP sees the pass.
        """
        part = self.part
        seen = part if part or documents is None else self.seen_in(documents)
        length = part.length if part else tokens.shape[1]
        cos, sin = self.rotations(length, tokens.device)
        if positions is None:
            cos, sin = cos[None, None, :length], sin[None, None, :length]  # (1, 1, T, W) and (1, 1, T, W/2)
        else:
            cos, sin = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)  # (B, 1, T, W) and (B, 1, T, W/2)
        x = F.dropout(self.embed_tokens(tokens), self.config.dropout, self.training)  # (B, T, D)
        every = self.config.recomputed_every if self.training else 0
        for i, block in enumerate(self.layers):
            if every and i % every == 0:
                x = checkpoint(block, x, cos, sin, seen, use_reentrant=False)
            else:
                x = block(x, cos, sin, seen)
        normed: Tensor = self.norm(x)
        return normed

    def seen_in(self, documents: Tensor, parts: Sequence[range] = ()) -> Seen:
        """What the tokens of packed rows see; arguments are as for `document_attention.seen_in`."""
        dtype, by_document = product_dtype(self.embed_tokens.weight), attention_form(self) == "documents"
        return seen_in(documents, dtype, self.config.head_width, by_document=by_document, parts=parts)

    def rotations(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines (S, W) and sines (S, W/2), float32, of the rotary angles, for S >= `length` positions.

        Raises:
            UserError: `length` exceeds the model's context, and its rotary positions are not dynamic.
        """
        limit = self.config.max_seq_len
        scaling = self.config.rope_scaling
        if length > limit and (scaling is None or scaling.type != "dynamic"):
            raise UserError(f"{length} tokens are more than the model's max_seq_len of {limit}")
        # Up to the limit the angles do not depend on the length, so the table doubles; beyond it each length has one.
        wanted = length if length > limit else min(limit, max(_SHORTEST_TABLE, 1 << (length - 1).bit_length()))
        if self._rope is None or self._rope[0].device != device or not self._suits(len(self._rope[0]), wanted):
            with torch.inference_mode(False):  # tensors made in inference mode could not be used in training
                self._rope = rope_table(self.config, wanted, device)
        return self._rope

    def _suits(self, has: int, wanted: int) -> bool:
        """Whether a table of `has` rows serves where `wanted` are needed."""
        limit = self.config.max_seq_len
        return has == wanted or wanted < has <= limit
