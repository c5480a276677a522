"""The description of the served model that requests and answers need: names, limits and vocabulary, no weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import USER, Message, Unusable
from babyllm.chat.session import answer_lead
from babyllm.chat.tools.reasoning import CLOSE, OPEN, Begin
from babyllm.chat.tools.tool_formats import ToolFormat, tool_format_of
from babyllm.loading import ChatModel, load_chat_adapter, load_chat_model, model_directory
from babyllm.model.transformer import Transformer
from babyllm.serve.example_prompts import example_prompts
from babyllm.tokenizer import Tokenizer

THINKING = "enable_thinking"
"""Variable of templates that switches reasoning on or off."""


@dataclass(frozen=True)
class ServedModel:
    """Description of a model without its weights.

    Attributes:
        name: name that clients use.
        tokenizer: the model's tokenizer.
        context: largest number of tokens of a prompt and its answer together.
        vocab_size: number of token ids that the model accepts.
        template: chat template; None if the model has none and the default template does not fit its vocabulary.
        why_no_chat: error message for chat requests if there is no template.
        has_learned_chat: whether a template was stored with the model.
        created: time at which its weights were written, in seconds since 1970.
        aliases: further names that clients may use; "*" stands for every name that no model has.
        parent: name of the base model of an adapter; empty for a whole model.
        examples: prompts that suit the model, for the chat page; empty if none are known.
        width: number of dimensions of its hidden states.
    """

    name: str
    tokenizer: Tokenizer
    context: int
    vocab_size: int
    template: ChatTemplate | None
    why_no_chat: str = ""
    has_learned_chat: bool = True
    created: int = 0
    aliases: tuple[str, ...] = ()
    parent: str = ""
    examples: tuple[str, ...] = ()
    width: int = 0
    _names: dict[int, str] = field(default_factory=dict)
    _thinking: dict[bool, ServedModel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look up the special tokens' names by id."""
        self._names.update({i: name for name, i in self.tokenizer.special.items()})

    def thinking(self, is_on: bool | None) -> ServedModel:
        """The model with reasoning switched on or off; itself for None, or if its template has no switch.

        Args:
            is_on: whether an answer begins with reasoning, as `enable_thinking` of Qwen's templates says.
        """
        if is_on is None or self.template is None or THINKING not in self.template.source:
            return self
        if is_on not in self._thinking:
            template = self.template.setting(THINKING, is_on)
            self._thinking[is_on] = replace(self, template=template, _thinking={})
        return self._thinking[is_on]

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids that end an answer in a chat."""
        return frozenset(self.template.end_ids if self.template else ())

    @cached_property
    def lead(self) -> str:
        """Text that the template puts before an answer; it does not belong to the answer."""
        return answer_lead(self.template) if self.template else ""

    @cached_property
    def begin(self) -> Begin:
        """What an answer in a chat begins with; a template without a mark for reasoning leaves it in the content."""
        if self.template is None or CLOSE not in self.template.source:
            return "content"
        try:
            prompt = self.template.prompt_text([Message(USER, "?")])
        except Unusable:
            return "either"
        return "reasoning" if prompt.rstrip().endswith(OPEN) else "either"

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """How the model writes calls of functions; None if that is not known."""
        return tool_format_of(self.template) if self.template else None

    @cached_property
    def longest_token(self) -> int:
        """Number of bytes of the longest token: a text of n times as many bytes has at least n tokens."""
        return max(1, int(self.tokenizer.byte_lengths().max()))

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of a token; for a special token, those of its name."""
        name = self._names.get(token_id)
        return self.tokenizer.token_bytes(token_id) if name is None else name.encode()


def load_served_model(
    directory: str,
    name: str | None,
    context: int | None,
    int8: bool = False,
    aliases: tuple[str, ...] = (),
) -> tuple[Transformer, ServedModel]:
    """The model of a run, step or Hugging Face directory, and its description.

    Args:
        directory: path of the model.
        name: name that clients use; None takes that of the directory.
        context: largest number of tokens of a prompt and its answer together; None takes the model's.
        int8: whether the weights are stored in 8 bits.
        aliases: further names that clients may use; "*" stands for every name that no model has.

    Raises:
        UserError: a file is missing or does not fit; the message names it.
    """
    found = load_chat_model(directory, int8=int8)
    name = name or Path(directory).resolve().name
    return found.model, _described(found, directory, name, context, aliases)


def load_served_adapter(
    directory: str, name: str, base: Transformer, base_directory: str, parent: ServedModel
) -> tuple[Transformer, ServedModel]:
    """The model of an adapter beside its base, whose weights it shares, and its description.

    Args:
        directory: path of the adapter.
        name: name that clients use.
        base: base in float32.
        base_directory: path that the base was loaded from.
        parent: description of the base.

    Raises:
        UserError: a file is missing or does not fit, or the adapter was trained on another model.
    """
    found = load_chat_adapter(directory, base, base_directory)
    return found.model, replace(_described(found, directory, name, parent.context), parent=parent.name)


def _described(
    found: ChatModel, directory: str, name: str, context: int | None, aliases: tuple[str, ...] = ()
) -> ServedModel:
    why = f"the model has no chat template and its vocabulary lacks {', '.join(found.missing)}; use /v1/completions"
    return ServedModel(
        name=name,
        tokenizer=found.tokenizer,
        context=found.model.config.max_seq_len if context is None else context,
        vocab_size=found.model.config.vocab_size,
        template=None if found.missing else found.template,
        why_no_chat=why if found.missing else "",
        has_learned_chat=found.has_learned,
        aliases=aliases,
        examples=() if found.missing else example_prompts(directory, found.template),
        width=found.model.config.d_model,
        created=int(model_directory(directory).stat().st_mtime),
    )
