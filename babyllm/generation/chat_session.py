"""A chat with a model as text: it remembers the messages and draws one answer after another.

text -> Session -> fitting_prompt -> Engine -> ids -> text, which is added to the Session
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
        engine: engine that decodes with the model; one slot is enough.
        template: chat template that turns the messages into token ids.
        sampling: settings of the draws; each answer of the chat derives its own seed from `seed`.
        session: messages so far.
        n_left_out: number of oldest exchanges that the last prompt left out for lack of room.
    """

    engine: Engine
    template: ChatTemplate
    sampling: Sampling = field(default_factory=Sampling)
    session: Session = field(default_factory=Session)
    n_left_out: int = 0

    def __post_init__(self) -> None:
        """Find the text that the template puts before each answer."""
        self._lead = answer_lead(self.template)
        self._n_drawn = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages so far, as dictionaries with "role" and "content", without the system message."""
        return [{"role": message.role, "content": message.content} for message in self.session.messages]

    def say(self, text: str) -> str:
        """The answer to `text`; both are added to the chat.

        Raises:
            UserError: the message leaves no room in the model's context, or the scores are not numbers. The chat then
                stays unchanged.
        """
        return "".join(self.stream(text))

    def stream(self, text: str) -> Generator[str, None, None]:
        """The answer to `text`, streamed in pieces of whole characters; the drawn part is added to the chat.

        Raises:
            UserError: the message leaves no room in the model's context, or the scores are not numbers. The chat then
                stays unchanged.
        """
        return self._answer(self.session.heard(text))

    def retry(self) -> Generator[str, None, None]:
        """Another answer to the last message, streamed as by `stream`; it replaces the previous answer.

        Raises:
            UserError: there is no answer yet; or as for `stream`.
        """
        session = self.session.retried()
        if session is None:
            raise UserError("there is no answer to give again")
        return self._answer(session)

    def set_system(self, system: str) -> None:
        """Set the system message, which the model reads first; an empty text removes it."""
        self.session = replace(self.session, system=system)

    def reset(self) -> None:
        """Forget all messages except the system message."""
        self.session = replace(self.session, messages=())

    def _answer(self, session: Session) -> Generator[str, None, None]:
        prompt = fitting_prompt(self.template, session, self.engine.context, self.sampling.max_new_tokens)
        self.n_left_out = prompt.n_left_out
        seed = self.sampling.seed
        sampling = replace(self.sampling, seed=None if seed is None else derive_seed(seed, self._n_drawn))
        self._n_drawn += 1
        ids = self.engine.answer(prompt.ids, sampling.after(self._lead), self.template.end_ids)
        return self._kept(session, text_pieces(self.template.tokenizer, ids, sampling.stop, lead=self._lead))

    def _kept(self, session: Session, pieces: Iterator[str]) -> Generator[str, None, None]:
        """The pieces of an answer; it is added to the chat even if the caller stops early, but not if it fails."""
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
