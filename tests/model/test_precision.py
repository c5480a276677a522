"""In what type a model is read: the same from commands and functions, and said where it is not float32."""

import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from model_fixtures import Tiny, model_of
from training_fixtures import tiny_config

from babyllm.__main__ import run
from babyllm.data.token_data import open_pretraining_data
from babyllm.evaluate import perplexity
from babyllm.generation import Engine, Sampling, generate, generate_ids
from babyllm.generation.decoder import Decoder
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.runtime import RuntimeConfig, start
from babyllm.runtime.precision import dtype_here, reading_dtype, reads_in
from babyllm.store.shards import open_tokens
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.pretraining import held_out, new_state

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["multiplies bf16", "converts bf16"])
def multiplies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """A processor that multiplies bfloat16, and one that does not, whatever this one is."""
    for test in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, test, lambda: request.param, raising=False)
    return request.param


@pytest.fixture
def directory(tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer) -> Path:
    """A model whose next token depends on all it reads."""
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", loud(tiny()), tokenizer)
    return tmp_path / "model"


def loud(config: Any) -> Transformer:
    model = model_of(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10.0) if weight.dim() > 1 else None
    return model


@pytest.mark.parametrize(
    ("device", "is_native", "expected"),
    [("cpu", True, "float32"), ("mps", True, "float32"), ("cuda", True, "bfloat16"), ("cuda", False, "float16")],
)
def test_what_suits_a_device(
    device: str, is_native: bool, expected: str, multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPUs and Apple GPUs read in float32, whatever they multiply; CUDA in the 16 bits that it multiplies."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: is_native)
    assert reading_dtype(torch.device(device)) is getattr(torch, expected)
    for name in ("float32", "bfloat16", "float16"):
        assert reading_dtype(torch.device(device), name) is getattr(torch, name), "a type that is named is taken"


def test_a_named_type_is_for_training_and_reading() -> None:
    """What --runtime.dtype names is taken for both; without it they may differ."""
    with start(RuntimeConfig(device="cpu", dtype="bfloat16")) as runtime:
        assert runtime.dtype is runtime.reading_dtype is torch.bfloat16


def test_an_autocast_around_the_call_decides(tiny: Tiny) -> None:
    """Without one, weights in 16 bits are read as they are and others in what suits the device."""
    model = model_of(tiny())
    weight = model.embed_tokens.weight
    assert Decoder(model, 1, 8).dtype is dtype_here(weight) is torch.float32
    assert dtype_here(weight.bfloat16()) is torch.bfloat16
    for outer in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", outer):
            assert dtype_here(weight) is Decoder(model, 1, 8).dtype is outer
            with reads_in(CPU, torch.float32):
                assert dtype_here(weight) is outer
    with reads_in(CPU, torch.bfloat16):
        assert dtype_here(weight) is torch.bfloat16
    # `dtype_here` asks only for the device and the type, so a weight on a GPU can be imitated.
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16)
    assert dtype_here(on_gpu) is torch.bfloat16


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_commands_write_what_functions_write(
    dtype: str, directory: Path, tokenizer: Tokenizer, tiny: Tiny, multiplies: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """`generate` prints the text of `babyllm.generate`, and in a named type that under its autocast; it says which."""
    run(
        [
            *("generate", str(directory), "今天", "--max_new_tokens=12", "--seed=3"),
            *("--runtime.device=cpu", "--runtime.threads=1", f"--runtime.dtype={dtype}"),
        ]
    )
    written = capsys.readouterr()
    kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    with reads_in(CPU, kind):
        expected = generate(loud(tiny()), tokenizer, "今天", max_new_tokens=12, seed=3)
    assert written.out == f"今天{expected}\n"
    note = f"(products in {dtype}; --runtime.dtype=float32 is exact)\n"
    assert written.err == ("" if kind is torch.float32 else note)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_chat_says_what_it_reads_in(
    dtype: str, directory: Path, multiplies: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`chat` names 16 bits once, where they were asked for, and stays silent about float32."""
    monkeypatch.setattr("sys.stdin", io.StringIO("今天\n"))
    run(
        [
            *("chat", str(directory), "--max_new_tokens=4", "--runtime.device=cpu", "--runtime.threads=1"),
            f"--runtime.dtype={dtype}",
        ]
    )
    assert capsys.readouterr().err.count("products in bfloat16") == (dtype == "bfloat16")


def test_commands_measure_what_functions_measure(
    directory: Path, token_dir: Path, tiny: Tiny, multiplies: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """`eval` prints the loss of `perplexity`, in a named type that under its autocast."""
    data, model = open_tokens(token_dir), loud(tiny())
    with start(RuntimeConfig(device="cpu", threads=1)) as runtime:
        exact = perplexity(model, data, runtime, seq_len=64)["all/loss"]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = perplexity(model, data, runtime, seq_len=64)["all/loss"]
    with start(RuntimeConfig(device="cpu", dtype="bfloat16", threads=1)) as runtime:
        assert perplexity(model, data, runtime, seq_len=64)["all/loss"] == rounded
    assert exact != rounded and math.isclose(exact, rounded, rel_tol=0.05)
    for dtype, expected in (("auto", exact), ("float32", exact), ("bfloat16", rounded)):
        json = directory / f"{dtype}.json"
        run(
            [
                *("eval", str(directory), f"--data={token_dir}", f"--json={json}"),
                *("--runtime.device=cpu", "--runtime.threads=1", f"--runtime.dtype={dtype}"),
            ]
        )
        found = re.search(r'"all/loss": ([0-9.e+-]+)', json.read_text())
        assert found and float(found[1]) == expected
        assert ("bfloat16" in capsys.readouterr().err) == (dtype == "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_is_evaluated_as_it_trains(data: Path, dtype: Literal["float32", "bfloat16"]) -> None:
    """The held-out loss of a run is that under the run's own autocast."""
    config = tiny_config(data)
    opened = open_pretraining_data(config.data)
    with start(RuntimeConfig(device="cpu", dtype=dtype, threads=1)) as runtime:
        state, _ = new_state(config, opened, runtime)
        measured = held_out(config, opened)(state)["all/loss"]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            expected = perplexity(state.model, opened.tokens, runtime, seq_len=16)["all/loss"]
        state.stream.close()  # type: ignore[attr-defined]
    assert measured == expected


def test_an_engine_keeps_the_type_it_was_made_with(tiny: Tiny) -> None:
    """What is on around later steps changes nothing: answers are those of the same engine alone."""
    sampling = Sampling(max_new_tokens=8, temperature=0, logprobs=0)
    alone = list(generate_ids(loud(tiny()), [5, 6], sampling))
    engine = Engine(loud(tiny()), slots=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert list(engine.answer([5, 6], sampling)) == alone


def test_a_text_is_that_of_float32_where_another_type_would_write_another(
    directory: Path, tokenizer: Tokenizer, tiny: Tiny, multiplies: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """`generate` without a type writes what the function writes, for a seed whose text depends on the type."""
    model = loud(tiny())

    def written(seed: int, is_rounded: bool) -> str:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_rounded):
            return generate(model, tokenizer, "今天", max_new_tokens=24, seed=seed, temperature=1.5)

    seed = next(seed for seed in range(200) if written(seed, True) != written(seed, False))
    flags = ["--max_new_tokens=24", "--temperature=1.5", "--runtime.device=cpu", "--runtime.threads=1"]
    run(["generate", str(directory), "今天", f"--seed={seed}", *flags])
    assert capsys.readouterr().out == f"今天{written(seed, False)}\n"
