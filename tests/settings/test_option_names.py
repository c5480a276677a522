"""What is answered to options of other tools."""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from babyllm.__main__ import COMMANDS, STAGES, module_of
from babyllm.config import command_line as config
from babyllm.config.option_names import NAMES, TABLE, named_keys
from babyllm.errors import UserError
from babyllm.training.stages.fine_tuning_config import FineTuneConfig
from babyllm.training.stages.policy.grpo_config import GrpoConfig
from babyllm.training.stages.policy.ppo_config import PpoConfig
from babyllm.training.stages.preference.dpo_config import DpoConfig
from babyllm.training.stages.pretraining_config import PretrainConfig


@cache
def kinds() -> dict[str, Any]:
    """The configurations of all commands and scripts."""
    names = [name for name in COMMANDS if name not in STAGES]
    modules = {name: import_module(module_of(name)) for name in names}
    flags = {name: module.Flags for name, module in modules.items()}
    stages = {"train_pretrain.py": PretrainConfig, "train_sft.py": FineTuneConfig}
    return stages | {"train_dpo.py": DpoConfig, "train_grpo.py": GrpoConfig, "train_ppo.py": PpoConfig} | flags


@cache
def keys(command: str) -> frozenset[str]:
    """The dotted keys of a command."""
    return frozenset(config.keys(kinds()[command]))


def mistake(command: str, *argv: str) -> str:
    with pytest.raises(UserError) as caught:
        config.parse(kinds()[command], argv, prog=command)
    return str(caught.value)


@pytest.mark.parametrize(
    ("command", "option", "answer"),
    [
        ("train_pretrain.py", "lr=1", "did you mean --plan.peak_lr?"),
        ("train_pretrain.py", "learning-rate=1", "did you mean --plan.peak_lr?"),
        ("train_pretrain.py", "learning_rate=1", "did you mean --plan.peak_lr?"),
        ("train_pretrain.py", "train.lr=1", "did you mean --plan.peak_lr?"),
        ("train_pretrain.py", "batch_size=1", "did you mean --data.global_batch?"),
        ("train_pretrain.py", "per_device_train_batch_size=1", "did you mean --data.micro_batch?"),
        (
            "train_pretrain.py",
            "gradient_accumulation_steps=1",
            "set --data.global_batch, the sequences of a step over all processes, and --data.micro_batch, those of one "
            "forward pass; accumulation follows",
        ),
        ("train_pretrain.py", "fp16", "write --runtime.dtype=float16"),
        ("train_pretrain.py", "bf16=true", "write --runtime.dtype=bfloat16"),
        ("train_pretrain.py", "no_cuda", "write --runtime.device=cpu"),
        ("train_pretrain.py", "resume", "the same command with the same --run_dir goes on by itself"),
        ("train_pretrain.py", "max_grad_norm=1", "did you mean --plan.clip_norm?"),
        ("train_pretrain.py", "save_total_limit=1", "did you mean --keep?"),
        ("train_pretrain.py", "num_train_epochs=1", "did you mean --plan.epochs?"),
        ("train_pretrain.py", "max_length=1", "did you mean --data.seq_len?"),
        ("train_pretrain.py", "output_dir=x", "did you mean --run_dir?"),
        ("train_pretrain.py", "n_embd=1", "did you mean --model.d_model?"),
        ("train_sft.py", "lora_r=8", "did you mean --lora.rank?"),
        ("train_sft.py", "template=qwen", "did you mean --data.template?"),
        ("train_sft.py", "cutoff_len=1", "did you mean --data.seq_len?"),
        ("chat", "max_length=1", "did you mean --max_new_tokens?"),
        ("chat", "num_beams=4", "answers are drawn here; beams belong to babyllm generate"),
        ("generate", "model=x", "the model's directory is an argument of its own, before the flags"),
        ("serve", "max_model_len=1", "did you mean --context?"),
        ("clean", "output_dir=x", "the output is an argument of its own, after the input and before the flags"),
        ("dedup", "num_perm=128", "did you mean --minhash.permutations?"),
    ],
)
def test_the_names_of_other_tools_are_answered_with_ours(command: str, option: str, answer: str) -> None:
    """An option of another tool is answered with what it is called here, if the command has it."""
    assert mistake(command, f"--{option}") == f"unknown option --{option.partition('=')[0]}: {answer}"


def test_an_answer_names_only_what_the_command_has() -> None:
    """Pretraining has no LoRA, so its message names no key of LoRA but the script that has it."""
    assert mistake("train_pretrain.py", "--lora_alpha=1").endswith(": adapters belong to train_sft.py")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("learning_rate: 1", "did you mean 'plan.peak_lr'?"),
        ("bf16: true", "write 'runtime.dtype: bfloat16'"),
        ("resume_from_checkpoint: x", "the same command with the same 'run_dir' goes on by itself"),
        ("data: {batch_size: 4}", "did you mean 'data.global_batch'?"),
    ],
)
def test_files_are_answered_in_yaml(tmp_path: Path, text: str, answer: str) -> None:
    """A key of another tool in a file is answered as a file is written."""
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    assert mistake("train_pretrain.py", f"--config={file}").endswith(f": {answer}")


@pytest.mark.parametrize(("names", "answers"), TABLE, ids=[names.split()[0] for names, _ in TABLE])
def test_every_answer_is_given_by_some_command(names: str, answers: tuple[Any, ...]) -> None:
    """No answer names a key that has gone, and none is in vain because those before it are always given."""
    left = set(kinds())
    for answer in answers:
        need, text = (None, answer) if isinstance(answer, str) else answer
        givers = {name for name in left if {*named_keys(text), *([need] if need else [])} <= keys(name)}
        assert givers, answer
        left -= givers


def test_no_name_is_answered_twice() -> None:
    """Each name is in one row of the table."""
    assert len(NAMES) == sum(len(names.split()) for names, _ in TABLE)
