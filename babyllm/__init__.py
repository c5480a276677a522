"""babyllm: from raw text to a chat model, in pure PyTorch.

    model, tokenizer = babyllm.load("runs/pretrain")
    print(babyllm.generate(model, tokenizer, "今天"))

Names are imported on first use, so that `import babyllm` is light. No module has the name of a function given here,
because importing it would put the module in the function's place.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babyllm import evaluate, objectives
    from babyllm.errors import UserError
    from babyllm.generation import generate
    from babyllm.loading import load
    from babyllm.model.adapt.lora import add_lora, merge_lora
    from babyllm.model.config import ModelConfig
    from babyllm.model.transformer import Transformer
    from babyllm.schedule import Plan
    from babyllm.tokenizer import Tokenizer
    from babyllm.training.loop import train
    from babyllm.training.state import TrainState

__version__ = "0.1.0"

_HOME = {
    "ModelConfig": "babyllm.model.config",
    "Plan": "babyllm.schedule",
    "Tokenizer": "babyllm.tokenizer",
    "TrainState": "babyllm.training.state",
    "Transformer": "babyllm.model.transformer",
    "UserError": "babyllm.errors",
    "add_lora": "babyllm.model.adapt.lora",
    "evaluate": "babyllm.evaluate",
    "generate": "babyllm.generation",
    "load": "babyllm.loading",
    "merge_lora": "babyllm.model.adapt.lora",
    "objectives": "babyllm.objectives",
    "train": "babyllm.training.loop",
}

__all__ = [
    "ModelConfig",
    "Plan",
    "Tokenizer",
    "TrainState",
    "Transformer",
    "UserError",
    "add_lora",
    "evaluate",
    "generate",
    "load",
    "merge_lora",
    "objectives",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'babyllm' has no attribute {name!r}")
    home = importlib.import_module(_HOME[name])
    value = home if home.__name__ == f"babyllm.{name}" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
