"""Nats of each option of a question, in units of work that depend on the questions alone.

    questions -> units -> many short questions: rows of context and option, padded      -> nats of each option
                       -> one question: shared ids, kept -> context -> options, together

What a unit computes, and the shapes of its passes, depend on nothing but the questions of a task. So the numbers are
the same to the last bit for any batch size, and for any number of ranks with as many threads each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from babyllm.evaluate.scoring import Row, Score, batches, row_nats, row_scores
from babyllm.evaluate.tasks.prompts import Ids, Question
from babyllm.generation.decoder import PREFILL_TOKENS, Decoder
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in

UNIT_TOKENS = 2048
"""Largest number of tokens of a unit of short questions, padding included; a longer question is a unit of its own."""
MOST_REPEATED = 64
"""Largest number of tokens by which a short question grows if its context is read once for each option."""

Unit = tuple[Question, ...]


def units(questions: Sequence[Question]) -> list[Unit]:
    """The questions in units of work: long ones alone, ordered by what they share, and short ones together, by length.

    Args:
        questions: all questions that are asked of a model. A subset has other units.
    """
    short = [question for question in questions if _is_short(question)]
    alone: dict[Ids, list[Unit]] = {}
    for question in questions:
        if not _is_short(question):
            alone.setdefault(question.contexts[0][: question.n_shared], []).append((question,))
    widths = [len(question.options) * _n_read(question) for question in short]
    together = [tuple(short[i] for i in batch) for batch in batches(widths, UNIT_TOKENS)]
    return [*(unit for of_shared in alone.values() for unit in of_shared), *together]


def _is_short(question: Question) -> bool:
    repeated = sum(map(len, question.contexts[1:]))
    return question.n_shared == 0 and (repeated <= MOST_REPEATED or question.contexts[0] != question.contexts[-1])


class OptionReader:
    """Reads units of questions.

    The options of a long question are read together, each in a row of the cache that begins with the context.
    """

    def __init__(self, model: Transformer, planned: Sequence[Unit], runtime: Runtime) -> None:
        """Make room for the longest of the long questions.

        Args:
            model: a model in any mode; it runs as in evaluation mode.
            planned: all units that will be read.
            runtime: device and dtype.
        """
        self._model, self._runtime = model, runtime
        long = [question for unit in planned for question in unit if not _is_short(question)]
        if long:
            n_rows, longest = max(len(question.options) for question in long), max(map(_n_read, long))
            with reads_in(runtime.device, runtime.reading_dtype):
                self._decoder = Decoder(model, n_rows, longest)
        self._shared: Ids = ()
        self._n_rows_with_shared = 0

    def nats(self, unit: Unit) -> list[list[float]]:
        """Minus the log-probability of each option of each question of a unit after its context, in nats."""
        if not _is_short(unit[0]):
            return [[score.nats for score in scores] for scores in self.scores(unit)]
        rows = _rows(unit)
        nats = iter(row_nats(self._model, rows, self._runtime, batch_tokens=len(rows) * max(len(r.ids) for r in rows)))
        return [[float(next(nats)) for _ in question.options] for question in unit]

    def scores(self, unit: Unit) -> list[list[Score]]:
        """The score of each option of each question of a unit; short units take longer than in `nats`."""
        if _is_short(unit[0]):
            scores = iter(row_scores(self._model, _rows(unit), self._runtime))
            return [[next(scores) for _ in question.options] for question in unit]
        question = unit[0]
        with torch.inference_mode(), torch.autocast(self._decoder.device.type, enabled=False):
            return [self._alone(question.contexts[0], question.options, question.n_shared)]

    def _alone(self, context: Ids, options: Sequence[Ids], n_shared: int) -> list[Score]:
        self._share(context[:n_shared])
        first = self._read(context[n_shared:], n_shared)
        scores = [Score(-float(first[option[0]]), option[0] == int(first.argmax())) for option in options]
        rest = [option[:-1] for option in options]
        longest = max(map(len, rest))
        if longest:
            self._copy(n_shared, len(context), len(options))
            tokens = torch.tensor([[*ids, *(0,) * (longest - len(ids))] for ids in rest], device=self._decoder.device)
            logits = self._decoder.read_all(tokens, 0, [len(context)] * len(options))
            for row, option in enumerate(options):
                if len(option) > 1:
                    more = _score_of(logits[row, : len(option) - 1], option[1:])
                    scores[row] = Score(scores[row].nats + more.nats, scores[row].is_greedy and more.is_greedy)
        return scores

    def _share(self, ids: Ids) -> None:
        """Read the ids that questions share, unless they are in the cache already."""
        if ids != self._shared:
            self._shared, self._n_rows_with_shared = ids, 1
            if ids:
                self._read(ids, 0)

    def _read(self, ids: Ids, n_before: int) -> Tensor:
        """Log-probabilities (V,) float64 after `ids`, which follow `n_before` others in the first row of the cache."""
        logits = torch.empty(0)
        for start in range(0, len(ids), PREFILL_TOKENS):
            part = ids[start : start + PREFILL_TOKENS]
            tokens = torch.tensor([part], device=self._decoder.device)
            logits = self._decoder.read(tokens, 0, [n_before + start])[0]
        return logits.double().log_softmax(-1)

    def _copy(self, n_shared: int, end: int, n_rows: int) -> None:
        """Copy the cache of the context to the rows of all options."""
        for row in range(1, n_rows):
            begin = n_shared if row < self._n_rows_with_shared else 0
            self._decoder.move(0, row, end, begin=begin)
        self._n_rows_with_shared = max(self._n_rows_with_shared, n_rows)


def _score_of(logits: Tensor, ids: Ids) -> Score:
    """The score of `ids` under logits (T, V)."""
    targets = torch.tensor(ids)
    chosen = logits.double().log_softmax(-1).gather(1, targets[:, None])
    return Score(-float(chosen.sum()), bool((logits.argmax(-1) == targets).all()))


def _rows(unit: Unit) -> list[Row]:
    """A row of each option of each question, after its context."""
    return [
        Row(np.array([*context, *option], np.int64), np.arange(len(context) + len(option)) >= len(context))
        for question in unit
        for context, option in zip(question.contexts, question.options, strict=True)
    ]


def _n_read(question: Question) -> int:
    """The largest number of ids of a context and an option that the model reads."""
    return max(len(c) + len(option) - 1 for c, option in zip(question.contexts, question.options, strict=True))
