"""What a scorer returns, several scorers as one, and the scores of any number of conversations in bounded memory.

conversations -> batches -> Scorer.score -> Scores(columns, reasons, vectors)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.messages import Conversation
from babyllm.errors import UserError

BATCH = 256
"""Default number of conversations that are scored together."""


class Scores(NamedTuple):
    """The scores of n conversations, in their order.

    Attributes:
        columns: (n,) float64 numbers by the name of the column; NaN where a conversation has no score.
        reasons: (n,) reasons why a conversation lacks a score; empty for one that lacks none.
        vectors: (n, d) float32 embeddings, NaN where a conversation has none; None from a scorer that makes none.
    """

    columns: dict[str, NDArray[np.float64]]
    reasons: list[str]
    vectors: NDArray[np.float32] | None = None


class Scorer(Protocol):
    """What scores conversations. The scores of a conversation do not depend on those beside it, up to rounding."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, which are the same for every batch."""

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The scores of a batch, in its order; NaN and a reason for what cannot be scored."""


class ScoredBatch(NamedTuple):
    """A batch of conversations and their scores."""

    conversations: list[Conversation]
    scores: Scores


class Together:
    """Several scorers as one, whose columns are those of all.

    Attributes:
        names: names of the columns, in the order of the scorers.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        """Put scorers together; one of them at most makes vectors.

        Raises:
            UserError: two scorers have a column of the same name.
        """
        self._scorers = tuple(scorers)
        self.names: tuple[str, ...] = tuple(name for scorer in scorers for name in scorer.names)
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise UserError(f"two scorers make the column {twice[0]}; leave out one of them")

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The scores of all scorers; the reasons of a conversation are joined by semicolons.

        Raises:
            UserError: two scorers make vectors.
        """
        found = [scorer.score(conversations) for scorer in self._scorers]
        columns = {name: values for scores in found for name, values in scores.columns.items()}
        each = zip(*(scores.reasons for scores in found), strict=True)
        reasons = ["; ".join(dict.fromkeys(filter(None, some))) for some in each]
        vectors = [scores.vectors for scores in found if scores.vectors is not None]
        if len(vectors) > 1:
            raise UserError("two scorers make vectors; leave out one of them")
        return Scores(columns, reasons, vectors[0] if vectors else None)


def score_conversations(
    conversations: Iterable[Conversation], scorer: Scorer, batch: int = BATCH
) -> Iterator[ScoredBatch]:
    """The conversations with their scores, in their order; one batch at a time is in memory.

    Args:
        conversations: conversations, which are read as they are needed.
        scorer: what scores them.
        batch: number of conversations that are scored together. A larger one pads less.
    """
    source = iter(conversations)
    while part := list(islice(source, batch)):
        yield ScoredBatch(part, scorer.score(part))


def column(values: Iterable[float | None]) -> NDArray[np.float64]:
    """A column of scores, (n,) float64: NaN for None and for what is not finite."""
    found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    found[~np.isfinite(found)] = np.nan
    return found
