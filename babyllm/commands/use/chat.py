"""Chat with a model in the terminal, or have it answer the lines of a file as one conversation."""

from __future__ import annotations

import io
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from babyllm.commands import SamplingFlags, note, note_base_model, read_as_chosen
from babyllm.config.values import AnyCount, Few
from babyllm.console import leaving_at_once
from babyllm.errors import UserError
from babyllm.runtime import Runtime, RuntimeConfig, ordinary_signals, start

if TYPE_CHECKING:
    from babyllm.generation.chat_session import ChatSession

ARGUMENTS = "RUN_DIR"

HELP = """\
/system TEXT  the text that the model reads before everything else; without TEXT, none
/retry        another answer to the last message, or n others
/reset        forget what was said; the system message stays
/help         these lines
/exit         leave, as Ctrl-D does
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer. A space before / makes it a message."""


@dataclass(frozen=True)
class Flags(SamplingFlags):
    """Flags of `babyllm chat`.

    Attributes:
        system: system message, which the model reads first.
        n: number of answers to each message. The person chooses the one that the chat goes on with; without a terminal
            it is the first.
        int8: whether to store all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    system: str = ""
    max_new_tokens: AnyCount = 512
    n: Few = 1
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str) -> None:
    """Answer the user's messages until the input ends; without a terminal, each line of the input is a message."""
    is_terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace" if is_terminal else "strict")
    with start(flags.runtime) as runtime, ordinary_signals(), read_as_chosen(runtime):
        with leaving_at_once():
            chat = _begin(flags, directory, runtime, is_terminal)
        if is_terminal:
            with suppress(ImportError):
                import readline  # noqa: F401  # `input` then has line editing and a history
            note("/help shows the commands, Ctrl-D leaves")
        elif flags.n > 1:
            note("without a terminal, the chat goes on with the first answer to each message")
        for text in _messages(is_terminal):
            if text.strip() == "/exit":
                break
            chat.take(text)


def _begin(flags: Flags, directory: str, runtime: Runtime, is_terminal: bool) -> _Chat:
    from babyllm.chat.session import Session
    from babyllm.generation import Engine, Sampling
    from babyllm.generation.chat_session import ChatSession
    from babyllm.loading import load_chat_model

    found = load_chat_model(directory, int8=flags.int8)
    found.require_template_tokens(directory)
    note_base_model(found, directory)
    engine = Engine(found.model.to(runtime.device), slots=1, tokenizer=found.tokenizer)
    session = ChatSession(engine, found.template, Sampling(**flags.settings()), Session(flags.system))
    return _Chat(session, flags.n, is_terminal)


@dataclass
class _Chat:
    """A chat in progress."""

    session: ChatSession
    n: int
    is_terminal: bool
    has_left_out: bool = False

    def take(self, text: str) -> None:
        """Run a command or answer a message; a user's error ends the chat only if the input is not a terminal."""
        try:
            if text.startswith("/"):
                self._obey(*text.strip().partition(" ")[::2])
            elif text.strip():
                self._answer(self.session.stream(text))
        except UserError as error:
            if not self.is_terminal:
                raise
            note(str(error))

    def _obey(self, command: str, rest: str) -> None:
        if command == "/system":
            self.session.set_system(rest.strip())
        elif command == "/reset":
            self.session.reset()
        elif command == "/retry":
            self._answer(self.session.retry())
        elif command == "/help":
            print(HELP, file=sys.stderr)
        else:
            raise UserError(f"{command}: no such command; /help shows them")

    def _answer(self, first: Generator[str, None, None]) -> None:
        """Show the answers to a message, with numbers if there are several, and go on with the chosen one."""
        if self.n == 1:
            self._show(first)
            return
        chats = []
        for i in range(self.n):
            print(f"[{i + 1}] ", end="", flush=True)
            self._show(self.session.retry() if i else first)
            chats.append(self.session.session)
        self.session.session = chats[self._choice() - 1]

    def _choice(self) -> int:
        """The number of the answer that the person chooses; the first without a terminal or a number."""
        while self.is_terminal:
            try:
                line = input(f"go on with [1-{self.n}, Enter for 1] ").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                break
            if not line:
                break
            if line.isdecimal() and 1 <= int(line) <= self.n:
                return int(line)
            note(f"{line}: not one of the numbers 1 to {self.n}")
        return 1

    def _show(self, answer: Generator[str, None, None]) -> None:
        """Print an answer as it is drawn; Ctrl-C cuts it short."""
        if self.session.n_left_out and not self.has_left_out:
            self.has_left_out = True
            context = self.session.engine.context
            note(f"the chat is longer than the model's context of {context} tokens: the oldest part is left out now")
        try:
            with closing(answer):
                for piece in answer:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
        print(flush=True)


def _messages(is_terminal: bool) -> Iterator[str]:
    """The user's messages until the input ends; a line that ends with a backslash continues in the next line."""
    lines: list[str] = []
    mark = "\ufeff"  # a byte order mark, which some editors write at the beginning of a file
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
                f"the input is not {error.encoding} text: save it in that encoding, or name its own in PYTHONIOENCODING"
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
