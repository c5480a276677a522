"""Model directories whose JSON files hold other values than they should: a line that names the file, or a model."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fixtures import stirred

from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model, save_model
from babyllm.interop.peft import save_adapter
from babyllm.loading import load, load_chat_model
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.adapt.token_rows import matrices_of, train_token_rows
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 1e308, 10**12, 2**63, 10**40, 0.5, float("nan"), float("inf"), -0.0),
    *("", "a", "2", "nan", "\ud800", "x" * 5_000, [], [1], [[]], ["a", None], {}, {"a": 1}, [{}], {"content": 1}),
]
FILES = {
    "model": ("config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"),
    "adapter": ("adapter_config.json", "tokenizer_config.json"),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, tiny: Tiny) -> dict[str, Path]:
    """A small model, and an adapter of it with rows of tokens; without tokenizer.model, so that the JSON counts."""
    folder = tmp_path_factory.mktemp("models")
    paths = {name: folder / name for name in FILES}
    for path in paths.values():
        path.mkdir()
    torch.manual_seed(0)
    rope = {"rope_scaling": None}
    model = Transformer(tiny(**rope))
    template = "{% for m in messages %}<|im_start|>{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    save_model(paths["model"], model, tokenizer, chat_template=template)
    roles = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (paths["model"] / "special_tokens_map.json").write_text(json.dumps(roles))
    tokenizer.save(paths["adapter"], chat_template=template)
    adapted = add_lora(model, LoraConfig(rank=2, targets=["q_proj"]))
    save_adapter(
        paths["adapter"], stirred(train_token_rows(adapted, matrices_of(adapted, [4, 5]))), str(paths["model"])
    )
    for path in paths.values():
        (path / "tokenizer.model").unlink()
    return paths


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to the values of a JSON value, a few of those in long lists."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        for key in keys if len(keys) < 40 else keys[::200]:
            yield from places(value[key], (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The same content with another value at a place."""
    if not path:
        return value
    copy = content.copy()
    copy[path[0]] = with_value(content[path[0]], path[1:], value)
    return copy


# The first file of each kind has more mutations in test_damaged_directories.
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FILES.items() for name in names[1:]])
def test_any_value_is_read_or_refused_by_name(
    kind: str, name: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    """Whatever stands at one key, the directory loads, or one line names a file of it."""
    rng = random.Random(name)
    shutil.copytree(directories["model"], tmp_path / "model")
    if kind == "adapter":
        shutil.copytree(directories["adapter"], tmp_path / "adapter")
    file = tmp_path / kind / name
    whole = json.loads(file.read_text(encoding="utf-8"))
    found = list(places(whole))
    refused = 0
    for _ in range(60):
        mutant = with_value(whole, rng.choice(found), rng.choice(VALUES))
        file.write_text(json.dumps(mutant), encoding="utf-8")
        try:
            model = load_chat_model(tmp_path / kind).model
            with torch.no_grad():
                model.logits(torch.tensor([[1]]))
        except UserError as error:
            refused += 1
            assert str(tmp_path) in str(error) and "\n" not in str(error), error
            assert len(str(error)) < 1000
    assert 0 < refused < 60


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "1", '"a"', "{", "[" * 100_000, '{"a": ' * 100_000, "\ufeff{}", "NaN"]
)
def test_what_is_no_object_is_refused_by_name(content: str, directories: dict[str, Path], tmp_path: Path) -> None:
    """A file that holds no JSON object, or one nested without measure, is named."""
    for kind, names in FILES.items():
        for name in names:
            shutil.copytree(directories["model"], tmp_path / "model", dirs_exist_ok=True)
            shutil.copytree(directories["adapter"], tmp_path / "adapter", dirs_exist_ok=True)
            file = tmp_path / kind / name
            file.write_text(content, encoding="utf-8")
            with pytest.raises(UserError, match=name.replace(".", r"\.")):
                load(tmp_path / kind)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000, but .* holds 2 layers"),
        ("num_hidden_layers", "2", "num_hidden_layers is '2', where a whole number from 1"),
        ("vocab_size", 10**12, "vocab_size is 1000000000000, where a whole number"),
        ("vocab_size", 2**30, "vocab_size asks for 1073741824 rows"),
        ("intermediate_size", 2**24, "intermediate_size asks for 16777216 rows"),
        ("intermediate_size", 2**30, "intermediate_size is 1073741824, where a whole number"),
        ("max_position_embeddings", 10**12, "max_position_embeddings is 1000000000000, where a whole number"),
        ("num_attention_heads", 0, "num_attention_heads is 0, where"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps is nan, where a number"),
        ("tie_word_embeddings", "false", "tie_word_embeddings is 'false', where true or false is wanted"),
        ("rope_scaling", [1], r"rope_scaling is \[1\], where an object is wanted"),
        ("rope_scaling", {"rope_type": "yarn", "factor": "4"}, "rope_scaling: factor is '4', where a number"),
        ("rope_scaling", {"rope_type": "llama3", "factor": 4, "low_freq_factor": 4}, "high_freq_factor must be above"),
        ("model_type", ["llama"], r"model_type is \['llama'\], where a text is wanted"),
    ],
)
def test_sizes_are_compared_before_anything_is_made(
    key: str, value: Any, message: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    """Counts and numbers of a config.json that cannot be are refused with the file and the key."""
    shutil.copytree(directories["model"], tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"config\.json.*{message}|{message}") as found:
        load(tmp_path / "model")
    assert str(file) in str(found.value)


def test_a_long_context_takes_no_room_before_it_is_used(directories: dict[str, Path], tmp_path: Path) -> None:
    """A model of 16 million positions reads a short text as one of few positions does."""
    shutil.copytree(directories["model"], tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    tokens = torch.arange(40)[None]
    expected = load_model(tmp_path / "model").logits(tokens)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": 1 << 24}))
    model = load_model(tmp_path / "model")
    assert torch.equal(model.logits(tokens), expected)
    cos, _ = model.rotations(40, tokens.device)
    assert cos.shape[0] < 1 << 17
    long, _ = model.rotations(70_000, tokens.device)
    assert 70_000 <= len(long) < 1 << 18 and torch.equal(long[: len(cos)], cos)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("r", 10**9, "r is 1000000000, but .* has .*lora_A of the shape"),
        ("r", "2", "r is '2', where a whole number"),
        ("lora_alpha", None, "has no 'lora_alpha'"),
        ("use_dora", 1, "use_dora 1 is not supported"),
        ("base_model_name_or_path", "x" * 5_000, "its base_model_name_or_path .* is not there"),
        ("base_model_name_or_path", 5, "base_model_name_or_path is 5, where a text is wanted"),
        ("trainable_token_indices", 7, "trainable_token_indices is 7, where an object is wanted"),
    ],
)
def test_numbers_of_an_adapter_are_checked(
    key: str, value: Any, message: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    """An adapter's rank is that of its tensors, and other values are of the right kind."""
    shutil.copytree(directories["adapter"], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"adapter_config\.json: {message}"):
        load(tmp_path / "adapter")


@pytest.mark.parametrize("vocabulary", [{}, {"</s>": 0, "a": 2**32 - 1}])
def test_a_vocabulary_without_measure_is_refused(vocabulary: dict[str, int], tmp_path: Path) -> None:
    """No token at all, or an id that would need a list of billions, is named with the file."""
    content = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json: ids must be from 0"):
        Tokenizer.load(tmp_path)
