"""Embeddings of conversations: the mean of a model's last hidden states over some of the tokens.

conversations -> rows, sorted by length -> hidden states (B, T, D) after the last norm -> mean of the marked tokens

With the question's tokens this is h^Q of Li et al. 2023, "From Quantity to Quality", section 2.1.

Legend: B rows of a batch, T tokens of the longest row, D width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import Conversation, Unusable
from babyllm.evaluate.scoring import BATCH_TOKENS, batches, evaluating
from babyllm.generation.pooling import MarkedRow, pooled_hidden
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.selection.scorers.answer_rows import rendering
from babyllm.selection.scorers.scored_batches import Scores

Part = Literal["prompt", "answer", "both"]


@dataclass(frozen=True)
class MeanHidden:
    """A scorer that makes vectors, one of the model's width for each conversation, and no columns.

    Attributes:
        model: model that reads the conversations; it is in evaluation mode meanwhile.
        template: template that renders them, with the model's tokenizer.
        part: tokens of the mean: "prompt" for all up to the last answer that belong to no answer, those of the
            template among them; "answer" for those of the answers, end tokens included; or "both".
        runtime: device and dtype of inference; None computes in float32 on the model's device.
        batch_tokens: number of tokens of a forward pass, including padding.
    """

    model: Transformer
    template: ChatTemplate
    part: Part = "prompt"
    runtime: Runtime | None = None
    batch_tokens: int = BATCH_TOKENS

    @property
    def names(self) -> tuple[str, ...]:
        """No columns."""
        return ()

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The vectors of conversations, (n, D) float32; those longer than the model's context have none.

        Raises:
            UserError: the template does not mark answers.
            KeyboardInterrupt: a stop signal has arrived.
        """
        found = [self._row(conversation) for conversation in conversations]
        vectors = np.full((len(conversations), self.model.config.d_model), np.nan, dtype=np.float32)
        known = [(i, row) for i, row in enumerate(found) if not isinstance(row, str)]
        for batch in batches([len(row.ids) for _, row in known], self.batch_tokens):
            if self.runtime and self.runtime.stop_requested:
                raise KeyboardInterrupt
            chosen = [known[i] for i in batch]
            vectors[[i for i, _ in chosen]] = self._means([row for _, row in chosen])
        return Scores({}, [row if isinstance(row, str) else "" for row in found], vectors)

    def _row(self, conversation: Conversation) -> MarkedRow | str:
        """The ids up to the last one of the mean, and which belong to it; or the reason why there is no mean."""
        try:
            ids, turns = rendering(self.template, conversation)
        except Unusable as error:
            return str(error)
        marked = {"prompt": turns == 0, "answer": turns > 0, "both": turns >= 0}[self.part]
        if not marked.any():
            return "no token before the answer"
        end = np.flatnonzero(marked)[-1] + 1  # a hidden state does not depend on later ids
        if end > (context := self.model.config.max_seq_len):
            return f"{end} tokens are more than the model's context of {context}"
        return MarkedRow(ids[:end], marked[:end])

    def _means(self, rows: Sequence[MarkedRow]) -> NDArray[np.float32]:
        """The vectors (B, D) of rows that are read in one forward pass."""
        device = self.model.embed_tokens.weight.device
        dtype = torch.float32 if self.runtime is None else self.runtime.reading_dtype
        with evaluating(self.model), reads_in(device, dtype):
            return pooled_hidden(self.model, rows)
