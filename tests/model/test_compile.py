"""Compiled blocks."""

import getpass
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from model_fixtures import stirred

from babyllm.model.adapt.lora import LoraConfig, adapter_off, add_lora
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer

NO_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CONFIG = ModelConfig(64, 2, 32, 4, 2, max_seq_len=16)
DEVICES = [pytest.param("cpu", marks=NO_COMPILER), pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the compiler warns of its own inner workings
    pytest.mark.usefixtures("compiler_cache"),
]


@pytest.fixture
def compiler_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of the compiler by the processor's instructions: it takes those for other ones as its own."""
    name = f"babyllm_compiled_{getpass.getuser()}_{torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), name)))


def compiled(model: Transformer) -> Transformer:
    """The same model with its blocks compiled, as the training loop compiles them."""
    for block in model.layers:
        block.compile()
    return model


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_blocks_give_the_same_losses_and_gradients_under_the_same_names(device: str) -> None:
    """A model whose blocks are compiled differs from the plain one by rounding alone and keeps its names."""
    torch.manual_seed(0)
    plain, faster = Transformer(CONFIG).to(device), compiled(Transformer(CONFIG).to(device))
    faster.load_state_dict(plain.state_dict())
    tokens, targets = torch.randint(64, (2, 2, 16), device=device)
    for model in (plain, faster):
        model(tokens, targets).sum().backward()
    assert list(faster.state_dict()) == list(plain.state_dict())
    for one, two in zip(plain.parameters(), faster.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_an_adapter_is_switched_off_in_compiled_blocks_too(device: str) -> None:
    """What is compiled with the adapter on does not keep it on, nor off afterwards."""
    torch.manual_seed(0)
    plain = stirred(add_lora(Transformer(CONFIG), LoraConfig(rank=4))).to(device)
    faster = add_lora(Transformer(CONFIG), LoraConfig(rank=4)).to(device)
    faster.load_state_dict(plain.state_dict())
    compiled(faster)
    tokens, targets = torch.randint(64, (2, 2, 16), device=device)
    found = []
    for model in (plain, faster):
        before = model(tokens, targets)
        with adapter_off(model):
            found.append((before, model(tokens, targets)))
        torch.testing.assert_close(model(tokens, targets), before, rtol=1e-6, atol=1e-6)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert (found[0][0] - found[0][1]).abs().max() > 1e-3
