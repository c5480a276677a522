"""What a rule makes of the answers to a record: a pair, the best answer to train on, or all of them.

line of answers -> Answer(text, is_cut, reward) ... -> usable ones, no two alike -> Choosing -> a record
                                                                                 -> the reason why there is none
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from babyllm.chat.formats import TASK_FIELDS, FormatConfig, to_question
from babyllm.chat.messages import Message, Unusable
from babyllm.errors import UserError
from babyllm.prediction.answering import ERROR, FINISH, PREDICTION, PREDICTIONS, Lines, as_line, fields_of
from babyllm.prediction.questions import references
from babyllm.text.readers import Rejected

Turns = list[dict[str, Any]]
"""Messages as objects of JSON with role and content."""
REWARDS = "rewards"
EMPTY, CUT, WITHOUT = "empty", "cut off at max_new_tokens", "without a reward"
WINDOW = 256  # lines that are rewarded or chosen from as a whole
_CUT = "length"  # how an answer ends that max_new_tokens or the context cut off


@dataclass(frozen=True)
class Rule:
    """What is chosen from the answers to a record.

    Attributes:
        name: kind of records that are written: pairs (prompt, chosen, rejected), best (messages that end with the
            best answer) or all (prompt, answers, rewards).
        chosen: source of the chosen answer of a pair: the best of the answers, or the record's own answer (data).
        at_least: least reward of a best or chosen answer; None takes any.
        margin: least difference of the rewards of a pair; equal ones never make a pair.
        cut: whether answers that were cut off are used, too.
    """

    name: Literal["pairs", "best", "all"] = "pairs"
    chosen: Literal["best", "data"] = "best"
    at_least: float | None = None
    margin: float = 0.0
    cut: bool = False

    @property
    def needs_reward(self) -> bool:
        """Whether nothing can be chosen without a reward."""
        return self.name == "best" or (self.name == "pairs" and self.chosen == "best")


class Answer(NamedTuple):
    """An answer with its reward.

    Attributes:
        text: what the model said.
        is_cut: whether its end was cut off.
        reward: number that the reward gave it; None without one.
    """

    text: str
    is_cut: bool
    reward: float | None


def answers_of(record: Mapping[str, Any]) -> list[Answer]:
    """The answers of a line with predictions, with rewards if it has them; empty for a line with an error."""
    if ERROR in record:
        return []
    texts = record[PREDICTIONS] if PREDICTIONS in record else [record[PREDICTION]]
    finishes = record[FINISH] if PREDICTIONS in record else [record[FINISH]]
    rewards = record.get(REWARDS) or [None] * len(texts)
    return [Answer(text, finish == _CUT, reward) for text, finish, reward in zip(texts, finishes, rewards, strict=True)]


@dataclass(frozen=True)
class Choosing:
    """Makes records of lines of answers by a rule; a line from which nothing can be chosen leaves nothing.

    Attributes:
        rule: what is chosen.
        format: settings for reading records as conversations.
        window: number of records that are written as a whole.
    """

    rule: Rule
    format: FormatConfig = field(default_factory=FormatConfig)
    window: int = WINDOW

    def lines(self, records: Sequence[Mapping[str, Any] | Rejected], first: int) -> Lines:
        """The lines that a window of records leaves.

        Args:
            records: lines of answers.
            first: number of the first of them in the file, from 0.
        """
        chosen = (self.choice(line_of(record)) for record in records)
        return Lines(b"".join(as_line(each) for each in chosen if isinstance(each, dict)), 0)

    def choice(self, record: Mapping[str, Any]) -> dict[str, Any] | str:
        """The record that a line of answers makes, or the reason why it makes none."""
        if ERROR in record:
            return str(record[ERROR])
        kept = {name: record[name] for name in ("id", *TASK_FIELDS) if name in record}
        prompt = turns(prompt_of(record, self.format))
        if self.rule.name == "all":
            return {**kept, "prompt": prompt, **self._all(record)}
        usable = self._usable(record)
        found = self._best(usable) if self.rule.name == "best" else self._pair(usable, record)
        if isinstance(found, str):
            return found
        if "messages" in found:
            return {**kept, **found, "messages": [*prompt, *found["messages"]]}
        return {**kept, "prompt": prompt, **found}

    def fault(self, answer: Answer) -> str | None:
        """The reason why an answer is not used; None if it is."""
        if not answer.text.strip():
            return EMPTY
        if answer.is_cut and not self.rule.cut:
            return CUT
        return WITHOUT if answer.reward is None and self.rule.needs_reward else None

    def _all(self, record: Mapping[str, Any]) -> dict[str, Any]:
        answers = answers_of(record)
        rewards = {REWARDS: [answer.reward for answer in answers]} if REWARDS in record else {}
        reference = {"reference": record["reference"]} if "reference" in record else {}
        finishes = ["length" if answer.is_cut else "stop" for answer in answers]
        return {"answers": [answer.text for answer in answers], **rewards, FINISH: finishes, **reference}

    def _usable(self, record: Mapping[str, Any]) -> list[Answer] | str:
        """The distinct answers that are used, or the reason why there is none."""
        answers = answers_of(record)
        faults = [self.fault(answer) for answer in answers]
        distinct: dict[str, Answer] = {}
        for answer, fault in zip(answers, faults, strict=True):
            if fault is None:
                distinct.setdefault(answer.text.strip(), answer)
        if distinct:
            return list(distinct.values())
        (reason, _), *others = Counter(faults).most_common()
        return "no answer of use" if others else f"every answer is {reason}"

    def _best(self, usable: list[Answer] | str) -> dict[str, Any] | str:
        if isinstance(usable, str):
            return usable
        best = max(usable, key=_reward)
        if self._is_too_low(best):
            return "no answer has the least reward"
        return {"messages": [{"role": "assistant", "content": best.text}], "reward": best.reward}

    def _pair(self, usable: list[Answer] | str, record: Mapping[str, Any]) -> dict[str, Any] | str:
        if self.rule.chosen == "data":
            return self._pair_with_data(usable, record)
        if isinstance(usable, str):
            return usable
        best, worst = max(usable, key=_reward), min(usable, key=_reward)
        if len(usable) == 1:
            return "one answer of use, or equal ones"
        if _reward(best) == _reward(worst) or _reward(best) - _reward(worst) < self.rule.margin:
            return "tied rewards"
        if self._is_too_low(best):
            return "no answer has the least reward"
        rewards = {"chosen_reward": best.reward, "rejected_reward": worst.reward}
        return {"chosen": best.text, "rejected": worst.text, **rewards}

    def _pair_with_data(self, usable: list[Answer] | str, record: Mapping[str, Any]) -> dict[str, Any] | str:
        """The record's own answer is chosen, and the worst answer, the first without rewards, is rejected."""
        right = next((text for text in references(record) if text.strip()), None)
        if right is None:
            return "no answer in the data"
        if isinstance(usable, str):
            return usable
        others = [answer for answer in usable if answer.text.strip() != right.strip()]
        if not others:
            return "equal to the answer in the data"
        worst = min(others, key=lambda answer: math.inf if answer.reward is None else answer.reward)
        return {"chosen": right, "rejected": worst.text}

    def _is_too_low(self, answer: Answer) -> bool:
        return self.rule.at_least is not None and _reward(answer) < self.rule.at_least


