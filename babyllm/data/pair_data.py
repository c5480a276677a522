"""The data of training on preferences: prepared pairs, or answers with verdicts, and the loader over them.

section `data` -> PairStore -> Pairs | Answers | Mismatched -> shuffled in length buckets, or a Curriculum, or a Mixture
of tasks -> Loader
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.load import ChatTemplate
from babyllm.config.values import check
from babyllm.data.loader import Loader
from babyllm.data.order.curriculum import Curriculum, until_step
from babyllm.data.order.length_buckets import ByLength
from babyllm.data.order.shuffle import Order, Rows, Shuffled
from babyllm.data.order.task_weights import weighted, without_groups
from babyllm.data.pair_config import PairConfig
from babyllm.data.row_config import Share, share_of
from babyllm.data.rows.pair_rows import Answers, Mismatched, Pairs
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.pipeline.report import print_report
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.conversations import ALL
from babyllm.store.pair_store import Kind, PairStore
from babyllm.store.shards import Split

PairRows = Pairs | Answers


@dataclass(frozen=True)
class PairData:
    """Prepared pairs, or answers with verdicts.

    Attributes:
        store: the prepared pairs.
        seq_len: columns of a row.
        change: function of a split and its rows that returns the rows in their place; None for none.
        is_mismatched: whether each row of an answer also holds the answer to another prompt.
    """

    store: PairStore
    seq_len: int
    change: Callable[[Split, PairRows], Rows] | None = None
    is_mismatched: bool = False
    _rows: dict[tuple[Split, str | None, int], Rows] = field(default_factory=dict)

    def mapped(self, change: Callable[[Split, PairRows], Rows]) -> PairData:
        """The same data, whose rows are those that `change` makes of them, such as rows with a reference."""
        return PairData(self.store, self.seq_len, change, self.is_mismatched)

    def mismatched(self) -> PairData:
        """The same answers, each beside the answer to another prompt: rows of `Mismatched`."""
        return PairData(self.store, self.seq_len, self.change, is_mismatched=True)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the data."""
        if self.is_mismatched:
            return sha256(f"{self.store.fingerprint} {Mismatched.__name__}".encode()).hexdigest()
        return self.store.fingerprint

    def rows(self, split: Split, task: str | None = None, seq_len: int | None = None) -> Rows:
        """The rows of a split, or of one task in it: `Pairs` or `Answers`, by the kind of the store, or `Mismatched`.

        Args:
            split: "train" or "val".
            task: name of one task; None takes all.
            seq_len: columns of a row; None takes those of the data.

        Raises:
            UserError: there are no pairs, one is longer than a row, or all answers have one prompt.
        """
        key = (split, task, seq_len or self.seq_len)
        if key not in self._rows:
            kind = Mismatched if self.is_mismatched else Pairs if self.store.kind == "pairs" else Answers
            rows = kind(self.store, *key)
            self._rows[key] = self.change(split, rows) if self.change else rows
        return self._rows[key]


def prepare_pair_data(config: PairConfig, directory: Path, template: ChatTemplate, kind: Kind = "pairs") -> None:
    """Render the preferences that the configuration names into a store, unless they are there already.

    Args:
        config: the section `data`.
        directory: directory of the store.
        template: chat template that renders them.
        kind: "pairs", or "answers" for losses of single answers.

    Raises:
        UserError: a setting is not valid, a file cannot be read, or nothing is left to train on.
    """
    from babyllm.prepare.preference_pairs import prepare_pairs  # a resumed run does not need its readers

    paths, held_out_paths = config.data_sets()
    report = prepare_pairs(
        paths,
        directory,
        template,
        config.format,
        seq_len=config.longest_seq_len,
        kind=kind,
        limits=config.limits,
        held_out=config.held_out,
        held_out_paths=held_out_paths,
        repetitions=config.repetitions,
        work=config.work,
    )
    if report:
        print_report(report)


