"""Statistics of the texts themselves: lengths, ratios, and lexical diversity (MTLD); no model is read.

conversation -> text of the prompt, text of the answers -> columns
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from babyllm.chat.messages import ASSISTANT, Conversation
from babyllm.evaluate.answer_metrics.overlap import tokens
from babyllm.selection.scorers.scored_batches import Scores, column
from babyllm.tokenizer import Tokenizer

TEXT_COLUMNS = ("prompt_characters", "answer_characters", "character_ratio", "n_answers", "mtld")
TOKEN_COLUMNS = ("prompt_length", "answer_length", "length_ratio")
NO_ANSWER = "no answer of the assistant"
THRESHOLD = 0.72  # McCarthy and Jarvis 2010, at which a factor ends


@dataclass(frozen=True)
class TextStatistics:
    """A scorer of texts. The prompt is all that is not the assistant's: system messages, questions, results of tools.

    Columns:
        prompt_characters: characters of the prompt's messages, without what a template writes.
        answer_characters: characters of the answers.
        character_ratio: answer_characters / prompt_characters.
        n_answers: number of answers.
        mtld: lexical diversity of the answers (`mtld`).
        prompt_length: tokens of the prompt's messages, each encoded by itself; with a tokenizer alone.
        answer_length: tokens of the answers.
        length_ratio: answer_length / prompt_length.

    Attributes:
        tokenizer: tokenizer that counts tokens; None leaves the last three columns out.
    """

    tokenizer: Tokenizer | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return TEXT_COLUMNS if self.tokenizer is None else (*TEXT_COLUMNS, *TOKEN_COLUMNS)

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The statistics of conversations; one without an answer has none."""
        found = [self._of(conversation) for conversation in conversations]
        columns = {name: column(one.get(name) for one in found) for name in self.names}
        return Scores(columns, ["" if one else NO_ANSWER for one in found])

    def _of(self, conversation: Conversation) -> dict[str, float | None]:
        spelled = [(message.role, message.spelled_out().content) for message in conversation.messages]
        prompt = [text for role, text in spelled if role != ASSISTANT]
        answers = [text for role, text in spelled if role == ASSISTANT]
        if not answers:
            return {}
        asked, answered = sum(map(len, prompt)), sum(map(len, answers))
        found: dict[str, float | None] = {
            "prompt_characters": asked,
            "answer_characters": answered,
            "character_ratio": _ratio(answered, asked),
            "n_answers": len(answers),
            "mtld": mtld([word for text in answers for word in tokens(text)]),
        }
        if self.tokenizer is not None:
            asked, answered = self._n_tokens(prompt), self._n_tokens(answers)
            found |= {
                "prompt_length": asked,
                "answer_length": answered,
                "length_ratio": _ratio(answered, asked),
            }
        return found

    def _n_tokens(self, texts: Iterable[str]) -> int:
        assert self.tokenizer is not None
        return sum(len(self.tokenizer.encode(text)) for text in texts if text)


def _ratio(answered: int, asked: int) -> float | None:
    return answered / asked if asked else None


def mtld(words: Sequence[str], threshold: float = THRESHOLD) -> float | None:
    """The measure of textual lexical diversity: the mean length of runs of words with a share of different words.

    A run ends as soon as its number of different words over its number of words is at most `threshold`; the last one
    counts in part. The number of words over the number of runs is the measure, the mean of both directions (McCarthy
    and Jarvis 2010, "MTLD, vocd-D, and HD-D").

    Args:
        words: words of a text, in its order. For Chinese, each character is one (`overlap.tokens`).
        threshold: share of different words at which a run ends, below 1.

    Returns:
        The measure; the number of words if none of them repeats, and None without words.
    """
    if not words:
        return None
    return sum(len(words) / (_runs(part, threshold) or 1.0) for part in (words, words[::-1])) / 2


def _runs(words: Sequence[str], threshold: float) -> float:
    """The number of runs, with the part of the last one that does not end."""
    n_runs, seen, length = 0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) / length <= threshold:
            n_runs, seen, length = n_runs + 1, set(), 0
    return n_runs + (1 - len(seen) / length) / (1 - threshold) if length else float(n_runs)
