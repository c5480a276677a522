"""Model directories with damage of any kind: a line that names a file, or a model that works; little memory always."""

import json
import random
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fixtures import model_of, stirred

from babyllm.errors import UserError
from babyllm.generation import generate_ids
from babyllm.generation.sampling import NO_NUMBERS, Sampling
from babyllm.interop.directory import open_directory
from babyllm.interop.huggingface import load_model
from babyllm.interop.open_model import fill_directory, in_memory, load_open
from babyllm.interop.peft import load_adapter, save_adapter
from babyllm.loading import load
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.adapt.token_rows import matrices_of, train_token_rows
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

ROOM_BYTES = 256 << 20
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"rope_scaling": None},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 8, "tie_embeddings": True},
}
SCALING = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 4, 8, 1e308, 1e-300, 10**6, 10**12, 2**24, 2**31, 2**63, 10**40, 10**400, 0.5),
    *(float("nan"), float("inf"), -0.0, "", "a", "2", "nan", "silu", "\ud800", "x" * 5_000, "[" * 500, "a\nb"),
    *([], [1], [[]], ["a", None], list(range(2_000)), [-1], [2**40], {}, {"a": 1}, [{}], {"rope_theta": 1e4}, SCALING),
    *({"rope_type": kind, "factor": factor} for kind in ("llama3", "dynamic", "linear", "su") for factor in (1, 1e300)),
]
KEYS = [
    *(
        "head_dim",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "use_sliding_window",
        "hidden_act",
    ),
    *("hidden_act", "attention_bias", "mlp_bias", "qkv_bias", "layer_types", "num_experts", "quantization_config"),
    *(
        "tie_word_embeddings",
        "num_key_value_heads",
        "partial_rotary_factor",
        "architectures",
        "id2label",
        "torch_dtype",
    ),
    *("rank_pattern", "modules_to_save", "trainable_token_indices", "target_modules", "use_rslora", "eos_token_id"),
]
KINDS = ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gpt2"]
INSERTS = (b"null", b"-1", b"1e999", b'"', b"{}", b"[" * 3_000, b"\xff", b"\n", b"\0", b"\xef\xbb\xbf")
DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I8", "U8", "BOOL", "C64", "F4", "X", 3, None]
NUMBERS = [0, 1, -1, 3, 1 << 20, 1 << 33, 1 << 63, 2**64 - 1, 10**30, 0.5, "4", None]


