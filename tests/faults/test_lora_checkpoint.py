"""Runs that train an adapter or a part of a model: what is saved, exact resuming, loading and merging."""

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_fixtures import Tiny, model_of, some_tokens, stirred, trained, unread
from training_fixtures import recording, tiny_config, tiny_state

import babyllm
from babyllm.commands.training.merge_lora import Flags
from babyllm.commands.training.merge_lora import run as merge_command
from babyllm.errors import UserError
from babyllm.interop.held_base import hold_base
from babyllm.interop.huggingface import load_model, save_model
from babyllm.interop.peft import load_adapter, save_adapter
from babyllm.model.adapt.freezing import FreezeConfig, freeze
from babyllm.model.adapt.grow import grow_vocabulary
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.config import ModelConfig
from babyllm.objectives.lm import language_model
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.state import Every, TrainState


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A base model whose vocabulary is that of `data`."""
    tokenizer = Tokenizer.load(data)
    directory = tmp_path_factory.mktemp("tree") / "base"
    directory.mkdir()
    save_model(directory, model_of(ModelConfig(tokenizer.vocab_size, 2, 32, 4, 2, max_seq_len=64)), tokenizer)
    return directory


LORA = LoraConfig(rank=4, dropout=0.1, targets=["q_proj", "k_proj", "down_proj"], lora_plus=4.0)
KINDS: dict[str, tuple[LoraConfig, FreezeConfig]] = {
    "lora": (LORA, FreezeConfig()),
    "frozen": (LoraConfig(), FreezeConfig(last_n_layers=1, parts=["norm"])),
    "lora and frozen": (LORA, FreezeConfig(last_n_layers=1)),
}


def new_state(kind: str, base: Path, data: Path, runtime: Runtime, **changes: object) -> TrainState:
    """A state at step 0 that trains a part of the base."""
    lora, frozen = KINDS[kind]
    lora = replace(lora, **changes)
    state = tiny_state(tiny_config(data), runtime)
    torch.manual_seed(4)
    state.model = add_lora(load_model(base), lora)
    freeze(state.model, frozen)
    state.optimizer = make_optimizer(state.model, OptimConfig())
    return state


def run(state: TrainState, data: Path, steps: int, every: list[Every] | None = None) -> list[float]:
    losses: list[float] = []
    plan = replace(tiny_config(data).plan, steps=20)
    stop = Every(1, lambda s: setattr(s, "stop_reason", "enough" if s.step == steps else None), at_end=False)
    train(state, language_model, plan, [recording(losses), *(every or []), stop])
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_training_a_part_resumes_exactly(
    kind: str, base_dir: Path, data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """Five steps, a checkpoint and five more leave the files and losses of ten straight steps, bit for bit."""
    straight = new_state(kind, base_dir, data, runtime)
    save = [Every(5, lambda state: checkpoint.save(state, tmp_path / "straight", None, 9), at_end=False)]
    losses = run(straight, data, 10, save)
    resumed = new_state(kind, base_dir, data, runtime)
    with torch.no_grad():
        for parameter in resumed.model.parameters():
            if parameter.requires_grad:
                parameter.normal_()  # what is loaded is what counts
    checkpoint.load(resumed, tmp_path / "straight" / "step_00000005")
    later = run(resumed, data, 10)
    assert len(set(losses)) == 10 and later == losses[5:]
    checkpoint.save(resumed, tmp_path / "resumed", None, 9)
    one, two = (tmp_path / name / "step_00000010" for name in ("straight", "resumed"))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []
    weights_name = "model.safetensors" if kind == "frozen" else "adapter_model.safetensors"
    assert {weights_name, "optimizer.safetensors", "resume.json"} <= set(names)
    # Beside a config.json transformers would take an adapter for a whole model.
    assert ("config.json" in names) == (kind == "frozen")


def test_a_step_directory_of_lora_holds_only_what_is_trained(
    base_dir: Path, data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """There are tensors of A and B and of their moments alone, the tokenizer with its template, and all that ends."""
    from safetensors.torch import load_file

    state = new_state("lora", base_dir, data, runtime)
    run(state, data, 2)
    checkpoint.save(state, tmp_path, Tokenizer.load(data), 1, "{{ messages }}", [3, 5])
    step = tmp_path / "step_00000002"
    assert {path.name for path in step.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "generation_config.json"),
        *("optimizer.safetensors", "resume.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    }
    for name, n in (("adapter_model.safetensors", 12), ("optimizer.safetensors", 36)):
        tensors = load_file(step / name)
        assert len(tensors) == n and all("lora_" in key for key in tensors)
    assert json.loads((step / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}"
    ends = json.loads((step / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [Tokenizer.load(data).eos_id, 3, 5]
    assert {"adapter_model.safetensors", "adapter_config.json"} < set(
        json.loads((step / "resume.json").read_text())["sha256"]
    )


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors"])
def test_a_damaged_adapter_is_named(name: str, base_dir: Path, data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """A file of an adapter's checkpoint that is missing or changed is refused with its path."""
    state = new_state("lora", base_dir, data, runtime)
    checkpoint.save(state, tmp_path, None, 1)
    file = tmp_path / "step_00000000" / name
    whole = file.read_bytes()
    for content in (whole[:-1] + b"\x7f", None):
        file.unlink()
        if content:
            file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{file}: is missing or not as it was saved"):
            checkpoint.load(new_state("lora", base_dir, data, runtime), file.parent)
        file.write_bytes(whole)
    checkpoint.load(new_state("lora", base_dir, data, runtime), file.parent)


