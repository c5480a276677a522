"""What a model answers itself, as conversations, and the score of these answers: MoDS's necessity.

predictions of `babyllm predict` -> prompt + predicted answer -> scorer -> score by record

Du et al. 2023, "MoDS", section 3.3: where the reward of a model's own answer is low, the model needs the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from babyllm.chat.formats import FormatConfig, to_question
from babyllm.chat.messages import ASSISTANT, Conversation, Message, Unusable
from babyllm.errors import UserError
from babyllm.prediction.answering import ERROR, FINISH, PREDICTION, PREDICTIONS
from babyllm.prediction.questions import find_records, read_records
from babyllm.selection.scorers.scored_batches import BATCH, Scorer, score_conversations
from babyllm.text.readers import Rejected

_ADDED = (PREDICTION, PREDICTIONS, FINISH, ERROR)


def own_answers(
    path: Path, config: FormatConfig | None = None, id_field: str | None = None
) -> Iterator[tuple[str, list[Conversation]]]:
    """For each record of a file of predictions its id and a conversation for each predicted answer.

    The list is empty for a record that the model could not be asked, and for one without messages to answer.

    Args:
        path: file that `babyllm predict` wrote.
        config: settings for reading records as conversations.
        id_field: field with the record's id; None counts the records from 0, in the order of the file that was
            answered.

    Raises:
        UserError: the file cannot be read, a record lacks its id, or no record has a prediction.
    """
    n_answered = 0
    for number, record in enumerate(read_records(find_records(path))):
        if isinstance(record, Rejected):
            raise UserError(f"{record.place}: {record.reason}; write {path} again with babyllm predict")
        name = _id(record, number, path, id_field)
        found = _conversations(record, name, config or FormatConfig())
        n_answered += len(found)
        yield name, found
    if not n_answered:
        raise UserError(f"{path}: no record has a prediction; write it with babyllm predict")


def necessity(
    path: Path,
    scorer: Scorer,
    column: str,
    config: FormatConfig | None = None,
    id_field: str | None = None,
    batch: int = BATCH,
) -> dict[str, float]:
    """The score of the model's own answers, by the ids of `own_answers`; the mean of several answers to a record.

    Args:
        path: file that `babyllm predict` wrote.
        scorer: scorer of the answers, such as a reward model's.
        column: name of the scorer's column.
        config: settings for reading records as conversations.
        id_field: field with the record's id; None counts the records.
        batch: number of conversations that are scored together.

    Returns:
        The scores; NaN for a record without a predicted answer that has a score.

    Raises:
        UserError: the file cannot be read, or two records have one id.
    """
    values: dict[str, list[float]] = {}

    def answers() -> Iterable[Conversation]:
        for name, conversations in own_answers(path, config, id_field):
            if name in values:
                raise UserError(f"{path}: two records have the id {name}; name a field of different values")
            values[name] = []
            yield from conversations

    for scored in score_conversations(answers(), scorer, batch):
        for conversation, value in zip(scored.conversations, scored.scores.columns[column], strict=True):
            values[conversation.id].append(float(value))
    known = {name: [value for value in some if np.isfinite(value)] for name, some in values.items()}
    return {name: float(np.mean(some)) if some else np.nan for name, some in known.items()}


def _id(record: Mapping[str, Any], number: int, path: Path, id_field: str | None) -> str:
    if id_field is None:
        return str(number)
    if not isinstance(name := record.get(id_field), (str, int)):
        raise UserError(f"{path}: record {number} has no id in the field {id_field}; name another field")
    return str(name)


def _conversations(record: Mapping[str, Any], name: str, config: FormatConfig) -> list[Conversation]:
    """A conversation for each predicted answer of a record."""
    predicted = record.get(PREDICTIONS) or [record.get(PREDICTION)]
    texts = [text for text in predicted if isinstance(text, str)]
    try:
        asked, _ = to_question({key: value for key, value in record.items() if key not in _ADDED}, config)
    except Unusable:
        return []
    return [Conversation((*asked, Message(ASSISTANT, text)), id=name) for text in texts]
