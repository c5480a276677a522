"""How a GPU trains, saves, serves and runs out of memory; each body also runs with the CPU in its place."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_fixtures import Tiny, decisive, model_of
from serve_fixtures import CHAT, asking, chatml, load_of, serving
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from training_fixtures import recording, stopping, tiny_config, weights

from babyllm import run_directory
from babyllm.chat.messages import USER, Message
from babyllm.data.batch import Batch
from babyllm.data.stream_state import gather
from babyllm.data.token_data import open_pretraining_data
from babyllm.generation import Sampling, generate_ids, text_pieces
from babyllm.model.attention import causal_attention, plain_attention
from babyllm.model.config import Checkpointing
from babyllm.objectives import LossTerms
from babyllm.objectives.lm import language_model
from babyllm.runtime import RuntimeConfig, environment, start
from babyllm.runtime.precision import reads_in
from babyllm.tokenizer import Tokenizer
from babyllm.training import checkpoint
from babyllm.training.checkpoint.snapshot import take_snapshot
from babyllm.training.loop import train
from babyllm.training.stages.pretraining import new_state
from babyllm.training.state import TrainState, Watch


@contextmanager
def run_on(data: Path, device: torch.device, micro_batch: int | None = 2, **settings: object) -> Iterator[TrainState]:
    """A run at step 0 in float32, with deterministic kernels and dropout."""
    config = tiny_config(data, dropout=0.1)
    config = replace(config, data=replace(config.data, micro_batch=micro_batch))
    chosen = {"dtype": "float32", "compile": False, "deterministic": True, **settings}
    with start(RuntimeConfig(device=device.type, threads=1, **chosen)) as runtime:  # type: ignore[arg-type]
        state, _ = new_state(config, open_pretraining_data(config.data), runtime)
        try:
            yield state
        finally:
            state.stream.close()  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(False)


def test_tf32_rounds_products_where_it_is_asked_for(device: torch.device) -> None:
    """Products are exact to float32 without it; with it a GPU's lose some bits, and the environment says so."""
    left, right = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0)).unbind()
    exact = left.double() @ right.double()
    for tf32 in (False, True, False):
        with start(RuntimeConfig(device=device.type, tf32=tf32)):
            error = (left.to(device) @ right.to(device)).cpu() - exact
            is_rounded = tf32 and device.type == "cuda"
            assert environment()["tf32"] is is_rounded
        assert error.abs().max() < (0.1 if is_rounded else 1e-4)
        if is_rounded and torch.cuda.get_device_capability() >= (8, 0):
            assert error.abs().max() > 1e-4


def test_flash_attention_takes_the_models_shapes(device: torch.device) -> None:
    """Grouped queries in 16 bits run in the flash kernel, and differ from the formula by their rounding."""
    q, k, v = (torch.randn(2, heads, 128, 32, generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2))
    expected = plain_attention(q, k, v)
    halves = [x.to(device, torch.bfloat16) for x in (q, k, v)]
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        found = causal_attention(halves[0], halves[1], halves[2], None, "fused")
    assert (found.float().cpu() - expected).abs().max() < 0.05


@pytest.mark.parametrize("checkpointing", ["selective", True, 2])
def test_activation_checkpointing_changes_no_bit(
    tiny: Tiny, device: torch.device, checkpointing: Checkpointing
) -> None:
    """With deterministic kernels the gradients in bfloat16, with dropout, are those without it."""
    tokens = torch.randint(0, 400, (2, 4, 32), generator=torch.Generator().manual_seed(1)).to(device)
    found = []
    with start(RuntimeConfig(device=device.type, dtype="bfloat16", deterministic=True, threads=1)) as runtime:
        for kind in (False, checkpointing):
            model = model_of(tiny(activation_checkpointing=kind, dropout=0.2)).to(device).train()
            torch.manual_seed(5)
            with runtime.autocast():
                losses = model(*tokens)
            losses.sum().backward()
            found.append([losses.detach(), *(weight.grad for weight in model.parameters())])
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_resumed_run_has_the_same_bits(data: Path, device: torch.device, tmp_path: Path) -> None:
    """With deterministic kernels the losses and weights of a resumed run are those of one that never stopped."""
    plan, outcomes = replace(tiny_config(data).plan, steps=6), []
    for stop in (None, 3):
        losses: list[float] = []
        with run_on(data, device) as state:
            train(state, language_model, plan, [recording(losses), *([stopping(stop)] if stop else [])])
            if stop:
                checkpoint.save(state, tmp_path, None, keep=1)
            found = weights(state).tolist()
        if stop:
            with run_on(data, device) as state:
                directory = run_directory.latest(tmp_path)
                assert directory
                checkpoint.load(state, directory)
                train(state, language_model, plan, [recording(losses)])
                found = weights(state).tolist()
        outcomes.append((losses, found))
    assert outcomes[0] == outcomes[1]


