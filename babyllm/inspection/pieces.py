"""A text as the pieces of a tokenizer: ids, bytes, and the text itself with a background of its own for each piece."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from babyllm.inspection.conversations import CONTROL
from babyllm.tokenizer import Tokenizer

# Backgrounds of neighbouring pieces in turn, and that of special tokens, with black letters on them.
COLOURS, SPECIAL_COLOUR, PLAIN = ("\x1b[30;48;5;153m", "\x1b[30;48;5;223m"), "\x1b[30;48;5;213m", "\x1b[0m"
VISIBLE = CONTROL | {ord("\n"): "\\n", ord("\t"): "\\t"}


@dataclass(frozen=True)
class Piece:
    """A token of a text.

    Attributes:
        id: id of the token.
        raw: its bytes in UTF-8, those of the name for a special token.
        is_special: whether it stands for no text.
    """

    id: int
    raw: bytes
    is_special: bool

    def text(self) -> str:
        """The piece as text: bytes of a part of a character in hexadecimal, control characters as escapes."""
        shown = self.raw.decode("utf-8", errors="surrogateescape").translate(VISIBLE)
        return re.sub("[\udc80-\udcff]", lambda found: f"<{ord(found[0]) - 0xDC00:02X}>", shown)


def pieces_of(tokenizer: Tokenizer, text: str, *, reads_special: bool = False) -> list[Piece]:
    """The tokens of a text, in order.

    Args:
        tokenizer: tokenizer of the text.
        text: text to encode.
        reads_special: whether the name of a special token in the text becomes that token.

    Raises:
        UserError: the text is not valid Unicode.
    """
    pieces = []
    for part, is_name in _parts(tokenizer, text, reads_special):
        if is_name:
            pieces.append(Piece(tokenizer.special[part], part.encode(), True))
        else:
            pieces += [_piece(tokenizer, token_id) for token_id in tokenizer.encode(part)]
    return pieces


def _parts(tokenizer: Tokenizer, text: str, reads_special: bool) -> list[tuple[str, bool]]:
    """The text cut at the names of special tokens, if they are read, with whether each part is one."""
    names = sorted(tokenizer.special, key=len, reverse=True) if reads_special else []
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return [(part, part in names) for part in parts if part]


def _piece(tokenizer: Tokenizer, token_id: int) -> Piece:
    name = next((name for name, i in tokenizer.special.items() if i == token_id), None)  # an unknown token
    return Piece(token_id, tokenizer.token_bytes(token_id) if name is None else name.encode(), name is not None)


def shown_pieces(pieces: Sequence[Piece], has_colours: bool) -> str:
    """The text of pieces, each with a background, or with bars between them without colours; line breaks stay."""
    parts = []
    for number, piece in enumerate(pieces):
        colour = SPECIAL_COLOUR if piece.is_special else COLOURS[number % 2]
        parts.append(f"{colour}{piece.text()}{PLAIN}" if has_colours else piece.text())
        if b"\n" in piece.raw:
            parts[-1] += "\n"
    return "".join(parts) if has_colours else "|".join(parts).replace("\n|", "|\n")


def piece_lines(tokenizer: Tokenizer, text: str, *, reads_special: bool, has_colours: bool) -> list[str]:
    """The lines that show a text as pieces: the text, a line of id, bytes and text for each, and what is lost.

    Args:
        tokenizer: tokenizer of the text.
        text: text to show.
        reads_special: whether the name of a special token in the text becomes that token.
        has_colours: whether the lines are for a terminal that shows colours.

    Raises:
        UserError: the text is not valid Unicode.
    """
    pieces = pieces_of(tokenizer, text, reads_special=reads_special)
    lines = [shown_pieces(pieces, has_colours), ""]
    lines += [f"{piece.id:>8}  {piece.raw.hex(' '):<24}  {piece.text()}" for piece in pieces]
    n_bytes = len(text.encode())
    lines += ["", f"{len(pieces):,} tokens, {len(text):,} characters, {n_bytes:,} bytes"]
    expected = "".join(part for part, is_name in _parts(tokenizer, text, reads_special) if not is_name)
    decoded = tokenizer.decode(piece.id for piece in pieces)
    if decoded != expected:
        lines.append(f"decodes to another text: {decoded.translate(VISIBLE)}")
    return lines
