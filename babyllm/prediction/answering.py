"""A model's answers to a window of records, as lines of JSON: each record as it is, with what was answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from babyllm.chat.messages import Unusable
from babyllm.chat.session import answer_lead
from babyllm.generation import Completion, Sampling, completions
from babyllm.model.transformer import Transformer
from babyllm.prediction.questions import REFERENCE, Asking, Question
from babyllm.runtime import derive_seed
from babyllm.text.readers import Rejected

PREDICTION, PREDICTIONS, FINISH, ERROR = "prediction", "predictions", "finish", "error"


class Lines(NamedTuple):
    """The lines of a window.

    Attributes:
        text: lines in UTF-8, one for each record.
        n_tokens: number of tokens that the model drew.
    """

    text: bytes
    n_tokens: int


class LineMaker(Protocol):
    """Makes the lines of a file, window by window."""

    @property
    def window(self) -> int:
        """The number of records whose lines are made as a whole."""

    def lines(self, records: Sequence[Mapping[str, Any] | Rejected], first: int) -> Lines:
        """The lines of a window of records, the first of which has the number `first` in the input, from 0."""


@dataclass(frozen=True)
class Answering:
    """How questions are answered.

    Attributes:
        model: model in evaluation mode.
        asking: how records become questions.
        sampling: settings of the draws; each answer derives its own seed from `seed` and the number of its record.
        samples: number of answers to each record.
        slots: largest number of answers that are decoded together.
        window: number of records that are answered as a whole.
    """

    model: Transformer
    asking: Asking
    sampling: Sampling
    samples: int = 1
    slots: int = 16
    window: int = 256

    def lines(self, records: Sequence[Mapping[str, Any] | Rejected], first: int) -> Lines:
        """The lines of a window of records.

        Args:
            records: records in the order of the input.
            first: number of the first of them in the input, from 0.
        """
        asked = [self._asked(record) for record in records]
        answered = self._answered({i: each for i, each in enumerate(asked) if isinstance(each, Question)}, first)
        lines = [
            as_line({**fields_of(record), **self._said(each, answered.get(i, []))})
            for i, (record, each) in enumerate(zip(records, asked, strict=True))
        ]
        n_tokens = sum(len(answer.tokens) for answers in answered.values() for answer in answers)
        return Lines(b"".join(lines), n_tokens)

    def _asked(self, record: Mapping[str, Any] | Rejected) -> Question | str:
        """The question in a record, or the reason why there is none."""
        if isinstance(record, Rejected):
            return record.reason
        try:
            question = self.asking.question(record)
        except Unusable as error:
            return str(error)
        taken = [name for name in (PREDICTION, PREDICTIONS, FINISH, ERROR) if name in record]
        if question.answer is not None and record.get(REFERENCE, question.answer) != question.answer:
            taken.append(REFERENCE)
        if taken:
            return f"it has a field {taken[0]}, which would be overwritten; rename it"
        context = self.model.config.max_seq_len
        return question if len(question.ids) < context else f"the prompt fills the context of {context:,} tokens"

    def _answered(self, questions: Mapping[int, Question], first: int) -> dict[int, list[Completion]]:
        """The answers to questions, by their place in the window."""
        # The longest prompts begin first, so that the last answers to end are those to short ones.
        order = sorted(questions, key=lambda i: -len(questions[i].ids))
        requests = [(questions[i].ids, sampling) for i in order for sampling in self._samplings(first + i)]
        template, tokenizer = self.asking.template, self.asking.tokenizer
        ends = template.end_ids if template else (tokenizer.eos_id,)
        lead = answer_lead(template) if template else ""
        found = completions(self.model, tokenizer, requests, ends, lead=lead, slots=self.slots)
        n = self.samples
        return {i: found[k * n : (k + 1) * n] for k, i in enumerate(order)}

    def _samplings(self, number: int) -> list[Sampling]:
        """The settings of the answers to a record, by its number in the input."""
        seed = self.sampling.seed
        own = self.sampling if seed is None else replace(self.sampling, seed=derive_seed(seed, number))
        return own.several(self.samples)

    def _said(self, asked: Question | str, answers: Sequence[Completion]) -> dict[str, Any]:
        """The fields that are added to a record."""
        if isinstance(asked, str):
            return {ERROR: asked}
        reference = {} if asked.answer is None else {REFERENCE: asked.answer}
        if error := next((answer.error for answer in answers if answer.error), ""):
            return {**reference, ERROR: error}
        if self.samples == 1:
            return {**reference, PREDICTION: answers[0].text, FINISH: answers[0].finish}
        texts, finishes = [answer.text for answer in answers], [answer.finish for answer in answers]
        return {**reference, PREDICTIONS: texts, FINISH: finishes}


def fields_of(record: Mapping[str, Any] | Rejected) -> Mapping[str, Any]:
    """A record as it is; of one that cannot be read its place, its line and its beginning."""
    if not isinstance(record, Rejected):
        return record
    return {"place": record.place, "line": record.line, "excerpt": record.excerpt}


def as_line(value: Mapping[str, Any]) -> bytes:
    """An object as a line of JSON in UTF-8."""
    # Tables hold dates and other values that JSON lacks; a lone surrogate becomes the escape that it was in JSON.
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{text}\n".encode("utf-8", "backslashreplace")
