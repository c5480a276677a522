"""A scorer of what a model answers itself to the question of each conversation (MoDS's necessity)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import ASSISTANT, Conversation
from babyllm.documents import exact_key
from babyllm.prepare.held_out import contents_of
from babyllm.selection.scorers.necessity import own_answers
from babyllm.selection.scorers.scored_batches import Scorer, Scores, column, score_conversations


class OwnAnswerScores:
    """The score of the model's own answers, for conversations that ask what it was asked.

    Attributes:
        names: the name of the column, "necessity".
    """

    names = ("necessity",)

    def __init__(self, predictions: Path, scorer: Scorer, config: FormatConfig) -> None:
        """Take a file of predictions, which is read and scored at the first call.

        Args:
            predictions: file that `babyllm predict` wrote.
            scorer: scorer of answers, with one column.
            config: settings for reading records as conversations.
        """
        self._predictions, self._scorer, self._config = predictions, scorer, config
        self._by_question: dict[bytes, float] | None = None

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The mean score of the model's answers to each conversation's question.

        Raises:
            UserError: the file cannot be read, or has no predictions.
        """
        if self._by_question is None:
            self._by_question = self._scored()
        found = [self._by_question.get(_question(one)) for one in conversations]
        reasons = ["" if value is not None else f"no answer to it in {self._predictions.name}" for value in found]
        return Scores({"necessity": column(found)}, reasons)

    def _scored(self) -> dict[bytes, float]:
        answers = (one for _, some in own_answers(self._predictions, self._config) for one in some)
        values: dict[bytes, list[float]] = {}
        for scored in score_conversations(answers, self._scorer):
            (name,) = scored.scores.columns
            for one, value in zip(scored.conversations, scored.scores.columns[name].tolist(), strict=True):
                if np.isfinite(value):
                    values.setdefault(_question(one), []).append(value)
        return {key: float(np.mean(some)) for key, some in values.items()}


def _question(conversation: Conversation) -> bytes:
    """A hash of all messages before the last answer."""
    last = max((i for i, one in enumerate(conversation.messages) if one.role == ASSISTANT), default=0)
    return exact_key(contents_of(conversation.messages[:last]))
