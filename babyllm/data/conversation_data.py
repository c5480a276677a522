"""The data of supervised fine-tuning: prepared conversations, and the loader over them.

section `data` -> ConversationStore -> rows of one conversation, or packed -> shuffled, or a Mixture of tasks
-> length buckets, after a curriculum if there is one -> Loader
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import check
from babyllm.data.conversation_config import ConversationConfig
from babyllm.data.loader import Loader
from babyllm.data.order.length_buckets import ByLength, MeasuredOrder
from babyllm.data.order.shuffle import Order, Rows, Shuffled
from babyllm.data.order.task_weights import weighted, without_groups
from babyllm.data.row_config import share_of
from babyllm.data.rows.conversations import Conversations, PackedConversations
from babyllm.data.rows.replay import REPLAY, Replay
from babyllm.data.rows.windows import Windows
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.conversations import ALL, ConversationStore, LossAverage
from babyllm.store.shards import TokenData, open_tokens
from babyllm.store.task_groups import group_of
from babyllm.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from babyllm.data.difficulty.row_difficulty import Measured


@dataclass(frozen=True)
class ConversationData:
    """Prepared conversations, and the text that is replayed among them.

    Attributes:
        store: the prepared conversations.
        replay: token shards of the replayed text; None for no replay.
        normalise: unit that the loss is the mean over.
        is_packed: whether several conversations share a row.
        seed: seed of the packing.
    """

    store: ConversationStore
    replay: TokenData | None
    normalise: LossAverage
    is_packed: bool
    seed: int
    _rows: dict[tuple[int, str | None], Rows] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks; a row's channels are indices into this list."""
        return [*self.store.tasks, *([REPLAY] if self.replay else [])]

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the data."""
        return self.store.fingerprint + (self.replay.manifest.fingerprint() if self.replay else "")

    def rows(self, seq_len: int, task: str | None = None) -> Rows:
        """The training rows of `seq_len` inputs, of one task or of all conversations.

        Raises:
            UserError: there are no conversations, or one is longer than `seq_len`.
        """
        if (seq_len, task) not in self._rows:
            self._rows[seq_len, task] = self._open_rows(seq_len, task)
        return self._rows[seq_len, task]

    def _open_rows(self, seq_len: int, task: str | None) -> Rows:
        if task == REPLAY and self.replay:
            windows = Windows(self.replay.stream("train"), seq_len, self.replay.manifest.eos_id, name="data.replay")
            return Replay(windows, len(self.store.tasks), self.normalise == "token")
        if self.is_packed:
            return PackedConversations(self.store, "train", task, seq_len, self.normalise, self.seed)
        return Conversations(self.store, "train", task, seq_len, self.normalise)


def open_conversation_data(
    config: ConversationConfig, directory: Path, tokenizer_sha256: str, normalise: LossAverage, runtime: Runtime
) -> ConversationData:
    """Prepared conversations, and the text that `config` replays among them; every rank must call it.

    Args:
        config: the section `data`.
        directory: directory of the prepared conversations.
        tokenizer_sha256: sha256 of the tokenizer that made their ids.
        normalise: unit that a loss is the mean over.
        runtime: runtime of the run; its rank 0 verifies the files.

    Raises:
        UserError: a file is missing or damaged, the replayed text has another tokenizer or no weight, or a task has a
            reserved name.
    """
    check(config, "data.")
    with runtime.main_first():
        store = ConversationStore.open(directory, check=runtime.is_main)
        replay = open_tokens(config.replay, check=runtime.is_main) if config.replay else None
    if ALL in (names := {name for task in store.tasks for name in (task, group_of(task))}):
        raise UserError(f"{directory}: a task or a group of tasks is named '{ALL}', like their total; rename it")
    if replay:
        if not config.is_mixed:
            raise UserError(
                f"data.replay={config.replay}: say how much of it, with data.mix or data.stages, such as "
                f"--data.mix='{{{', '.join(f'{task}: 1' for task in store.tasks_of('train')[:3])}, {REPLAY}: 0.1}}'"
            )
        tokenizer = load_tokenizer(Path(config.replay or ""), replay.manifest.tokenizer_sha256)
        if tokenizer and tokenizer.sha256 != tokenizer_sha256:
            raise UserError(
                f"data.replay={config.replay}: was made with another tokenizer than the model's; tokenise that text "
                "with the model's tokenizer"
            )
        if REPLAY in names:
            raise UserError(f"{directory}: a task or a group of tasks is named '{REPLAY}', like the replay; rename it")
    return ConversationData(store, replay, normalise, config.pack, config.seed)


def make_loader(
    config: ConversationConfig,
    data: ConversationData,
    model: ModelConfig,
    runtime: Runtime,
    plan: Plan,
    tokenizer: Tokenizer | None = None,
    run_dir: Path | None = None,
) -> tuple[Loader, Plan]:
    """The loader of this rank, and the plan with its number of steps; every rank must call it.

    Args:
        config: the section `data`.
        data: the prepared conversations.
        model: shape of the model, for a micro-batch that fits.
        runtime: runtime of the run.
        plan: plan of the run.
        tokenizer: tokenizer of the conversations, for a curriculum by parts of speech.
        run_dir: directory in which the difficulty of rows is stored; None stores nothing.

    Raises:
        UserError: `global_batch` or `micro_batch` does not divide evenly, or the mixture, the curriculum or the plan is
            not valid.
    """
    share = share_of(config, model, runtime)
    config = weighted(config, data.store.directory, lambda task: len(data.rows(config.longest_seq_len, task)))
    scored = None

    def in_buckets(order: MeasuredOrder, borders: Sequence[int] = ()) -> Order:
        # Packed rows all have nearly the same length already.
        return order if data.is_packed else ByLength(order, config.global_batch, config.seed, borders)

    if config.is_mixed and config.curriculum.by is None:
        from babyllm.data.order.mixing import mixture

        amounts = {task: len(data.rows(config.longest_seq_len, task)) for task in data.store.tasks_of("train")}
        if data.replay:
            amounts[REPLAY] = len(data.rows(config.longest_seq_len, REPLAY))
        mixed, plan = mixture(without_groups(config, amounts), amounts, data.rows, plan)
        order = in_buckets(mixed, mixed.borders)
    else:
        shuffled = Shuffled(data.rows(config.seq_len), config.seed)
        plan = plan.with_steps(len(shuffled), config.global_batch)
        if config.curriculum.by is None:
            order = in_buckets(shuffled)
        else:
            from babyllm.data.order.competence_order import by_competence

            of_rows = _measured(config, data, tokenizer)
            order = curriculum = by_competence(
                config, config.curriculum, of_rows, lambda rows: in_buckets(shuffled, rows), runtime, plan, run_dir
            )
            scored = curriculum if config.curriculum.by == "loss" else None
    pin = runtime.device.type == "cuda"
    return Loader(order, share, config.seed, data.fingerprint, pin_memory=pin, scored=scored), plan


def _measured(config: ConversationConfig, data: ConversationData, tokenizer: Tokenizer | None) -> Measured:
    """What the measures of difficulty read."""
    from babyllm.data.difficulty.row_difficulty import Measured

    rows, tasks = data.rows(config.seq_len), data.store.tasks_of("train")

    def hardest(places: NDArray[np.int64]) -> NDArray[np.int64]:
        from babyllm.data.difficulty.row_ids import chunks

        of_task = np.array([places[tasks.index(task)] if task in tasks else -1 for task in data.store.tasks])
        channels = [np.where(c.arrays["documents"] >= 0, of_task[c.arrays["channels"]], -1) for c in chunks(rows)]
        return np.concatenate([of_rows.max(axis=1) for of_rows in channels])

    made_of = (data.fingerprint, config.seq_len, data.is_packed, data.seed)
    return Measured(rows, tasks, hardest, data.store.manifest.vocab_size, tokenizer, made_of)
