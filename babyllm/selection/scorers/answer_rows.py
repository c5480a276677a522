"""The answers of a conversation as rows of ids: after all that comes before them, and each on its own.

    conversation -> template -> prompt ids, answer ids                 conditioned: prompt + answer (s(A|Q))
                             -> answer_header() + the same answer ids  direct: without the prompt (s(A))

Both rows score the same ids, the first one of an answer included. They are tokenised once, together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.chat.messages import ASSISTANT, Conversation, Unusable
from babyllm.evaluate.scoring import Row

Answers = Literal["all", "last"]
"""Which answers of a conversation are scored: all that are trained on, or the last of them."""


class AnswerRows(NamedTuple):
    """The scored answers of a conversation.

    Attributes:
        conditioned: the conversation up to the end of its last answer, with every scored answer marked.
        direct: a row for each answer: the template's `answer_header` and the answer.
        n_answer: number of scored ids, equal in both.
        n_prompt: number of other ids that the template renders before the end of the last answer.
    """

    conditioned: Row
    direct: tuple[Row, ...]
    n_answer: int
    n_prompt: int


class Rendering(NamedTuple):
    """A conversation up to the end of its last scored answer.

    Attributes:
        ids: (L,) int64 token ids.
        turns: (L,) int64, the number of the scored answer that each id belongs to, from 1; 0 for all others.
    """

    ids: NDArray[np.int64]
    turns: NDArray[np.int64]


def rendering(template: ChatTemplate, conversation: Conversation, answers: Answers = "all") -> Rendering:
    """The ids of a conversation and those of its answers, which hold the end token, as in training.

    Args:
        template: template that renders the conversation.
        conversation: conversation with any messages. Only the assistant's are scored, without those of weight 0.
        answers: which answers are scored.

    Raises:
        Unusable: the template refuses the messages, or none of them is scored.
        UserError: the template does not mark answers.
    """
    messages = [
        message if message.role == ASSISTANT else replace(message, weight=0) for message in conversation.messages
    ]
    found = template.render(messages, Supervise(turns=answers))
    marked = np.flatnonzero(found.turns)
    if not len(marked):
        raise Unusable("no answer that is trained on")
    end = marked[-1] + 1
    return Rendering(found.ids[:end].astype(np.int64), found.turns[:end].astype(np.int64))


def answer_rows(
    template: ChatTemplate, conversation: Conversation, max_seq_len: int, answers: Answers = "all"
) -> AnswerRows:
    """The rows of a conversation's answers.

    Args:
        template: template that renders the conversation.
        conversation: conversation with one answer or more.
        max_seq_len: largest number of ids that the model reads; the last id of a row is only predicted.
        answers: which answers are scored.

    Raises:
        Unusable: the conversation cannot be rendered, has no answer to score, or is too long for the model.
        UserError: the template does not mark answers.
    """
    ids, turns = rendering(template, conversation, answers)
    header = np.array(template.answer_header(), dtype=np.int64)
    direct = []
    for turn in range(1, int(turns.max()) + 1):
        where = np.flatnonzero(turns == turn)
        span = slice(where[0], where[-1] + 1)
        is_answer = np.concatenate([np.zeros(len(header), dtype=bool), turns[span] == turn])
        direct.append(Row(np.concatenate([header, ids[span]]), is_answer))
    n_answer = int((turns > 0).sum())
    n_prompt = len(ids) - n_answer
    if turns[0]:  # nothing precedes the first answer, whose first id needs a context all the same
        ids, turns = np.concatenate([header, ids]), np.concatenate([np.zeros(len(header), dtype=np.int64), turns])
    longest = max(len(ids), *(len(row.ids) for row in direct)) - 1
    if longest > max_seq_len:
        raise Unusable(f"{longest} tokens are more than the model's context of {max_seq_len}")
    return AnswerRows(Row(ids, turns > 0), tuple(direct), n_answer, n_prompt)
