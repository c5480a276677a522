"""The pairs of a run: prepared in its directory, and measured on those that are held out.

section `data` -> run_pairs -> PairData -> held_out_pairs: scores of both sides -> results by name
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from babyllm.chat.load import ChatTemplate
from babyllm.data.batch import Batch
from babyllm.data.pair_config import STORE, PairConfig
from babyllm.data.pair_data import PairData, open_pair_data, prepare_pair_data
from babyllm.evaluate.pair_results import N_SUMS, RESULTS, pair_results, pair_sums
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.interface import Model
from babyllm.runtime import Runtime
from babyllm.store.pair_store import Kind
from babyllm.training.run import Measure
from babyllm.training.stages.preference.row_sums import row_sums
from babyllm.training.state import TrainState

Scores = Callable[[Model, Batch], Tensor]
"""Scores (B, 2) of the two sides of each pair of a batch, the chosen one first."""


def run_pairs(
    config: PairConfig, run_dir: str, template: ChatTemplate, runtime: Runtime, kind: Kind = "pairs"
) -> PairData:
    """The pairs of a run, rendered into its directory unless they are there; every rank must call it.

    Args:
        config: section `data`.
        run_dir: run directory.
        template: chat template that renders them.
        runtime: runtime of the run.
        kind: "pairs", or "answers" for losses of single answers.

    Raises:
        UserError: a setting is not valid, a file cannot be read, or nothing is left to train on.
    """
    store = Path(run_dir) / STORE
    with runtime.main_first():
        if runtime.is_main:
            prepare_pair_data(config, store, template, kind)
    return open_pair_data(config, store, template.tokenizer.sha256, runtime, kind)


def results_on(data: PairData, n: int) -> list[str]:
    """The names of the results of `held_out_pairs`; none where no pairs are held out."""
    return [f"all/{name}" for name in RESULTS] if _number(data, n) else []


def held_out_pairs(data: PairData, n: int, scores: Scores) -> Measure:
    """A function that returns the results of at most `n` held-out pairs (`pair_results`), if there are any.

    Single answers are not compared, so they have no results.
    """
    n = _number(data, n)

    def sums_of(model: Model, batch: Batch) -> list[float]:
        lengths = (batch["targets"] != IGNORE).sum(-1)
        return pair_sums(scores(model, batch).double().cpu().numpy(), lengths.cpu().numpy())

    def measured(state: TrainState) -> dict[str, float]:
        if not n:
            return {}
        sums = row_sums(state, data.rows("val"), n, N_SUMS, lambda batch: sums_of(state.model, batch))
        return {f"all/{name}": value for name, value in pair_results(sums).items()}

    return measured


def _number(data: PairData, n: int) -> int:
    """The number of held-out pairs that are measured."""
    if data.store.kind != "pairs" or not data.store.chats.tasks_of("val"):
        return 0
    return min(len(data.rows("val")), n)
