"""How often a step of training, evaluation or generation waits for its device: never needlessly."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_reads import DeviceReads
from model_fixtures import Tiny, model_of
from training_fixtures import Repeated, tiny_config, tiny_state

from babyllm.data.batch import Batch
from babyllm.evaluate import perplexity
from babyllm.evaluate.conversations.answers import losses
from babyllm.evaluate.conversations.samples import Sample
from babyllm.generation import Engine, Sampling
from babyllm.generation.decoder import Decoder
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives import Loss
from babyllm.objectives.conversation import conversation_loss
from babyllm.objectives.lm import language_model
from babyllm.objectives.token_groups import token_groups
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.shards import open_tokens
from babyllm.training import checkpoint
from babyllm.training.loop import train

GREEDY = Sampling(max_new_tokens=8, temperature=0)


def read_in_backward(x: torch.Tensor) -> None:
    y = x.requires_grad_() * 2
    y.register_hook(lambda gradient: gradient * float(gradient.sum()))
    y.sum().backward()


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x[(x > 0).int().argmax()],
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.numpy(),
        lambda x: x.unique(),
        read_in_backward,
    ],
)
def test_reads_are_seen(read: Callable[[torch.Tensor], Any]) -> None:
    """The counter counts every way in which a program reads a tensor's values."""
    with DeviceReads() as counts:
        read(torch.ones(3))
    assert counts.total() >= 1


def lm_batch(is_packed: bool = False, n: int = 2) -> Batch:
    """Rows of tokens (n, 16); the last has few targets."""
    tokens = torch.randint(0, 290, (n, 16), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    targets[-1, 2:] = IGNORE
    places = {"positions": torch.arange(16).expand(n, 16) % 8, "documents": torch.arange(16).expand(n, 16) // 8}
    tensors = {"tokens": tokens, "targets": targets, **(places if is_packed else {})}
    return Batch(tensors, {"token": int((targets != IGNORE).sum())})


def chat_batch(is_packed: bool = False) -> Batch:
    """The same with a quarter of the tokens supervised, each with its own weight."""
    batch = lm_batch(is_packed)
    targets = batch["targets"].masked_fill(torch.arange(16) % 4 > 0, IGNORE)
    more = {
        "targets": targets,
        "weights": torch.rand(targets.shape) * (targets != IGNORE),
        "channels": torch.zeros_like(targets),
        "lengths": torch.tensor([16, 3]),
    }
    return Batch({**batch.tensors, **more}, {"token": int((targets != IGNORE).sum()), "turn": 3, "conversation": 2})


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", ["language model", "conversations"])
@pytest.mark.parametrize("variant", ["plain", "checkpointed", "selective", "lora"])
def test_forward_and_backward_read_nothing(
    tiny: Tiny, kind: str, is_packed: bool, dtype: torch.dtype | None, variant: str
) -> None:
    """The forward and backward pass of a micro-batch never wait for a computed value."""
    checkpointing = variant if variant == "selective" else variant == "checkpointed"
    model = model_of(tiny(activation_checkpointing=checkpointing, dropout=0.1)).train()
    if variant == "lora":
        add_lora(model, LoraConfig(rank=2, base="nf4", dropout=0.1))
    is_chat = kind == "conversations"
    batch = chat_batch(is_packed) if is_chat else lm_batch(is_packed)
    groups = token_groups([1, 2, 3], [2], model.config.vocab_size, torch.device("cpu"))
    loss: Loss = partial(language_model, groups=groups)
    if is_chat:
        loss = conversation_loss("turn", ["x"], is_packed, groups)
    with DeviceReads() as counts, torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        terms = loss(model, batch)
        torch.stack(list(terms.sums.values())).sum().backward()
    assert not counts
    assert any(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_a_step_reads_as_often_for_one_micro_batch_as_for_many(data: Path, runtime: Runtime) -> None:
    """The loop reads values once a step: the gradient norm, the counts that it sums and the stop signal."""
    found = []
    for n in (1, 4):
        state = tiny_state(tiny_config(data), runtime)
        state.stream = Repeated([lm_batch()] * n)
        train(state, language_model, Plan(steps=1, warmup=0))
        with DeviceReads() as counts:
            train(state, language_model, Plan(steps=3, warmup=0))
        found.append(counts)
    assert found[0] == found[1]
    assert found[0].total() <= 2 * 4


def test_a_save_asks_once_whether_its_weights_are_finite(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """Each tensor is copied once in addition; nothing of a frozen base is read."""
    found = []
    for n_layers in (1, 2):
        config = tiny_config(data)
        state = tiny_state(replace(config, model=replace(config.model, n_layers=n_layers)), runtime)
        with DeviceReads() as counts:
            checkpoint.save(state, tmp_path / str(n_layers), None, keep=1)
        found.append((counts["tolist"], counts["_local_scalar_dense"]))
    assert found[0] == found[1]
    add_lora(state.model, LoraConfig(rank=2))
    frozen = next(weight for weight in state.model.parameters() if not weight.requires_grad)
    with torch.no_grad():
        frozen.fill_(float("nan"))
    checkpoint.save(state, tmp_path / "adapter", None, keep=1)


def test_an_evaluation_reads_once_for_all_its_batches(tiny: Tiny, token_dir: Path, runtime: Runtime) -> None:
    """Losses stay on the device until a domain, or all conversations, are finished."""
    model, data = model_of(tiny()), open_tokens(token_dir)
    found = []
    for batch_tokens in (64, 4096):
        with DeviceReads() as counts:
            perplexity(model, data, runtime, seq_len=32, batch_tokens=batch_tokens)
        found.append(counts)
    # The sum on the device, and the sum over ranks, which is computed on the CPU.
    assert found[0] == found[1] == {name: len(data.domains("val")) for name in ("cpu", "_local_scalar_dense", "tolist")}

    samples = [Sample("x", np.arange(5, 5 + n), np.arange(n) // 3) for n in range(4, 24)]
    found = []
    for batch_tokens in (32, 4096):
        with DeviceReads() as counts:
            losses(model, samples, runtime, batch_tokens=batch_tokens)
        found.append(counts)
    assert found[0] == found[1] == {"cpu": 1, "numpy": 1, "tolist": 1}


@pytest.mark.parametrize("n_answers", [1, 3])
def test_a_decoding_step_waits_once_for_all_answers(tiny: Tiny, n_answers: int) -> None:
    """The logits of all rows are copied to the CPU together, for sampling; the forward pass reads nothing."""
    model = model_of(tiny())
    engine = Engine(model, slots=4)
    for i in range(n_answers):
        engine.submit(range(5, 8 + i), GREEDY)
    engine.step()
    with DeviceReads() as counts:
        assert len(engine.step()) == n_answers
    assert counts["cpu"] == 1

    decoder = Decoder(model, 4, 32)
    for tokens, lengths in ((torch.ones(n_answers, 6, dtype=torch.long), 0), (torch.ones(n_answers, 1).long(), 6)):
        with torch.inference_mode(), DeviceReads() as counts:
            decoder.read(tokens, 0, [lengths] * n_answers)
        assert counts == {"cpu": 1}