class Tally(NamedTuple):
    """What a rule makes of records and of their answers.

    Attributes:
        n_records: number of records of the source.
        dropped: number of records that were dropped, by reason.
        unused: number of answers that were not used, by reason.
        rewards: rewards of all answers that have one.
    """

    n_records: int
    dropped: Counter[str]
    unused: Counter[str]
    rewards: list[float]

    @property
    def n_written(self) -> int:
        """The number of records that were written."""
        return self.n_records - self.dropped.total()


def tally(answers: Path, choosing: Choosing) -> Tally:
    """What a rule makes of a file of answers, counted.

    Args:
        answers: complete file of answers, with rewards or without.
        choosing: how records are made of them.
    """
    dropped, unused, rewards = Counter[str](), Counter[str](), list[float]()
    n_records = 0
    for record in _records(answers):
        n_records += 1
        found = choosing.choice(record)
        if isinstance(found, str):
            dropped[found] += 1
        given = answers_of(record)
        unused.update(fault for fault in map(choosing.fault, given) if fault)
        rewards += [answer.reward for answer in given if answer.reward is not None]
    return Tally(n_records, dropped, unused, rewards)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def prompt_of(record: Mapping[str, Any], format: FormatConfig) -> list[Message]:
    """The messages that a line of answers answers."""
    try:
        return to_question(asked_record(record), format)[0]
    except Unusable as error:  # it could be read when it was answered
        raise UserError(f"a line of answers cannot be read as a question: {error}; was it changed?") from error


def turns(messages: Sequence[Message]) -> Turns:
    """Messages as objects of JSON."""
    spoken = [message.spelled_out() for message in messages]
    return [{"role": message.role, "content": message.content} for message in spoken]


def line_of(record: Mapping[str, Any] | Rejected) -> Mapping[str, Any]:
    """A line of answers; one that cannot be read is a line with an error."""
    fields = fields_of(record)
    return {**fields, ERROR: record.reason} if isinstance(record, Rejected) else fields


def asked_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A line of answers without what was answered."""
    return {name: value for name, value in record.items() if name not in (PREDICTION, PREDICTIONS, FINISH)}


def _reward(answer: Answer) -> float:
    return -math.inf if answer.reward is None else answer.reward
