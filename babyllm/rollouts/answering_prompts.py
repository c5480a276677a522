"""Answers drawn from a model's own distribution, with the log-probability of every draw.

prompts, seeds -> Engine -> tokens, log-probabilities, finish reason of each answer
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from babyllm.errors import UserError
from babyllm.generation.engine import Engine, Finish
from babyllm.generation.sampling import NO_NUMBERS, Sampling, Token
from babyllm.model.transformer import Transformer


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
) -> list[Drawn]:
    """An answer to each prompt, from the weights that the model has now.

    Nothing but the temperature changes the distribution, so the log-probabilities are those that
    `Transformer.forward(..., temperature=temperature)` computes.

    Args:
        model: the policy; any mode.
        prompts: ids that are read before each answer.
        seeds: seed of each answer.
        max_new_tokens: largest number of tokens of an answer, its end token included.
        temperature: divisor of the logits, above 0.
        end_ids: ids that end an answer.
        slots: largest number of answers that are written together.

    Raises:
        UserError: a prompt leaves no room, or the scores are not numbers.
    """
    if not prompts:
        return []
    if temperature <= 0:
        raise UserError(f"temperature={temperature:g}: must be above 0, since answers are drawn")
    context = min(model.config.max_seq_len, max(map(len, prompts)) + max_new_tokens)
    engine = Engine(model, slots=min(slots, len(prompts)), context=context)
    found: dict[int, Drawn] = {}
    for ids, seed in zip(prompts, seeds, strict=True):
        sampling = Sampling(max_new_tokens, temperature=temperature, top_k=None, seed=seed, logprobs=0)
        found[engine.submit(ids, sampling, end_ids)] = Drawn()
    while not engine.is_idle:
        for event in engine.step():
            answer = found[event.number]
            if event.finish == "error":
                raise UserError(NO_NUMBERS)
            if token := event.token or event.end:
                answer.add(token)
            if event.finish:
                answer.finish = event.finish
    engine.release()
    return list(found.values())
