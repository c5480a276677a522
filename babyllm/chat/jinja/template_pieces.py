"""The rendering of messages of one shape as segments: template text, special ids and placeholders for texts.

Shape -> rendered with placeholders -> split at special names and marks -> [Piece], each with the turn it belongs to
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from babyllm.chat.jinja.places import Shape
from babyllm.chat.jinja.syntax import CLOSE, MARKS, MAX_PLACES, OPEN, place, place_number
from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Unusable


class Piece(NamedTuple):
    """A segment of a rendering: the template's own text, a special id, or a placeholder for a message's text.

    Attributes:
        text: the template's text; empty for the other kinds.
        special: the id of a special token; None for the other kinds.
        content: the number of a placeholder; None for the other kinds. Contents come first, then reasoning and inputs.
        block: the number of the generation block around it; 0 outside of one.
        message: the number of the message whose turn it belongs to; None if it is not trained on.
    """

    text: str
    special: int | None
    content: int | None
    block: int
    message: int | None = None


class Quotes:
    """Characters in place of the names of special tokens in tools and calls, where the names are ordinary text."""

    def __init__(self, border: re.Pattern[str], n_places: int) -> None:
        """Begin a rendering.

        Args:
            border: pattern of special names and marks.
            n_places: number of placeholders for texts of messages, whose characters are taken.
        """
        self._border, self._n_places = border, n_places
        self.names: dict[int, str] = {}
        """The names by the code points of their characters."""

    def quoted(self, text: str) -> str:
        """A text with characters in place of the names in it.

        Raises:
            Unusable: it holds a mark, or there are too many names.
        """
        return self._border.sub(lambda found: self._character(found[0]), text)

    def _character(self, name: str) -> str:
        if MARKS.match(name):
            raise Unusable("the tools or their calls hold a private-use character")
        for code, known in self.names.items():
            if known == name:
                return chr(code)
        require_places(self._n_places + len(self.names) + 1)
        character = place(self._n_places + len(self.names))
        self.names[ord(character)] = name
        return character


def require_places(n: int) -> None:
    """Refuse a conversation with too many texts for its placeholders.

    Raises:
        Unusable: it has more texts than there are characters for placeholders.
    """
    if n > MAX_PLACES:
        raise Unusable(f"it has more than {MAX_PLACES} messages")


def planned(
    shape: Shape,
    border: re.Pattern[str],
    special: Mapping[str, int],
    is_marked: bool,
    render: Callable[[Sequence[str], Callable[[str], str]], str],
) -> tuple[str, list[Piece]]:
    """The rendering of messages of a shape, with placeholders for their texts: as text and as segments.

    Args:
        shape: the shape of the messages.
        border: pattern of special names and marks, in one group.
        special: ids of the special tokens by name.
        is_marked: whether the template has `{% generation %}`.
        render: function from texts for the placeholders, and from the form of texts in tools and calls, to the text
            of the conversation.

    Raises:
        Unusable: the shape holds a special token or a mark where it would take effect, or is too long.
    """
    speakers = shape.speakers
    for role in shape.roles:
        # A vocabulary may have the names of usual roles as special tokens.
        if role not in (SYSTEM, USER, ASSISTANT, TOOL) and border.search(role):
            raise Unusable(f"the role {role!r} holds a special token or a private-use character")
    require_places(len(speakers))
    quotes = Quotes(border, len(speakers))
    marked = render(["" if i in shape.silent else place(i) for i in range(len(speakers))], quotes.quoted)
    pieces: list[Piece] = []
    # The message of each generation block: the first inside it, else the one before it.
    owners: dict[int, int | None] = {}
    block = n_blocks = 0
    latest = None
    for part in filter(None, border.split(marked)):
        if part == OPEN:
            n_blocks += 1
            block = n_blocks
            owners[block] = latest
            is_first = True
        elif part == CLOSE:
            block = 0
        elif name := quotes.names.get(ord(part[0])):
            pieces.append(Piece(name, None, None, block))
        elif MARKS.match(part):
            latest = speakers[place_number(part)]
            if block and is_first:
                owners[block], is_first = latest, False
            pieces.append(Piece("", None, place_number(part), block))
        else:
            number = special.get(part)
            pieces.append(Piece("" if number is not None else part, number, None, block))
    return marked.translate(quotes.names), _with_messages(pieces, owners, shape, is_marked)


def _with_messages(
    pieces: Sequence[Piece], owners: Mapping[int, int | None], shape: Shape, is_marked: bool
) -> list[Piece]:
    """The segments, each with the message whose turn it belongs to."""
    marked = {owners[piece.block] for piece in pieces if piece.block}
    speakers = shape.speakers
    done: list[Piece] = []
    for piece in pieces:
        message = None
        if piece.block:
            message = owners[piece.block]
        elif piece.content is not None:
            # An answer that a template leaves unmarked, such as all but the last, is not trained on.
            speaker = speakers[piece.content]
            by_block = speaker in marked or (is_marked and shape.roles[speaker] == ASSISTANT)
            message = None if by_block else speaker
        elif piece.special is not None and done and done[-1].content is not None and not done[-1].block:
            message = done[-1].message
        done.append(piece._replace(message=message))
    return done
