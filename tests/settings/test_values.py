"""Values of configurations: what cannot be is refused by its key, and paths mean what they mean in a shell."""

import math
import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from babyllm.__main__ import COMMANDS, STAGES, module_of, run
from babyllm.config import command_line as config
from babyllm.config.values import PATH, Limits, check, is_path
from babyllm.data.conversation_config import ConversationConfig
from babyllm.data.token_config import DataConfig
from babyllm.errors import UserError
from babyllm.loading import model_directory
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.fine_tuning_config import FineTuneConfig
from babyllm.training.stages.policy.grpo_config import GrpoConfig
from babyllm.training.stages.policy.ppo_config import PpoConfig
from babyllm.training.stages.preference.classifier_config import ClassifierConfig
from babyllm.training.stages.preference.dpo_config import DpoConfig
from babyllm.training.stages.preference.reward_config import RewardConfig
from babyllm.training.stages.pretraining_config import PretrainConfig


@cache
def kinds() -> dict[str, Any]:
    """The configurations of all commands and scripts."""
    modules = [import_module(module_of(name)) for name in COMMANDS if name not in STAGES]
    flags = {module.__name__: module.Flags for module in modules}
    stages = {
        "reward": RewardConfig,
        "classifier": ClassifierConfig,
        "dpo": DpoConfig,
        "ppo": PpoConfig,
        "grpo": GrpoConfig,
    }
    return {"pretrain": PretrainConfig, "sft": FineTuneConfig} | stages | flags


def parse(kind: Any, *argv: str) -> Any:
    return config.parse(kind, argv, prog="x")


