"""The two libraries that `Tokenizer` uses, with one interface.

Both read their input as plain text. Lone surrogates are refused here, because each library fails on them differently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import sentencepiece
import tokenizers
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.tokenizer.borders import CHINESE
from babyllm.tokenizer.plain_json import decoder_types, read_tokenizer_json
from babyllm.tokenizer.sentencepiece_json import (
    BPE,
    BYTE,
    CONTROL,
    SPACE,
    UNKNOWN,
    parse_model,
    tells_spaces_apart,
    to_tokenizer_json,
    with_plain_merges,
)

# For files that do not name the token of a role: the first of these that the vocabulary holds is used.
WELL_KNOWN = {
    "bos": ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "[CLS]"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<eos>", "[SEP]"),
    "pad": ("<pad>", "<|pad|>", "[PAD]"),
    "unk": ("<unk>", "[UNK]"),
}
MOST_TOKENS = 1 << 24  # largest vocabulary; some lists are as long as the highest id
JOINED = 16  # documents passed to SentencePiece in one call
MARK = SPACE.encode()  # U+2581 in a text, which SentencePiece would read as a space


class SentencePieceBackend:
    """A tokenizer from a SentencePiece model.

    Args:
        source: bytes of a `tokenizer.model`.
        where: name of the file in messages.

    Raises:
        UserError: the bytes are not a SentencePiece model, or one of a kind that is not supported.
    """

    def __init__(self, source: bytes, where: str) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=source)
        except (RuntimeError, ValueError):  # the latter where its message is not UTF-8
            raise UserError(f"{where} is not a SentencePiece model") from None
        self.source = source
        self._proto = parse_model(source, where)
        self._ids = {p.piece: i for i, p in enumerate(self._proto.pieces)}
        self.special = {p.piece: i for i, p in enumerate(self._proto.pieces) if p.type in (CONTROL, UNKNOWN)}
        self.vocab_size = len(self._proto.pieces)
        self.spells_all = bool(self._proto.trainer_spec.byte_fallback)
        # A text can be encoded in parts only if nothing is added at its beginning.
        self._mark_ids = [self._ids[f"<0x{byte:02X}>"] for byte in MARK] if tells_spaces_apart(self._proto) else []

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, computed on all cores."""
        raw = [utf8(text) for text in texts]
        if len(raw) == 1 and not (self._mark_ids and MARK in raw[0]):
            return [self._processor.encode(raw[0])]
        return [ids.tolist() for ids in self._encode_numpy(raw, None)]

    def encode_documents(
        self, texts: Sequence[bytes], end: int, n_threads: int | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(N,) int32 ids of UTF-8 texts with id `end` after each, and (len(texts),) int64 numbers of ids of each."""
        # One call for several documents, with NUL between them: a call costs as much as a dozen tokens.
        joined = [b"\0".join(texts[i : i + JOINED]) + b"\0" for i in range(0, len(texts), JOINED)]
        if self._lone_nul is None or sum(text.count(b"\0") for text in joined) != len(texts):
            return _with_end(self._encode_numpy(texts, n_threads), end)
        ids = np.concatenate(self._encode_numpy(joined, n_threads))
        ends = np.flatnonzero(ids == self._lone_nul)
        ids[ends] = end
        return ids, np.diff(ends, prepend=-1)

    def _encode_numpy(self, texts: Sequence[bytes], n_threads: int | None) -> list[NDArray[np.int32]]:
        if not self._mark_ids or not any(MARK in text for text in texts):
            return self._encode_parts(texts, n_threads)
        parts = [text.split(MARK) for text in texts]
        rows = iter(self._encode_parts([part for mine in parts for part in mine], n_threads))
        mark = np.array(self._mark_ids, np.int32)
        return [np.concatenate([next(rows), *(ids for _ in mine[1:] for ids in (mark, next(rows)))]) for mine in parts]

    def _encode_parts(self, texts: Sequence[bytes], n_threads: int | None) -> list[NDArray[np.int32]]:
        # NumPy output avoids building lists of numbers, which would take a fifth of the time of encoding.
        ids: list[NDArray[np.int32]] = self._processor.encode(
            list(texts), num_threads=n_threads or -1, return_type="numpy"
        )
        return ids

    @cached_property
    def _lone_nul(self) -> int | None:
        """Id of the byte NUL, if NUL is always encoded to it and never changes the tokens next to it; else None."""
        spec, pieces = self._proto.normalizer_spec, self._proto.pieces
        normalizes = spec.precompiled_charsmap or spec.add_dummy_prefix or spec.remove_extra_whitespaces
        is_bpe = self._proto.trainer_spec.model_type == BPE and self._proto.trainer_spec.byte_fallback
        if normalizes or not is_bpe or any("\0" in piece.piece for piece in pieces):
            return None
        return self.find("<0x00>")

    def n_unknown(self, text: str) -> int:
        """Number of characters of a text, without whitespace, that become an unknown token."""
        unknown = self._processor.unk_id()
        ids, pieces = self._processor.encode(text), self._processor.encode(text, out_type=str)
        return sum(n_visible(piece) for token_id, piece in zip(ids, pieces, strict=True) if token_id == unknown)

    def decode(self, ids: list[int]) -> str:
        """Text of ids; special ones are left out."""
        return str(self._processor.decode(ids))

    def bytes_of_tokens(self) -> list[bytes]:
        """UTF-8 bytes of every id, by id; empty for special ones."""
        texts = [b""] * self.vocab_size
        for i, piece in enumerate(self._proto.pieces):
            if piece.type == BYTE:
                texts[i] = _byte_piece(piece.piece)
            elif piece.type not in (CONTROL, UNKNOWN):
                texts[i] = piece.piece.replace(SPACE, " ").encode()
        return texts

    def find(self, name: str) -> int | None:
        """Id of the token with a name; None if there is none."""
        return self._ids.get(name)

    def role(self, role: str) -> str | None:
        """Name of the token that the model itself assigns to a role; None if there is none."""
        token_id = getattr(self._processor, f"{role}_id")()
        return None if token_id < 0 else str(self._proto.pieces[token_id].piece)

    def extended(self, names: list[str]) -> bytes:
        """Bytes of the model with `names` as control pieces; those it lacks are appended."""
        proto = type(self._proto)()
        proto.CopyFrom(self._proto)
        for name in names:
            piece = proto.pieces[self._ids[name]] if name in self._ids else proto.pieces.add(piece=name, score=0.0)
            piece.type = CONTROL
        return bytes(proto.SerializeToString(deterministic=True))

    def tokenizer_json(self) -> bytes:
        """Bytes of a `tokenizer.json` of the same tokenizer."""
        return to_tokenizer_json(self._proto).encode()


class JsonBackend:
    """A tokenizer from a `tokenizer.json`, read as `read_tokenizer_json` says.

    Args:
        source: bytes of a `tokenizer.json`.
        where: name of the file in messages.

    Raises:
        UserError: the bytes are not a `tokenizer.json` that works, or its ids are out of range.
    """

    def __init__(self, source: bytes, where: str) -> None:
        self._tokenizer, self.source = read_tokenizer_json(source, where)
        added = sorted(self._tokenizer.get_added_tokens_decoder().items())
        self.special = {token.content: i for i, token in added if token.special}
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        if not 0 < self.vocab_size <= MOST_TOKENS:
            raise UserError(f"{where}: ids must be from 0 to {MOST_TOKENS - 1}, the highest is {self.vocab_size - 1}")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, computed on all cores."""
        for text in texts:
            utf8(text)
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_documents(
        self, texts: Sequence[bytes], end: int, n_threads: int | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(N,) int32 ids of UTF-8 texts with id `end` after each, and (len(texts),) int64 numbers of ids of each."""
        decoded = [text.decode() for text in texts]
        # The library spreads the texts of a batch over all cores; one text at a time uses a single core.
        rows = map(self.encode, decoded) if n_threads == 1 else self.encode_batch(decoded)
        return _with_end([np.array(ids, dtype=np.int32) for ids in rows], end)

    @cached_property
    def spells_all(self) -> bool:
        """Whether every character can be encoded, as bytes if it is not a piece."""
        names = self._tokenizer.get_vocab()
        if "ByteLevel" in decoder_types(self._tokenizer):
            return names.keys() >= BYTE_OF.keys()
        is_spelled = json.loads(self.source)["model"].get("byte_fallback")
        return bool(is_spelled) and all(f"<0x{byte:02X}>" in names for byte in range(256))

    def n_unknown(self, text: str) -> int:
        """Number of characters of a text, without whitespace, that become an unknown token or are dropped."""
        encoding, unknown = self._tokenizer.encode(text, add_special_tokens=False), list(text)
        unknown_id = self.find(self.role("unk") or "")
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id != unknown_id:
                unknown[start:stop] = " " * (stop - start)
        return n_visible("".join(unknown))

    def decode(self, ids: list[int]) -> str:
        """Text of ids; special ones are left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def bytes_of_tokens(self) -> list[bytes]:
        """UTF-8 bytes of every id, by id; empty for special ones."""
        decoders = decoder_types(self._tokenizer)
        inside = getattr(self._tokenizer.model, "continuing_subword_prefix", None) or "##"
        texts = [b""] * self.vocab_size
        for piece, i in self._tokenizer.get_vocab().items():
            if piece in self.special:
                continue
            if "ByteLevel" in decoders:
                texts[i] = _byte_level(piece)
            elif "ByteFallback" in decoders and re.fullmatch("<0x[0-9A-F]{2}>", piece):
                texts[i] = _byte_piece(piece)
            elif "WordPiece" in decoders:
                texts[i] = _word_piece(piece, inside)
            else:
                # Where no decoder makes spaces, the mark is a character like others.
                texts[i] = (piece.replace(SPACE, " ") if decoders & {"Replace", "Metaspace"} else piece).encode()
        return texts

    def find(self, name: str) -> int | None:
        """Id of the token with a name; None if there is none."""
        token_id: int | None = self._tokenizer.token_to_id(name)
        return token_id

    def role(self, role: str) -> str | None:
        """Name of the token that has a role by convention; None if there is none."""
        return next((name for name in WELL_KNOWN[role] if self.find(name) is not None), None)

    def extended(self, names: list[str]) -> bytes:
        """Bytes of the file with `names` as special tokens; those it lacks are appended."""
        tokenizer = tokenizers.Tokenizer.from_str(self.source.decode("utf-8"))
        tokenizer.add_special_tokens(names)
        return with_plain_merges(tokenizer.to_str()).encode()

    def tokenizer_json(self) -> bytes:
        """Bytes of the file itself."""
        return self.source


def _with_end(rows: Sequence[NDArray[np.int32]], end: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    last = np.array([end], dtype=np.int32)
    ids = np.concatenate([part for row in rows for part in (row, last)])
    return ids, np.array(list(map(len, rows)), dtype=np.int64) + 1


def n_visible(text: str) -> int:
    """Number of characters of a text that are not whitespace (nor U+2581, which stands for a space)."""
    return sum(not character.isspace() and character != SPACE for character in text)


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a text.

    Raises:
        UserError: the text holds a lone surrogate.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds a lone surrogate ({text[error.start]!a}), so it is not valid Unicode"
        ) from None


def _byte_piece(piece: str) -> bytes:
    return bytes([int(piece[3:5], 16)])


def _byte_level_alphabet() -> dict[str, int]:
    """Byte of each character in GPT-2's alphabet: printable bytes are themselves, the others count up from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_level_alphabet()


def _byte_level(piece: str) -> bytes:
    if all(character in BYTE_OF for character in piece):
        return bytes(BYTE_OF[character] for character in piece)
    return piece.encode()  # an added token, stored as plain text


def _word_piece(piece: str, inside: str) -> bytes:
    """The bytes of a piece of WordPiece, with a space before a word of letters; the decoder's rules are finer."""
    if piece.startswith(inside):
        return piece.removeprefix(inside).encode()
    return (f" {piece}" if piece[:1].isalnum() and not CHINESE.match(piece) else piece).encode()
