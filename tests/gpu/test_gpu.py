"""What a GPU computes, against the CPU: `pytest -m gpu` on a machine that has one.

Each body also runs with the CPU in the GPU's place, so that none rots where there is no GPU; there the two sides are
the same, and bounds hold trivially.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from model_fixtures import Tiny, frozen_as, model_of
from torch.nn import functional as F
from training_fixtures import recording, tiny_config

from babyllm.data.token_data import open_pretraining_data
from babyllm.generation import Engine, Sampling, beam_search, generate_ids
from babyllm.generation.decoder import Decoder
from babyllm.model.adapt.lora import LoraConfig, add_lora, to_int8
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.linear import WeightStorage
from babyllm.model.transformer import Transformer
from babyllm.objectives.lm import language_model
from babyllm.runtime import RuntimeConfig, start
from babyllm.runtime.precision import reads_in
from babyllm.training.loop import train
from babyllm.training.stages.pretraining import new_state
from babyllm.training.state import TrainState

CPU = torch.device("cpu")
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GREEDY = Sampling(max_new_tokens=16, temperature=0, logprobs=0)


def lively(config: ModelConfig) -> Transformer:
    """A model of which every part shows in the output."""
    model = model_of(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


def on(device: torch.device, config: ModelConfig) -> Transformer:
    return lively(config).to(device)


def a_batch(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets (4, 32), some of which do not count."""
    tokens = torch.randint(0, 400, (4, 33), generator=torch.Generator().manual_seed(1))
    targets = tokens[:, 1:].masked_fill(torch.arange(32) % 3 == 0, IGNORE)
    return tokens[:, :-1].to(device), targets.to(device)


