"""Steps that do not fit the memory of a device."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from training_fixtures import recording, tiny_config, tiny_state, weights

from babyllm.data.batch import Batch
from babyllm.errors import UserError
from babyllm.objectives import LossTerms
from babyllm.objectives.lm import language_model
from babyllm.run_directory import step_name
from babyllm.runtime import Runtime
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.state import Every, Watch


def full_beyond(n_rows: int, place: str) -> Callable[[nn.Module, Batch], LossTerms]:
    """The loss on a device whose memory is full once it computes more than `n_rows` rows at a time."""
    handles = []

    def fill(weight: torch.Tensor | None = None) -> None:
        while handles:
            handles.pop().remove()
        raise torch.OutOfMemoryError("CUDA out of memory")

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        terms = language_model(model, batch)
        if len(batch) > n_rows and place == "forward":
            fill()
        elif len(batch) > n_rows:  # after all other gradients have been added
            handles.append(next(model.parameters()).register_post_accumulate_grad_hook(fill))
        return terms

    return loss


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_a_step_is_tried_again_in_halves(data: Path, runtime: Runtime, place: str) -> None:
    """It ends as one that began with the smaller micro-batches: the same bits, dropout and metrics included."""
    outcomes, lines = [], []
    for micro_batch, n_rows in ((None, 2), (2, 8)):
        config = tiny_config(data, dropout=0.1, steps=3)
        config = replace(config, data=replace(config.data, micro_batch=micro_batch))
        state, losses = tiny_state(config, runtime), []
        train(state, full_beyond(n_rows, place), config.plan, [recording(losses)], Watch(report=lines.append))
        outcomes.append((losses, weights(state).tolist(), state.tokens))
    assert outcomes[0] == outcomes[1]
    assert [line.split("; ")[0] for line in lines] == [
        "step 1: out of memory on cpu with micro-batches of 8 sequences",
        "step 1: out of memory on cpu with micro-batches of 4 sequences",
    ]
    assert "--data.micro_batch=2" in lines[-1]


def test_a_resumed_run_keeps_its_cuts(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """With memory to spare after a resume, the micro-batches stay those of the run; a number given then is not cut."""
    config = tiny_config(data, dropout=0.1, steps=4)
    automatic = replace(config, data=replace(config.data, micro_batch=None))
    straight = tiny_state(automatic, runtime)
    save = Every(2, lambda state: checkpoint.save(state, tmp_path, None, keep=9), at_end=False)
    train(straight, full_beyond(2, "forward"), config.plan, [save])
    for resumed in (automatic, config):  # the latter's micro-batches have two rows
        state = tiny_state(resumed, runtime)
        checkpoint.load(state, tmp_path / step_name(2))
        train(state, language_model, config.plan)
        assert weights(state).tolist() == weights(straight).tolist()


@pytest.mark.parametrize(
    ("micro_batch", "hint"), [(8, "--data.micro_batch=4"), (1, "a single sequence"), (None, "--data.seq_len")]
)
def test_what_cannot_be_cut_ends_the_run_with_one_line(
    data: Path, runtime: Runtime, micro_batch: int | None, hint: str
) -> None:
    """A number that was given is not changed, and one sequence cannot be halved; the line says what may fit."""
    config = tiny_config(data, steps=3)
    config = replace(config, data=replace(config.data, micro_batch=micro_batch))
    with pytest.raises(UserError) as error:
        train(tiny_state(config, runtime), full_beyond(0, "forward"), config.plan)
    assert hint in str(error.value) and "step 1" in str(error.value) and "\n" not in str(error.value)
