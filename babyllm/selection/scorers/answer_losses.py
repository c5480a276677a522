"""Loss and perplexity of the answers, and how much the prompt helps to predict them: IFD.

conversations -> conditioned and direct rows -> one list of rows, sorted by length -> nats -> columns

IFD, the instruction-following difficulty, is the loss of an answer after its prompt over its loss alone: s(A|Q) / s(A)
of Li et al. 2023, "From Quantity to Quality", equations 1 to 4. Li et al. 2024, "Superfiltering", equation 1, and
others divide perplexities instead, which is another number, so both have a name of their own. High values below 1 mark
an answer that the prompt helps little to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import Conversation, Unusable
from babyllm.evaluate.scoring import BATCH_TOKENS, Row, row_nats
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.selection.scorers.answer_rows import AnswerRows, Answers, answer_rows
from babyllm.selection.scorers.scored_batches import Scores

LOSS_COLUMNS = ("answer_loss", "answer_perplexity", "answer_tokens", "prompt_tokens")
IFD_COLUMNS = ("ifd", "ifd_perplexity", "direct_loss", *LOSS_COLUMNS)
NOT_FINITE = "the model's loss is not a finite number"
CERTAIN = "the model predicts the answer alone with certainty, so no ratio exists"


@dataclass(frozen=True)
class AnswerLosses:
    """A scorer of answers by a language model.

    A conversation with several answers has one row up to the last of them and a direct row for each; losses are means
    over the tokens of all of them.

    Columns:
        ifd: answer_loss / direct_loss.
        ifd_perplexity: the ratio of the two perplexities, exp(answer_loss - direct_loss).
        direct_loss: nats per token of the answers, each after the template's `answer_header` alone.
        answer_loss: nats per token of the answers, each after all that comes before it.
        answer_perplexity: exp(answer_loss).
        answer_tokens: number of tokens of the answers, end tokens included.
        prompt_tokens: number of all other tokens that the template renders up to the last answer.

    Attributes:
        model: model that reads the conversations; it is in evaluation mode meanwhile.
        template: template that renders them, with the model's tokenizer.
        has_direct: whether answers are scored alone too; without it the first three columns are left out, and each
            conversation is read once.
        answers: answers that are scored, "all" that are trained on or the "last" of them.
        runtime: device and dtype of inference; None computes in float32 on the model's device.
        batch_tokens: number of tokens of a forward pass, including padding.
    """

    model: Transformer
    template: ChatTemplate
    has_direct: bool = True
    answers: Answers = "all"
    runtime: Runtime | None = None
    batch_tokens: int = BATCH_TOKENS

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return IFD_COLUMNS if self.has_direct else LOSS_COLUMNS

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The scores of conversations; those longer than the model's context have none.

        Raises:
            UserError: the template does not mark answers.
            KeyboardInterrupt: a stop signal has arrived.
        """
        found = [self._rows(conversation) for conversation in conversations]
        reasons = [one if isinstance(one, str) else "" for one in found]
        known = [(i, one) for i, one in enumerate(found) if not isinstance(one, str)]
        columns = {name: np.full(len(conversations), np.nan) for name in self.names}
        if not known:
            return Scores(columns, reasons)
        for name, values in self._columns([rows for _, rows in known]).items():
            columns[name][[i for i, _ in known]] = values
        for i, _ in known:
            if not np.isfinite(columns["answer_loss"][i]):
                reasons[i] = NOT_FINITE
            elif self.has_direct and not np.isfinite(columns["ifd"][i]):
                reasons[i] = NOT_FINITE if columns["direct_loss"][i] else CERTAIN
        return Scores(columns, reasons)

    def _rows(self, conversation: Conversation) -> AnswerRows | str:
        """The rows of a conversation, or the reason why it has none."""
        try:
            return answer_rows(self.template, conversation, self.model.config.max_seq_len, self.answers)
        except Unusable as error:
            return str(error)

    def _columns(self, found: Sequence[AnswerRows]) -> dict[str, NDArray[np.float64]]:
        """The columns of conversations that can be read."""
        groups: list[list[Row]] = [[one.conditioned, *(one.direct if self.has_direct else ())] for one in found]
        rows = [row for group in groups for row in group]
        nats = row_nats(self.model, rows, self.runtime, batch_tokens=self.batch_tokens)
        if self.runtime and self.runtime.stop_requested:
            raise KeyboardInterrupt
        starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
        n_tokens = np.array([one.n_answer for one in found], dtype=np.float64)
        loss = nats[starts] / n_tokens
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            columns = {
                "answer_loss": loss,
                "answer_perplexity": np.exp(loss),
                "answer_tokens": n_tokens,
                "prompt_tokens": np.array([one.n_prompt for one in found], dtype=np.float64),
            }
            if self.has_direct:
                direct = (np.add.reduceat(nats, starts) - nats[starts]) / n_tokens
                ratio = np.where(direct > 0, loss / direct, np.nan)
                columns |= {"ifd": ratio, "ifd_perplexity": np.exp(loss - direct), "direct_loss": direct}
        return {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}
