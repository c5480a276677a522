"""Metrics of generated answers, each against one or several references; no torch.

    METRICS[name](answer, references)  ->  the score of one answer: that of the reference that fits best
    AnswerScores(names).add(answer, references) ... .estimates()  ->  values of all answers, with standard errors

Scores are from 0 to 1, except those of sacrebleu, BLEU and chrF, which are from 0 to 100.
"""

from collections.abc import Callable, Sequence

from babyllm.evaluate.answer_metrics.matching import contains, exact, exact_normalised, number, number_strict
from babyllm.evaluate.answer_metrics.overlap import f1, rouge_1, rouge_2, rouge_l
from babyllm.evaluate.answer_metrics.sacrebleu_scores import bleu, chrf

Score = Callable[[str, Sequence[str]], float]
"""A metric of one answer; at least one reference is given."""

METRICS: dict[str, Score] = {
    metric.__name__: metric
    for metric in (
        *(exact, exact_normalised, contains, number, number_strict),
        *(f1, rouge_1, rouge_2, rouge_l, bleu, chrf),
    )
}
"""The metrics of one answer, by name."""
