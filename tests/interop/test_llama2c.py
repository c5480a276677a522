"""Files of llama2.c: the golden values of stories260K, untied outputs, and damage."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from babyllm.errors import UserError
from babyllm.generation import generate_ids
from babyllm.generation.sampling import Sampling
from babyllm.interop.llama2c import open_llama2c
from babyllm.interop.open_model import load_open
from babyllm.model.transformer import Transformer

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj")


def test_stories260k_has_its_golden_values(stories: Path) -> None:
    """The greedy ids and the mean loss are those that the reference computed, and texts begin and end with <s>."""
    golden = json.loads((stories / "golden_numpy.json").read_text(encoding="utf-8"))
    foreign = open_llama2c(stories / "stories260K.bin", stories / "tok512.bin")
    model, tokenizer, ids = load_open(foreign), foreign.tokenizer, golden["greedy_ids"]
    start = [tokenizer.eos_id, *tokenizer.encode(golden["prompt"])]
    assert start == ids[: len(start)] and tokenizer.bos_id == tokenizer.eos_id == 1
    greedy = generate_ids(model, start, Sampling(temperature=0, max_new_tokens=len(ids) - len(start)), ())
    assert [*start, *greedy] == ids
    with torch.no_grad():
        nats = model(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
    assert nats.mean().item() == pytest.approx(golden["mean_nll"], abs=1e-5)
    assert tokenizer.decode(ids).startswith("Once upon a time, there was a little girl named Lily.")


def write_llama2c(path: Path, model: Transformer) -> None:
    """Write a model as a file of version 0 with tables of angles, and a tokenizer of its size beside it."""
    config, state = model.config, model.state_dict()
    rows = config.vocab_size if config.tie_embeddings else -config.vocab_size
    numbers = (config.d_model, config.ff_width, config.n_layers, config.n_heads, config.kv_heads, rows)
    modules = ["input_layernorm", *(f"self_attn.{kind}" for kind in KINDS), "post_attention_layernorm"]
    modules += ["mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"]
    with path.open("wb") as file:
        file.write(struct.pack("<7i", *numbers, config.max_seq_len))
        file.write(state["embed_tokens.weight"].numpy().tobytes())
        for module in modules:
            for i in range(config.n_layers):
                weight = state[f"layers.{i}.{module}.weight"]
                if module.endswith(("q_proj", "k_proj")):
                    halves = weight.unflatten(0, (-1, 2, config.head_width // 2))
                    weight = halves.transpose(1, 2).flatten(0, 2)
                file.write(weight.contiguous().numpy().tobytes())
        file.write(state["norm.weight"].numpy().tobytes())
        file.write(np.full(config.max_seq_len * config.head_width, np.nan, np.float32).tobytes())
        if not config.tie_embeddings:
            file.write(state["lm_head.weight"].numpy().tobytes())
    tokens = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{i:02X}>" for i in range(256)), " "]
    tokens += [chr(0x4E00 + i) for i in range(config.vocab_size - len(tokens))]
    with path.with_name("tokenizer.bin").open("wb") as file:
        file.write(struct.pack("<I", 27))
        for token in tokens:
            raw = token.encode()
            file.write(struct.pack("<fi", 0.0, len(raw)) + raw)


@pytest.mark.parametrize("tie", [True, False])
def test_a_model_is_read_as_it_was_written(tmp_path: Path, random_model: Callable[..., Transformer], tie: bool) -> None:
    """Weights are equal to the bit, tied or not; tables of angles are skipped."""
    model = random_model(tie_embeddings=tie)
    write_llama2c(tmp_path / "model.bin", model)
    foreign = open_llama2c(tmp_path / "model.bin")
    again = load_open(foreign)
    assert again.config == model.config
    state = again.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    assert foreign.tokenizer.decode(foreign.tokenizer.encode("一丁\n")) == "一丁\n"


def test_damaged_files_are_refused(tmp_path: Path, random_model: Callable[..., Transformer]) -> None:
    """A file cut short, of another kind or without its tokenizer is refused in one line that names it."""
    model, vocabulary = tmp_path / "model.bin", tmp_path / "tokenizer.bin"
    write_llama2c(model, random_model())
    whole, tokens = model.read_bytes(), vocabulary.read_bytes()
    for content, message in (
        (whole[:20], "is too short for a llama2.c file"),
        (whole[:-4], "is cut short, or not a llama2.c file"),
        (b"ak42" + whole[4:], "is not a llama2.c file of version 0"),
        (whole[:8] + struct.pack("<i", 9_000) + whole[12:], "is cut short, or not a llama2.c file"),
        (whole[:12] + struct.pack("<i", 3) + whole[16:], "model.n_heads=3"),
    ):
        model.write_bytes(content)
        with pytest.raises(UserError) as error:
            open_llama2c(model)
        assert str(error.value).startswith(f"{model}: {message}")
    model.write_bytes(whole)
    for damaged in (tokens[:-1], tokens + b"x", tokens[:8] + struct.pack("<i", -1) + tokens[12:], b""):
        vocabulary.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged, or not a tokenizer of 400 tokens"):
            open_llama2c(model)
    vocabulary.unlink()
    with pytest.raises(UserError, match="does not exist; name the file of the tokenizer with --tokenizer=FILE"):
        open_llama2c(model)
    vocabulary.write_bytes(tokens)
    model.write_bytes(whole[:28] + b"\xff" * 64 + whole[92:])
    with pytest.raises(UserError, match=r"'embed_tokens.weight' holds NaN"):
        load_open(open_llama2c(model))
