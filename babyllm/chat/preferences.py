"""Preferences: which of two answers to a prompt is the better one, or whether a single answer is a good one.

record -> chosen and rejected, or answers with scores -> PreferencePair
       -> a conversation with a verdict               -> RatedAnswer
       -> Unusable(reason)

partition -> read_preference_partition -> PreferencePair | RatedAnswer | Rejected

Known shapes: prompt + chosen + rejected (texts or messages), ShareGPT's conversations + chosen + rejected,
response_chosen + response_rejected, whole transcripts in chosen and rejected (Anthropic-HH), UltraFeedback with scores
or with `completions`, a prompt or messages with `label` or `kto_tag` (KTO), and the ratings of `babyllm serve`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from babyllm.chat.formats import FormatConfig, task_of, to_conversation, to_question
from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Message, Unusable
from babyllm.chat.reading import SECTION, read_partition, reason_of
from babyllm.chat.records.fields import RecordFields
from babyllm.chat.records.preferred import (
    COMPLETIONS,
    best_and_worst,
    difficulty_of,
    margin_of,
    said_in,
    sides_of,
    unpacked,
    verdict_of,
    without_preference,
)
from babyllm.chat.records.spoken import Talk
from babyllm.config.json_fields import kind_of
from babyllm.text.readers import Partition, Rejected, Source
from babyllm.text.readers.records import BadRecord

WOULD_DO = "prompt + chosen + rejected, conversations + chosen + rejected, completions with scores, or messages + label"


@dataclass(frozen=True)
class PreferenceFormat(FormatConfig):
    """How records become preferences.

    Attributes:
        chosen: field of the better answer, or of a conversation that ends with it; null takes chosen, response_chosen,
            chosen_response and the like.
        rejected: field of the worse answer; null takes the usual names.
    """

    chosen: str | None = None
    rejected: str | None = None


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to the same prompt.

    Attributes:
        prompt: messages before the answers; at least one is not the system's.
        chosen: messages of the better answer, the last of which is the assistant's.
        rejected: messages of the worse answer, the last of which is the assistant's.
        margin: how much better the chosen one is, such as the difference of two scores; None if unknown.
        difficulty: how hard the pair is to tell apart, from 0 for easy to 1 for hard or in any unit; None if unknown.
        task: the kind of pair.
        id: the origin of the pair, such as "pairs.jsonl:17".
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float | None = None
    difficulty: float | None = None
    task: str = ""
    id: str = ""

    @property
    def is_identical(self) -> bool:
        """Whether both answers say the same."""
        return _said(self.chosen) == _said(self.rejected)

    def rated(self) -> tuple[RatedAnswer, RatedAnswer]:
        """The chosen answer as a good one, and the rejected one as a bad one."""
        good, bad = ((*self.prompt, *side) for side in (self.chosen, self.rejected))
        return RatedAnswer(good, True, self.task, self.id), RatedAnswer(bad, False, self.task, self.id)


@dataclass(frozen=True)
class RatedAnswer:
    """An answer with a verdict.

    Attributes:
        messages: the conversation, the last message of which is the answer.
        is_desirable: whether the answer is a good one.
        task: the kind of conversation.
        id: the origin of the answer, such as "feedback.jsonl:17".
    """

    messages: tuple[Message, ...]
    is_desirable: bool
    task: str = ""
    id: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the answer."""
        return self.messages[:-1]


Preference = PreferencePair | RatedAnswer


def to_preference(record: Mapping[str, Any], config: FormatConfig, *, task: str, id: str) -> Preference:
    """The preference in a record.

    Args:
        record: the fields of a JSON object or a row of a table; null counts as absent.
        config: the format of the prompt, and the names of the fields of the answers.
        task: the task of a record that does not name its own.
        id: the id of the preference.

    Raises:
        Unusable: the record holds no preference that can be trained on.
    """
    fields = RecordFields(record)
    task = task_of(fields, config) or task
    named = (config.chosen, config.rejected) if isinstance(config, PreferenceFormat) else ()
    sides = sides_of(fields, *named)
    talk = Talk(config.roles, config.speakers)
    if sides is not None:
        values = [(unpacked(fields.lookup(name)), name) for name in sides]
        rest = {name: value for name, value in without_preference(fields).items() if name not in sides}
        prompt, chosen, rejected = _parted(rest, config, [said_in(*value, talk) for value in values], values)
        return _pair(prompt, chosen, rejected, margin_of(fields), difficulty_of(fields), task, id)
    rest = without_preference(fields)
    if isinstance(fields.get(COMPLETIONS), Sequence) and not isinstance(fields.get(COMPLETIONS), str):
        found = best_and_worst(fields.get(COMPLETIONS))
        best, worst = [Message(ASSISTANT, found.best)], [Message(ASSISTANT, found.worst)]
        return _pair(to_question(rest, config)[0], best, worst, found.margin, difficulty_of(fields), task, id)
    verdict = verdict_of(fields)
    if verdict is None:
        names = ", ".join(str(fields.spelled(n))[:30] for n, v in fields.values.items() if v is not None) or "(none)"
        raise Unusable(f"no preference: it has the fields {names}; expected {WOULD_DO}")
    messages = to_conversation(rest, config, task=task, id=id).messages
    _check(messages[:-1], messages[-1:])
    return RatedAnswer(_only_the_last(messages), verdict, task, id)


