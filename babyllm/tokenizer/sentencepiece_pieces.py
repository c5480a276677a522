"""SentencePiece models rebuilt from lists of pieces, as other formats store them.

pieces, scores, types, ids of roles -> ModelProto -> bytes of a tokenizer.model -> Tokenizer
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sentencepiece import sentencepiece_model_pb2

from babyllm.errors import UserError
from babyllm.tokenizer.sentencepiece_json import BPE, BYTE, CONTROL, NORMAL, UNKNOWN
from babyllm.tokenizer.tokenizer import Tokenizer

_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


class Piece(NamedTuple):
    """A token of a SentencePiece vocabulary.

    Attributes:
        text: text, in which U+2581 stands for a space.
        score: score; of two possible unions the one with the higher score is made.
        type: one of the types of `babyllm.tokenizer.sentencepiece_json`.
    """

    text: str
    score: float
    type: int


def guessed_type(token_id: int, text: str, roles: Mapping[str, int | None]) -> int:
    """The type of a piece in a file that states none."""
    if token_id == roles["unk"]:
        return UNKNOWN
    if token_id in roles.values():
        return CONTROL
    return BYTE if _BYTE_PIECE.fullmatch(text) else NORMAL


def sentencepiece_tokenizer(
    pieces: Sequence[Piece], roles: Mapping[str, int | None], *, adds_space: bool, where: str
) -> Tokenizer:
    """The tokenizer of a BPE vocabulary of pieces.

    Args:
        pieces: pieces by id.
        roles: ids of "bos", "eos", "pad" and "unk", or None.
        adds_space: whether a space is put before each text.
        where: name of the file, for messages.

    Raises:
        UserError: a piece is empty or given twice, or an id is out of range.
    """
    named = role_names([piece.text for piece in pieces], roles, where)
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # created on import
    for i, (text, score, kind) in enumerate(pieces):
        # A model has exactly one unknown piece.
        kind = UNKNOWN if i == roles["unk"] else CONTROL if kind == UNKNOWN else kind
        proto.pieces.add(piece=text, score=score, type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.unk_surface = BPE, len(pieces), ""
    trainer.byte_fallback = sum(piece.type == BYTE for piece in pieces) == 256
    for role, name in named.items():
        token_id = roles[role]
        setattr(trainer, f"{role}_id", -1 if token_id is None else token_id)
        if name is not None:
            setattr(trainer, f"{role}_piece", name)
    normalizer.name, normalizer.add_dummy_prefix = "identity", adds_space
    normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces = False, True
    tokenizer = Tokenizer(proto.SerializeToString(deterministic=True), "model", named, where)
    return tokenizer.extended(name for name in named.values() if name is not None)


def role_names(names: Sequence[str], roles: Mapping[str, int | None], where: str) -> dict[str, str | None]:
    """The names of the tokens with a role.

    Args:
        names: names of all tokens by id.
        roles: ids by role, or None.
        where: name of the file, for messages.

    Raises:
        UserError: tokens are empty or given twice, or an id is out of range.
    """
    if len(set(names)) != len(names) or "" in names:
        raise UserError(f"{where}: its vocabulary holds empty tokens or the same token twice; use another file")
    for role, token_id in roles.items():
        if token_id is not None and not 0 <= token_id < len(names):
            raise UserError(f"{where}: its {role} token {token_id} is beyond its vocabulary of {len(names)}")
    return {role: None if token_id is None else names[token_id] for role, token_id in roles.items()}