def test_a_checkpoint_of_another_kind_is_refused(base_dir: Path, data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """LoRA does not go on from a whole model, nor the other way round, nor with another rank, scale or layers."""
    for kind in ("lora", "frozen"):
        checkpoint.save(new_state(kind, base_dir, data, runtime), tmp_path / kind, None, 1)
    lora, frozen = (tmp_path / kind / "step_00000000" for kind in ("lora", "frozen"))
    with pytest.raises(UserError, match="was made without LoRA; set"):
        checkpoint.load(new_state("lora", base_dir, data, runtime), frozen)
    with pytest.raises(UserError, match="was made with LoRA; set"):
        checkpoint.load(new_state("frozen", base_dir, data, runtime), lora)
    for change, message in (
        ({"rank": 8}, r"lora.rank=4 \(now 8\)"),
        ({"alpha": 1.0}, r"lora.alpha=16.0 \(now 1.0\)"),
        ({"rslora": True}, r"lora.rslora=False \(now True\)"),
        ({"targets": ["q_proj"]}, "tensor 'layers.*(down|k)_proj.lora_A' is missing, unknown"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoint.load(new_state("lora", base_dir, data, runtime, **change), lora)


def test_an_adapter_does_not_go_on_with_another_base(
    base_dir: Path, data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """A base whose weights changed since the checkpoint is refused, though its name and shape are the same."""
    base = tmp_path / "base"
    shutil.copytree(base_dir, base)
    checkpoint.save(new_state("lora", base, data, runtime), tmp_path / "run", None, 1)
    checkpoint.load(new_state("lora", base, data, runtime), tmp_path / "run" / "step_00000000")
    other = load_model(base)
    with torch.no_grad():
        other.norm.weight[0] += 1
    save_model(base, other, None)
    with pytest.raises(UserError, match=rf"the base of its adapter was another model than {base} is now"):
        checkpoint.load(new_state("lora", base, data, runtime), tmp_path / "run" / "step_00000000")


@pytest.fixture
def adapter_run(base_dir: Path, data: Path, runtime: Runtime, tmp_path: Path) -> tuple[Path, TrainState]:
    """A run directory with an adapter of `base_dir`, and the state it was saved from."""
    state = new_state("lora", base_dir, data, runtime)
    run(state, data, 3)
    checkpoint.save(state, tmp_path / "run", Tokenizer.load(data), 1, "{{ messages }}", [3])
    return tmp_path / "run", state


def test_an_adapter_directory_loads_with_its_base(adapter_run: tuple[Path, TrainState], data: Path) -> None:
    """`babyllm.load` of the run or the step returns the adapted model to the last bit, and its tokenizer."""
    directory, state = adapter_run
    tokens = some_tokens(state.model.config)
    expected = state.model.eval().logits(tokens)
    for path in (directory, directory / "step_00000003"):
        model, tokenizer = babyllm.load(path)
        assert torch.equal(model.logits(tokens), expected) and tokenizer.sha256 == Tokenizer.load(data).sha256
        assert not model.training
    assert not torch.equal(load_model(Path(state.model.origin or "")).logits(tokens), expected)


def test_a_base_is_found_from_the_folders_above_the_adapter(
    base_dir: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name relative to where training ran is found from anywhere; one that leads nowhere is a named error."""
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    (tmp_path / "runs" / "base").symlink_to(base_dir)
    adapter = tmp_path / "runs" / "sft"
    model = stirred(add_lora(load_model(base_dir), LoraConfig(rank=2)))
    for base in ("runs/base", "../base", str(base_dir)):
        save_adapter(adapter, model, base)
        loaded, _ = babyllm.load(adapter)
        tokens = some_tokens(model.config)
        assert torch.equal(loaded.logits(tokens), model.logits(tokens))
    save_adapter(adapter, model, "somewhere/else")
    with pytest.raises(UserError, match=r"adapter_config.json: its base_model_name_or_path 'somewhere/else' is not"):
        babyllm.load(adapter)


def test_an_adapter_alone_is_no_model_to_start_from(adapter_run: tuple[Path, TrainState]) -> None:
    """Where whole weights are wanted, an adapter directory is refused with the command that makes them."""
    with pytest.raises(UserError, match="holds an adapter, not a whole model; make one with babyllm merge-lora"):
        load_model(adapter_run[0] / "step_00000003")


def test_an_adapter_of_a_grown_base_grows_it_again(
    base_dir: Path, data: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Loading restores the rows that the base was grown by before training."""
    state = new_state("lora", base_dir, data, runtime)
    tokenizer = Tokenizer.load(data).extended(["<|one|>", "<|two|>"])
    state.model = stirred(add_lora(grow_vocabulary(load_model(base_dir), tokenizer.vocab_size), LORA))
    state.optimizer = make_optimizer(state.model, OptimConfig())
    checkpoint.save(state, tmp_path, tokenizer, 1)
    model, loaded = babyllm.load(tmp_path)
    tokens = some_tokens(state.model.config)
    assert loaded.vocab_size == model.config.vocab_size == tokenizer.vocab_size
    assert torch.equal(model.logits(tokens), state.model.eval().logits(tokens))


def test_the_command_writes_a_plain_model(
    adapter_run: tuple[Path, TrainState], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`merge-lora` writes a directory transformers reads, with the adapted model's logits, tokenizer and template."""
    import transformers

    directory, state = adapter_run
    out = tmp_path / "made" / "merged"
    merge_command(Flags(), str(directory), str(out))
    assert "merged with its base" in capsys.readouterr().out
    tokens = some_tokens(state.model.config)
    expected = state.model.eval().logits(tokens)
    model, tokenizer = babyllm.load(out)
    torch.testing.assert_close(model.logits(tokens), expected, rtol=0, atol=1e-5)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, expected, rtol=0, atol=1e-5)
    assert theirs.generation_config.eos_token_id == [tokenizer.eos_id, 3]
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template == "{{ messages }}"
    assert [path.name for path in out.parent.iterdir()] == ["merged"]
    with pytest.raises(UserError, match="merged: already exists"):
        merge_command(Flags(), str(directory), str(out))
    with pytest.raises(UserError, match="is a whole model already"):
        merge_command(Flags(), str(out), str(tmp_path / "again"))


def test_a_model_that_cannot_be_written_leaves_nothing(adapter_run: tuple[Path, TrainState], tmp_path: Path) -> None:
    """A merged model or a held base for which the disk has no room is one line, and no half of it stays."""
    directory, state = adapter_run
    model, tokenizer = babyllm.load(state.model.origin or "")
    source = Path(model.origin or "")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"merged: cannot be written \(File too large\)"):
            merge_command(Flags(), str(directory), str(tmp_path / "merged"))
        with pytest.raises(UserError, match=r"base: the base of the adapter cannot be written \(File too large\)"):
            hold_base(tmp_path, source, unread(model), tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="merged: cannot be written"):
        merge_command(Flags(), str(directory), str(tmp_path / "file" / "merged"))


def test_an_adapter_loads_behind_a_move(base_dir: Path, tmp_path: Path) -> None:
    """`load_adapter` on a base of one's own makes the adapted model, with nothing but the adapter trainable."""
    model = stirred(add_lora(load_model(base_dir), LORA))
    save_adapter(tmp_path, model, "anywhere")
    loaded = load_adapter(load_model(base_dir), tmp_path)
    tokens = some_tokens(model.config)
    assert torch.equal(loaded.eval().logits(tokens), model.eval().logits(tokens))
    assert {name.rpartition(".")[2] for name in trained(loaded)} == {"lora_A", "lora_B"}
