"""What the commands that answer a file of records share: their flags, and how they answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from babyllm.chat.formats import FormatConfig
from babyllm.commands import SamplingFlags, note_base_model
from babyllm.config.values import Few
from babyllm.runtime import Runtime, RuntimeConfig
from babyllm.runtime.precision import dtype_name

if TYPE_CHECKING:
    from babyllm.loading import ChatModel
    from babyllm.prediction import Answering

_WINDOW = 128  # answers that are made as a whole: a killed process loses at most so many


@dataclass(frozen=True)
class AnswerFlags(SamplingFlags):
    """Flags of commands that answer a file of records.

    Attributes:
        stop: string, or [several], that ends an answer and is not part of it.
        chat: whether conversations are rendered with the chat template; false continues plain texts; null decides by
            whether the model has a template.
        slots: number of answers that are decoded together.
        format: settings for reading records as conversations.
        int8: whether to store all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    stop: str | list[str] = field(default_factory=list)
    chat: bool | None = None
    slots: Few = 16
    format: FormatConfig = field(default_factory=FormatConfig)
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def answering(flags: AnswerFlags, samples: int, directory: str, runtime: Runtime) -> tuple[Answering, dict[str, Any]]:
    """How records are answered, and the settings that the answers depend on.

    Args:
        flags: flags of the command.
        samples: number of answers to each record.
        directory: directory of the model.
        runtime: device and dtype.

    Raises:
        UserError: the model cannot be read.
    """
    from babyllm.evaluate.tasks.responses import weights_hash
    from babyllm.files import json_digest
    from babyllm.generation import Sampling
    from babyllm.loading import load_chat_model
    from babyllm.prediction import Answering, Asking

    found = load_chat_model(directory, int8=flags.int8)
    asking = Asking(*_rendering(flags, found, directory), flags.format)
    stop = (flags.stop,) if isinstance(flags.stop, str) else tuple(flags.stop)
    sampling = Sampling(**flags.settings(), stop=stop)
    settings = {
        **asdict(sampling),
        "model": weights_hash(found.model),
        "tokenizer": asking.tokenizer.sha256,
        "chat template": json_digest(asking.template.source) if asking.template else "none",
        "samples": samples,
        "slots": flags.slots,
        "format": asdict(flags.format),
        "device": runtime.device.type,
        "dtype": dtype_name(runtime.reading_dtype),
    }
    model, window = found.model.to(runtime.device), max(1, _WINDOW // samples)
    return Answering(model, asking, sampling, samples, flags.slots, window), settings


def _rendering(flags: AnswerFlags, found: ChatModel, directory: str) -> tuple[Any, Any]:
    """The tokenizer, and the chat template or None."""
    if not (found.has_learned if flags.chat is None else flags.chat):
        return found.tokenizer, None
    found.require_template_tokens(directory)
    note_base_model(found, directory)
    template = found.template.allowing(flags.format.allow_special)
    return template.tokenizer, template
