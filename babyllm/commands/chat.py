"""Talk to a model in the terminal, or answer the lines of a file, which are one conversation."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from babyllm.commands import note, note_base_model, read_as_chosen
from babyllm.config.values import AnyCount, Positive, Rate, Seed, Share
from babyllm.console import leaving_at_once
from babyllm.errors import UserError
from babyllm.runtime import Runtime, RuntimeConfig, derive_seed, ordinary_signals, start

if TYPE_CHECKING:
    from babyllm.chat.load import ChatTemplate
    from babyllm.chat.session import Session
    from babyllm.generation import Engine

ARGUMENTS = "RUN_DIR"

HELP = """\
/system TEXT  tell the model this before everything else; without TEXT, nothing
/retry        another answer to the last message
/reset        forget what was said; the system message stays
/help         these lines
/exit         leave, as Ctrl-D does
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer. A space before / makes it a message."""


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm chat`.

    Attributes:
        system: what the model is told first.
        max_new_tokens: at most this many in an answer.
        temperature: 0 takes the most probable token each time.
        top_k: keep this many of the most probable tokens; 0 and null keep all.
        top_p: keep the fewest most probable tokens that hold this probability.
        min_p: keep tokens at least this many times as probable as the most probable one.
        repetition_penalty: above 1 makes what was already said less probable.
        seed: of the draws; null draws differently each time.
        int8: hold all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    system: str = ""
    max_new_tokens: AnyCount = 512
    temperature: Rate = 0.8
    top_k: AnyCount | None = 50
    top_p: Share | None = None
    min_p: Share | None = None
    repetition_penalty: Positive = 1.0
    seed: Seed | None = None
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
            note("/help shows the commands, Ctrl-D leaves")
        for text in _messages(is_terminal):
            if text.strip() == "/exit":
                break
            chat.take(text)


def _begin(flags: Flags, directory: str, runtime: Runtime, is_terminal: bool) -> _Chat:
    from babyllm.chat.session import Session, answer_lead
    from babyllm.generation import Engine
    from babyllm.loading import load_chat_model

    found = load_chat_model(directory, int8=flags.int8)
    found.require_template_tokens(directory)
    note_base_model(found, directory)
    engine, lead = Engine(found.model.to(runtime.device), slots=1), answer_lead(found.template)
    return _Chat(flags, engine, found.template, is_terminal, Session(flags.system), lead)


@dataclass
class _Chat:
    """A chat in progress."""

    flags: Flags
    engine: Engine
    template: ChatTemplate
    is_terminal: bool
    session: Session
    lead: str
    n_drawn: int = 0
    has_left_out: bool = False

    def take(self, text: str) -> None:
        """Obey a command or answer a message; a mistake is told, and ends the chat only where nobody is there."""
        before = self.session
        try:
            if text.startswith("/"):
                self._obey(*text.strip().partition(" ")[::2])
            elif text.strip():
                self.session = before.heard(text)
                self._answer()
        except UserError as error:
            if not self.is_terminal:
                raise
            self.session = before
            note(str(error))

    def _obey(self, command: str, rest: str) -> None:
        if command == "/system":
            self.session = replace(self.session, system=rest.strip())
        elif command == "/reset":
            self.session = replace(self.session, messages=())
        elif command == "/retry":
            session = self.session.retried()
            if session is None:
                raise UserError("there is no answer to give again")
            self.session = session
            self._answer()
        elif command == "/help":
            print(HELP, file=sys.stderr)
        else:
            raise UserError(f"{command}: no such command; /help shows them")

    def _answer(self) -> None:
        """Print the answer as it is drawn and add it to the chat, also where Ctrl-C cuts it short."""
        from babyllm.chat.session import fitting_prompt
        from babyllm.generation import Sampling, text_pieces

        flags, context = self.flags, self.engine.context
        prompt = fitting_prompt(self.template, self.session, context, flags.max_new_tokens)
        if prompt.n_left_out and not self.has_left_out:
            self.has_left_out = True
            note(f"the chat is longer than the model's context of {context} tokens: the oldest part is left out now")
        sampling = Sampling(
            max_new_tokens=flags.max_new_tokens,
            temperature=flags.temperature,
            top_k=flags.top_k,
            top_p=flags.top_p,
            min_p=flags.min_p,
            repetition_penalty=flags.repetition_penalty,
            seed=None if flags.seed is None else derive_seed(flags.seed, self.n_drawn),
        )
        ids = self.engine.answer(prompt.ids, sampling, self.template.end_ids)
        self.n_drawn += 1
        pieces: list[str] = []
        try:
            for piece in text_pieces(self.template.tokenizer, ids, lead=self.lead):
                print(piece, end="", flush=True)
                pieces.append(piece)
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
        print(flush=True)
        self.session = self.session.answered("".join(pieces))


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
