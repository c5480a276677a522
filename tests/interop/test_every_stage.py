"""Models from elsewhere, imported, fine-tuned with LoRA, resumed, merged, exported and imported again, by commands."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from babyllm import load
from babyllm.__main__ import run
from babyllm.chat.load import load_template
from babyllm.chat.messages import Message
from babyllm.generation import generate_ids
from babyllm.generation.sampling import Sampling
from babyllm.interop.huggingface import generation_ends
from babyllm.tokenizer import Tokenizer

QUESTIONS = ["What is the capital of France?", "今天天气<|im_end|>很好 <s> ▁?"]
SETTINGS = {
    **{"data.template": "chatml", "data.seq_len": 96, "data.global_batch": 2, "data.micro_batch": 2, "lora.rank": 2},
    **{"plan.peak_lr": 0.001, "save_every": 1, "eval_every": 0, "samples": 0},
    **{"runtime.device": "cpu", "runtime.dtype": "float32", "runtime.processes": 1, "runtime.threads": 1},
}


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A file of short conversations."""
    turns = [("What is two and two?", "Four."), ("Say hello.", "Hello!"), ("今天几号？", "不知道。")] * 4
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": f"{answer} {i}"}]}
        for i, (asked, answer) in enumerate(turns)
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def through_all_stages(source: Path, talk: Path, **settings: Any) -> dict[str, Path]:
    """The directories that the commands write, by stage: the run, merged, exported, and imported from its GGUF file."""
    folder = talk.parent
    paths = {name: folder / name for name in ("run", "merged", "exported", "gguf", "again")}
    given = {"init_from": source, "run_dir": paths["run"], "data.path": talk} | SETTINGS | settings
    flags = [f"--{key}={value}" for key, value in given.items()]
    run(["sft", *flags, "--plan.steps=1"])
    run(["sft", *flags, "--plan.steps=2"])
    run(["merge-lora", str(paths["run"]), str(paths["merged"])])
    run(["export", str(paths["merged"]), str(paths["exported"]), "--dtype=float16", "--check=false"])
    run(["export", str(paths["run"]), str(paths["gguf"]), "--gguf=[F32]", "--check=false"])
    run(["import", str(paths["gguf"] / "gguf-F32.gguf"), str(paths["again"])])
    return paths


def prompt_ids(directory: Path, question: str) -> list[int]:
    """The ids of a prompt, which transformers makes from the same files as well."""
    from transformers import AutoTokenizer

    ids = load_template(None, Tokenizer.load(directory), directory).prompt([Message("user", question)])
    theirs = AutoTokenizer.from_pretrained(directory)
    text = theirs.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    if "<|im_end|>" not in question:  # there it takes what looks like a special token for one
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    return ids


def require_same(paths: dict[str, Path], ends: set[int]) -> list[int]:
    """Check that prompts, ends and logits are the same in all directories, and return the ids of a prompt."""
    merged = paths["merged"]
    for question in QUESTIONS:
        assert len({tuple(prompt_ids(paths[name], question)) for name in ("merged", "exported", "again")}) == 1
    for name in ("merged", "exported", "again"):
        assert ends <= set(generation_ends(paths[name])), name  # of GGUF also </s>, which ends texts by its name
    ids = prompt_ids(merged, QUESTIONS[0])
    with torch.no_grad():
        expected = load(paths["run"])[0].logits(torch.tensor([ids]))
        scale = expected.abs().max()
        for name, tolerance in (("merged", 1e-5), ("again", 1e-5), ("exported", 2e-2)):
            found = load(paths[name])[0].logits(torch.tensor([ids]))
            assert (found - expected).abs().max() < tolerance * scale, name
    return ids


def write_qwen(kind: str, directory: Path, tokenizer: Tokenizer) -> Path:
    """A model of transformers with random weights, biases and norms, and heads of their own width where it has them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 256}
    width = {"head_dim": 24} if kind == "qwen3" else {}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **width))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.uniform_(0.5, 1.5) if "norm" in name else weight.normal_(std=0.2)
    model.save_pretrained(directory)
    tokenizer.save(directory)
    return directory


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "stories"])
def test_a_small_model_stays_itself(
    kind: str, talk: Path, byte_level: Tokenizer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A tuned Qwen2, Qwen3 or model of llama2.c has the same prompts, ends and logits after each later stage."""
    source = tmp_path / "source"
    if kind == "stories":
        folder: Path = request.getfixturevalue("stories")
        run(["import", str(folder / "stories260K.bin"), str(source), f"--tokenizer={folder / 'tok512.bin'}"])
    else:
        write_qwen(kind, source, byte_level)
    paths = through_all_stages(source, talk)
    tokenizer = Tokenizer.load(paths["merged"])
    require_same(paths, {tokenizer.eos_id, tokenizer.special["<|im_end|>"]})
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, paths["exported"]))
    assert after["model_type"] == before["model_type"] and after.get("head_dim") == before.get("head_dim", 8)


@pytest.mark.slow
def test_smollm2_still_answers_after_all_stages(
    smollm2: Path, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tuned on a base in nf4 and merged, it has its own prompts and ends, and its answer is right and ends itself."""
    source = tmp_path / "source"
    run(["import", str(smollm2), str(source), "--dtype=bfloat16"])
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    paths = through_all_stages(source, talk, **{"data.default_system": system, "lora.base": "nf4"})
    ids = require_same(paths, {0, 2})
    expected = load_template(None, Tokenizer.load(source), source).prompt([Message("user", QUESTIONS[0])])
    assert ids == expected
    model, tokenizer = load(paths["exported"])
    answer = list(generate_ids(model, ids, Sampling(temperature=0, max_new_tokens=32)))
    assert "Paris" in tokenizer.decode(answer) and len(answer) < 32
