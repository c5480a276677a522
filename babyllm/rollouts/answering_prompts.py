"""Answers drawn from a model's own distribution, with the log-probability of every draw, and rewarded.

prompts, seeds -> Engine -> tokens, log-probabilities, finish reason of each answer -> text -> rewards -> Answered
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.generation.engine import Engine, Finish
from babyllm.generation.sampling import Sampling, Token
from babyllm.model.transformer import Transformer
from babyllm.rollouts.allowed_tokens import AllowedTokens
from babyllm.rollouts.prompt_files import Prompt
from babyllm.rollouts.rewards.reward_sum import Rewards
from babyllm.rollouts.rollout_config import RolloutConfig
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.runtime.seeds import derive_seed
from babyllm.tokenizer import Tokenizer

_HELD_OUT = 3  # makes the seeds of held-out prompts others than those of rollouts


@dataclass
class Drawn:
    """An answer as it was drawn.

    Attributes:
        ids: ids of its tokens, with the end token if it was drawn.
        logprobs: log-probability of each token in nats, in the distribution it was drawn from.
        finish: "stop" where an end token was drawn, "length" where the answer was cut off.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish = "length"

    @property
    def content(self) -> list[int]:
        """The ids without the end token."""
        return self.ids[:-1] if self.finish == "stop" else self.ids

    def add(self, token: Token) -> None:
        """Append a token."""
        self.ids.append(token.id)
        self.logprobs.append(token.drawn or 0.0)


def draw_answers(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    end_ids: Collection[int],
    slots: int,
    constraint: Constraint | None = None,
    tokenizer: Tokenizer | None = None,
) -> list[Drawn]:
    """An answer to each prompt, from the weights that the model has now.

    Nothing but the temperature and the constraint changes the distribution, so the log-probabilities are those that
    `Transformer.forward(..., temperature=temperature, allowed=allowed)` computes, with `AllowedTokens`.

    Args:
        model: the policy; any mode.
        prompts: ids that are read before each answer.
        seeds: seed of each answer.
        max_new_tokens: largest number of tokens of an answer, its end token included.
        temperature: divisor of the logits, above 0.
        end_ids: ids that end an answer.
        slots: largest number of answers that are written together.
        constraint: what every answer says; None for anything.
        tokenizer: tokenizer of the model, which a constraint needs.

    Raises:
        UserError: a prompt leaves no room, the scores are not numbers, or no token fits the constraint.
    """
    if not prompts:
        return []
    if temperature <= 0:
        raise UserError(f"temperature={temperature:g}: must be above 0, since answers are drawn")
    context = min(model.config.max_seq_len, max(map(len, prompts)) + max_new_tokens)
    engine = Engine(model, slots=min(slots, len(prompts)), context=context, tokenizer=tokenizer)
    found: dict[int, Drawn] = {}
    for ids, seed in zip(prompts, seeds, strict=True):
        sampling = Sampling(
            max_new_tokens, temperature=temperature, top_k=None, constraint=constraint, seed=seed, logprobs=0
        )
        found[engine.submit(ids, sampling, end_ids)] = Drawn()
    while not engine.is_idle:
        for event in engine.step():
            answer = found[event.number]
            if event.finish == "error":
                raise UserError(event.error)
            if token := event.token or event.end:
                answer.add(token)
            if event.finish:
                answer.finish = event.finish
    engine.release()
    return list(found.values())


@dataclass
class Answered:
    """A prompt, an answer to it, and its rewards.

    Attributes:
        prompt: the prompt.
        drawn: the answer as ids.
        text: its text, without end token.
        reward: weighted sum of its rewards; NaN if it lacks one.
        parts: rewards by name.
    """

    prompt: Prompt
    drawn: Drawn
    text: str
    reward: float
    parts: dict[str, float | None]


class Answering:
    """Answers prompts with the weights that a model has now, and rewards them.

    Attributes:
        constraint: what every answer says; None for anything.
        allowed: what finds the tokens that answers were drawn among; None without a constraint.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        end_ids: Sequence[int],
        config: RolloutConfig,
        max_new_tokens: int,
        runtime: Runtime,
    ) -> None:
        """Keep what answers depend on.

        Args:
            model: policy, on its device.
            tokenizer: tokenizer of the policy.
            end_ids: ids that end an answer.
            config: section `rollout`.
            max_new_tokens: largest number of tokens of an answer.
            runtime: runtime of the run.

        Raises:
            UserError: the constraint cannot be read or used.
        """
        self.model, self.runtime, self._decode = model, runtime, tokenizer.decode
        self.constraint = Constraint.of_options(config, "--rollout.")
        self.allowed: AllowedTokens | None = None
        if self.constraint:
            ends = [*model.end_ids, *end_ids]
            self.allowed = AllowedTokens(self.constraint, tokenizer, ends, model.config.vocab_size)
        self._draw = partial(
            draw_answers,
            max_new_tokens=max_new_tokens,
            temperature=config.temperature,
            end_ids=end_ids,
            slots=config.slots,
            constraint=self.constraint,
            tokenizer=tokenizer,
        )
        self.seconds = {"sampling": 0.0, "scoring": 0.0}

    def _drawn(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Drawn]:
        with reads_in(self.runtime.device, self.runtime.dtype):  # as the run trains
            return self._draw(self.model, [prompt.ids for prompt in prompts], seeds)

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int], rewards: Rewards) -> list[Answered]:
        """An answer to each prompt, with its reward."""
        began = time.perf_counter()
        drawn = self._drawn(prompts, seeds)
        sampled = time.perf_counter()
        texts = [self._decode(each.content) for each in drawn]
        parts = rewards.parts([prompt.turns for prompt in prompts], texts, [prompt.record for prompt in prompts])
        totals = rewards.total(parts)
        self.seconds["sampling"] += sampled - began
        self.seconds["scoring"] += time.perf_counter() - sampled
        return [
            Answered(prompt, each, text, total, {name: values[i] for name, values in parts.items()})
            for i, (prompt, each, text, total) in enumerate(zip(prompts, drawn, texts, totals, strict=True))
        ]

    def held_out(self, prompts: Sequence[Prompt], rewards: Rewards, seed: int) -> list[Answered]:
        """This rank's answers to held-out prompts, with the same seeds at each call."""
        mine = range(self.runtime.rank, len(prompts), self.runtime.world_size)
        return self([prompts[i] for i in mine], [derive_seed(seed, _HELD_OUT, i) for i in mine], rewards)
