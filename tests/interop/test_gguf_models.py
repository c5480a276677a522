"""Models in GGUF files: written, read, and read by transformers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from babyllm.errors import UserError
from babyllm.interop.gguf.blocks import Kind
from babyllm.interop.gguf.container import TensorSource, read_header, read_tensor, write_file
from babyllm.interop.gguf.convert import open_gguf, write_gguf
from babyllm.interop.gguf.model_keys import gguf_name, model_metadata, read_config, rope_factors
from babyllm.interop.open_model import in_memory, load_open
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]
RandomModel = Callable[..., Transformer]

SHAPES = {
    "llama": {},
    "llama, tied": {"tie_embeddings": True},
    "llama, wide heads": {"head_dim": 24},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 24, "tie_embeddings": True},
}
STRETCHED = {
    "linear": RopeScaling("linear", 4.0),
    "yarn": RopeScaling("yarn", 4.0, 16),
    "yarn, attention": RopeScaling("yarn", 4.0, 32, attention_factor=1.25),
    "llama3": RopeScaling("llama3", 8.0, 16, low_freq_factor=0.5, high_freq_factor=3.0),
}


KINDS: tuple[Kind, ...] = ("F32", "Q8_0")


def tokens_of(config: ModelConfig) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (2, 32), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_survives_and_transformers_reads_it(
    tmp_path: Path, random_model: RandomModel, tokenizer: Tokenizer, shape: str
) -> None:
    """What was written in F32 is read back equal to the bit; transformers has the same logits, also from 8 bits."""
    from transformers import AutoModelForCausalLM

    model = random_model(**SHAPES[shape])
    for kind in KINDS:
        write_gguf(tmp_path / f"{kind}.gguf", in_memory(model, tokenizer), kind=kind, name="a name")
        again = load_open(open_gguf(tmp_path / f"{kind}.gguf"))
        assert again.config == model.config
        theirs, ours = model.state_dict(), again.state_dict()
        if kind == "F32":
            assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in theirs)
        # transformers takes the width of Qwen3's heads from its own defaults.
        settings = {"head_dim": model.config.head_width} if model.config.qk_norm else {}
        reference = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=f"{kind}.gguf", dtype=torch.float32, **settings
        ).eval()
        assert reference.config.model_type == shape.partition(",")[0]
        tokens = tokens_of(model.config)
        with torch.no_grad():
            assert (reference(tokens).logits - again.logits(tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bits_hold_what_the_reference_makes_of_the_weights(
    tmp_path: Path, random_model: RandomModel, tokenizer: Tokenizer, shape: str
) -> None:
    """Q8_0 and F16 files hold each matrix as the library rounds it, and everything else in F32."""
    model = random_model(**SHAPES[shape])
    for kind, file_type in (("Q8_0", 7), ("F16", 1)):
        path = tmp_path / f"{kind}.gguf"
        write_gguf(path, in_memory(model, tokenizer), kind=kind)
        assert read_header(path).metadata["general.file_type"] == file_type
        state = load_open(open_gguf(path)).state_dict()
        formats = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(path).tensors}
        for name, weight in model.state_dict().items():
            if model.config.tie_embeddings and name.startswith("lm_head"):
                continue
            number = formats[gguf_name(name)]
            assert number.name == ("F32" if weight.dim() == 1 else kind)
            expected = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), number), number)
            assert np.array_equal(state[name].numpy(), expected), name


@pytest.mark.parametrize("name", STRETCHED)
def test_stretched_positions_survive(
    tmp_path: Path, random_model: RandomModel, tokenizer: Tokenizer, name: str
) -> None:
    """The way in which positions are stretched is read as it was written, with the same logits."""
    model = random_model(rope_scaling=STRETCHED[name])
    write_gguf(tmp_path / "a.gguf", in_memory(model, tokenizer))
    again = load_open(open_gguf(tmp_path / "a.gguf"))
    assert replace(again.config, rope_scaling=None) == replace(model.config, rope_scaling=None)
    found, expected = again.config.rope_scaling, model.config.rope_scaling
    assert found is not None and expected is not None and found.type == expected.type
    assert found.attention_factor == pytest.approx(expected.attention_factor)
    tokens = tokens_of(model.config)
    assert (again.logits(tokens) - model.logits(tokens)).abs().max() < 1e-5


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling("llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0),
        RopeScaling("llama3", 32.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0),
        RopeScaling("llama3", 4.0, 1000, low_freq_factor=1.0, high_freq_factor=3.0),
    ],
)
def test_stretching_as_in_llama_3_is_recovered_from_its_factors(
    tmp_path: Path, tiny: Tiny, scaling: RopeScaling
) -> None:
    """A file of another program states only the divisors of the frequencies: their parameters are found."""
    config = tiny(d_model=256, n_heads=2, n_kv_heads=1, rope_theta=500_000.0, rope_scaling=scaling)
    factors = rope_factors(config)
    assert factors is not None
    metadata = model_metadata(config, "a", "F32")
    del metadata["babyllm.rope.llama3"]
    sources = [TensorSource("rope_freqs.weight", factors.shape, lambda: factors)]
    sources.append(TensorSource("token_embd.weight", (4, 256), lambda: np.zeros((4, 256), np.float32)))
    write_file(tmp_path / "a.gguf", metadata, sources, "F32")
    found = read_config(read_header(tmp_path / "a.gguf")).rope_scaling
    assert found is not None and found.original_max_seq_len == scaling.original_max_seq_len
    assert found.factor == scaling.factor and found.high_freq_factor == pytest.approx(
        scaling.high_freq_factor, rel=1e-4
    )
    factors[3] += 0.5
    write_file(tmp_path / "b.gguf", metadata, sources, "F32")
    with pytest.raises(UserError, match="are not those of Llama 3"):
        read_config(read_header(tmp_path / "b.gguf"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gpt2"}, "architecture 'gpt2' is not supported: it has learned positions"),
        ({"general.architecture": "internlm2"}, "its files hold queries, keys and values as one tensor"),
        ({"general.architecture": "mamba"}, "architecture 'mamba' is not supported; llama, qwen2, qwen3 are read"),
        ({"llama.expert_count": 8}, "its layers choose among 8 experts"),
        ({"llama.attention.sliding_window": 16}, "a sliding window of 16 tokens is not supported"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count is not the width of a head, 8"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "rope scaling 'longrope'"),
        ({"llama.block_count": 3}, "tensor 'blk.2.attn_norm.weight' is missing or of another shape"),
        ({"llama.block_count": 1}, "holds a tensor 'blk.1.attn_k.weight', which a model of this kind does not have"),
        ({"llama.feed_forward_length": "x"}, "llama.feed_forward_length is 'x', where a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path,
    random_model: RandomModel,
    tokenizer: Tokenizer,
    changes: dict[str, object],
    message: str,
) -> None:
    """A model of another kind, or a feature that models here lack, is refused in one line that says why."""
    path = tmp_path / "a.gguf"
    write_gguf(path, in_memory(random_model(), tokenizer))
    header = read_header(path)
    sources = [
        TensorSource(name, place.shape, lambda name=name: read_tensor(header, name))
        for name, place in header.tensors.items()
    ]
    changed = tmp_path / "b.gguf"
    write_file(changed, {**header.metadata, **changes}, sources, "F32")
    with pytest.raises(UserError) as error:
        open_gguf(changed)
    assert str(error.value).startswith(f"{changed}: ") and message in str(error.value)


def test_a_window_beyond_the_context_changes_nothing(
    tmp_path: Path, random_model: RandomModel, tokenizer: Tokenizer
) -> None:
    """A sliding window at least as long as the context is not a reason to refuse a file."""
    path = tmp_path / "a.gguf"
    model = random_model()
    write_gguf(path, in_memory(model, tokenizer))
    header = read_header(path)
    sources = [
        TensorSource(name, place.shape, lambda name=name: read_tensor(header, name))
        for name, place in header.tensors.items()
    ]
    write_file(tmp_path / "b.gguf", {**header.metadata, "llama.attention.sliding_window": 64}, sources, "F32")
    assert open_gguf(tmp_path / "b.gguf").config == model.config


def test_what_the_format_cannot_express_is_not_written(
    tmp_path: Path, random_model: RandomModel, tokenizer: Tokenizer
) -> None:
    """Positions that other programs could not follow are refused, and no file appears; nor does part of one."""
    for changes, message in (
        ({"rope_scaling": RopeScaling("dynamic", 2.0)}, "rope scaling dynamic cannot be written as GGUF"),
        ({"rope_scaling": RopeScaling("yarn", 2.0, beta_fast=16.0)}, "beta_fast 32 and beta_slow 1 alone"),
        ({"rope_scaling": RopeScaling("llama3", 2.0), "qk_norm": True}, "for the architecture llama alone"),
        ({"vocab_size": 300}, "the tokenizer has 400 tokens, but the model has 300 rows"),
    ):
        with pytest.raises(UserError, match=message):
            write_gguf(tmp_path / "a.gguf", in_memory(random_model(**changes), tokenizer))
    model = random_model()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(UserError, match=r"'output_norm.weight' holds NaN"):
        write_gguf(tmp_path / "a.gguf", in_memory(model, tokenizer))
    assert list(tmp_path.iterdir()) == []