def losses_and_gradients(
    model: Transformer, dtype: torch.dtype, n_targets: int | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    device = model.embed_tokens.weight.device
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        losses = model(*a_batch(device), n_targets=n_targets)
    losses.sum().backward()
    return losses.detach().cpu(), {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("is_sparse", [False, True])
def test_losses_gradients_and_logits_equal_the_cpus(tiny: Tiny, device: torch.device, is_sparse: bool) -> None:
    """In float32 they differ by what a few hundred roundings make: 1e-4 of the largest value."""
    n_targets = int((a_batch(CPU)[1] != IGNORE).sum()) if is_sparse else None
    model, plain = on(device, tiny()), on(CPU, tiny())
    tokens = a_batch(CPU)[0]
    logits, expected = model.logits(tokens.to(device)).cpu(), plain.logits(tokens)
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    losses, gradients = losses_and_gradients(model, torch.float32, n_targets)
    exact_losses, exact = losses_and_gradients(plain, torch.float32)
    assert (losses - exact_losses).abs().max() <= 1e-4 * exact_losses.max()
    for name, gradient in exact.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


def test_what_is_allowed_is_the_same_as_on_the_cpu(tiny: Tiny, device: torch.device) -> None:
    """Under a mask losses, entropies and gradients are finite and differ by roundings alone."""
    found = []
    for place in (device, CPU):
        model, (tokens, targets) = on(place, tiny()), a_batch(place)
        bits = torch.randint(0, 256, (4, 32, 50), generator=torch.Generator().manual_seed(2)).byte().to(place)
        own = targets.clamp(min=0).unsqueeze(2)
        bits.scatter_(2, own // 8, bits.gather(2, own // 8) | (1 << own % 8).byte())
        of_targets = model(tokens, targets, allowed=bits, returns=("nats", "entropy"))
        (of_targets["nats"] - of_targets["entropy"]).sum().backward()
        gradient = model.embed_tokens.weight.grad
        assert gradient is not None
        found.append([x.detach().cpu() for x in (*of_targets.values(), model(tokens, targets, allowed=bits), gradient)])
    for mine, exact in zip(*found, strict=True):
        assert (mine - exact).abs().max() <= 1e-4 * exact.abs().max()
    free = on(CPU, tiny())(*a_batch(CPU))
    assert (found[1][0] <= free + 1e-5).all() and found[1][0].sum() < free.sum() - 10


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_point_where_the_cpus_float32_does(tiny: Tiny, device: torch.device, dtype: str) -> None:
    """The mean loss is within 2 % and every weight's gradient within a few degrees of the exact one."""
    losses, gradients = losses_and_gradients(on(device, tiny()), KINDS[dtype])
    exact_losses, exact = losses_and_gradients(on(CPU, tiny()), torch.float32)
    assert math.isclose(losses.sum(), exact_losses.sum(), rel_tol=0.02)
    for name, gradient in exact.items():
        assert F.cosine_similarity(gradients[name].flatten(), gradient.flatten(), dim=0) > 0.98, name


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # that it does not see all there is to see
def test_a_micro_batch_does_not_wait_for_the_gpu(tiny: Tiny, device: torch.device) -> None:
    """Forward and backward ask the device for nothing, packed rows and few targets included."""
    model = on(device, tiny())
    tokens, targets = a_batch(device)
    places = torch.arange(32, device=device).expand(4, 32)
    factors = torch.rand(targets.shape, device=device)
    n_targets = int((targets != IGNORE).sum())
    model(tokens, targets).sum().backward()  # makes the table of rotations
    with never_waiting(device):
        losses = model(tokens, targets, places % 8, places // 8, weights=factors, n_targets=n_targets)
        losses.sum().backward()


@contextmanager
def never_waiting(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def run_on(data: Path, device: torch.device, **settings: object) -> Iterator[TrainState]:
    """A run at step 0."""
    config = tiny_config(data, dropout=0.1)
    with start(RuntimeConfig(device=device.type, threads=1, **settings)) as runtime:  # type: ignore[arg-type]
        state, _ = new_state(config, open_pretraining_data(config.data), runtime)
        yield state
        state.stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", KINDS)
def test_twenty_steps_lower_the_loss(data: Path, device: torch.device, dtype: str) -> None:
    """Training works in every type, float16 with its scaler; no step after the scale has settled is skipped."""
    plan = tiny_config(data).plan
    losses: list[float] = []
    with run_on(data, device, dtype=dtype, compile=False) as state:
        train(state, language_model, plan, [recording(losses)])
        assert state.scaler.is_enabled() == (dtype == "float16")
    assert len(losses) == 20 and all(map(math.isfinite, losses))
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]
    assert state.skipped <= (10 if dtype == "float16" else 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_generation_is_the_cpus(tiny: Tiny, device: torch.device, dtype: str) -> None:
    """Greedy answers in float32 are the CPU's, token for token; in 16 bits the first tokens are about as probable."""
    prompts = [list(range(n, 2 * n)) for n in (3, 20, 41)]
    plain = on(CPU, tiny())
    alone = [list(generate_ids(plain, prompt, GREEDY)) for prompt in prompts]
    with reads_in(device, KINDS[dtype]):
        engine = Engine(on(device, tiny()), slots=4, prefill_chunk=16)
    numbers = [engine.submit(prompt, GREEDY) for prompt in prompts]
    found: dict[int, list[int]] = {number: [] for number in numbers}
    first: dict[int, float] = {}
    while not engine.is_idle:
        for event in engine.step():
            assert event.token is not None and event.token.logprob is not None
            found[event.number].append(event.token.id)
            first.setdefault(event.number, event.token.logprob)
    if dtype == "float32":
        assert list(found.values()) == alone
    for number, prompt in zip(numbers, prompts, strict=True):
        scores = plain.logits(torch.tensor([prompt]))[0, -1].log_softmax(-1)
        assert first[number] == pytest.approx(float(scores[found[number][0]]), abs=1e-3 if dtype == "float32" else 0.5)


def test_beams_are_the_cpus(tiny: Tiny, device: torch.device) -> None:
    """A beam search finds the same texts with the same scores."""
    found = []
    for place in (CPU, device):
        with reads_in(place, torch.float32):
            found.append(beam_search(on(place, tiny()), [5, 6, 7], num_beams=3, n=3, max_new_tokens=8))
    assert [beam.ids for beam in found[0]] == [beam.ids for beam in found[1]]
    assert [beam.score for beam in found[0]] == pytest.approx([beam.score for beam in found[1]], abs=1e-3)


def test_what_is_automatic(tiny: Tiny, device: torch.device) -> None:
    """A model is read in float32 on a CPU and in 16 bits on a GPU, and trained in what the device multiplies."""
    with start(RuntimeConfig(device=device.type)) as runtime:
        is_gpu = device.type == "cuda"
        assert (runtime.reading_dtype.itemsize == 2) == is_gpu
        assert runtime.dtype.itemsize == 2 or not is_gpu
        assert Decoder(on(device, tiny()), 1, 8).dtype is runtime.reading_dtype
        with reads_in(device, torch.float32):
            assert Decoder(on(device, tiny()), 1, 8).dtype is torch.float32


def test_eight_bits_are_the_cpus(tiny: Tiny, device: torch.device) -> None:
    """Matrices held as int8 give about the logits that they give on the CPU, with a cache and without."""
    tokens = a_batch(CPU)[0]
    expected = to_int8(on(CPU, tiny())).logits(tokens)
    model = to_int8(on(CPU, tiny())).to(device)
    assert (model.logits(tokens.to(device)).cpu() - expected).abs().max() <= 1e-4 * expected.abs().max()
    decoder = Decoder(model, 4, 32)
    with torch.inference_mode():
        cached = decoder.read_all(tokens.to(device), 0, [0] * 4)
    assert F.cosine_similarity(cached, expected, dim=-1).min() > 0.99


@pytest.mark.parametrize("storage", ["nf4", "nf4_double", "int8", "bfloat16"])
def test_adapters_on_small_bases_learn_as_on_the_cpu(tiny: Tiny, device: torch.device, storage: WeightStorage) -> None:
    """With the frozen weights in fewer bits, the adapter's gradients are the CPU's."""
    results = []
    for place in (CPU, device):
        torch.manual_seed(3)
        model = add_lora(lively(tiny()), LoraConfig(rank=4, **frozen_as(storage))).to(place)
        results.append(losses_and_gradients(model, torch.float32))
    (exact_losses, exact), (losses, gradients) = results
    assert (losses - exact_losses).abs().max() <= 1e-4 * exact_losses.max()
    assert exact.keys() == gradients.keys() and all("lora" in name for name in exact)
    for name, gradient in exact.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-4 * max(1e-3, float(gradient.abs().max())), name
