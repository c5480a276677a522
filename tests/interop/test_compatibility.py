"""What programs that do not run here ask of a model: shapes before training, and the files of a directory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from babyllm.interop.compatibility import VLLM_WIDTHS, remarks
from babyllm.interop.huggingface import save_model
from babyllm.interop.weights import weights_to_hf
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

# https://docs.vllm.ai/en/latest/models/supported_models.html, text generation.
VLLM_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# What their loaders read of config.json without a default.
VLLM_KEYS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads"),
    *("max_position_embeddings", "rms_norm_eps", "vocab_size", "tie_word_embeddings", "hidden_act"),
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ModelOptions("1b"), []),
        (ModelOptions(d_model=256, n_heads=8, d_ff=768), []),
        (ModelOptions("tiny"), ["llama.cpp, ollama: d_ff 704: not a multiple of 256"]),
        (
            ModelOptions("1b", head_dim=40),
            ["vLLM: its attention has no kernel for heads of width 40"],
        ),
        (ModelOptions("1b", d_ff=5640), ["d_ff 5640: not a multiple of 32, so such rows are F16 in files of Q8_0"]),
        (ModelOptions("1b", qkv_bias=True, head_dim=128), ["a Qwen2 model has heads of d_model / n_heads there"]),
        (
            ModelOptions("1b", rope_scaling="dynamic", rope_factor=2.0),
            ["rope_scaling dynamic cannot be written as GGUF; yarn can"],
        ),
    ],
)
def test_odd_shapes_are_named_before_training(options: ModelOptions, expected: list[str]) -> None:
    """Each remark names the program, the key and what happens; a shape that suits all has none."""
    found = "\n".join(remarks(options.build()))
    assert (found == "") == (expected == []) and all(part in found for part in expected)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": True}, {"qkv_bias": True}, {"qk_norm": True, "head_dim": 64}, {"n_kv_heads": 4}],
)
def test_a_directory_has_what_vllm_and_ollama_read(
    tiny: Callable[..., ModelConfig], tokenizer: Tokenizer, tmp_path: Path, changes: Mapping[str, object]
) -> None:
    """Architecture, keys, files and names of tensors are those of vLLM's list; no module code and no pickles."""
    scaling = RopeScaling("yarn", 4.0, 64)
    config = tiny(d_model=128, max_seq_len=256, rope_scaling=scaling, **changes)
    model = Transformer(config)
    save_model(tmp_path, model, tokenizer)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["architectures"][0] in VLLM_ARCHITECTURES and all(key in stored for key in VLLM_KEYS)
    assert "auto_map" not in stored and stored["head_dim"] in VLLM_WIDTHS
    assert stored["rope_scaling"]["rope_type"] == "yarn" and stored["rope_scaling"]["original_max_position_embeddings"]
    assert {file.name for file in tmp_path.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    }
    names = set(weights_to_hf(model.state_dict(), config))
    assert ("lm_head.weight" in names) == (not config.tie_embeddings)
    assert all(name.startswith("model.") for name in names - {"lm_head.weight"})
