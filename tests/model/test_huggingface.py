"""Hugging Face directories in both directions, with transformers as the judge of what they mean."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from babyllm.errors import UserError
from babyllm.generation import generate_ids
from babyllm.generation.sampling import Sampling
from babyllm.interop.hf_config import config_from_json
from babyllm.interop.huggingface import load_model, save_model
from babyllm.interop.weights import hf_name
from babyllm.loading import load
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]

# Sequences are 48 tokens long: the dynamic shape is read beyond its original length.
SHAPES = {
    "gqa": {},
    "mha": {"n_kv_heads": 4},
    "mqa": {"n_kv_heads": 1},
    "tied": {"tie_embeddings": True},
    "theta and eps": {"rope_theta": 500.0, "norm_eps": 1e-2},
    "heads wider than their share": {"head_dim": 24},
    "norms of queries and keys": {"qk_norm": True, "head_dim": 8},
    "biases": {"qkv_bias": True},
    "biases, tied": {"qkv_bias": True, "tie_embeddings": True, "n_kv_heads": 4},
    "linear": {"rope_scaling": RopeScaling("linear", 4.0)},
    "dynamic": {"rope_scaling": RopeScaling("dynamic", 4.0), "max_seq_len": 16},
    "llama3": {"rope_scaling": RopeScaling("llama3", 8.0, 16, low_freq_factor=0.5, high_freq_factor=3.0)},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 16)},
    "yarn with all": {
        **{"n_heads": 2, "max_seq_len": 128},
        "rope_scaling": RopeScaling("yarn", 4.0, 32, beta_fast=1.5, beta_slow=0.1, attention_factor=1.3),
    },
    "yarn of this length": {"rope_scaling": RopeScaling("yarn", 4.0)},
}


@pytest.fixture(scope="module")
def complaints() -> Iterator[list[str]]:
    """What transformers logs as a warning or worse while the module's tests run."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    messages: list[str] = []
    handler = Collector(logging.WARNING)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def model_of(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


def tokens_of(config: ModelConfig) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (2, 48), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_what_is_written(tiny: Tiny, tmp_path: Path, complaints: list[str], shape: str) -> None:
    """AutoModelForCausalLM has the same logits from a saved directory, and has nothing to complain about."""
    import transformers
    from transformers import AutoModelForCausalLM

    model = model_of(tiny(**SHAPES[shape]))
    family = "Qwen3" if model.config.qk_norm else "Qwen2" if model.config.qkv_bias else "Llama"
    save_model(tmp_path, model, None)
    complaints.clear()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = tokens_of(model.config)
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert type(theirs) is getattr(transformers, f"{family}ForCausalLM") and theirs.dtype == torch.float32
    assert (model.logits(tokens) - expected).abs().max() < 1e-4
    assert expected.std() > 0.5, "the logits say something"
    assert complaints == []


@pytest.mark.parametrize("shape", ["gqa", "mha", "tied", "yarn with all", "norms of queries and keys", "biases"])
def test_gradients_equal_those_of_transformers(tiny: Tiny, tmp_path: Path, shape: str) -> None:
    """The gradient of every weight is that of transformers' own backward pass."""
    from transformers import AutoModelForCausalLM

    model = model_of(tiny(**SHAPES[shape])).train()
    save_model(tmp_path, model, None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").train()
    tokens = tokens_of(model.config)
    targets = tokens.roll(-1, 1)
    model(tokens, targets).mean().backward()
    torch.nn.functional.cross_entropy(theirs(tokens).logits.flatten(0, 1), targets.flatten()).backward()
    expected = dict(theirs.named_parameters())
    for name, weight in model.named_parameters():
        gradient = expected[hf_name(name)].grad
        assert weight.grad is not None and (weight.grad - gradient).abs().max() < 1e-4 * gradient.abs().max(), name


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_saved_comes_back(tiny: Tiny, tmp_path: Path, shape: str) -> None:
    """A saved directory loads as a model with the same weights, bit for bit, and the same function."""
    model = model_of(tiny(**SHAPES[shape]))
    save_model(tmp_path, model, None)
    again = load_model(tmp_path).eval()
    mine, theirs = model.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(model.logits(tokens_of(model.config)), again.logits(tokens_of(model.config)))
    assert all(p.requires_grad for p in again.parameters())
    assert (again.lm_head.weight is again.embed_tokens.weight) == model.config.tie_embeddings
    if "of this length" not in shape:
        assert again.config == model.config


@pytest.mark.parametrize("rope_type", [None, "linear", "dynamic", "llama3", "yarn"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_what_transformers_writes_is_read(tmp_path: Path, is_tied: bool, rope_type: str | None) -> None:
    """A directory of save_pretrained, in one file or several, loads with the same logits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    extra = {"linear": {}, "dynamic": {}, "yarn": {"original_max_position_embeddings": 16}}
    extra["llama3"] = extra["yarn"] | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_type": "default"} if rope_type is None else {"rope_type": rope_type, "factor": 4.0} | extra[rope_type]
    shape = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16 if rope_type == "dynamic" else 64,
        rope_parameters=rope | {"rope_theta": 1234.0},
        tie_word_embeddings=is_tied,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(shape).eval()
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "several", max_shard_size="20KB")
    assert len(list((tmp_path / "several").glob("model-*-of-*.safetensors"))) > 1
    tokens = torch.randint(0, 100, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(tokens).logits
    for name in ("one", "several"):
        assert (load_model(tmp_path / name).logits(tokens) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_each_architecture_is_read_and_written(tmp_path: Path, family: str) -> None:
    """Logits and greedy ids of transformers' own model, read here, and read by transformers after saving."""
    import transformers

    shape = getattr(transformers, f"{family}Config")(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        tie_word_embeddings=family == "Qwen3",
        **{
            "Llama": {"head_dim": 16},
            "Mistral": {"sliding_window": None, "head_dim": 16},
            "Qwen2": {},
            "Qwen3": {"head_dim": 16},
        }[family],
    )
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{family}ForCausalLM")(shape).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith((".bias", "_norm.weight")):
                weight.uniform_(-0.5, 1.5)
    theirs.save_pretrained(tmp_path / "theirs")
    mine = load_model(tmp_path / "theirs").eval()
    (tmp_path / "mine").mkdir()
    save_model(tmp_path / "mine", mine, None)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mine").eval()
    assert type(again).__name__ == ("LlamaForCausalLM" if family == "Mistral" else type(theirs).__name__)
    prompt = torch.randint(0, 100, (1, 20), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "bos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        expected = theirs(prompt).logits
        ids = [model.generate(prompt, **options)[0, 20:].tolist() for model in (theirs, again)]
        assert (again(prompt).logits - expected).abs().max() < 1e-4
    assert (mine.logits(prompt) - expected).abs().max() < 1e-4 and expected.std() > 0.5
    assert list(generate_ids(mine, prompt[0].tolist(), Sampling(40, temperature=0))) == ids[0] == ids[1]
    assert len(set(ids[0])) > 3


def test_half_precision_files_become_float32(tiny: Tiny, tmp_path: Path) -> None:
    """Weights stored in bfloat16 are read as float32."""
    model = model_of(tiny())
    save_model(tmp_path, model, None)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert torch.equal(again.norm.weight, model.norm.weight.bfloat16().float())


def test_an_index_names_the_files(tiny: Tiny, tmp_path: Path) -> None:
    """Weights are read from the files that the index names, whatever their names, and from no others."""
    model = model_of(tiny())
    save_model(tmp_path, model, None)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00009.safetensors")  # of another sharding
    places = {name: f"{'ab'[i % 2]}.safetensors" for i, name in enumerate(tensors)}
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: tensor * 2 for name, tensor in tensors.items() if places[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(load_model(tmp_path).norm.weight, model.norm.weight * 2)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"index\.json: names the file 'b\.safetensors', which is missing"):
        load_model(tmp_path)


def test_names_and_types_in_the_file_are_the_fields(tiny: Tiny, tmp_path: Path) -> None:
    """The file holds float32 tensors under Hugging Face's names, a tied output layer not a second time."""
    save_model(tmp_path, model_of(tiny(tie_embeddings=True)), None)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert "model.layers.1.self_attn.q_proj.weight" in tensors and "model.norm.weight" in tensors
    assert "lm_head.weight" not in tensors and tensors["model.embed_tokens.weight"].shape == (400, 32)
    assert len(tensors) == 2 + 2 * 9


def test_a_model_in_16_bits_is_saved_in_float32(tiny: Tiny, tmp_path: Path) -> None:
    """Whatever type the weights have in memory, files hold float32."""
    save_model(tmp_path, model_of(tiny()).bfloat16(), None)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


def test_the_tokenizer_travels_with_the_model(tiny: Tiny, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """`load` returns model and tokenizer of a directory, and transformers knows the same special ids."""
    from transformers import AutoTokenizer, GenerationConfig

    save_model(tmp_path, model_of(tiny()), tokenizer)
    model, again = load(tmp_path)
    assert not model.training and again.sha256 == tokenizer.sha256
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("今天 token")["input_ids"] == again.encode("今天 token")
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert generation.eos_token_id == theirs.eos_token_id == tokenizer.eos_id


def test_saving_over_the_directory_a_model_was_loaded_from(tiny: Tiny, tmp_path: Path) -> None:
    """A model that was loaded from a directory can be changed and saved there again."""
    save_model(tmp_path, model_of(tiny()), None)
    model = load_model(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.norm.weight.add_(1.0)
    save_model(tmp_path, model, None)
    after = load_model(tmp_path).state_dict()
    assert torch.equal(after.pop("norm.weight"), before.pop("norm.weight") + 1.0)
    assert all(torch.equal(after[name], before[name]) for name in before)


def llama_json(**changes: object) -> dict[str, object]:
    shape: dict[str, object] = {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return {name: value for name, value in (shape | changes).items() if value is not None}


def test_old_and_new_spellings_of_a_config_mean_the_same() -> None:
    """rope_theta and rope_scaling of older files equal the rope_parameters of newer ones; absent values are Llama's."""
    plain = config_from_json(llama_json())
    assert (plain.kv_heads, plain.norm_eps, plain.rope_theta, plain.max_seq_len) == (4, 1e-6, 10000.0, 2048)
    assert not plain.tie_embeddings and plain.rope_scaling is None
    yarn = {"factor": 4.0, "original_max_position_embeddings": 512}
    old = config_from_json(llama_json(rope_theta=5e5, rope_scaling={"type": "yarn"} | yarn))
    new = config_from_json(llama_json(rope_parameters={"rope_theta": 5e5, "rope_type": "yarn"} | yarn))
    assert old == new and new.rope_scaling == RopeScaling("yarn", 4.0, 512) and new.rope_theta == 5e5
    assert config_from_json(llama_json(rope_scaling={"rope_type": "default"})) == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"head_dim": 15}, "head_dim=15: must be even"),
        ({"model_type": "mixtral"}, r"choose among experts \(MoE\)"),
        ({"model_type": "chatglm"}, "turn half of each head"),
        ({"model_type": "mistral", "sliding_window": 64}, "sliding_window 64 is not supported; set it to null"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is not supported"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights are not read"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "'longrope' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0}}, "mscale"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "linear"}}, "has no 'factor'"),
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"num_attention_heads": 5}, "n_heads=5"),
    ],
)
def test_other_models_are_refused(changes: dict[str, object], message: str) -> None:
    """A config that means what this model cannot do is refused with the key at fault."""
    with pytest.raises(UserError, match=message):
        config_from_json(llama_json(**changes), "there/config.json")


def test_broken_directories_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    """What is missing, damaged or of another shape is named."""
    with pytest.raises(UserError, match="neither a model directory"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        load_model(tmp_path)
    save_model(tmp_path, model_of(tiny()), None)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    good = config.read_text(), load_file(weights)
    with pytest.raises(UserError, match="no tokenizer"):
        load(tmp_path)
    config.write_text("{")
    with pytest.raises(UserError, match=r"config\.json: is not JSON"):
        load_model(tmp_path)
    config.write_text("[]")
    with pytest.raises(UserError, match=r"config\.json: is not a JSON object"):
        load_model(tmp_path)
    config.write_text(json.dumps(json.loads(good[0]) | {"intermediate_size": 64}))
    with pytest.raises(UserError, match=r"gate_proj\.weight' is missing, unknown or of another shape"):
        load_model(tmp_path)
    config.write_text(good[0])
    for changed in ({"model.more.weight": torch.zeros(2)}, {"model.norm.weight": torch.zeros(2)}):
        save_file(good[1] | changed, weights)
        with pytest.raises(UserError, match="missing, unknown or of another shape"):
            load_model(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        load_model(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_path_that_is_not_utf8_holds_a_model(tiny: Tiny, tmp_path: Path) -> None:
    """A directory named in GBK is written and read, though the library of the weights takes only UTF-8."""
    model, directory = Transformer(tiny()), tmp_path / os.fsdecode("模型".encode("gbk"))
    directory.mkdir()
    save_model(directory, model, None)
    loaded = load_model(directory)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
