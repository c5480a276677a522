"""Beam search: an approximate search for the most probable texts of a model, with a few parallel hypotheses.

prompt -> `num_beams` hypotheses -> their best continuations -> those that end are kept, others go on -> best ended

Legend: N beams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.generation.decoder import PREFILL_TOKENS, Decoder, require_readable
from babyllm.generation.sampling import NO_NUMBERS, penalised
from babyllm.model.transformer import Transformer


class Beam(NamedTuple):
    """A text that the search found.

    Attributes:
        score: log-probability in nats, divided by length ** length_penalty; the end token counts in both.
        ids: token ids, without the end token.
    """

    score: float
    ids: tuple[int, ...]


def beam_search(
    model: Transformer,
    prompt: Sequence[int],
    *,
    num_beams: int,
    n: int = 1,
    length_penalty: float = 1.0,
    repetition_penalty: float = 1.0,
    max_new_tokens: int = 128,
    end_ids: Collection[int] = (),
) -> list[Beam]:
    """The `n` best continuations of a prompt, best first.

    The search ends when `num_beams` hypotheses have ended and no open one has a better score at its current length than
    the worst of them. The results are those of transformers with `early_stopping=False`.

    Args:
        model: a model in any mode; it runs as in evaluation mode.
        prompt: token ids, at least one.
        num_beams: number of hypotheses that are followed.
        n: number of results, at most `num_beams`.
        length_penalty: exponent of the length by which log-probabilities are divided; 0 leaves them unchanged.
        repetition_penalty: factor that makes tokens that were already read or written less probable, if above 1.
        max_new_tokens: largest number of tokens of a text; the model's context may allow fewer.
        end_ids: ids of tokens that end a text, in addition to the model's (`Transformer.end_ids`).

    Raises:
        UserError: the prompt leaves no room in the model's context or has ids outside of its vocabulary, a setting is
            out of range, or the scores are not numbers.
    """
    limit = model.config.max_seq_len
    require_readable(prompt, limit, model.config.vocab_size)
    if num_beams < 1:
        raise UserError(f"num_beams={num_beams}: must be at least 1")
    if not 1 <= n <= num_beams:
        raise UserError(f"n={n}: must be at least 1 and at most num_beams={num_beams}")
    if not math.isfinite(length_penalty):
        raise UserError(f"length_penalty={length_penalty}: must be a finite number")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens={max_new_tokens}: must be at least 1 for a beam search")
    n_new = min(max_new_tokens, limit - len(prompt))
    decoder = Decoder(model, num_beams, len(prompt) + n_new)
    with torch.inference_mode(), torch.autocast(decoder.device.type, enabled=False):
        ends = {*end_ids, *model.end_ids}
        search = _Search(decoder, num_beams, length_penalty, ends, repetition_penalty)
        search.begin(prompt)
        while search.n_drawn < n_new and not search.is_settled:
            search.advance(is_last=search.n_drawn + 1 == n_new)
    return search.ended[:n]


class _Search:
    """A search in progress: open hypotheses, the logits after each of them, and ended hypotheses."""

    def __init__(
        self,
        decoder: Decoder,
        num_beams: int,
        length_penalty: float,
        end_ids: Collection[int],
        repetition_penalty: float,
    ) -> None:
        self._decoder, self._n_beams, self._penalty = decoder, num_beams, length_penalty
        self._repetition_penalty, self._prompt = repetition_penalty, list[int]()
        self._end_ids = frozenset(end_ids)
        self._beams: list[tuple[int, ...]] = [()]
        self._logprobs = torch.zeros(1)  # (N,) float32, nats of each whole hypothesis
        self.ended: list[Beam] = []
        self.n_drawn = 0

    @property
    def is_settled(self) -> bool:
        """Whether `num_beams` hypotheses have ended and no open one scores better than the worst of them."""
        if len(self.ended) < self._n_beams:
            return False
        return float(self._logprobs[0]) / float(self.n_drawn**self._penalty) <= self.ended[-1].score

    def begin(self, prompt: Sequence[int]) -> None:
        """Read the prompt."""
        self._prompt = list(prompt)
        for self._n_read in range(0, len(prompt), PREFILL_TOKENS):
            chunk = torch.tensor(
                [list(prompt[self._n_read : self._n_read + PREFILL_TOKENS])], device=self._decoder.device
            )
            self._logits = self._decoder.read(chunk, 0, [self._n_read])  # (N, V)
        self._n_read = len(prompt)

    def advance(self, is_last: bool) -> None:
        """Extend the hypotheses by a token; with `is_last` all of them end."""
        logprobs, parents, tokens = self._continuations()
        self.n_drawn += 1
        kept: list[int] = []
        for i, (value, parent, token) in enumerate(
            zip(logprobs.tolist(), parents.tolist(), tokens.tolist(), strict=True)
        ):
            if token not in self._end_ids and not is_last:
                kept.append(i)
            elif i < self._n_beams:  # a hypothesis that ends is kept only if it is among the best
                ids = self._beams[parent] if token in self._end_ids else (*self._beams[parent], token)
                self.ended.append(Beam(value / self.n_drawn**self._penalty, ids))
        self.ended = sorted(self.ended, key=lambda beam: -beam.score)[: self._n_beams]
        if not is_last:
            chosen = torch.tensor(kept[: self._n_beams])
            self._go_on(logprobs[chosen], parents[chosen], tokens[chosen])

    def _continuations(self) -> tuple[Tensor, Tensor, Tensor]:
        """The best continuations: log-probabilities, indices of the hypotheses they continue, token ids; (C,) each.

        C is so large that `num_beams` hypotheses go on even if each of the others ends with an end token.
        """
        if not self._logits.amax(-1).isfinite().all():
            raise UserError(NO_NUMBERS)
        total = self._penalised(self._logits.log_softmax(-1)) + self._logprobs[:, None]
        n = max(2, 1 + len(self._end_ids)) * self._n_beams
        best = total.flatten().topk(min(n, total.numel()))
        size = total.shape[1]
        return best.values, best.indices // size, best.indices % size

    def _penalised(self, logprobs: Tensor) -> Tensor:
        """Log-probabilities (N, V), reduced for tokens that the hypothesis has read or written."""
        if self._repetition_penalty == 1:
            return logprobs
        seen = torch.zeros_like(logprobs, dtype=torch.bool)
        for row, beam in zip(seen, self._beams, strict=True):
            row[[*self._prompt, *beam]] = True
        return penalised(logprobs, seen, self._repetition_penalty)

    def _go_on(self, logprobs: Tensor, parents: Tensor, tokens: Tensor) -> None:
        self._logprobs = logprobs
        self._beams = [(*self._beams[p], t) for p, t in zip(parents.tolist(), tokens.tolist(), strict=True)]
        device, n = self._decoder.device, len(tokens)
        self._decoder.reorder(parents.to(device), self._n_read)
        self._logits = self._decoder.read(tokens[:, None].to(device), 0, [self._n_read] * n)
        self._n_read += 1