def mistake(kind: Any, *argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(kind, *argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fields_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its type and what marks it."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if is_dataclass(get_type_hints(kind)[field.name]):
            yield from fields_of(get_type_hints(kind)[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


def parts(hint: Any) -> Iterator[Any]:
    """A type and all that is in it; what is marked with limits is one part."""
    yield hint
    if not any(isinstance(mark, Limits) for mark in getattr(hint, "__metadata__", ())):
        for part in get_args(hint):
            yield from parts(part)


# ---- numbers


@pytest.mark.parametrize("name", kinds())
def test_every_number_has_limits(name: str) -> None:
    """A new key that takes a number says which numbers it takes."""
    bounds = ("shares.", "weights", "data.mix", "data.stages")  # are checked by what they are compared with
    bare = [key for key, hint in fields_of(kinds()[name]) if {int, float} & set(map(_plain, parts(hint)))]
    assert [key for key in bare if not any(word in key for word in bounds)] == []


def _plain(hint: Any) -> Any:
    return hint if isinstance(hint, type) else None


@pytest.mark.parametrize(
    ("flag", "demand"),
    [
        ("plan.peak_lr=-1", "plan.peak_lr=-1.0: must be at least 0"),
        ("plan.peak_lr=.nan", "plan.peak_lr=nan: must be a finite number"),
        ("plan.peak_lr=1e400", "plan.peak_lr=inf: must be a finite number"),
        ("plan.min_lr=-.inf", "plan.min_lr=-inf: must be a finite number"),
        ("plan.warmup=1.5", "plan.warmup=1.5: must be at most 1"),
        ("plan.warmup=-1", "plan.warmup=-1: must be at least 0"),
        ("plan.steps=0", "plan.steps=0: must be at least 1"),
        ("plan.steps=99999999999999999999", "plan.steps=99999999999999999999: must be at most 9,007,199,254,740,992"),
        ("plan.epochs=0", "plan.epochs=0.0: must be above 0"),
        ("plan.clip_norm=.nan", "plan.clip_norm=nan: must be a finite number"),
        ("plan.seed=9223372036854775808", "plan.seed=9223372036854775808: must be at most 9,223,372,036,854,775,807"),
        ("optim.beta1=1", "optim.beta1=1.0: must be below 1"),
        ("optim.eps=0", "optim.eps=0.0: must be above 0"),
        ("optim.weight_decay=-0.1", "optim.weight_decay=-0.1: must be at least 0"),
        ("model.dropout=1", "model.dropout=1.0: must be below 1"),
        ("model.n_layers=1000000000", "model.n_layers=1000000000: must be at most 10,000"),
        ("data.seq_len=1000000000", "data.seq_len=1000000000: must be at most 1,048,576"),
        ("data.global_batch=1000000000", "data.global_batch=1000000000: must be at most 1,048,576"),
        ("data.micro_batch=0", "data.micro_batch=0: must be at least 1"),
        ("data.eval_tokens=0", "data.eval_tokens=0: must be at least 1"),
        ("log_every=-1", "log_every=-1: must be at least 0"),
        ("eval_every=-1", "eval_every=-1: must be at least 0"),
        ("save_every=-1", "save_every=-1: must be at least 0"),
        ("keep=-1", "keep=-1: must be at least 1"),
        ("early_stop=-1", "early_stop=-1: must be at least 0"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_its_key(flag: str, demand: str) -> None:
    """The message says which key has which number and what it has to be."""
    assert mistake(PretrainConfig, f"--{flag}") == demand


def test_a_stored_configuration_is_checked_too(tmp_path: Path) -> None:
    """What a file says is held to the same limits."""
    (tmp_path / "x.yaml").write_text("optim: {beta2: 1.0}", encoding="utf-8")
    with pytest.raises(UserError, match=r"^optim\.beta2=1\.0: must be below 1$"):
        config.load(FineTuneConfig, tmp_path / "x.yaml")


def test_all_defaults_are_within_their_limits() -> None:
    """Whatever is not given is all right."""
    for kind in kinds().values():
        check(parse(kind, *(["--tokenizer=x"] if "tokenizer" in config.keys(kind) else [])))


# ---- paths


def test_home_directories_expand_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` means the home directory on a flag, in a list and in a file; `$` and `~` inside a path mean nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "x.yaml"
    file.write_text("data: {path: ~/a, held_out_path: [~/b, $HOME/c, d~]}", encoding="utf-8")
    found = parse(FineTuneConfig, "--config=~/x.yaml", "--run_dir=~/runs", "--init_from=~/m", "--data.replay=null")
    assert (found.run_dir, found.init_from, found.data.replay) == (f"{tmp_path}/runs", f"{tmp_path}/m", None)
    assert found.data.path == f"{tmp_path}/a"
    assert found.data.held_out_path == [f"{tmp_path}/b", "$HOME/c", "d~"]
    assert parse(FineTuneConfig, "--run_dir=~", "--init_from=~/m").run_dir == str(tmp_path)
    assert parse(FineTuneConfig, "--data.path=[~/a, b]").data.path == [f"{tmp_path}/a", "b"]


@pytest.mark.parametrize("name", kinds())
def test_every_path_is_declared_as_one(name: str) -> None:
    """A key whose name or text says that it is a path is marked as such."""
    words = ("path", "dir", "file", "run_dir", "init_from", "template", "tokenizer", "replay", "model", "feedback")
    texts = {
        key: hint for key, hint in fields_of(kinds()[name]) if str in parts(hint) and not key.endswith("endpoint.model")
    }
    unmarked = [key for key in texts if not is_path(texts[key]) and key.rpartition(".")[2] in words]
    assert unmarked == []
    assert PATH == "path"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--run_dir=", "--run_dir is empty: give a path"),
        ("--run_dir= ", "--run_dir is empty: give a path"),
        ("--config=", "--config is empty: give a path"),
        ("--init_from=", "--init_from is empty: give a path"),
        ("--data.path=", "--data.path is empty: give a path"),
        ("--data.held_out_path=['']", "--data.held_out_path is empty: give a path"),
    ],
)
def test_an_empty_path_is_refused(flag: str, message: str) -> None:
    """An empty path, which would be the current directory, is a mistake."""
    assert mistake(FineTuneConfig, flag) == message


def test_empty_text_stands_for_no_path_where_it_is_the_default() -> None:
    """A filter without a model is asked for as it is by default."""
    clean = import_module("babyllm.commands.corpus.clean")
    assert parse(clean.Flags, "--quality.model=").quality.model == ""


def test_arguments_of_commands_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a quoted argument is the home directory, and an empty one is refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=rf"^{tmp_path}/nothing: no such file or directory$"):
        run(["inspect", "~/nothing"])
    with pytest.raises(UserError, match=r"^DIR_OR_FILE is empty: give a path$"):
        run(["inspect", ""])


# ---- files that are not configurations


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: " * 2000, "not valid YAML"),
        (b"[" * 5000, "not valid YAML: more than 20 lists and sections within each other"),
        (b"{a: " * 5000, "not valid YAML: more than 20 lists and sections within each other"),
        (b"x" * (1 << 20) + b"x", "larger than 1 MiB, so not a configuration file"),
        (b"\x80\x04\x95", "a configuration file is UTF-8 text, this is something else"),
        (b"keep: !!python/object/apply:os.system ['true']", "'keep' expects int, not ['true']"),
        (b"keep: [1, 2]", "'keep' expects int, not ['1', '2']"),
        (b"keep: .nan", "'keep' expects int, not '.nan'"),
        (b'run_dir: "a\\0b"', "'run_dir' holds a NUL character, which no path can"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Deep nesting, size, other bytes and tags end in one line that names the file."""
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    told = mistake(PretrainConfig, f"--config={file}")
    assert told.startswith(f"{file}: {message}") or told.startswith(f"{file}:1: {message}")


SCALARS = (
    *("", "~", "null", "true", "0", "-1", "1", "1e3", "0.5", "-0.5", "nan", ".nan", "inf", "-.inf", "1e400", "0x10"),
    *("1_000", "9" * 25, "9" * 5000, "auto", "cuda", "今天", "a: b", "[]", "{}", "[1]", "[[1]]", "{a: 1}", "{1: {}}"),
    *("!!int ''", "!x y", "*a", "&a 1", "'", '"\\ud800"', "- 1", "? x", "|", ">\n a", "\t", "\x00", "[" * 400),
)


@pytest.mark.parametrize("seed", range(6))
def test_no_configuration_ends_in_a_traceback(tmp_path: Path, seed: int) -> None:
    """Any mixture of keys and values is a configuration within its limits or a one-line mistake."""
    rng = random.Random(seed)
    for number in range(60):
        kind = rng.choice(list(kinds().values()))
        keys = [*config.keys(kind), "nothing", "data", "run_dir.x"]
        chosen = [(rng.choice(keys), rng.choice(SCALARS)) for _ in range(rng.choice((1, 1, 2, 3)))]
        argv = [f"--{key}={value}" for key, value in chosen]
        if number % 2:
            file = tmp_path / "x.yaml"
            file.write_text("\n".join(f"{key}: {value}" for key, value in chosen), encoding="utf-8", newline="")
            argv = [f"--config={file}"]
        try:
            found = parse(kind, *argv)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        else:
            check(found)
            assert config.dump(found)
            assert not any(isinstance(v, float) and math.isnan(v) for v in vars(found).values())


def test_python_may_write_home_directories_as_a_shell_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a configuration, a model's or a tokenizer's path that Python code passes is the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    made = PretrainConfig(run_dir="~/run", init_from="~/model", data=DataConfig(path="~/tokens"))
    assert (made.run_dir, made.init_from, made.data.path) == tuple(
        f"{tmp_path}/{name}" for name in ("run", "model", "tokens")
    )
    tuned = FineTuneConfig(run_dir="~/run", data=ConversationConfig(path=["~/a", "b"]))
    assert (tuned.run_dir, tuned.data.path) == (f"{tmp_path}/run", [f"{tmp_path}/a", "b"])
    for read in (model_directory, Tokenizer.load):
        with pytest.raises(UserError, match=f"{tmp_path}/nowhere"):
            read("~/nowhere")
