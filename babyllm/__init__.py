"""babyllm: from raw text to a chat model, in pure PyTorch.

    babyllm.pretrain("texts/", run_dir="runs/mine")
    babyllm.finetune("chats.jsonl", run_dir="runs/chat", init_from="runs/mine")
    print(babyllm.load_chat("runs/chat").say("你好"))

    model, tokenizer = babyllm.load("runs/mine")
    print(babyllm.generate(model, tokenizer, "今天"))

Names are imported on first use, so that `import babyllm` is light. No module has the name of a function listed here:
importing such a module would replace the function. `dedup` is a module that can be called. Errors of these functions
name arguments and dotted keys, as written in Python, not flags.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babyllm import evaluate, objectives
    from babyllm.documents import Document
    from babyllm.errors import UserError
    from babyllm.generation import Sampling, generate, stream
    from babyllm.generation.chat_session import ChatSession
    from babyllm.interop.huggingface import save_model
    from babyllm.loading import load
    from babyllm.model.adapt.lora import LoraConfig, add_lora, merge_lora
    from babyllm.model.config import ModelConfig
    from babyllm.model.transformer import Transformer
    from babyllm.notebook import (
        TrainedRun,
        evaluate_model,
        export_model,
        finetune,
        import_model,
        load_chat,
        pretrain,
    )
    from babyllm.prepare.compression import compare_tokenizers
    from babyllm.prepare.tokens import tokenize
    from babyllm.prepare.vocabulary import learn_vocabulary
    from babyllm.runtime import RuntimeConfig
    from babyllm.schedule import Plan
    from babyllm.store.shards import open_tokens
    from babyllm.text.clean.stage import clean
    from babyllm.text.dedup.stage import dedup
    from babyllm.tokenizer import Tokenizer
    from babyllm.training.loop import train
    from babyllm.training.recording.plot import plot_losses
    from babyllm.training.recording.records import read_metrics
    from babyllm.training.stages.fine_tuning_config import FineTuneConfig
    from babyllm.training.stages.pretraining_config import PretrainConfig
    from babyllm.training.state import TrainState

__version__ = "0.1.0"

_HOME = {
    "ChatSession": "babyllm.generation.chat_session",
    "Document": "babyllm.documents",
    "FineTuneConfig": "babyllm.training.stages.fine_tuning_config",
    "LoraConfig": "babyllm.model.adapt.lora",
    "ModelConfig": "babyllm.model.config",
    "Plan": "babyllm.schedule",
    "PretrainConfig": "babyllm.training.stages.pretraining_config",
    "RuntimeConfig": "babyllm.runtime",
    "Sampling": "babyllm.generation",
    "Tokenizer": "babyllm.tokenizer",
    "TrainState": "babyllm.training.state",
    "TrainedRun": "babyllm.notebook",
    "Transformer": "babyllm.model.transformer",
    "UserError": "babyllm.errors",
    "add_lora": "babyllm.model.adapt.lora",
    "clean": "babyllm.text.clean.stage",
    "compare_tokenizers": "babyllm.prepare.compression",
    "dedup": "babyllm.dedup",
    "evaluate": "babyllm.evaluate",
    "evaluate_model": "babyllm.notebook",
    "export_model": "babyllm.notebook",
    "finetune": "babyllm.notebook",
    "generate": "babyllm.generation",
    "import_model": "babyllm.notebook",
    "learn_vocabulary": "babyllm.prepare.vocabulary",
    "load": "babyllm.loading",
    "load_chat": "babyllm.notebook",
    "merge_lora": "babyllm.model.adapt.lora",
    "objectives": "babyllm.objectives",
    "open_tokens": "babyllm.store.shards",
    "plot_losses": "babyllm.training.recording.plot",
    "pretrain": "babyllm.notebook",
    "read_metrics": "babyllm.training.recording.records",
    "save_model": "babyllm.interop.huggingface",
    "stream": "babyllm.generation",
    "tokenize": "babyllm.prepare.tokens",
    "train": "babyllm.training.loop",
}

__all__ = [
    "ChatSession",
    "Document",
    "FineTuneConfig",
    "LoraConfig",
    "ModelConfig",
    "Plan",
    "PretrainConfig",
    "RuntimeConfig",
    "Sampling",
    "Tokenizer",
    "TrainState",
    "TrainedRun",
    "Transformer",
    "UserError",
    "add_lora",
    "clean",
    "compare_tokenizers",
    "dedup",
    "evaluate",
    "evaluate_model",
    "export_model",
    "finetune",
    "generate",
    "import_model",
    "learn_vocabulary",
    "load",
    "load_chat",
    "merge_lora",
    "objectives",
    "open_tokens",
    "plot_losses",
    "pretrain",
    "read_metrics",
    "save_model",
    "stream",
    "tokenize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'babyllm' has no attribute {name!r}")
    home = importlib.import_module(_HOME[name])
    value = home if home.__name__ == f"babyllm.{name}" else getattr(home, name)
    if type(value) is type(__getattr__):
        value = _in_words_of_python(value)
    globals()[name] = value
    return value


def _in_words_of_python(function: Any) -> Any:
    """The same function, with errors that name arguments instead of command-line flags."""
    from babyllm.errors import naming_arguments

    named = naming_arguments()(function)
    named.__module__ = __name__  # where pickle looks for it
    return named


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
