"""Adapters in the format of `peft`, with the library itself as the judge."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fixtures import stirred
from safetensors.torch import load_file, save_file

import babyllm
from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model, save_model
from babyllm.interop.peft import load_adapter, save_adapter
from babyllm.model.adapt.lora import LoraConfig, add_lora, lora_layers, merge_lora
from babyllm.model.adapt.token_rows import matrices_of, train_token_rows
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer

pytest.importorskip("peft")

# What peft calls in transformers, not what is called here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]

SHAPE = ModelConfig(vocab_size=64, n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=64)
TOKENS = torch.arange(40).view(2, 20) * 7 % 64


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No progress bars of transformers."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    yield


def base_directory(folder: Path, *, tied: bool = False) -> Path:
    """A base model whose weights are larger than fresh ones, so that every layer counts."""
    torch.manual_seed(0)
    model = Transformer(replace(SHAPE, tie_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    (folder / "base").mkdir()
    save_model(folder / "base", model, None)
    return folder / "base"


def their_base(directory: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(directory)


def their_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(TOKENS).logits
    return logits


OURS: dict[str, LoraConfig] = {
    "all": LoraConfig(rank=4),
    "some": LoraConfig(rank=3, alpha=7.5, dropout=0.2, targets=["q_proj", "down_proj"]),
    "one layer": LoraConfig(rank=2, targets=["layers.1.self_attn.v_proj", "layers.0.mlp.gate_proj"]),
    "output": LoraConfig(rank=4, targets=["all", "lm_head"]),
    "rslora": LoraConfig(rank=8, rslora=True),
}


@pytest.mark.parametrize("name", OURS)
def test_peft_reads_what_is_written_here(name: str, tmp_path: Path) -> None:
    """An adapter made here, loaded by `peft` on the same base, has the same logits within 1e-5."""
    from peft import PeftModel

    base = base_directory(tmp_path)
    model = add_lora(load_model(base), OURS[name])
    stirred(model)
    save_adapter(tmp_path, model, str(base))
    theirs = PeftModel.from_pretrained(their_base(base), tmp_path)
    assert sum("lora_A" in n for n, _ in theirs.named_parameters()) == len(lora_layers(model))
    ours = model.eval().logits(TOKENS)
    assert (ours - load_model(base).logits(TOKENS)).abs().max() > 0.1
    torch.testing.assert_close(their_logits(theirs), ours, rtol=0, atol=1e-5)


def test_transformers_finds_the_base_by_itself(tmp_path: Path) -> None:
    """`AutoModelForCausalLM.from_pretrained` of an adapter directory is the adapted model."""
    base = base_directory(tmp_path)
    model = add_lora(load_model(base), OURS["some"])
    stirred(model)
    save_adapter(tmp_path, model, str(base))
    torch.testing.assert_close(their_logits(their_base(tmp_path)), model.eval().logits(TOKENS), rtol=0, atol=1e-5)


THEIRS: dict[str, dict[str, Any]] = {
    "names": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"r": 4, "target_modules": "all-linear", "lora_alpha": 3},
    "regex": {"r": 2, "target_modules": r".*layers\.1\..*_proj"},
    "layers": {"r": 2, "target_modules": ["o_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
    "output": {"r": 2, "target_modules": ["lm_head", "k_proj"]},
    "rslora": {"r": 4, "target_modules": ["up_proj"], "use_rslora": True, "lora_dropout": 0.1},
}


def peft_adapter(base: Path, folder: Path, **settings: Any) -> Any:
    """A model with an adapter made by `peft`, saved into `folder`."""
    from peft import LoraConfig as TheirConfig
    from peft import get_peft_model

    torch.manual_seed(1)
    theirs = get_peft_model(their_base(base), TheirConfig(task_type="CAUSAL_LM", **settings))
    stirred(theirs)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("name", THEIRS)
def test_what_peft_writes_is_read_here(name: str, tmp_path: Path) -> None:
    """An adapter made by `peft`, whichever way it names its targets, has the same logits within 1e-5."""
    base = base_directory(tmp_path)
    theirs = peft_adapter(base, tmp_path / "adapter", **THEIRS[name])
    model = load_adapter(load_model(base), tmp_path / "adapter").eval()
    assert sum("lora_A" in n for n, _ in theirs.named_parameters()) == len(lora_layers(model))
    assert (model.logits(TOKENS) - load_model(base).logits(TOKENS)).abs().max() > 0.01
    torch.testing.assert_close(model.logits(TOKENS), their_logits(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_peft_reads_rows_of_tokens_written_here(tied: bool, tmp_path: Path) -> None:
    """Rows trained beside the updates count in `peft` too, of tied and other output layers, within 1e-5."""
    base = base_directory(tmp_path, tied=tied)
    model = add_lora(load_model(base), OURS["some"])
    stirred(train_token_rows(model, matrices_of(model, [61, 3, 60])))
    save_adapter(tmp_path, model, str(base))
    names = [key for key in load_file(tmp_path / "adapter_model.safetensors") if "trainable_tokens_delta" in key]
    assert len(names) == (1 if tied else 2)
    torch.testing.assert_close(their_logits(their_base(tmp_path)), model.eval().logits(TOKENS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "tokens", [[60, 7, 61], {"embed_tokens": [60, 7]}, {"embed_tokens": [9, 60], "lm_head": [9, 60]}]
)
def test_rows_of_tokens_that_peft_writes_are_read(tokens: Any, tied: bool, tmp_path: Path) -> None:
    """Rows of the embedding, or of both matrices, in any order, give the same logits and come back as they were."""
    base = base_directory(tmp_path, tied=tied)
    settings = {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": tokens}
    theirs = peft_adapter(base, tmp_path / "theirs", **settings)
    model = load_adapter(load_model(base), tmp_path / "theirs").eval()
    assert (model.logits(TOKENS) - load_model(base).logits(TOKENS)).abs().max() > 0.1
    torch.testing.assert_close(model.logits(TOKENS), their_logits(theirs), rtol=0, atol=1e-5)
    (tmp_path / "ours").mkdir()
    save_adapter(tmp_path / "ours", model, str(base))
    again = load_adapter(load_model(base), tmp_path / "ours").eval()
    assert torch.equal(again.logits(TOKENS), model.logits(TOKENS))
    torch.testing.assert_close(merge_lora(again).logits(TOKENS), model.logits(TOKENS), rtol=0, atol=1e-5)


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Ids beyond the vocabulary, twice the same, too many of them, and a tied output layer's alone are named."""
    base = base_directory(tmp_path)
    peft_adapter(base, tmp_path / "a", r=2, target_modules=["q_proj"], trainable_token_indices=[5, 60])
    config = tmp_path / "a" / "adapter_config.json"
    whole = json.loads(config.read_text())
    for tokens, message in (
        ([5, 64], "has 64, but the base has 64 tokens"),
        ([5, 5], "must be different ids"),
        ([5], "has 2 rows, but trainable_token_indices names 1 ids"),
        ([5, -1], "where whole numbers from 0"),
        ({"q_proj": [5, 60]}, "must be different ids by embed_tokens or lm_head"),
    ):
        config.write_text(json.dumps(whole | {"trainable_token_indices": tokens}))
        with pytest.raises(UserError, match=message):
            load_adapter(load_model(base), tmp_path / "a")
    (tmp_path / "tied").mkdir()
    tied = base_directory(tmp_path / "tied", tied=True)
    settings = {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [5]}}
    peft_adapter(tied, tmp_path / "b", **settings)
    with pytest.raises(UserError, match="of lm_head alone, which is tied to the embedding"):
        load_adapter(load_model(tied), tmp_path / "b")


