"""Sampling of an answer: settings, filters, and the draw of one token.

logits (V,) -> penalties, biases, constraint -> temperature -> top_k -> top_p -> min_p -> candidates -> draw -> Token

Legend: V vocabulary, C candidates that the filters leave.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.generation.constraints.matcher import Broken, Matcher
from babyllm.runtime import derive_seed

NO_NUMBERS = "the model's scores are not numbers (NaN or infinite): its weights or the dtype are broken"


@dataclass(frozen=True)
class Sampling:
    """Settings of the draws of one answer.

    Attributes:
        max_new_tokens: largest number of tokens of an answer; the model's context may allow fewer.
        temperature: divisor of the logits; below 1 sharpens the distribution, above 1 flattens it, and 0 takes the most
            probable token each time.
        top_k: number of the most probable tokens that are kept; None and 0 keep all.
        top_p: total probability of the kept tokens, which are the fewest most probable ones that reach it, at least one
            (Holtzman et al. 2020, section 3.1); None keeps all.
        min_p: least probability of a kept token, as a share of that of the most probable token (Nguyen et al. 2024).
        repetition_penalty: factor that makes tokens that were already read or written less probable, if above 1
            (Keskar et al. 2019, section 4.1); 1 changes nothing.
        frequency_penalty: number subtracted from a token's score each time that the answer holds it; below 0 favours
            repetition (the formula of OpenAI's API).
        presence_penalty: number subtracted once from the score of each token that the answer holds.
        logit_bias: pairs of a token id and a number that is added to its score before the draw.
        constraint: what the answer may say; tokens that do not fit are never drawn. None allows everything.
        seed: seed of the draws; None draws differently each time.
        stop: strings that end the answer and are not part of it.
        logprobs: number of most probable tokens returned with each token, besides its own log-probability; None returns
            no log-probabilities.

    Raises:
        UserError: a value is out of range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    constraint: Constraint | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Check the range of each setting."""
        rules = (
            (self.max_new_tokens >= 0, "max_new_tokens", "must be at least 0"),
            (0 <= self.temperature < math.inf, "temperature", "must be at least 0"),
            (self.top_k is None or self.top_k >= 0, "top_k", "must be at least 0, or nothing"),
            (self.top_p is None or 0 <= self.top_p <= 1, "top_p", "must be at least 0 and at most 1"),
            (self.min_p is None or 0 <= self.min_p <= 1, "min_p", "must be at least 0 and at most 1"),
            (0.001 <= self.repetition_penalty <= 1000, "repetition_penalty", "must be between 0.001 and 1000"),
            (math.isfinite(self.frequency_penalty), "frequency_penalty", "must be a finite number"),
            (math.isfinite(self.presence_penalty), "presence_penalty", "must be a finite number"),
            (all(math.isfinite(bias) for _, bias in self.logit_bias), "logit_bias", "must hold finite numbers"),
            (not isinstance(self.stop, str) and all(self.stop), "stop", "must be texts that are not empty"),
            (self.logprobs is None or self.logprobs >= 0, "logprobs", "must be at least 0, or nothing"),
        )
        for is_kept, name, rule in rules:
            if not is_kept:
                raise UserError(f"{name}={getattr(self, name)}: {rule}")

    def several(self, n: int) -> list[Sampling]:
        """The settings of `n` answers to one prompt: the first has this seed, the others have seeds derived from it."""
        seeds = [self.seed if i == 0 or self.seed is None else derive_seed(self.seed, i) for i in range(n)]
        return [replace(self, seed=seed) for seed in seeds]

    def after(self, lead: str) -> Sampling:
        """The settings of an answer before which the model writes a text that its constraint does not allow."""
        return replace(self, constraint=self.constraint.after(lead)) if lead and self.constraint else self


class Token(NamedTuple):
    """A drawn token.

    Attributes:
        id: id of the token in the vocabulary.
        logprob: log-probability in nats in the model's own distribution, before penalty, temperature and filters; None
            if it was not computed.
        top: ids and log-probabilities (nats) of the most probable tokens in that distribution, the most probable first.
        drawn: log-probability in nats in the distribution it was drawn from, after penalty, temperature and filters; 0
            for a token that was chosen and not drawn, None if `logprob` is.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    drawn: float | None = None


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (..., V), divided by the penalty (multiplied if negative) where `seen`, (..., V) bool, is true."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The tokens that the filters leave: ids (C,) in rising order, and probabilities (C,) float64 that sum to 1.

    Args:
        logits: (V,) float32 on the CPU.
        sampling: settings with a temperature above 0.
    """
    ids: Tensor | None = None
    if sampling.top_k and sampling.top_k < len(logits):
        logits, ids = logits.topk(sampling.top_k)
    # The maximum is subtracted first, so that even a tiny temperature does not overflow.
    probs = ((logits - logits.max()).double() / sampling.temperature).softmax(0)
    keep = logits != -math.inf  # those that a constraint forbids
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = probs.sort(descending=True, stable=True)
        keep[order] = ordered.cumsum(0) - ordered < sampling.top_p
        keep[order[0]] = True
    if sampling.min_p:
        keep &= probs >= sampling.min_p * probs.max()
    left = keep.nonzero().squeeze(1)
    probs, ids = probs[left], left if ids is None else ids[left]
    ids, order = ids.sort()  # rounding may swap tokens of nearly equal probability; order by id is stable
    return ids, probs[order] / probs.sum()


class Sampler:
    """Draws the tokens of one answer, with a random generator of its own."""

    def __init__(
        self, sampling: Sampling, prompt: Iterable[int], vocab_size: int, matcher: Matcher | None = None
    ) -> None:
        """Begin an answer.

        Args:
            sampling: settings of the draws.
            prompt: token ids of the prompt.
            vocab_size: number of scores, V.
            matcher: the allowed tokens of the answer; None allows all.

        Raises:
            UserError: `logit_bias` has an id outside of the vocabulary.
        """
        self._sampling, self._matcher = sampling, matcher
        seed = sampling.seed
        self._random = random.Random(seed if seed is None or seed >= 0 else str(seed))  # Random(-1) is Random(1)
        self._seen: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool)
            self._seen[list(prompt)] = True
        self._biases, self._counts = dict(sampling.logit_bias), Counter[int]()
        self._penalises = bool(sampling.frequency_penalty or sampling.presence_penalty)
        if wrong := [i for i in self._biases if not 0 <= i < vocab_size]:
            raise UserError(f"logit_bias: {wrong[0]} is not a token id; the vocabulary has {vocab_size}")
        self._added: Tensor | None = None  # (V,) biases minus penalties
        if self._biases or self._penalises:
            self._added = torch.zeros(vocab_size)
            for token, bias in self._biases.items():
                self._added[token] = bias

    def draw(self, logits: Tensor) -> Token:
        """The next token, given the logits (V,) float32 on the CPU, all finite or minus infinity.

        Raises:
            Broken: no token fits the constraint.
        """
        sampling = self._sampling
        adjusted = self._adjusted(logits)
        if sampling.temperature == 0 or sampling.top_k == 1:
            drawn, share = int(adjusted.argmax()), 1.0
        else:
            ids, probs = candidates(adjusted, sampling)
            index = int(torch.searchsorted(probs.cumsum(0), self._random.random(), right=True))
            index = min(index, len(ids) - 1)
            drawn, share = int(ids[index]), float(probs[index])
        self._take(drawn)
        if sampling.logprobs is None:
            return Token(drawn)
        logprobs = logits.log_softmax(0)
        top = logprobs.topk(min(sampling.logprobs, len(logprobs)))
        most = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        return Token(drawn, float(logprobs[drawn]), most, math.log(share))

    def _adjusted(self, logits: Tensor) -> Tensor:
        """The logits after penalties, biases and the constraint."""
        if self._seen is not None:
            logits = penalised(logits, self._seen, self._sampling.repetition_penalty)
        if self._added is not None:
            logits = logits + self._added
        if self._matcher is not None:
            logits = logits.masked_fill(~self._matcher.allowed(), -math.inf)
            if not logits.isfinite().any():
                raise Broken("the answer cannot go on within its constraint: the model expects no token that fits")
        return logits

    def _take(self, drawn: int) -> None:
        """Remember a token that was drawn."""
        sampling = self._sampling
        if self._seen is not None:
            self._seen[drawn] = True
        if self._added is not None and self._penalises:
            self._counts[drawn] += 1
            penalty = sampling.frequency_penalty * self._counts[drawn] + sampling.presence_penalty
            self._added[drawn] = self._biases.get(drawn, 0.0) - penalty
        if self._matcher is not None:
            self._matcher.accept(drawn)