@pytest.fixture(scope="module")
def directories(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, tiny: Callable[..., ModelConfig]
) -> dict[str, Path]:
    """A model of each family, one of them also in several files, and an adapter with rows of tokens."""
    folder = tmp_path_factory.mktemp("models")
    shape = {"n_layers": 1, "d_model": 8, "n_heads": 2, "n_kv_heads": 1, "d_ff": 8}
    for name, changes in SHAPES.items():
        model = model_of(tiny(**shape, **changes))
        for parts, n_bytes in (("", 1 << 30), (" parts", 1_000)):
            (folder / f"{name}{parts}").mkdir()
            fill_directory(in_memory(model, tokenizer), folder / f"{name}{parts}", "float32", n_bytes)
    (folder / "adapter").mkdir()
    model = add_lora(load_model(folder / "llama"), LoraConfig(rank=2, targets=["q_proj", "down_proj"]))
    stirred(train_token_rows(model, matrices_of(model, [4, 5])))
    save_adapter(folder / "adapter", model, str(folder / "llama"))
    (folder / "adapter" / "base").write_text(str(folder / "llama"), encoding="utf-8")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def little_room() -> Iterator[None]:
    """The process cannot hold much more memory than it does, so that an allocation without bound fails."""
    pages = Path("/proc/self/statm")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if pages.exists():
        held = int(pages.read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + ROOM_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def with_damaged_bytes(raw: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(damaged) + 1)
        which = rng.randrange(5)
        if which == 0:
            damaged[at : at + 1] = rng.randbytes(1)
        elif which == 1:
            damaged[at:at] = rng.choice(INSERTS)
        elif which == 2:
            del damaged[at : at + rng.randrange(1, 60)]
        elif which == 3:
            damaged[at : at + 4] = rng.choice((b"\xff" * 4, b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f"))  # NaN, largest float
        else:
            del damaged[at:]
    return bytes(damaged)


def with_another_value(raw: bytes, rng: random.Random) -> bytes:
    """The JSON object with some values changed, left out or added, at places that are drawn level by level."""
    content = json.loads(raw)
    for _ in range(rng.choice((1, 1, 1, 3))):
        place = content
        key = rng.choice([*place, rng.choice(KEYS)])
        while isinstance(place.get(key), dict) and place[key] and rng.random() < 0.8:
            place = place[key]
            key = rng.choice(list(place))
        if rng.random() < 0.2:
            place.pop(key, None)
        elif key == "model_type":
            place[key] = rng.choice(KINDS)
        else:
            place[key] = rng.choice(VALUES)
    return json.dumps(content).encode()


def with_another_header(raw: bytes, rng: random.Random) -> bytes:
    """The safetensors file with another entry in its header, or another length of it."""
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    which = rng.randrange(9)
    if which == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif which == 1:
        entry["shape"] = rng.choice([entry["shape"][::-1], [], [*entry["shape"], 1], [rng.choice(NUMBERS)] * 2, None])
    elif which == 2:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(NUMBERS)
    elif which == 3:
        header[rng.choice(["", "model.layers.9.x", "lm_head.weight", "a\nb", "\u202e"])] = header.pop(name)
    elif which == 4:
        header[rng.choice(list(header))] = rng.choice(VALUES)
    elif which == 5:
        other = rng.choice([key for key in header if key != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    elif which == 6:  # all of it in another type of half the width
        for one in header.values():
            one |= {"dtype": "BF16", "data_offsets": [n // 2 for n in one["data_offsets"]]} if "dtype" in one else {}
        body = body[: len(body) // 2]
    text = json.dumps(header).encode()
    if which == 7:  # a name twice
        text = text[:-1] + b"," + json.dumps({name: entry}).encode()[1:]
    stated = rng.choice([0, 1, length - 1, 1 << 20, 1 << 40, 2**64 - 1]) if which == 8 else len(text)
    return struct.pack("<Q", stated) + text + body


def with_other_parts(directory: Path, rng: random.Random) -> None:
    """Change the files of a model in several parts: leave one out, copy, rename, swap or damage it."""
    parts = sorted(directory.glob("model-*.safetensors"))
    one, other = rng.sample(parts, 2)
    which = rng.randrange(6)
    if which == 0:
        one.unlink()
    elif which == 1:
        shutil.copy(one, other)
    elif which == 2:
        one.rename(directory / rng.choice(["model.safetensors", "model-x.safetensors", "part.safetensors"]))
    elif which == 3:
        shutil.copy(one, directory / rng.choice(["model-00009-of-00099.safetensors", "model.safetensors"]))
    elif which == 4:
        one.write_bytes(rng.choice([with_damaged_bytes, with_another_header])(one.read_bytes(), rng))
    else:
        index = directory / "model.safetensors.index.json"
        index.write_bytes(rng.choice([with_damaged_bytes, with_another_value])(index.read_bytes(), rng))


def use(door: Callable[[Path], Transformer], place: Path) -> None:
    """Read a model and let it write; numbers so large that products overflow show then, where they do."""
    model = door(place)
    tokens = [1, 2][: model.config.max_seq_len]
    if not model.logits(torch.tensor([tokens])).isfinite().all():
        try:
            list(generate_ids(model, tokens, Sampling(temperature=0, max_new_tokens=1)))
        except UserError as error:
            assert NO_NUMBERS in str(error)


def damage(path: Path, rng: random.Random) -> None:
    """Change one file, or the parts of a model in several."""
    if path.is_dir():
        with_other_parts(path, rng)
        return
    structured = with_another_header if path.suffix == ".safetensors" else with_another_value
    path.write_bytes((structured if rng.random() < 0.7 else with_damaged_bytes)(path.read_bytes(), rng))


def opened(directory: Path) -> Transformer:
    return load_open(open_directory(directory))


def loaded(directory: Path) -> Transformer:
    return load(directory)[0]


def adapted(directory: Path) -> Transformer:
    return load_adapter(deepcopy(base_of((directory / "base").read_text(encoding="utf-8"))), directory).eval()


@cache
def base_of(directory: str) -> Transformer:
    return load_model(Path(directory))


CASES = {
    "config": [
        *((kind, "config.json", load_model) for kind in SHAPES),
        ("qwen3", "config.json", opened),
        ("llama", "generation_config.json", loaded),
    ],
    "weights": [
        *((kind, "model.safetensors", load_model) for kind in SHAPES),
        *((f"{kind} parts", "", load_model) for kind in SHAPES),
        ("llama", "model.safetensors", opened),
        ("qwen2 parts", "", opened),
    ],
    "adapter": [
        ("adapter", name, door)
        for door in (loaded, adapted, adapted, adapted)
        for name in ("adapter_config.json", "adapter_model.safetensors")
    ],
}


@pytest.mark.parametrize("n_mutations", [240, pytest.param(2_000, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("files", CASES)
@pytest.mark.usefixtures("little_room")
@torch.no_grad()
def test_any_damage_is_named_or_harmless(
    files: str, n_mutations: int, directories: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A damaged file is a UserError of one line that names a file, or the model works; nothing else is printed."""
    rng, refused = random.Random(0), 0
    place = tmp_path / "model"
    for number in range(n_mutations):
        kind, name, door = CASES[files][number % len(CASES[files])]
        shutil.copytree(directories[kind], place)
        damage(place / name, rng)
        try:
            use(door, place)
        except UserError as error:
            refused += 1
            assert str(place) in str(error) and "\n" not in str(error) and len(str(error)) < 1_000, error
        except BaseException as error:
            shutil.copytree(place, tmp_path / "kept")
            raise AssertionError(f"mutation {number}: {name or 'parts'} of {kind}") from error
        shutil.rmtree(place)
    assert n_mutations // 4 < refused < n_mutations
    assert capfd.readouterr() == ("", "")
