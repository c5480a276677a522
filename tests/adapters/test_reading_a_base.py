"""A base read in fewer bits: the same as one that is rounded afterwards, and never in memory as a whole in float32."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fixtures import frozen_as, model_of, some_tokens, unread
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import babyllm
from babyllm.errors import UserError
from babyllm.interop.held_base import hold_base
from babyllm.interop.huggingface import load_model, save_model
from babyllm.model.adapt.grow import grow_vocabulary
from babyllm.model.adapt.lora import LoraConfig, add_lora, linear_layers, lora_layers, to_int8
from babyllm.model.config import ModelConfig
from babyllm.model.linear import FrozenLinear, WeightStorage
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]
IN_BITS: list[WeightStorage] = ["bfloat16", "int8", "nf4", "nf4_double"]


def lora(storage: WeightStorage) -> LoraConfig:
    return LoraConfig(rank=2, targets=["q_proj", "down_proj"], **frozen_as(storage))


def stored_as(dtype: torch.dtype, config: ModelConfig, directory: Path, tokenizer: Tokenizer | None = None) -> Path:
    """A model directory whose tensors have a type of their own."""
    directory.mkdir()
    save_model(directory, model_of(config), tokenizer)
    file = directory / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file)
    return directory


def trained(model: Transformer, config: LoraConfig) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of three steps with LoRA, and all tensors afterwards."""
    torch.manual_seed(3)
    add_lora(model.train(), config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    tokens, losses = some_tokens(model.config), []
    for _ in range(3):
        loss = model(tokens, tokens).mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, model.state_dict()


@pytest.mark.parametrize("storage", IN_BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_base_read_in_fewer_bits_trains_to_the_bit_as_one_rounded_afterwards(
    tiny: Tiny, tmp_path: Path, storage: WeightStorage, dtype: torch.dtype
) -> None:
    """Losses, adapter and stored weights are the same, whatever type the files have; biases keep theirs."""
    directory = stored_as(dtype, tiny(qkv_bias=True, tie_embeddings=dtype == torch.float16), tmp_path / "base")
    losses, tensors = trained(load_model(directory, storage=storage), lora(storage))
    expected, others = trained(load_model(directory), lora(storage))
    assert losses == expected and losses[0] != losses[2]
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert all(tensors[name].dtype == others[name].dtype for name in tensors)


@pytest.mark.parametrize("storage", IN_BITS)
def test_lora_takes_over_what_was_read(tiny: Tiny, tmp_path: Path, storage: WeightStorage) -> None:
    """The tensors of the layers are not copied; a layer in other bits is restored first, not misread."""
    save_model(tmp_path, model_of(tiny()), None)
    model = load_model(tmp_path, storage=storage)
    before = {name: layer.weight.data_ptr() for name, layer in linear_layers(model).items()}
    add_lora(model, lora(storage))
    assert len(lora_layers(model)) == 4
    assert {name: layer.weight.data_ptr() for name, layer in linear_layers(model).items()} == before
    layer = load_model(tmp_path, storage=storage).layers[0].mlp.up_proj
    assert isinstance(layer, FrozenLinear)
    assert torch.equal(FrozenLinear(layer, "float32").weight, layer.base_weight())


class AliveMatrices(TorchDispatchMode):
    """Counts the float32 matrices of at least `size` numbers that are in memory at once, outside of mapped files."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.alive, self.most = size, set[int](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and (out.dtype, out.device.type) == (torch.float32, "cpu"):
            storage = out.untyped_storage()
            if out.numel() >= self.size and storage.data_ptr() not in self.alive:
                self.alive.add(storage.data_ptr())
                self.most = max(self.most, len(self.alive))
                weakref.finalize(storage, self.alive.discard, storage.data_ptr())
        return out


@pytest.mark.parametrize("storage", [*IN_BITS, "float32"])
def test_a_few_matrices_are_in_float32_at_a_time(tiny: Tiny, tmp_path: Path, storage: WeightStorage) -> None:
    """Of the 40 larger matrices of a model in float16, few are float32 while it is read, unless all are wanted so."""
    directory = stored_as(torch.float16, tiny(n_layers=8, tie_embeddings=True), tmp_path / "base")
    with AliveMatrices(size=1024) as alive:
        model = load_model(directory, storage=storage)
    assert isinstance(model.layers[7].mlp.down_proj, FrozenLinear) == (storage != "float32")
    assert alive.most > 40 if storage == "float32" else alive.most <= 8


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_model_is_read_in_8_bits_at_once(tiny: Tiny, tokenizer: Tokenizer, tmp_path: Path, is_tied: bool) -> None:
    """`load(..., int8=True)` returns what `to_int8` makes of the whole model, without having it as a whole."""
    config = tiny(n_layers=8, qkv_bias=True, tie_embeddings=is_tied)
    directory = stored_as(torch.float16, config, tmp_path / "model", tokenizer)
    with AliveMatrices(size=1024) as alive:
        model, _ = babyllm.load(directory, int8=True)
    assert alive.most <= 10
    expected = to_int8(babyllm.load(directory)[0])
    tensors = model.state_dict()
    assert tensors.keys() == expected.state_dict().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.logits(some_tokens(config)), expected.logits(some_tokens(config)))


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("n_more", [0, 3])
def test_a_base_in_4_bits_is_held_as_its_files_have_it(
    tiny: Tiny, tokenizer: Tokenizer, tmp_path: Path, is_tied: bool, n_layers: int, n_more: int
) -> None:
    """A changed model's base keeps the original's values and types, with the new rows and without the left-out layers.

    transformers computes the same logits from it.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = tiny(tie_embeddings=is_tied)
    source = stored_as(torch.float16, config, tmp_path / "source", tokenizer)
    options = ModelOptions(n_layers=n_layers, max_seq_len=96)
    model = grow_vocabulary(load_model(source, options, "nf4"), config.vocab_size + n_more)
    whole = grow_vocabulary(load_model(source, options), config.vocab_size + n_more).eval()
    held = hold_base(tmp_path / "run", source, unread(model), tokenizer)
    again = load_model(held).eval()
    assert again.config == whole.config == model.config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())
    stored = load_file(held / "model.safetensors")
    of_rows = {"model.embed_tokens.weight", "lm_head.weight"}
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.float32} == (
        of_rows & stored.keys() if n_more else set()
    )
    assert ("lm_head.weight" in stored) != is_tied
    theirs = transformers.AutoModelForCausalLM.from_pretrained(held).eval()
    tokens = some_tokens(whole.config)
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, whole.logits(tokens), rtol=0, atol=1e-5)


def test_a_damaged_base_is_refused_in_fewer_bits_too(tiny: Tiny, tmp_path: Path) -> None:
    """A missing tensor or one that is not finite is reported as for any model."""
    save_model(tmp_path, model_of(tiny()), None)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    spoilt = tensors[name].clone()
    spoilt[3, 5] = torch.nan
    for changed, message in (
        ({**tensors, name: spoilt}, f"tensor '{name}' holds NaN or infinity"),
        ({n: t for n, t in tensors.items() if n != name}, "layers.1.mlp.up_proj.weight' is missing"),
        (
            {**tensors, name: tensors[name][:, 1:].contiguous()},
            "layers.1.mlp.up_proj.weight' is missing, unknown or of",
        ),
    ):
        save_file(changed, file)
        with pytest.raises(UserError, match=message):
            load_model(tmp_path, storage="nf4")
