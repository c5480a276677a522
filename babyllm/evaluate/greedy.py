"""What a model answers when it takes the most probable token each time, beside what it should answer.

samples -> prompt of the last answer, expected answer -> completions -> GreedyAnswer
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from babyllm.evaluate.samples import AnswerIds, Sample
from babyllm.generation import Sampling, answers
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.tokenizer import Tokenizer

# Answers that are decoded together; after each such group a stop signal is looked for.
_GROUP = 64


@dataclass(frozen=True)
class GreedyAnswer:
    """A greedy answer to the prompt of a conversation's last answer.

    Attributes:
        task: task of the conversation.
        prompt: text up to the last answer, without what special tokens stand for.
        expected: last answer of the conversation.
        answered: answer of the model.
        has_ended: whether the model ended its answer, rather than the limit.
    """

    task: str
    prompt: str
    expected: str
    answered: str
    has_ended: bool

    @property
    def is_exact(self) -> bool:
        """Whether the answer is the expected one and ends where it does; spaces around it do not count."""
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
    """The model's own answer to the prompt of each conversation's last answer; a stop signal cuts the list short.

    Args:
        model: a model in any mode; it is read in evaluation mode.
        tokenizer: has the template's tokens.
        samples: each with a supervised turn.
        end_ids: tokens that end an answer.
        runtime: device and type of numbers.
        max_new_tokens: tokens of an answer at most; where the expected one is longer, as many as it has.
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
    """The prompt of the last answer, as much of its end as leaves room for the answer, and the answer."""
    start, expected = sample.answers()[-1]
    if not start:  # something must be read before anything can be answered
        start, expected = 1, expected[1:]
    return sample.ids[:start].tolist()[-max(1, context - len(expected)) :], expected