def _pair(
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
    margin: float | None,
    difficulty: float | None,
    task: str,
    id: str,
) -> PreferencePair:
    for side in (chosen, rejected):
        _check(prompt, side)
    before = tuple(replace(message, weight=0) for message in prompt)
    return PreferencePair(before, _only_the_last(chosen), _only_the_last(rejected), margin, difficulty, task, id)


def _parted(
    rest: Mapping[str, Any], config: FormatConfig, sides: list[list[Message]], values: Sequence[tuple[Any, str]]
) -> tuple[Sequence[Message], Sequence[Message], Sequence[Message]]:
    """The prompt, and what each side says after it; sides that are whole conversations repeat the prompt.

    Raises:
        Unusable: there is no prompt, or the sides differ before their last message.
    """
    as_texts = [[Message(ASSISTANT, v)] if isinstance(v, str) else s for (v, _), s in zip(values, sides, strict=True)]
    if min(map(len, sides)) < 2:
        # Where one side alone looks like a conversation, it is an answer that quotes one.
        return to_question(rest, config)[0], as_texts[0], as_texts[1]
    question: list[Message] = []
    with suppress(Unusable):
        question = to_question(rest, config)[0]
    (*shared, better), (*other, worse) = sides
    is_same = _said(shared) == _said(other)
    if is_same and _said(question)[-len(shared) :] == _said(shared):
        return question, [better], [worse]
    if question and all(isinstance(value, str) for value, _ in values):
        return question, as_texts[0], as_texts[1]
    if question and not any(message.role == USER for message in (*shared, *other)):
        return question, sides[0], sides[1]  # such as calls of tools, their results and the answer
    if not is_same:
        raise Unusable("chosen and rejected differ before their last messages")
    return shared, [better], [worse]


def _said(messages: Sequence[Message]) -> list[tuple[str, str, str, str]]:
    return [(m.role, m.content.strip(), m.reasoning.strip(), m.tools) for m in messages]


def _only_the_last(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with a weight of 1 for the last and of 0 for all before it."""
    return (*(replace(message, weight=0) for message in messages[:-1]), replace(messages[-1], weight=1))


def _check(prompt: Sequence[Message], side: Sequence[Message]) -> None:
    if all(message.role == SYSTEM for message in prompt):
        raise Unusable("nothing before the answer")
    if not side or side[-1].role != ASSISTANT:
        raise Unusable("the last message is not the assistant's")
    for message in side:
        if message.role == ASSISTANT and not message.content.strip():
            raise Unusable("an empty answer")
    try:
        "".join(m.role + m.content + m.reasoning + m.tools for m in (*prompt, *side)).encode()
    except UnicodeEncodeError:
        raise Unusable("a lone surrogate, so it is not valid Unicode") from None


def read_preference_partition(
    partition: Partition, config: FormatConfig, section: str = SECTION
) -> Iterator[Preference | Rejected]:
    """Every record of a partition, in order: a preference, or the reason why it was rejected.

    Args:
        partition: partition of `find_conversation_partitions`.
        config: settings for reading records as preferences.
        section: name of the settings' section on the command line, for messages that suggest flags.
    """
    yield from read_partition(partition, partial(_Preferences, config=config, section=section))


class _Preferences:
    """Makes preferences of the records of one source."""

    def __init__(self, source: Source, config: FormatConfig, section: str) -> None:
        self._source, self._config, self._section = source, config, section

    def document(self, record: Any, place: str) -> Preference:
        """The preference in a record.

        Raises:
            BadRecord: the record holds none.
        """
        if not isinstance(record, dict):
            raise BadRecord(f"not an object with fields but {kind_of(record)}")
        try:
            return to_preference(record, self._config, task=self._source.domain, id=place)
        except Unusable as error:
            raise BadRecord(reason_of(error, self._section)) from None

    def columns(self, names: Sequence[str]) -> list[str]:
        """All columns: any may hold a score or belong to the prompt."""
        return list(names)
