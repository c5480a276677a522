"""Talk to a model in the terminal, or answer the lines of a file, which are one conversation."""

from __future__ import annotations

import io
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from babyllm.commands import SamplingFlags, read_as_chosen
from babyllm.config.values import AnyCount
from babyllm.console import leaving_at_once
from babyllm.errors import UserError
from babyllm.runtime import Runtime, RuntimeConfig, ordinary_signals, start

if TYPE_CHECKING:
    from babyllm.chat.load import ChatTemplate
    from babyllm.generation.chat_session import ChatSession
    from babyllm.model.transformer import Transformer

ARGUMENTS = "RUN_DIR"

HELP = """\
/system TEXT  tell the model this before everything else; without TEXT, nothing
/retry        another answer to the last message
/reset        forget what was said; the system message stays
/help         these lines
/exit         leave, as Ctrl-D does
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer. A space before / makes it a message."""


@dataclass(frozen=True)
class Flags(SamplingFlags):
    """Flags of `babyllm chat`.

    Attributes:
        system: what the model is told first.
        int8: hold all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    system: str = ""
    max_new_tokens: AnyCount = 512
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str) -> None:
    """Answer what the user types until the input ends, or each line of an input that is no terminal."""
    is_terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace" if is_terminal else "strict")
    with start(flags.runtime) as runtime, ordinary_signals(), read_as_chosen(runtime):
        with leaving_at_once():
            chat = _begin(flags, directory, runtime, is_terminal)
        if is_terminal:
            with suppress(ImportError):
                import readline  # noqa: F401  # gives `input` line editing and a history
            _note("/help shows the commands, Ctrl-D leaves")
        for text in _messages(is_terminal):
            if text.strip() == "/exit":
                break
            chat.take(text)


def _begin(flags: Flags, directory: str, runtime: Runtime, is_terminal: bool) -> _Chat:
    from babyllm.chat.session import Session
    from babyllm.generation import Engine, Sampling
    from babyllm.generation.chat_session import ChatSession

    model, template = chat_model(directory, flags.int8)
    model.to(runtime.device)
    sampling = Sampling(**flags.settings())
    return _Chat(ChatSession(Engine(model, slots=1), template, sampling, Session(flags.system)), is_terminal)


def chat_model(directory: str, int8: bool = False) -> tuple[Transformer, ChatTemplate]:
    """The model of a directory and the template of its chats; tells if it was not taught to answer.

    Args:
        directory: of a run, step, Hugging Face model or adapter.
        int8: whether its matrices are held in 8 bits.

    Raises:
        UserError: names the file that is missing or does not fit; or the model does not have the template's tokens.
    """
    from babyllm.loading import load_chat_model

    found = load_chat_model(directory, int8=int8)
    if found.missing:
        lacking = ", ".join(found.missing)
        raise UserError(f"{directory}: its vocabulary lacks {lacking}; fine-tune it with babyllm sft first")
    if not found.has_learned:
        _note(f"{directory} has no chat template: a base model, which was not taught to answer; using chatml")
    return found.model, found.template


@dataclass
class _Chat:
    """A chat in progress."""

    session: ChatSession
    is_terminal: bool
    has_left_out: bool = False

    def take(self, text: str) -> None:
        """Obey a command or answer a message; a mistake is told, and ends the chat only where nobody is there."""
        try:
            if text.startswith("/"):
                self._obey(*text.strip().partition(" ")[::2])
            elif text.strip():
                self._show(self.session.stream(text))
        except UserError as error:
            if not self.is_terminal:
                raise
            _note(str(error))

    def _obey(self, command: str, rest: str) -> None:
        if command == "/system":
            self.session.set_system(rest.strip())
        elif command == "/reset":
            self.session.reset()
        elif command == "/retry":
            self._show(self.session.retry())
        elif command == "/help":
            print(HELP, file=sys.stderr)
        else:
            raise UserError(f"{command}: no such command; /help shows them")

    def _show(self, answer: Generator[str, None, None]) -> None:
        """Print an answer as it is drawn; Ctrl-C cuts it short."""
        if self.session.n_left_out and not self.has_left_out:
            self.has_left_out = True
            context = self.session.engine.context
            _note(f"the chat is longer than the model's context of {context} tokens: the oldest part is left out now")
        try:
            with closing(answer):
                for piece in answer:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
        print(flush=True)


def _messages(is_terminal: bool) -> Iterator[str]:
    """What the user types, lines that end with a backslash joined to the next, until the input ends."""
    lines: list[str] = []
    mark = "\ufeff"  # some editors put it at the beginning of a file
    while True:
        try:
            line = input(("... " if lines else "> ") if is_terminal else "").removeprefix(mark)
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print()
            lines = []
            continue
        except EOFError:
            break
        except UnicodeDecodeError as error:
            raise UserError(
                f"the input is not {error.encoding} text: save it so, or name its encoding in PYTHONIOENCODING"
            ) from None
        mark = ""
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield "\n".join(lines)
            lines = []
    if is_terminal:
        print()
    elif lines:
        yield "\n".join(lines)


def _note(text: str) -> None:
    """Tell the user something that the model does not say."""
    print(f"({text})", file=sys.stderr, flush=True)
