"""The pairs of a run: prepared in its directory, and measured on those that are held out.

section `data` -> run_pairs -> PairData -> held_out_pairs: scores of both sides, means of others -> results by name
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Scores = Callable[[Model, Batch], Sequence[Tensor]]
"""The scores (B, 2) of the two sides of each pair of a batch, the chosen one first; other numbers (B, 2) may follow."""


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


def results_on(data: PairData, n: int, others: Sequence[str] = ()) -> list[str]:
    """The names of the results of `held_out_pairs`; none where no pairs are held out."""
    return [f"all/{name}" for name in (*RESULTS, *_by_side(others))] if _number(data, n) else []


def held_out_pairs(data: PairData, n: int, scores: Scores, others: Sequence[str] = ()) -> Measure:
    """A function that returns the results of at most `n` held-out pairs, if there are any.

    Single answers are not compared, so they have no results.

    Args:
        data: pairs.
        n: largest number of pairs that are measured, the first ones.
        scores: function that returns the scores, whose results are those of `pair_results`, and the other numbers.
        others: names of the other numbers, whose means over pairs are "all/NAME/chosen" and "all/NAME/rejected".
    """
    n, names = _number(data, n), _by_side(others)

    def sums_of(model: Model, batch: Batch) -> list[float]:
        lengths = (batch["targets"] != IGNORE).sum(-1)
        first, *more = (found.double().cpu().numpy() for found in scores(model, batch))
        return [*pair_sums(first, lengths.cpu().numpy()), *(side for found in more for side in found.sum(0).tolist())]

    def measured(state: TrainState) -> dict[str, float]:
        if not n:
            return {}
        rows, n_sums = data.rows("val"), N_SUMS + len(names)
        sums = row_sums(state, rows, n, n_sums, lambda batch: sums_of(state.model, batch))
        means = {name: total / n for name, total in zip(names, sums[N_SUMS:], strict=True)}
        return {f"all/{name}": value for name, value in {**pair_results(sums[:N_SUMS]), **means}.items()}

    return measured


def _by_side(names: Sequence[str]) -> list[str]:
    return [f"{name}/{side}" for name in names for side in ("chosen", "rejected")]


def _number(data: PairData, n: int) -> int:
    """The number of held-out pairs that are measured."""
    if data.store.kind != "pairs" or not data.store.chats.tasks_of("val"):
        return 0
    return min(len(data.rows("val")), n)
