"""Answers scored from 1 to 10 on weighted dimensions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babyllm.endpoint.config import Request
from babyllm.endpoint.replies import LENGTH, Reply
from babyllm.errors import UserError
from babyllm.judging.answer_files import Answer
from babyllm.judging.judge_prompts import filled
from babyllm.judging.pairs import Ask
from babyllm.judging.verdicts import scores_in, why_none


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer and its scores.

    Attributes:
        answer: what was scored.
        scores: score of each dimension, once per repeat; None for a repeat without a verdict.
        texts: what the judge wrote, once per repeat.
        problems: reasons for which repeats have no verdict.
    """

    answer: Answer
    scores: Sequence[Mapping[str, float] | None]
    texts: Sequence[str]
    problems: Sequence[str]

    def totals(self, weights: Mapping[str, float]) -> list[float]:
        """The weighted mean over the dimensions of each repeat that has a verdict."""
        total = sum(weights.values())
        return [sum(scores[name] * weights[name] for name in weights) / total for scores in self.scores if scores]

    def means(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The mean over repeats of each dimension and of the weighted mean, `total`; empty without a verdict."""
        given = [scores for scores in self.scores if scores]
        if not given:
            return {}
        by_name = {name: statistics.fmean(scores[name] for scores in given) for name in weights}
        return by_name | {"total": statistics.fmean(self.totals(weights))}

    def spread(self, weights: Mapping[str, float]) -> float | None:
        """The standard deviation of the weighted mean over repeats; None for fewer than two."""
        totals = self.totals(weights)
        return statistics.stdev(totals) if len(totals) > 1 else None

    def to_json(self, weights: Mapping[str, float]) -> dict[str, Any]:
        """The scored answer as a line of `verdicts.jsonl`."""
        return {
            **vars(self.answer),
            "means": self.means(weights),
            "spread": self.spread(weights),
            "scores": self.scores,
            "judgements": self.texts,
        }


def check_weights(weights: Mapping[str, float]) -> None:
    """Check the dimensions.

    Raises:
        UserError: there is none, or a name cannot be used.
    """
    if not weights:
        raise UserError("--dimensions: give at least one with its weight, such as '{helpful: 2, honest: 1}'")
    if wrong := [name for name in weights if not name.strip() or "\n" in name or name == "total"]:
        raise UserError(f"--dimensions: {wrong[0]!r} cannot be the name of a dimension")


def score(
    answers: Sequence[Answer],
    prompt: str,
    dimensions: Mapping[str, str],
    weights: Mapping[str, float],
    repeats: int,
    ask: Ask,
) -> list[ScoredAnswer]:
    """The answers with their scores, in their order.

    Args:
        answers: what is scored.
        prompt: text with the names `prompt`, `answer`, `reference`, `dimensions` and `form` in braces.
        dimensions: values of the last two, as `dimension_lines` returns them.
        weights: weight of each dimension.
        repeats: number of times that each answer is scored.
        ask: function that returns the judge's replies; of several judges the same one has all answers to a prompt.
    """
    requests = [
        Request(
            [{"role": "user", "content": filled(prompt, {**_values(answer), **dimensions}, answer.reference)}],
            number,
            beside=answer.prompt,
        )
        for answer in answers
        for number in range(repeats)
    ]
    replies = list(ask(requests))
    return [_scored(answer, replies[i * repeats : (i + 1) * repeats], weights) for i, answer in enumerate(answers)]


def _values(answer: Answer) -> dict[str, str]:
    return {"prompt": answer.prompt, "answer": answer.text}


def _scored(answer: Answer, replies: Sequence[Reply], weights: Mapping[str, float]) -> ScoredAnswer:
    scores = [None if reply.error or reply.finish == LENGTH else scores_in(reply.text, weights) for reply in replies]
    problems = [why_none(reply) for reply, found in zip(replies, scores, strict=True) if found is None]
    return ScoredAnswer(answer, scores, [reply.text for reply in replies], problems)
