"""Rendering of a conversation as token ids, with the ids that are trained on.

    messages -> Jinja -> text with placeholders for the messages' contents -+-> special ids, by name
                                                                            +-> plain text -> encode
             -> the assistant's text, in {% generation %} -> turns

Only the template's own text can become a special id. What a message says is plain text, whatever it looks like. Ids
are not searched for afterwards, since the origin of each is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.jinja.places import SAMPLES, Given, Shape, filled, given_of, last_place, variants
from babyllm.chat.jinja.sandbox import within_budget
from babyllm.chat.jinja.syntax import MARKS, any_of, compiled, fields_taken, is_marked
from babyllm.chat.jinja.template_pieces import Piece, planned
from babyllm.chat.messages import Message, Unusable
from babyllm.chat.supervise import Supervise, message_weights
from babyllm.errors import UserError
from babyllm.tokenizer import ROLES, Tokenizer

CACHED_CHARACTERS = 32  # longest text whose ids are cached: such texts, a header for one, recur often


class Rendered(NamedTuple):
    """A conversation as ids.

    Attributes:
        ids: (L,) int32 token ids.
        turns: (L,) int32, the number of the supervised turn that each id belongs to, from 1; 0 for an id that is not
            trained on.
    """

    ids: NDArray[np.int32]
    turns: NDArray[np.int32]


class ChatTemplate:
    """A Jinja template and the tokenizer with its special tokens. Can be pickled and sent to worker processes.

    Attributes:
        source: the Jinja text, as `tokenizer_config.json` stores it.
        tokenizer: the tokenizer; its special tokens take effect in the template's text.
        is_marked: whether the template has `{% generation %}` around answers, which training needs.
        has_calls: whether the template has a field for calls of tools; if not, they are spelled out in contents.
        end_ids: ids that end an answer: the template's end token and eos.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, where: str = "the chat template", allow_special: Sequence[str] = ()
    ) -> None:
        """Compile a template.

        Args:
            source: the Jinja text.
            tokenizer: a tokenizer with all special tokens that the template spells out.
            where: the name of the template in messages.
            allow_special: special tokens of the tokenizer that take effect in contents too.

        Raises:
            UserError: the template has a syntax error or refuses an exchange between user and assistant, or the
                tokenizer lacks a token.
        """
        self.source, self.tokenizer, self._where = source, tokenizer, where
        if MARKS.search(source):
            raise UserError(
                f"{where}: holds private-use characters of plane 16, which are reserved as marks; leave them out"
            )
        self._jinja = compiled(source, where)
        self.is_marked = is_marked(source, where)
        self._taken = fields_taken(source, where)
        self.has_calls = self._taken.calls
        names = {i: name for name, i in tokenizer.special.items()}
        ids = {role: getattr(tokenizer, f"{role}_id") for role in ROLES}
        self._tokens = {f"{role}_token": names[i] for role, i in ids.items() if i in names}
        self._border = any_of([MARKS.pattern], tokenizer.special)
        self._allowed = tuple(allow_special)
        if unknown := [name for name in allow_special if name not in tokenizer.special]:
            raise UserError(f"allow_special: {unknown[0]!r} is not a special token of the vocabulary; leave it out")
        self._marker = any_of([], allow_special) if allow_special else None
        self._short = lru_cache(4096)(tokenizer.encode)
        self._plan = lru_cache(512)(self._uncached_plan)
        self.end_ids = self._find_end_ids()

    def __reduce__(self) -> tuple[object, ...]:
        return ChatTemplate, (self.source, self.tokenizer, self._where, self._allowed)

    def allowing(self, names: Sequence[str]) -> ChatTemplate:
        """The same template, with these special tokens taking effect in contents too.

        Raises:
            UserError: the tokenizer lacks one.
        """
        return ChatTemplate(self.source, self.tokenizer, self._where, names) if names else self

    def setting(self, name: str, value: bool) -> ChatTemplate:
        """The same template, in which a variable that it reads is true or false."""
        source = f"{{%- set {name} = {str(value).lower()} %}}{self.source}"
        return ChatTemplate(source, self.tokenizer, self._where, self._allowed)

    def render(self, messages: Sequence[Message], supervise: Supervise = Supervise()) -> Rendered:  # noqa: B008  # frozen
        """The ids of a conversation, and which of them are trained on.

        In a supervised answer these are the ids inside `{% generation %}`: the content and the end token. In a
        supervised message of another role they are the content and the special token directly after it, if there is
        one.

        Args:
            messages: the messages of the conversation.
            supervise: which messages are trained on.

        Returns:
            Ids (L,) and turns (L,), both int32.

        Raises:
            Unusable: the template refuses these messages or changes what they say.
            UserError: the template does not mark answers.
        """
        self.require_marks()
        return self._render(messages, message_weights(messages, supervise), add_generation_prompt=False)

    def require_marks(self) -> None:
        """Refuse a template that training cannot use.

        Raises:
            UserError: it does not mark answers.
        """
        if not self.is_marked:
            raise UserError(
                f"{self._where}: has no {{% generation %}} ... {{% endgeneration %}} around what the assistant says "
                "and its end token; add them, or name the built-in template that writes the same with "
                "--data.template=chatml, llama3, ... and --data.default_system"
            )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation up to the beginning of the assistant's next answer.

        Raises:
            Unusable: the template refuses these messages or changes what they say.
        """
        ids: list[int] = self._render(messages, [0] * len(messages), add_generation_prompt=True).ids.tolist()
        return ids

    def transcript(self, messages: Sequence[Message], is_open: bool = False) -> list[int]:
        """The ids of a conversation as it is, without the beginning of another answer.

        Args:
            messages: the messages of the conversation.
            is_open: whether they end with the last message's text (`last_place`), which can then be continued.

        Raises:
            Unusable: as for `prompt`.
        """
        ids: list[int] = self._render(messages, [0] * len(messages), False, is_open).ids.tolist()
        return ids

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The text of a conversation up to the beginning of the assistant's next answer, special tokens by name.

        Raises:
            Unusable: the template refuses these messages.
        """
        given = given_of(messages, [0] * len(messages), self._taken)
        return MARKS.sub("", self._jinja_text(given.shape, given.contents, add_generation_prompt=True))

    def _render(
        self, messages: Sequence[Message], weights: Sequence[int], add_generation_prompt: bool, is_open: bool = False
    ) -> Rendered:
        given = given_of(messages, weights, self._taken)
        rendered = self._jinja_text(given.shape, given.contents, add_generation_prompt)
        # A template that shows the date is not cached, since the date may change; calls hardly ever recur.
        is_cached = "strftime_now" not in self.source and not given.shape.calls
        marked, pieces = (self._plan if is_cached else self._uncached_plan)(given.shape, add_generation_prompt)
        printed = next((texts for texts in variants(given) if filled(marked, texts) == rendered), None)
        if printed is None:
            raise Unusable("the template changes the messages' text")
        given = given._replace(contents=printed)
        if is_open:
            pieces, given = _without_end(pieces, given, messages[-1])
        try:
            return self._encode(pieces, given)
        except UserError as error:  # no valid Unicode
            raise Unusable(str(error)) from None

    def _jinja_text(
        self, shape: Shape, contents: Sequence[str], add_generation_prompt: bool, say: Callable[[str], str] = str
    ) -> str:
        try:
            messages, tools = shape.messages(contents, say), shape.offered(say)
            return within_budget(
                lambda: self._jinja.render(
                    messages=messages,
                    tools=tools,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    **self._tokens,
                ),
                len(messages),
                sum(map(len, contents)) + shape.n_characters,
            )
        except Unusable:
            raise
        except Exception as error:  # a template's expressions can raise anything
            raise Unusable(f"the template refuses it: {error}") from None

    def _uncached_plan(self, shape: Shape, add_generation_prompt: bool) -> tuple[str, list[Piece]]:
        """The rendering of messages of this shape, with placeholders for their texts: as text and as segments."""

        def render(contents: Sequence[str], say: Callable[[str], str]) -> str:
            return self._jinja_text(shape, contents, add_generation_prompt, say)

        return planned(shape, self._border, self.tokenizer.special, self.is_marked, render)

    def _encode(self, pieces: Sequence[Piece], given: Given) -> Rendered:
        """The ids of the segments.

        Neighbouring texts are encoded together, up to a special token, the border of a block or that of a turn.
        """
        weights = given.weights
        ids: list[int] = []
        run_turns: list[int] = []
        run_lengths: list[int] = []
        numbers: dict[int, int] = {}
        text = ""
        border: tuple[int, int | None] = (0, None)
        said: int | None = None

        def put(new: Sequence[int], message: int | None) -> None:
            if new:
                ids.extend(new)
                run_turns.append(0 if message is None else numbers.setdefault(message, len(numbers) + 1))
                run_lengths.append(len(new))

        for piece in pieces:
            message = piece.message if piece.message is not None and weights[piece.message] else None
            if piece.special is not None or (piece.block, message) != border:
                put(self._ids(text), border[1])
                text, border = "", (piece.block, message)
            if piece.special is not None:
                # The end token of a message whose end was cut off is not trained on.
                is_end = message is None or message != said or not given.cut[message]
                put((piece.special,), message if is_end else None)
                continue
            if piece.content is None:
                text += piece.text
                continue
            said, content = piece.message, given.contents[piece.content]
            if self._marker:
                *parts, content = self._marker.split(content)
                for before, marker in zip(parts[::2], parts[1::2], strict=True):
                    put(self._ids(text + before), message)
                    put((self.tokenizer.special[marker],), message)
                    text = ""
            text += content
        put(self._ids(text), border[1])
        turns = np.repeat(np.array(run_turns, dtype=np.int32), np.array(run_lengths, dtype=np.int64))
        return Rendered(np.array(ids, dtype=np.int32), turns)

    def _ids(self, text: str) -> Sequence[int]:
        if not text:
            return ()  # some tokenizers add a prefix even to an empty text
        return self._short(text) if len(text) <= CACHED_CHARACTERS else self.tokenizer.encode(text)

    def answer_header(self) -> list[int]:
        """The shortest context of an answer: the ids before it that depend on no message, at least one.

        They are the begin token, if conversations of this template begin with it, and what the template writes to ask
        for an answer, such as `<|im_start|>assistant` and a line break. If a template writes neither, it is the token
        before every document in training (`Tokenizer.begin_id`).
        """
        for messages in SAMPLES:
            shape = Shape(tuple(message.role for message in messages[:-1]))
            with suppress(Unusable):
                given, pieces = self._plan(shape, False)
                asked, _ = self._plan(shape, True)
                same = next(
                    (i for i, pair in enumerate(zip(given, asked, strict=False)) if len({*pair}) > 1), len(given)
                )
                parts = self._border.split(asked[same:])
                named = [(part, self.tokenizer.special.get(part)) for part in parts if not MARKS.match(part)]
                ids = [i for part, special in named for i in (self._ids(part) if special is None else (special,))]
                first = pieces[0].special if pieces else None
                begin = [first] if first is not None and first == self.tokenizer.bos_id else []
                return [*(begin if ids[:1] != begin else []), *ids] or [self.tokenizer.begin_id]
        return [self.tokenizer.begin_id]

    def special_ids(self) -> list[int]:
        """Ids of the special tokens of an ordinary exchange, and of those that contents may hold."""
        found: set[int] = set()
        for messages in SAMPLES:
            with suppress(Unusable):
                _, pieces = self._plan(Shape(tuple(message.role for message in messages)), False)
                found |= {piece.special for piece in pieces if piece.special is not None}
        return sorted(found | {self.tokenizer.special[name] for name in self._allowed})

    def _find_end_ids(self) -> list[int]:
        """The special id at the end of a sample answer, and eos."""
        reason = ""
        for messages in SAMPLES:
            try:
                ids, turns = self._render(messages, [*[0] * (len(messages) - 1), 1], add_generation_prompt=False)
            except Unusable as error:
                reason = str(error)
                continue
            if self.is_marked and not turns.any():
                raise UserError(f"{self._where}: its {{% generation %}} does not hold what the assistant says")
            special = set(self.tokenizer.special.values())
            answer = [int(i) for i in ids[turns > 0]]
            while answer and answer[-1] not in special and self.tokenizer.token_bytes(answer[-1]).isspace():
                answer.pop()
            ends = [i for i in answer[-1:] if i in special]
            return list(dict.fromkeys([*ends, self.tokenizer.eos_id]))
        raise UserError(f"{self._where}: cannot render an exchange between user and assistant: {reason}")


def _without_end(pieces: list[Piece], given: Given, last: Message) -> tuple[list[Piece], Given]:
    """The segments up to the end of what the last message says, with the blanks at its end, which templates strip."""
    place, said = last_place(given.shape, last)
    number = next((i for i, piece in enumerate(pieces) if piece.content == place), None)
    if number is None:
        raise Unusable("the template leaves out what the last message says")
    contents = list(given.contents)
    if contents[place] == contents[place].rstrip():
        contents[place] += said[len(said.rstrip()) :]
    return pieces[: number + 1], given._replace(contents=contents)
