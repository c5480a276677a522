"""`babyllm eval --needle.language=zh`: whether a model finds a fact in a long prompt."""

from __future__ import annotations

from babyllm.commands.use.evaluations.flags import Flags
from babyllm.evaluate.needle import needle_table
from babyllm.evaluate.report import Evaluation
from babyllm.loading import load, load_chat_model
from babyllm.runtime import Runtime


def on_needle(flags: Flags, directory: str, runtime: Runtime) -> Evaluation:
    """How often a model finds a fact, by its depth and the length of the prompt."""
    if flags.chat:
        chat = load_chat_model(directory, int8=flags.int8)
        chat.require_template_tokens(directory)
        model, tokenizer, template = chat.model, chat.template.tokenizer, chat.template
    else:
        (model, tokenizer), template = load(directory, int8=flags.int8), None
    return needle_table(
        model.to(runtime.device), tokenizer, runtime, flags.needle, template=template, facts=[("model", directory)]
    )
