"""A chat that goes on: what is said is kept, answers are drawn one after another, as text.

text -> Session -> fitting_prompt -> Engine -> ids -> text, which joins the Session
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

from babyllm.chat.load import ChatTemplate
from babyllm.chat.session import Session, answer_lead, fitting_prompt
from babyllm.errors import UserError
from babyllm.generation import Engine, Sampling, text_pieces
from babyllm.runtime import derive_seed


@dataclass
class ChatSession:
    """A chat with a model.

    Attributes:
        engine: decodes with the model; one slot is enough.
        template: writes the messages down.
        sampling: how answers are drawn; with a seed, each answer of the chat has draws of its own.
        session: what was said so far.
        n_left_out: the oldest exchanges for which the last prompt had no room.
    """

    engine: Engine
    template: ChatTemplate
    sampling: Sampling = field(default_factory=Sampling)
    session: Session = field(default_factory=Session)
    n_left_out: int = 0

    def __post_init__(self) -> None:
        """Find what stands before each answer."""
        self._lead = answer_lead(self.template)
        self._n_drawn = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was said so far, as {"role", "content"}, without the system message."""
        return [{"role": message.role, "content": message.content} for message in self.session.messages]

    def say(self, text: str) -> str:
        """The answer to `text`; both join the chat.

        Raises:
            UserError: the message leaves no room in the model's context. The chat stays as it was.
        """
        return "".join(self.stream(text))

    def stream(self, text: str) -> Generator[str, None, None]:
        """The answer to `text` in pieces of whole characters as they are drawn; what is drawn joins the chat.

        Raises:
            UserError: the message leaves no room in the model's context. The chat stays as it was.
        """
        return self._answer(self.session.heard(text))

    def retry(self) -> Generator[str, None, None]:
        """Another answer to the last message, in pieces as `stream`; it replaces the one before.

        Raises:
            UserError: nothing was answered yet.
        """
        session = self.session.retried()
        if session is None:
            raise UserError("there is no answer to give again")
        return self._answer(session)

    def set_system(self, system: str) -> None:
        """Let `system` be what the model reads before everything else; an empty text for nothing."""
        self.session = replace(self.session, system=system)

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        self.session = replace(self.session, messages=())

    def _answer(self, session: Session) -> Generator[str, None, None]:
        prompt = fitting_prompt(self.template, session, self.engine.context, self.sampling.max_new_tokens)
        self.n_left_out = prompt.n_left_out
        seed = self.sampling.seed
        sampling = replace(self.sampling, seed=None if seed is None else derive_seed(seed, self._n_drawn))
        self._n_drawn += 1
        ids = self.engine.answer(prompt.ids, sampling, self.template.end_ids)
        return self._kept(session, text_pieces(self.template.tokenizer, ids, sampling.stop, lead=self._lead))

    def _kept(self, session: Session, pieces: Iterator[str]) -> Generator[str, None, None]:
        """The pieces of an answer, which joins the chat also where it is cut short, but not where it fails."""
        said: list[str] = []
        is_failed = False
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
        except UserError:
            is_failed = True
            raise
        finally:
            if not is_failed:
                self.session = session.answered("".join(said))
