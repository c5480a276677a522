"""Greedy answers of a model (the most probable token each time), beside the expected ones.

samples -> prompt of the last answer, expected answer -> completions -> GreedyAnswer
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from babyllm.evaluate.conversations.samples import AnswerIds, Sample
from babyllm.generation import Sampling, answers
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.tokenizer import Tokenizer

# Answers that are decoded together; a stop signal is checked after each such group.
_GROUP = 64


@dataclass(frozen=True)
class GreedyAnswer:
    """A greedy answer to the prompt of a conversation's last answer.

    Attributes:
        task: task of the conversation.
        prompt: text before the last answer, without special tokens.
        expected: text of the last answer of the conversation.
        answered: text of the model's answer.
        has_ended: whether the model ended its answer itself, before the limit.
    """

    task: str
    prompt: str
    expected: str
    answered: str
    has_ended: bool

    @property
    def is_exact(self) -> bool:
        """Whether the model ended its answer and the text equals the expected one, except for spaces around it."""
        return self.has_ended and self.answered.strip() == self.expected.strip()


def greedy_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    samples: Sequence[Sample],
    end_ids: Collection[int],
    runtime: Runtime,
    *,
    max_new_tokens: int,
) -> list[GreedyAnswer]:
    """The model's greedy answer to the prompt of each conversation's last answer; a stop signal cuts the list short.

    Args:
        model: a model in any mode; it runs as in evaluation mode.
        tokenizer: tokenizer with the template's special tokens.
        samples: conversations, each with at least one supervised turn.
        end_ids: ids of tokens that end an answer.
        runtime: device and dtype.
        max_new_tokens: largest number of tokens of an answer; if the expected answer is longer, its length.
    """
    results: list[GreedyAnswer] = []
    for begin in range(0, len(samples), _GROUP):
        if runtime.stop_requested:
            break
        group = samples[begin : begin + _GROUP]
        asked = [_question(sample, model.config.max_seq_len) for sample in group]
        requests = [
            (prompt, Sampling(max_new_tokens=max(max_new_tokens, len(expected)), temperature=0))
            for prompt, expected in asked
        ]
        with reads_in(runtime.device, runtime.reading_dtype):
            found = answers(model, tokenizer, requests, end_ids)
        for sample, (prompt, expected), completion in zip(group, asked, found, strict=True):
            ids = [token.id for token in completion.tokens]
            asked_text, expected_text, answered = (tokenizer.decode(part) for part in (prompt, expected, ids))
            has_ended = completion.finish == "stop"
            results.append(GreedyAnswer(sample.task, asked_text, expected_text, answered, has_ended))
    return results


def _question(sample: Sample, context: int) -> tuple[list[int], AnswerIds]:
    """The prompt of the last answer, without the oldest ids if the answer would lack room, and the answer."""
    start, expected = sample.answers()[-1]
    if not start:  # the model must read at least one token before it answers
        start, expected = 1, expected[1:]
    return sample.ids[:start].tolist()[-max(1, context - len(expected)) :], expected