def open_pair_data(
    config: PairConfig, directory: Path, tokenizer_sha256: str, runtime: Runtime, kind: Kind = "pairs"
) -> PairData:
    """Prepared pairs or answers; every rank must call it.

    Args:
        config: the section `data`.
        directory: directory of the prepared pairs.
        tokenizer_sha256: sha256 of the tokenizer that must have made their ids.
        runtime: runtime of the run; its rank 0 verifies the files.
        kind: "pairs", or "answers" for losses of single answers.

    Raises:
        UserError: a file is missing or damaged, another tokenizer made the ids, or a task has a reserved name.
    """
    check(config, "data.")
    with runtime.main_first():
        store = PairStore.open(directory, kind, check=runtime.is_main)
    if store.chats.manifest.tokenizer_sha256 != tokenizer_sha256:
        raise UserError(f"{directory}: was made with another tokenizer than the model's; move it away")
    if ALL in store.chats.tasks:
        raise UserError(f"{directory}: a task of the pairs is named '{ALL}', like their total; rename it")
    return PairData(store, config.longest_seq_len)


def make_pair_loader(
    config: PairConfig, data: PairData, model: ModelConfig, runtime: Runtime, plan: Plan
) -> tuple[Loader, Plan]:
    """The loader of this rank, and the plan with its number of steps.

    Raises:
        UserError: `global_batch` or `micro_batch` does not divide evenly, or the mixture, the curriculum or the plan is
            not valid.
    """
    share = pair_share(config, model, runtime, data.store.kind)
    order: Order
    config = weighted(config, data.store.chats.directory, lambda task: len(data.rows("train", task)))
    if config.is_mixed:
        from babyllm.data.order.mixing import mixture

        if config.curriculum.by is not None:
            raise UserError("data.curriculum.by: cannot be combined with a mixture of tasks; leave one of them out")
        amounts = {task: len(data.rows("train", task)) for task in data.store.chats.tasks_of("train")}
        divided = without_groups(config, amounts)
        mixed, plan = mixture(divided, amounts, lambda seq_len, task: data.rows("train", task, seq_len), plan)
        order = ByLength(mixed, config.global_batch, config.seed, mixed.borders)
    else:
        rows = data.rows("train", None, config.seq_len)
        plan = plan.with_steps(len(rows), config.global_batch)
        if config.curriculum.by is not None:
            until = until_step(config.curriculum.until, plan.n_steps)
            hard = difficulties(data.store, config.curriculum.by)
            order = Curriculum(rows, hard, config.curriculum, until, config.global_batch, config.seed)
        else:
            order = ByLength(Shuffled(rows, config.seed), config.global_batch, config.seed)
    pin = runtime.device.type == "cuda"
    return Loader(order, share, config.seed, data.fingerprint, pin_memory=pin), plan


def pair_share(config: PairConfig, model: ModelConfig, runtime: Runtime, kind: Kind = "pairs") -> Share:
    """This rank's share of a global batch; a pair has the tokens of two sequences.

    Raises:
        UserError: a setting is out of range, or `global_batch` or `micro_batch` does not divide evenly.
    """
    check(config, "data.")
    sides = 2 if kind == "pairs" else 1
    return share_of(replace(config, seq_len=sides * config.longest_seq_len, stages=None), model, runtime)


def difficulties(store: PairStore, by: str) -> NDArray[np.float64]:
    """The difficulty of each training pair, greater for harder ones.

    Args:
        store: pairs.
        by: "difficulty", the field of the data; "margin", where a small margin is hard; or "length", where answers of
            similar length are hard: the tokens of the shorter one over those of the longer one.

    Returns:
        (n,) float64.

    Raises:
        UserError: the store holds answers, or its data lacks the numbers.
    """
    if store.kind != "pairs":
        raise UserError("data.curriculum.by: is for pairs, and this loss reads single answers; leave it out")
    if by == "length":
        lengths = store.answer_lengths("train").astype(np.float64)
        ratio: NDArray[np.float64] = lengths.min(axis=1) / lengths.max(axis=1)
        return ratio
    span = store.span("train")
    found: NDArray[np.float64] = store.labels[by][span.start : span.stop].astype(np.float64)
    if missing := int(np.isnan(found).sum()):
        raise UserError(
            f"data.curriculum.by={by}: {missing:,} of {len(found):,} pairs have no {by}; add the field to the data, or "
            "use --data.curriculum.by=length"
        )
    return -found if by == "margin" else found
