"""What is counted about conversations, as one value that adds up over files, partitions and processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, get_type_hints

import numpy as np

from babyllm.chat_corpus.diversity.tallies import Tally, TextTally

SAMPLE = 1000
"""Largest number of conversations whose distances are measured."""


@dataclass(frozen=True)
class Sample:
    """Conversations drawn by a hash, each with the same probability: those with the smallest keys.

    Attributes:
        keys: keys of the conversations, ascending; equal keys are allowed.
        texts: beginnings of their texts, questions and answers together.
    """

    keys: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, keys: Iterable[int], texts: Iterable[str]) -> Sample:
        """The sample of conversations with these keys and texts."""
        chosen = sorted(zip(keys, texts, strict=True))[:SAMPLE]
        return cls(tuple(key for key, _ in chosen), tuple(text for _, text in chosen))

    def __add__(self, other: Sample) -> Sample:
        """The sample of the conversations of both."""
        return Sample.of(self.keys + other.keys, self.texts + other.texts)

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `of_json` reads."""
        return {"keys": list(map(str, self.keys)), "texts": list(self.texts)}  # 64 bits are too many for some readers

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Sample:
        """The sample from the JSON value of `to_json`."""
        return cls(tuple(map(int, value["keys"])), tuple(value["texts"]))


Numbers = Mapping[str, int]


def _none() -> Tally:
    return Tally(np.empty(0, np.uint64), np.empty(0, np.int64), 0)


@dataclass(frozen=True)
class Diversity:
    """What conversations hold, counted. A turn is an answer, with what was said to the model since the answer before.

    Attributes:
        counts: number of conversations, of blank_answers, of follow_ups (turns after the first whose question has
            terms), and of switches (follow-ups that share few terms with the turn before).
        rejected: number of records that are not conversations, by reason.
        scripts: number of conversations by the script of most of their tokens.
        script_tokens: number of tokens by script.
        tasks: tasks of the conversations, such as "reasoning/common sense".
        top_tasks: first levels of these tasks, such as "reasoning".
        systems: system messages, one for each conversation that has any.
        conversations: whole conversations, by a hash of system messages and turns.
        turns: numbers of turns of the conversations.
        prompts: texts before an answer, without blank ones.
        answers: texts of the answers.
        pairs: prompts with their answers, by a hash.
        prompt_openings: texts that prompts begin with.
        answer_openings: texts that answers begin with.
        prompt_lengths: lengths of the prompts in characters.
        answer_lengths: lengths of the answers in characters.
        prompt_tokens: tokens of the prompts.
        answer_tokens: tokens of the answers.
        prompt_pairs: pairs of adjacent tokens in the prompts.
        answer_pairs: pairs of adjacent tokens in the answers.
        sample: some conversations, whose distances are measured.
    """

    counts: Numbers
    rejected: Numbers
    scripts: Numbers
    script_tokens: Numbers
    tasks: TextTally
    top_tasks: TextTally
    systems: TextTally
    conversations: Tally
    turns: Tally
    prompts: TextTally
    answers: TextTally
    pairs: Tally
    prompt_openings: TextTally
    answer_openings: TextTally
    prompt_lengths: Tally
    answer_lengths: Tally
    prompt_tokens: TextTally
    answer_tokens: TextTally
    prompt_pairs: Tally
    answer_pairs: Tally
    sample: Sample

    @classmethod
    def nothing(cls, rejected: Numbers | None = None) -> Diversity:
        """The diversity of no conversations, with numbers of rejected records by reason."""
        no_texts = TextTally(_none(), np.empty(0, np.uint64), np.empty(0, np.int64), ())
        empty: dict[type, Any] = {Tally: _none(), TextTally: no_texts, Sample: Sample()}
        values = {name: empty.get(kind, {}) for name, kind in _kinds().items()}
        return cls(**{**values, "rejected": dict(rejected or {})})

    @property
    def n(self) -> int:
        """The number of conversations."""
        return self.counts.get("conversations", 0)

    def __add__(self, other: Diversity) -> Diversity:
        """The diversity of the conversations of both."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return Diversity(**{name: _sum(mine, theirs) for name, (mine, theirs) in pairs.items()})

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `of` reads: numbers, texts, and arrays in base64."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: dict(v) if isinstance(v, Mapping) else v.to_json() for name, v in values.items()}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Diversity:
        """The diversity from the JSON value of `to_json`."""
        kinds = {name: kind for name, kind in _kinds().items() if hasattr(kind, "of_json")}
        return cls(**{name: kinds[name].of_json(v) if name in kinds else v for name, v in value.items()})


def merge(parts: Iterable[Diversity]) -> Diversity:
    """The diversity of the conversations of all parts; what a report shows does not depend on their order or number."""
    return reduce(Diversity.__add__, parts, Diversity.nothing())


def _kinds() -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(Diversity).items() if not name.startswith("_")}


def _sum(mine: Any, theirs: Any) -> Any:
    if not isinstance(mine, Mapping):
        return mine + theirs
    return {key: mine.get(key, 0) + theirs.get(key, 0) for key in sorted({*mine, *theirs})}