def test_an_adapter_survives_the_way_there_and_back(tmp_path: Path) -> None:
    """Read and written again, a `peft` adapter has the same tensors and the same settings."""
    base = base_directory(tmp_path)
    peft_adapter(base, tmp_path / "theirs", r=4, lora_alpha=5, target_modules=["q_proj", "up_proj"], use_rslora=True)
    (tmp_path / "ours").mkdir()
    save_adapter(tmp_path / "ours", load_adapter(load_model(base), tmp_path / "theirs"), str(base))
    mine, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    one, two = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs"))
    assert sorted(two.pop("target_modules")) == one.pop("target_modules") == ["q_proj", "up_proj"]
    assert {key: two[key] for key in one} == one


REFUSED: dict[str, dict[str, Any]] = {
    "use_dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "rank_pattern": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 2}},
    "init_lora_weights": {"init_lora_weights": "pissa"},
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_there_is_refused_in_one_line(key: str, tmp_path: Path) -> None:
    """Settings that ask for more than A and B are refused with the file, their name and a way out."""
    base = base_directory(tmp_path)
    peft_adapter(base, tmp_path / "adapter", **{"r": 4, "target_modules": ["q_proj"], **REFUSED[key]})
    with pytest.raises(UserError, match=rf"adapter_config.json: {key} .* is not supported") as error:
        load_adapter(load_model(base), tmp_path / "adapter")
    assert "\n" not in str(error.value)


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    """An update of the embedding, a tied output layer, other layers, weights and shapes, and halves are refused."""
    base = base_directory(tmp_path)
    peft_adapter(base, tmp_path / "embedding", r=2, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(UserError, match=r"safetensors: tensor '.*lora_embedding_A' is not supported"):
        load_adapter(load_model(base), tmp_path / "embedding")
    peft_adapter(base, tmp_path / "output", r=2, target_modules=["q_proj", "lm_head"])
    (tmp_path / "tied").mkdir()
    tied = base_directory(tmp_path / "tied", tied=True)
    with pytest.raises(UserError, match="adapts lm_head, which is tied to the embedding"):
        load_adapter(load_model(tied), tmp_path / "output")
    other = load_model(base)
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    with pytest.raises(UserError, match=r"its lm_head.weight is not the base's"):
        load_adapter(other, tmp_path / "output")
    smaller = Transformer(replace(SHAPE, n_layers=1))
    peft_adapter(base, tmp_path / "adapter", r=2, target_modules=["q_proj"])
    with pytest.raises(UserError, match=r"adapts 'layers.1.self_attn.q_proj', which the model does not have"):
        load_adapter(smaller, tmp_path / "adapter")
    with pytest.raises(UserError, match="is missing, unknown or of another shape"):
        load_adapter(Transformer(replace(SHAPE, d_model=64)), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key: t for key, t in load_file(file).items() if "lora_A" in key}, file)
    with pytest.raises(UserError, match="does not hold both lora_A and lora_B"):
        load_adapter(load_model(base), tmp_path / "adapter")
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"adapter_model.safetensors: cannot be read"):
        load_adapter(load_model(base), tmp_path / "adapter")
    file.unlink()
    with pytest.raises(UserError, match=r"holds no adapter_model.safetensors"):
        load_adapter(load_model(base), tmp_path / "adapter")


def test_a_peft_directory_without_a_tokenizer_takes_its_base(data: Path, tmp_path: Path) -> None:
    """`babyllm.load` of what `peft` writes finds model and tokenizer of the base."""
    from babyllm.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(data)
    torch.manual_seed(0)
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", Transformer(replace(SHAPE, vocab_size=tokenizer.vocab_size)), tokenizer)
    theirs = peft_adapter(tmp_path / "base", tmp_path / "adapter", r=4, target_modules="all-linear")
    model, loaded = babyllm.load(tmp_path / "adapter")
    assert loaded.sha256 == tokenizer.sha256
    torch.testing.assert_close(model.logits(TOKENS), their_logits(theirs), rtol=0, atol=1e-5)
