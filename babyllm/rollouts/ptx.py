"""Text and conversations that a policy goes on learning beside its answers, so that it forgets less.

token shards, or files of conversations -> Loader -> WithPtx: micro-batches of text, then those of the rollout
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.data import token_data
from babyllm.data.batch import Batch, Stream
from babyllm.data.conversation_config import ConversationConfig
from babyllm.data.conversation_data import make_loader, open_conversation_data
from babyllm.data.row_config import RowConfig
from babyllm.data.token_config import DataConfig
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.prepare.conversations import prepare_conversations
from babyllm.rollouts.rollout_config import PtxConfig
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.shards import is_token_data

UNIT = "ptx_token"
STORE = "ptx"  # conversations, in the run directory
R = TypeVar("R", bound=RowConfig)
READ = ("tokens", "targets", "positions", "documents")


class WithPtx:
    """The steps of a policy's stream, each with the next rows of a loader before its own micro-batches.

    A micro-batch holds one kind of rows. The unit "ptx_token" counts the targets of the text, and every other unit is
    0 there. The last micro-batch is the policy's, which reaches all parameters. The state is the stream's with that of
    the loader under "ptx".
    """

    def __init__(self, stream: Stream, text: Stream) -> None:
        self._stream, self._text = stream, text

    def __iter__(self) -> Iterator[list[Batch]]:
        """The stream itself."""
        return self

    def __next__(self) -> list[Batch]:
        """The micro-batches of the next step on this rank."""
        own = next(self._stream)
        none = dict.fromkeys(own[0].units, 0)
        text = [_text(batch, none, own[0].rows) for batch in next(self._text)]
        return [*text, *(replace(batch, units={**batch.units, UNIT: 0}) for batch in own)]

    def metrics(self) -> dict[str, float]:
        """Numbers of the policy's stream."""
        return self._stream.metrics()

    def leave_out(self, row: int) -> None:
        """Skip to a later row of the policy's stream."""
        self._stream.leave_out(row)

    def state_dict(self) -> dict[str, Any]:
        """Both positions."""
        return {**self._stream.state_dict(), "ptx": self._text.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after a stored position; text that was not read before begins at its start."""
        self._stream.load_state_dict(state)
        if "ptx" in state:
            self._text.load_state_dict(state["ptx"])


def _text(batch: Batch, none: dict[str, int], rows: range) -> Batch:
    """A micro-batch of text alone."""
    tensors = {name: batch[name] for name in READ if name in batch.tensors}
    row_units = batch.row_units and {UNIT: batch.row_units["token"]}
    return Batch(tensors, {**none, UNIT: batch.units["token"]}, rows, row_units)


def with_ptx(
    stream: Stream, config: PtxConfig, run_dir: Path, template: ChatTemplate, model: ModelConfig, runtime: Runtime
) -> Stream:
    """The stream with the text that the configuration names; the same stream without a weight. Every rank calls it.

    Args:
        stream: stream of a policy.
        config: section `ptx`.
        run_dir: run directory, in which conversations are rendered.
        template: template of the conversations, whose tokenizer the shards must have.
        model: shape of the policy.
        runtime: runtime of the run.

    Raises:
        UserError: nothing is named, or it cannot be read or was made with another tokenizer.
    """
    if not config.weight:
        return stream
    if not config.path:
        raise UserError(f"--ptx.weight={config.weight:g}: name what is learned, such as --ptx.path=data/sample")
    path = Path(config.path)
    plan = Plan(steps=1)  # the loader has no end; the policy's plan decides
    if is_token_data(path):
        tokens = _rows(DataConfig(path=config.path), config)
        data = token_data.open_pretraining_data(tokens, runtime=runtime)
        if data.tokenizer and data.tokenizer.sha256 != template.tokenizer.sha256:
            raise UserError(f"ptx.path={path}: was made with another tokenizer than the model's; tokenise it again")
        return WithPtx(stream, token_data.make_loader(tokens, data, model, runtime, plan)[0])
    chats = _rows(ConversationConfig(path=config.path), config)
    template.require_marks()
    store = run_dir / STORE
    with runtime.main_first():
        if runtime.is_main:
            prepare_conversations(
                [path], store, template, chats.format, seq_len=config.seq_len, supervise=Supervise("all"), held_out=0
            )
    talks = open_conversation_data(chats, store, template.tokenizer.sha256, "token", runtime)
    return WithPtx(stream, make_loader(chats, talks, model, runtime, plan)[0])


def _rows(of: R, config: PtxConfig) -> R:
    """The settings of the data with the rows of the section `ptx`."""
    return replace(of, seq_len=config.seq_len, global_batch=config.rows, seed=config.seed)
