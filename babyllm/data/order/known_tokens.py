"""A vocabulary that grows: a step reads tokens that it does not know yet as <unk>, and is not trained to predict them.

row number -> step -> pace -> share of the vocabulary -> number of known tokens
rows of another order -> unknown inputs replaced, unknown targets ignored

After CLIMB (Diehl Martinez et al. 2023). There the pace counts its steps from the start of the run although it begins
later, so that the vocabulary jumps; here it counts from where it begins. An ignored target has no loss: the loss of a
step is the mean over the targets that are left, and a row may have none.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.data.difficulty.token_places import token_places
from babyllm.data.order.curriculum import until_step
from babyllm.data.order.shuffle import Order
from babyllm.data.row_config import RowConfig, VocabularyConfig
from babyllm.data.rows.arrays import RowArrays
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.shards import TokenStream
from babyllm.tokenizer import Tokenizer


@dataclass(frozen=True)
class VocabularyPace:
    """The share of the vocabulary that is known, as a function of the step.

    Attributes:
        kind: curve.
        start: share up to the step `begin`.
        begin: step at which it begins to grow.
        until: step from which it is 1.
    """

    kind: Literal["linear", "log"]
    start: float
    begin: int
    until: int

    def at(self, step: int) -> float:
        """The share in a step, counted from 0; "log" is (1 - d0) (1 + ln(t/n + e^-10) / 10) + d0."""
        if step >= self.until:
            return 1.0
        done = max(0, step - self.begin) / (self.until - self.begin)
        if self.kind == "log":
            done = max(0.0, 1 + math.log(done + math.exp(-10)) / 10)
        return min(1.0, (1 - self.start) * done + self.start)


class KnownTokens:
    """The rows of another order, in which only the tokens that a step knows are left.

    Args:
        order: order of the rows.
        places: (V,) int64, the place of each id among the tokens that become known; negative for always.
        pace: share of these tokens by step.
        unk_id: id that stands for unknown tokens.
        global_batch: rows per step.
    """

    def __init__(
        self, order: Order, places: NDArray[np.int64], pace: VocabularyPace, unk_id: int, global_batch: int
    ) -> None:
        self._order, self._places, self._pace, self._unk_id = order, places, pace, unk_id
        self._global_batch, self._size = global_batch, int(places.max()) + 1
        self._made_of = [*asdict(pace).values(), global_batch, hashlib.sha256(places.tobytes()).hexdigest()]

    def n_known(self, step: int) -> int:
        """The number of tokens that a step knows, without those that are always known."""
        return round(self._pace.at(step) * self._size)

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        read = self._order.rows(numbers)
        steps, at = np.unique(numbers // self._global_batch, return_inverse=True)
        known = np.array([self.n_known(step) for step in steps.tolist()])[at][:, None]
        if known.min(initial=self._size) >= self._size:
            return read
        tokens, targets = read["tokens"], read["targets"]
        is_hidden = (targets != IGNORE) & (self._places[targets.clip(0)] >= known)
        changed = {
            "tokens": np.where(self._places[tokens] < known, tokens, self._unk_id),
            "targets": np.where(is_hidden, IGNORE, targets),
        }
        return RowArrays(read.arrays | changed, read.lengths, read.units)

    def identity(self, consumed: int) -> dict[str, Any]:
        """The settings, as JSON, that decide the first `consumed` rows together with data and seed."""
        return self._order.identity(consumed) | {"vocabulary": self._made_of}

    def metrics(self, consumed: int) -> dict[str, float]:
        """Those of the order, and the number of tokens that the next step knows of those that become known."""
        known = float(self.n_known(consumed // self._global_batch))
        return self._order.metrics(consumed) | {"known_tokens": known}


def with_known_tokens(
    config: RowConfig,
    vocabulary: VocabularyConfig,
    order: Order,
    stream: TokenStream,
    tokenizer: Tokenizer | None,
    vocab_size: int,
    runtime: Runtime,
    plan: Plan,
) -> KnownTokens:
    """An order with the vocabulary of a configuration; every rank must call it.

    Args:
        config: the section `data`.
        vocabulary: its section `vocabulary`, whose `by` is not None.
        order: order of the rows.
        stream: training tokens.
        tokenizer: tokenizer of the stream.
        vocab_size: number of ids.
        runtime: runtime of the run; its rank 0 counts first.
        plan: plan with its number of steps.

    Raises:
        UserError: there is no tokenizer or no <unk>, the pace is not valid, or jieba is missing.
    """
    begin, until = until_step(vocabulary.begin, plan.n_steps), until_step(vocabulary.until, plan.n_steps)
    if until <= begin:
        raise UserError(
            f"data.vocabulary.until={vocabulary.until}: is step {until}, but the vocabulary begins to grow at step "
            f"{begin} (data.vocabulary.begin); let it end later"
        )
    if tokenizer is None or tokenizer.unk_id is None or vocabulary.by is None:
        what = "the tokenizer of the data, which does not lie beside it" if tokenizer is None else "an <unk> token"
        raise UserError(f"data.vocabulary.by={vocabulary.by}: needs {what}; leave it out")
    with runtime.main_first():
        places = token_places(vocabulary.by, stream, tokenizer, vocab_size)
    pace = VocabularyPace(vocabulary.pace, vocabulary.start, begin, until)
    return KnownTokens(order, places, pace, tokenizer.unk_id, config.global_batch)
