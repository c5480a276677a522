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

from babyllm.errors import UserError

PROMPTS = ("prompt", "question", "instruction", "query")
ANSWERS = ("prediction", "answer", "response", "output", "completion")
REFERENCES = ("reference", "references")
MESSAGES = "messages"


@dataclass(frozen=True)
class FieldNames:
    """The fields of a record; null looks for the usual names.

    Attributes:
        prompt: field of the prompt, a text or a list of messages; null takes prompt, question, instruction (with
            input), query or messages.
        answer: field of the answer; null takes prediction, answer, response, output or completion.
        reference: field of the reference answer, a text or a list of texts; null takes reference or references.
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
        key: id of the record, or its prompt and the number of the prompt's earlier occurrences in the file.
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

    Raises:
        UserError: the file cannot be read, or a record lacks its prompt or answer; the message names the line.
    """
    answers: list[Answer] = []
    seen: Counter[str] = Counter()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; answers are lines of JSON") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            answer = _answer(_record(line, f"{path}:{number}"), names, f"{path}:{number}")
            key = answer.key if names.id else f"{answer.prompt}\n{seen[answer.prompt]}"
            seen[key if names.id else answer.prompt] += 1
            if names.id and seen[key] > 1:
                raise UserError(f"{path}:{number}: the id {key} occurs twice; give each record its own {names.id}")
            answers.append(Answer(key, answer.prompt, answer.text, answer.reference))
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
                raise UserError(f"the id {a.key} has two prompts; give ids that mean the same in both files")
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


def _answer(record: dict[str, Any], names: FieldNames, where: str) -> Answer:
    prompt, last = _prompt(record, names.prompt, where)
    text = _field(record, names.answer, ANSWERS)
    reference = _field(record, names.reference, REFERENCES)
    if text is None and names.answer is None:
        text, last = last, None
    for value, what in ((prompt, "prompt"), (text, "answer")):
        if value is None:
            raise UserError(f"{where}: has no {what} (fields {', '.join(record)}); name its field with --fields.{what}")
    key = record.get(names.id) if names.id else ""
    if not isinstance(key, (str, int)):
        raise UserError(f"{where}: has no id in the field {names.id}; check --fields.id")
    assert prompt is not None and text is not None
    return Answer(str(key), prompt, text, last if reference is None else reference)


def _prompt(record: dict[str, Any], name: str | None, where: str) -> tuple[str | None, str | None]:
    """The prompt, and the assistant's message at the end of a conversation: an answer, or one to compare with."""
    prompt = _field(record, name, PROMPTS)
    messages = record.get(name or MESSAGES)
    if prompt is None and isinstance(messages, list):
        spoken = _messages(messages, where)
        last = spoken.pop()[1] if spoken and spoken[-1][0] == "assistant" else None
        return (_conversation(spoken) if spoken else None), last
    if name is None and "instruction" in record and isinstance(record.get("input"), str):
        prompt = f"{prompt}\n{record['input']}".strip()
    return prompt, None


def _field(record: dict[str, Any], name: str | None, usual: Sequence[str]) -> str | None:
    """The text of a named field, or of the first usual one that the record has; several texts become lines."""
    value = next((record[key] for key in ([name] if name else usual) if record.get(key) is not None), None)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None


def _messages(values: list[Any], where: str) -> list[tuple[str, str]]:
    """Role and content of each message."""
    found = [(value.get("role"), value.get("content")) for value in values if isinstance(value, dict)]
    if len(found) != len(values) or not all(isinstance(part, str) for message in found for part in message):
        raise UserError(f"{where}: a message is an object with role and content, both texts")
    return [(str(role), str(content)) for role, content in found]


def _conversation(spoken: Sequence[tuple[str, str]]) -> str:
    """Messages as one text; a single question is shown without its role."""
    if len(spoken) == 1:
        return spoken[0][1]
    return "\n\n".join(f"[{role}]\n{content}" for role, content in spoken)