def test_copies_run_beside_the_steps(data: Path, device: torch.device) -> None:
    """Batches and what is saved go through pinned memory on a GPU; a step changes nothing in a snapshot's copy."""
    is_gpu = device.type == "cuda"
    with run_on(data, device) as state:
        batch = next(state.stream)[0]
        assert {tensor.is_pinned() for tensor in batch.tensors.values()} == {is_gpu}
        moved = batch.to(device)
        assert all(torch.equal(moved[name].cpu(), tensor) for name, tensor in batch.tensors.items())
        train(state, language_model, replace(tiny_config(data).plan, steps=1))
        copy = take_snapshot(state, gather(state.stream, state.runtime)).copied()
        before = {name: tensor.clone() for file in copy.tensors.values() for name, tensor in file.items()}
        now = weights(state).cpu()
        train(state, language_model, replace(tiny_config(data).plan, steps=3))
        after = {name: tensor for file in copy.tensors.values() for name, tensor in file.items()}
        assert not torch.equal(weights(state).cpu(), now)
        assert all(tensor.device.type == "cpu" and torch.equal(tensor, before[name]) for name, tensor in after.items())
        assert {tensor.is_pinned() for tensor in after.values() if tensor.dim() > 1} == {is_gpu}


def full_beyond(n_rows: int, device: torch.device) -> object:
    """The loss on a device that has no memory for more than `n_rows` rows at a time."""

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        terms = language_model(model, batch)
        if len(batch) > n_rows and device.type == "cuda":
            torch.empty(1 << 50, dtype=torch.uint8, device=device)
        if len(batch) > n_rows:
            raise torch.OutOfMemoryError
        return terms

    return loss


def test_a_full_device_halves_the_micro_batch(data: Path, device: torch.device) -> None:
    """The steps are those of a run that began with the smaller number, whose bits they have."""
    plan, outcomes, lines = replace(tiny_config(data).plan, steps=2), [], []
    for micro_batch in (None, 2):
        losses: list[float] = []
        with run_on(data, device, micro_batch) as state:
            loss = full_beyond(2, device)
            train(state, loss, plan, [recording(losses)], Watch(report=lines.append))  # type: ignore[arg-type]
            outcomes.append((losses, weights(state).tolist()))
    assert outcomes[0] == outcomes[1]
    assert lines and all("out of memory" in line for line in lines) and "--data.micro_batch=2" in lines[-1]


def test_a_server_answers_from_the_device(tiny: Tiny, tokenizer: Tokenizer, device: torch.device) -> None:
    """In float32 an answer is the text that the model writes on the CPU."""
    template = chatml(tokenizer)
    prompt, greedy = template.prompt([Message(USER, "the model")]), Sampling(max_new_tokens=12, temperature=0)
    ids = list(generate_ids(decisive(tiny()), prompt, greedy, template.end_ids))
    moved = decisive(tiny()).to(device)
    with serving(load_of(moved, tokenizer, template), reading=lambda: reads_in(device, torch.float32)) as server:
        reply = server.post(CHAT, asking("the model"))
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "".join(text_pieces(tokenizer, ids))
