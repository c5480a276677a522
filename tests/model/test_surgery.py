"""Stored models that begin with another context, fewer layers or other constants."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_fixtures import Tiny, model_of, some_tokens

from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model, save_model
from babyllm.model.config import ModelConfig, RopeScaling, require_context
from babyllm.model.options import ModelOptions


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (ModelOptions(), {}),
        (ModelOptions(d_model=32, n_layers=2, tie_embeddings=False), {}),
        (ModelOptions(max_seq_len=128), {"max_seq_len": 128}),
        (ModelOptions(n_layers=1, rope_theta=5e4, norm_eps=1e-6), {"n_layers": 1, "rope_theta": 5e4, "norm_eps": 1e-6}),
        (
            ModelOptions(rope_scaling="linear", rope_factor=4.0),
            {"max_seq_len": 256, "rope_scaling": RopeScaling("linear", 4.0)},
        ),
        (
            ModelOptions(rope_scaling="yarn", rope_factor=4.0),
            {"max_seq_len": 256, "rope_scaling": RopeScaling("yarn", 4.0, 64)},
        ),
        (
            ModelOptions(rope_scaling="llama3", rope_factor=4.0, rope_original_seq_len=32),
            {"max_seq_len": 128, "rope_scaling": RopeScaling("llama3", 4.0, 32)},
        ),
        (
            ModelOptions(rope_scaling="yarn", rope_factor=4.0, max_seq_len=200),
            {"max_seq_len": 200, "rope_scaling": RopeScaling("yarn", 4.0, 64)},
        ),
        (ModelOptions(rope_scaling="dynamic", rope_factor=4.0), {"rope_scaling": RopeScaling("dynamic", 4.0)}),
    ],
)
def test_options_change_a_stored_shape(tiny: Tiny, options: ModelOptions, changes: Mapping[str, object]) -> None:
    """What needs no new weights may differ; a second application, as after a resume, changes nothing more."""
    stored = tiny()
    changed = options.applied(stored, "there")
    assert changed == replace(stored, **changes)
    assert options.applied(changed, "there") == changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ModelOptions(preset="nano"), "model.preset: the shape is that of there"),
        (ModelOptions(d_model=64), "model.d_model: the shape is that of there"),
        (ModelOptions(tie_embeddings=True), "model.tie_embeddings: the shape"),
        (ModelOptions(vocab_size=401), "model.vocab_size: the shape"),
        (ModelOptions(qk_norm=True), "model.qk_norm: the shape"),
        (ModelOptions(n_layers=3), "model.n_layers=3: there has 2 layers, of which the first can be kept"),
        (ModelOptions(rope_scaling="yarn"), "needs a model.rope_factor above 1"),
        (ModelOptions(rope_factor=4.0), "needs a model.rope_scaling"),
        (ModelOptions(rope_scaling="dynamic", rope_factor=4.0, rope_original_seq_len=9), None),
    ],
)
def test_options_that_ask_for_other_weights_are_refused(tiny: Tiny, options: ModelOptions, message: str | None) -> None:
    """The option is named; dynamic scaling takes the original context from the model."""
    if message is None:
        assert options.applied(tiny(), "there").rope_scaling == RopeScaling("dynamic", 4.0)
        return
    with pytest.raises(UserError, match=message):
        options.applied(tiny(), "there")


def test_rows_longer_than_the_context_are_refused(tiny: Tiny) -> None:
    """The message says how to stretch the context; a dynamic one has no end."""
    with pytest.raises(UserError, match=r"at most 64 tokens; stretch its context with model\.rope_scaling"):
        require_context(tiny(), 65, "there")
    require_context(tiny(), 64, "there")
    require_context(tiny(rope_scaling=RopeScaling("dynamic", 4.0)), 256, "there")


def test_the_first_layers_of_a_stored_model(tiny: Tiny, tmp_path: Path) -> None:
    """A model of the first two of three layers has their weights and reads as they do."""
    whole = model_of(tiny(n_layers=3))
    save_model(tmp_path, whole, None)
    first = load_model(tmp_path, ModelOptions(n_layers=2)).eval()
    assert first.config == tiny() and len(first.layers) == 2
    whole.layers = whole.layers[:2]
    tokens = some_tokens(first.config)
    assert torch.equal(first.logits(tokens), whole.logits(tokens))


@pytest.mark.parametrize("method", ["linear", "dynamic", "llama3", "yarn"])
def test_transformers_reads_a_stretched_model_alike(tiny: Tiny, tmp_path: Path, method: str) -> None:
    """A model stretched four-fold when it was loaded, and saved, has transformers' logits at the new length."""
    from transformers import AutoModelForCausalLM

    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    save_model(tmp_path / "before", model_of(tiny(max_seq_len=16)), None)
    options = ModelOptions(rope_scaling=method, rope_factor=4.0)  # type: ignore[arg-type]
    stretched = load_model(tmp_path / "before", options).eval()
    assert load_model(tmp_path / "before").config == tiny(max_seq_len=16)
    with torch.no_grad():
        for weight in stretched.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.fill_(1.0)
    save_model(tmp_path / "after", stretched, None)
    tokens = some_tokens(stretched.config, 64)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "after").eval()(tokens).logits
    assert (stretched.logits(tokens) - expected).abs().max() < 1e-4 and expected.std() > 0.5


def test_heads_of_their_own_width_follow_the_options() -> None:
    """The width is given apart from d_model; without it, it follows d_model and n_heads."""
    assert ModelOptions(d_model=96).build().head_width == 24
    built: ModelConfig = ModelOptions(d_model=96, n_heads=6, head_dim=32, qk_norm=True).build()
    assert (built.head_width, built.n_heads, built.qk_norm) == (32, 6, True)
    assert ModelOptions(d_model=96, n_heads=6, head_dim=16).build() == ModelOptions(d_model=96, n_heads=6).build()
