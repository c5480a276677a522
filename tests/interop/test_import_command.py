"""The command `babyllm import`: what it writes from each kind of source, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from babyllm import load
from babyllm.__main__ import run
from babyllm.chat.load import stored_template
from babyllm.errors import UserError
from babyllm.interop.gguf.convert import write_gguf
from babyllm.interop.open_model import in_memory
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

Written = tuple[Path, Transformer]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"


@pytest.fixture
def written(tmp_path: Path, random_model: Callable[..., Transformer], byte_level: Tokenizer) -> Written:
    """A GGUF file with a template, and the model in it."""
    model = random_model(qk_norm=True, head_dim=24, tie_embeddings=True)
    path = tmp_path / "a.gguf"
    write_gguf(path, in_memory(model, byte_level, TEMPLATE, (5,)))
    return path, model


def test_a_file_becomes_a_directory_that_everything_reads(
    tmp_path: Path, written: Written, byte_level: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, tokenizer, template and end tokens are those of the file; a second import is byte for byte the first."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, model = written
    first, second = tmp_path / "first", tmp_path / "second"
    run(["import", str(path), str(first)])
    assert capsys.readouterr().out == f"{first}: {path} in float32; try it: babyllm chat {first}\n"
    again, tokenizer = load(first)
    assert again.config == model.config and again.end_ids == {2, 5} and stored_template(first) == TEMPLATE
    state = again.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    tokens = torch.tensor([tokenizer.encode("the model 今天 reads")])
    assert tokens[0].tolist() == byte_level.encode("the model 今天 reads")
    theirs = AutoModelForCausalLM.from_pretrained(first).eval()
    with torch.no_grad():
        assert (theirs(tokens).logits - model.logits(tokens)).abs().max() < 1e-4
    assert AutoTokenizer.from_pretrained(first)("the model 今天 reads")["input_ids"] == tokens[0].tolist()
    run(["import", str(first), str(second)])
    for file in first.iterdir():
        assert (second / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_can_take_half_the_space(tmp_path: Path, written: Written, dtype: str) -> None:
    """The directory holds each weight rounded to the type, which its config.json names."""
    path, model = written
    run(["import", str(path), str(tmp_path / "out"), f"--dtype={dtype}"])
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == dtype
    state = load(tmp_path / "out")[0].state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(state[name], weight.to(getattr(torch, dtype)).float())


def test_a_llama2c_file_becomes_a_directory(tmp_path: Path, stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tokenizer is named by a flag; the model then generates its story."""
    flags = [f"--tokenizer={stories / 'tok512.bin'}"]
    run(["import", str(stories / "stories260K.bin"), str(tmp_path / "out"), *flags])
    assert capsys.readouterr().out.endswith(f'try it: babyllm generate {tmp_path / "out"} "Once upon a time"\n')
    run(["generate", str(tmp_path / "out"), "Once upon a time", "--temperature=0", "--max_new_tokens=20"])
    assert "there was a little girl named Lily" in capsys.readouterr().out


def test_a_failed_import_leaves_nothing(tmp_path: Path, written: Written) -> None:
    """What is missing, damaged, of another kind or in the way is refused in one line, and no directory appears."""
    path, out = written[0], tmp_path / "out"
    cut, text = tmp_path / "cut.gguf", tmp_path / "a.txt"
    content = bytearray(path.read_bytes())
    content[-36:-32] = b"\xff\xff\xff\xff"  # NaN in the last tensor
    cut.write_bytes(content)
    text.write_text("x", encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    for arguments, message in (
        ([str(tmp_path / "none"), str(out)], "does not exist; give a .gguf file"),
        ([str(cut), str(out)], "holds NaN or infinity"),
        ([str(text), str(out)], "is not a GGUF file or a llama2.c .bin file"),
        ([str(folder), str(out)], "is neither a model directory"),
        ([str(path), str(out), f"--tokenizer={text}"], "is for llama2.c files"),
        ([str(path), str(tmp_path)], "already exists; choose another directory, new or empty"),
    ):
        with pytest.raises(UserError, match=message) as error:
            run(["import", *arguments])
        assert "\n" not in str(error.value)
    assert not out.exists() and {file.name for file in tmp_path.iterdir()} == {"a.gguf", "cut.gguf", "a.txt", "folder"}
