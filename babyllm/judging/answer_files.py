"""Files of answers in lines of JSON, and which answers are to the same prompt.

Two files are matched by the records' ids or, without ids, by the text of the prompt. If a prompt occurs several times,
its answers are matched in the order of the files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig, to_question
from babyllm.chat.messages import Unusable
from babyllm.errors import UserError

ANSWERS = ("answer", "response", "output", "completion")
PREDICTION, PREDICTIONS = "prediction", "predictions"
REFERENCES = ("reference", "references")
_ADDED = (PREDICTION, PREDICTIONS, "finish", "error", *REFERENCES)  # by `babyllm predict`, or never shown to a model


@dataclass(frozen=True)
class FieldNames:
    """The fields of a record; null looks for the usual names.

    Attributes:
        prompt: field of the prompt, a text or a list of messages; null finds it in the usual formats of conversations.
        answer: field of the answer; null takes prediction or predictions, else the end of the conversation.
        reference: field of the reference answer, a text or a list of texts; null takes reference or references, else
            the end of a conversation that has a prediction.
        id: field that says which records of two files belong together; null compares their prompts.
    """

    prompt: str | None = None
    answer: str | None = None
    reference: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Answer:
    """An answer to a prompt.

    Attributes:
        key: id of the record, or else its prompt, with the number of earlier answers to it in the file.
        prompt: what was asked.
        text: the answer.
        reference: a good answer to compare with; None if there is none.
    """

    key: str
    prompt: str
    text: str
    reference: str | None = None


@dataclass(frozen=True)
class Pair:
    """Two answers to the same prompt.

    Attributes:
        key: key of both answers.
        prompt: what was asked.
        a: answer of the first file.
        b: answer of the second file.
        reference: a good answer to compare with; None if there is none.
    """

    key: str
    prompt: str
    a: str
    b: str
    reference: str | None = None


def read_answers(path: Path, names: FieldNames) -> list[Answer]:
    """The answers of a file in lines of JSON, such as `babyllm predict` writes.

    A record with several predictions has as many answers. A record without one, beside others that have some, could
    not be answered and is left out.

    Raises:
        UserError: the file cannot be read, or a record lacks its prompt or answer; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; answers are lines of JSON") from None
    records = {f"{path}:{n}": _record(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()}
    if names.answer is None and any(_predictions(record) for record in records.values()):
        records = {where: record for where, record in records.items() if _predictions(record)}
    seen: Counter[str] = Counter()
    answers = []
    for where, record in records.items():
        name, prompt, texts, reference = _parts(record, names, where)
        if names.id and seen[name]:
            raise UserError(f"{where}: the id {name} occurs twice; give each record its own {names.id}")
        for text in texts:
            answers.append(Answer(f"{name}\n{seen[name]}", prompt, text, reference))
            seen[name] += 1
    if not answers:
        raise UserError(f"{path}: holds no answers; give lines of JSON with a prompt and an answer")
    return answers


def matched(first: Sequence[Answer], second: Sequence[Answer]) -> list[Pair]:
    """The pairs of answers to the same prompts, in the order of the first file.

    Raises:
        UserError: two answers with one id are to different prompts.
    """
    by_key = {answer.key: answer for answer in second}
    pairs = []
    for a in first:
        if b := by_key.get(a.key):
            if a.prompt != b.prompt:
                raise UserError(
                    f"the id {a.key.partition(chr(10))[0]} has two prompts; give ids that mean the same in both files"
                )
            pairs.append(Pair(a.key, a.prompt, a.text, b.text, a.reference if a.reference is not None else b.reference))
    return pairs


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: is not JSON; answers are lines of JSON") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: is not a JSON object with a prompt and an answer")
    return record


def _predictions(record: dict[str, Any]) -> list[str]:
    """The answers that `babyllm predict` has added to a record."""
    found = record.get(PREDICTIONS, record.get(PREDICTION))
    texts = found if isinstance(found, list) else [found]
    return [text for text in texts if isinstance(text, str)]


def _parts(record: dict[str, Any], names: FieldNames, where: str) -> tuple[str, str, list[str], str | None]:
    """The id, or else the prompt; the prompt, the answers and the reference answer of a record."""
    prompt, last = _asked(record, names, where)
    texts = _predictions(record) if names.answer is None else []
    if not texts:
        text = last if names.answer is None else None
        text, last = _field(record, names.answer, ANSWERS) if text is None else text, None
        if text is None:
            raise UserError(f"{where}: has no answer (fields {', '.join(record)}); name its field with --fields.answer")
        texts = [text]
    name = record.get(names.id) if names.id else prompt
    if not isinstance(name, (str, int)):
        raise UserError(f"{where}: has no id in the field {names.id}; check --fields.id")
    reference = _field(record, names.reference, REFERENCES)
    return str(name), prompt, texts, last if reference is None else reference


def _asked(record: dict[str, Any], names: FieldNames, where: str) -> tuple[str, str | None]:
    """The prompt, and the answer that the record had before a model was asked; None if it had none."""
    value = record.get(names.prompt) if names.prompt else None
    if names.prompt and not isinstance(value, list):
        if (prompt := _field(record, names.prompt, ())) is None:
            raise UserError(f"{where}: has no prompt in the field {names.prompt}; check --fields.prompt")
        return prompt, None
    known = (*_ADDED, names.answer, names.reference, names.id)
    rest = {"messages": value} if names.prompt else {key: each for key, each in record.items() if key not in known}
    try:
        messages, last = to_question(rest, FormatConfig())
    except Unusable as error:
        raise UserError(f"{where}: {error}; name its fields with --fields.prompt and --fields.answer") from None
    return asked_text([(message.role, message.content) for message in messages]), last


def asked_text(turns: Sequence[tuple[str, str]]) -> str:
    """What a judge reads of a conversation before an answer: a single question is shown without its role.

    Args:
        turns: role and content of each message.
    """
    return turns[0][1] if len(turns) == 1 else "\n\n".join(f"[{role}]\n{content}" for role, content in turns)


def _field(record: dict[str, Any], name: str | None, usual: Sequence[str]) -> str | None:
    """The text of a named field, or of the first usual one that the record has; several texts become lines."""
    value = next((record[key] for key in ([name] if name else usual) if record.get(key) is not None), None)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
