"""Compiled blocks."""

import getpass
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer

NO_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.slow
@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=NO_COMPILER), pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
)
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own inner workings
def test_compiled_blocks_give_the_same_losses_and_gradients_under_the_same_names(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose blocks are compiled differs from the plain one by rounding alone and keeps its names."""
    # The compiler keeps its results by what was compiled, and takes those for other instructions as its own.
    cache = Path(
        tempfile.gettempdir(), f"babyllm_compiled_{getpass.getuser()}_{torch.backends.cpu.get_cpu_capability()}"
    )
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    torch.manual_seed(0)
    config = ModelConfig(64, 2, 32, 4, 2, max_seq_len=16)
    plain, compiled = Transformer(config).to(device), Transformer(config).to(device)
    compiled.load_state_dict(plain.state_dict())
    for block in compiled.layers:
        block.compile()
    tokens, targets = torch.randint(64, (2, 2, 16), device=device)
    for model in (plain, compiled):
        model(tokens, targets).sum().backward()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for one, two in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)
