"""What tests of config share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from babyllm import config
from babyllm.errors import UserError


@dataclass(frozen=True)
class AdamOptions:
    betas: tuple[float, float] = (0.9, 0.95)
    fused: bool | None = None


@dataclass(frozen=True)
class ModelOptions:
    """The shape of a model.

    Attributes:
        preset: a named size; 100 % of the other keys
            override its parts.
        n_layers (int): number of layers.
    """

    preset: Literal["tiny", "small"] | None = None
    n_layers: int | None = None
    rope_theta: float = 10_000.0
    adam: AdamOptions = AdamOptions()


@dataclass(frozen=True)
class DataOptions:
    """Where tokens come from.

    Args:
        path: a directory of shards.
    """

    path: str | None = None
    mix: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    sizes: tuple[int, ...] = ()
    sources: str | list[str] = "all"
    lengths: list[int] | None = None


@dataclass(frozen=True)
class Options:
    """A run."""

    run_dir: str = "runs/pretrain"
    steps: int = 10
    peak_lr: float = 1e-3
    warmup: int | float = 0.05
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    compile: bool = False
    batch: int | Literal["auto"] = "auto"
    tag: str | int = "a"
    model: ModelOptions = ModelOptions(rope_theta=5.0)
    data: DataOptions = field(default_factory=DataOptions)


@dataclass(frozen=True)
class NeedsInput:
    input: str
    limit: int = 3


def parse(*argv: str) -> Options:
    return config.parse(Options, argv, prog="train.py", description="Train a model.")


def from_file(folder: Path, text: str) -> Options:
    file = folder / "x.yaml"
    file.write_text(text, encoding="utf-8")
    return parse(f"--config={file}")


def mistake(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)
