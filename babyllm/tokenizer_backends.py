"""The two libraries behind `Tokenizer`, asked for the same things, and the training of a SentencePiece model.

Both take their input for plain text. Lone surrogates are refused here, since each library stumbles over them in its own
way.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import sentencepiece
import tokenizers
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.machine import cores
from babyllm.tokenizer_convert import (
    BPE,
    BYTE,
    CONTROL,
    SPACE,
    UNKNOWN,
    parse_model,
    to_tokenizer_json,
    with_plain_merges,
)

SPECIAL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|reserved_{i}|>" for i in range(10)),
)
"""The special tokens of a tokenizer trained here; a name's index is its id."""

# For files that do not say which token plays a role; the first that the vocabulary holds is taken.
WELL_KNOWN = {
    "bos": ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<eos>"),
    "pad": ("<pad>", "<|pad|>", "[PAD]"),
    "unk": ("<unk>", "[UNK]"),
}
MOST_TOKENS = 1 << 24  # of a vocabulary: there are lists as long as the highest id
JOINED = 16  # documents that SentencePiece is handed at once
# SentencePiece skips longer sentences in silence; a character has up to 4 bytes.
MAX_SENTENCE_BYTES = 4096
MAX_SENTENCE_CHARACTERS = MAX_SENTENCE_BYTES // 4
# SentencePiece writes this for rare characters while it trains, and skips sentences that hold it in silence.
TRAINING_MARK = "\u2585"
NO_TEXT = "there is no text to train a tokenizer on: the documents are empty"
# What a byte-level BPE never joins: single digits; letters, and what is neither letter nor digit, with a space in front
# of them; line breaks; other blanks.
WORDS = r"\p{N}| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|[\r\n]+|[^\S\r\n]+(?= \S)|[^\S\r\n]+"


class SentencePieceBackend:
    """A SentencePiece model."""

    def __init__(self, source: bytes, where: str) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=source)
        except RuntimeError:
            raise UserError(f"{where} is not a SentencePiece model") from None
        self.source = source
        self._proto = parse_model(source, where)
        self._ids = {p.piece: i for i, p in enumerate(self._proto.pieces)}
        self.special = {p.piece: i for i, p in enumerate(self._proto.pieces) if p.type in (CONTROL, UNKNOWN)}
        self.vocab_size = len(self._proto.pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ids: list[int] = self._processor.encode(_utf8(text))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, on all cores."""
        ids: list[list[int]] = self._processor.encode([_utf8(text) for text in texts])
        return ids

    def encode_documents(
        self, texts: Sequence[bytes], end: int, n_threads: int | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all texts with `end` behind each, and how many those are for each."""
        # One call for some documents, with NUL between them: each call by itself costs as much as a dozen tokens.
        joined = [b"\0".join(texts[i : i + JOINED]) + b"\0" for i in range(0, len(texts), JOINED)]
        if self._lone_nul is None or sum(text.count(b"\0") for text in joined) != len(texts):
            return _with_end(self._encode_numpy(texts, n_threads), end)
        ids = np.concatenate(self._encode_numpy(joined, n_threads))
        ends = np.flatnonzero(ids == self._lone_nul)
        ids[ends] = end
        return ids, np.diff(ends, prepend=-1)

    def _encode_numpy(self, texts: Sequence[bytes], n_threads: int | None) -> list[NDArray[np.int32]]:
        # No list of numbers is made on the way, which would take as long as a fifth of the encoding.
        ids: list[NDArray[np.int32]] = self._processor.encode(
            list(texts), num_threads=n_threads or -1, return_type="numpy"
        )
        return ids

    @cached_property
    def _lone_nul(self) -> int | None:
        """Id of the byte NUL, if that is how the character is spelled and nothing on either side can depend on it."""
        spec, pieces = self._proto.normalizer_spec, self._proto.pieces
        normalizes = spec.precompiled_charsmap or spec.add_dummy_prefix or spec.remove_extra_whitespaces
        is_bpe = self._proto.trainer_spec.model_type == BPE and self._proto.trainer_spec.byte_fallback
        if normalizes or not is_bpe or any("\0" in piece.piece for piece in pieces):
            return None
        return self.find("<0x00>")

    def decode(self, ids: list[int]) -> str:
        """Text of ids, nothing for special ones."""
        return str(self._processor.decode(ids))

    def bytes_of_tokens(self) -> list[bytes]:
        """Bytes of every id."""
        texts = [b""] * self.vocab_size
        for i, piece in enumerate(self._proto.pieces):
            if piece.type == BYTE:
                texts[i] = _byte_piece(piece.piece)
            elif piece.type not in (CONTROL, UNKNOWN):
                texts[i] = piece.piece.replace(SPACE, " ").encode()
        return texts

    def find(self, name: str) -> int | None:
        """Id of a token."""
        return self._ids.get(name)

    def role(self, role: str) -> str | None:
        """Name of the token that plays a role by the model itself."""
        token_id = getattr(self._processor, f"{role}_id")()
        return None if token_id < 0 else str(self._proto.pieces[token_id].piece)

    def extended(self, names: list[str]) -> bytes:
        """The model with `names` as control pieces, appended where it lacks them."""
        proto = type(self._proto)()
        proto.CopyFrom(self._proto)
        for name in names:
            piece = proto.pieces[self._ids[name]] if name in self._ids else proto.pieces.add(piece=name, score=0.0)
            piece.type = CONTROL
        return bytes(proto.SerializeToString(deterministic=True))

    def tokenizer_json(self) -> bytes:
        """The same tokenizer as a `tokenizer.json`."""
        return to_tokenizer_json(self._proto).encode()


class JsonBackend:
    """A `tokenizer.json`, without what it says about cutting, padding and adding special tokens."""

    def __init__(self, source: bytes, where: str) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(source.decode("utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{where} is not a tokenizer.json: {str(error)[:200]}") from None
        self.source = source
        n_added = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if n_added or self._tokenizer.truncation or self._tokenizer.padding:
            plain = json.loads(source) | {"truncation": None, "padding": None, "post_processor": None}
            self.source = json.dumps(plain, ensure_ascii=False).encode()
            self._tokenizer = tokenizers.Tokenizer.from_str(self.source.decode("utf-8"))
        self._tokenizer.encode_special_tokens = True
        added = sorted(self._tokenizer.get_added_tokens_decoder().items())
        self.special = {token.content: i for i, token in added if token.special}
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        if not 0 < self.vocab_size <= MOST_TOKENS:
            raise UserError(f"{where}: ids must be from 0 to {MOST_TOKENS - 1}, the highest is {self.vocab_size - 1}")

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, on all cores."""
        for text in texts:
            _utf8(text)
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_documents(
        self, texts: Sequence[bytes], end: int, n_threads: int | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all texts with `end` behind each, and how many those are for each."""
        decoded = [text.decode() for text in texts]
        # The library shares out the texts of a batch, so one at a time keeps to one core.
        rows = map(self.encode, decoded) if n_threads == 1 else self.encode_batch(decoded)
        return _with_end([np.array(ids, dtype=np.int32) for ids in rows], end)

    def decode(self, ids: list[int]) -> str:
        """Text of ids, nothing for special ones."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def bytes_of_tokens(self) -> list[bytes]:
        """Bytes of every id."""
        decoders = set(_types(json.loads(self.source).get("decoder")))
        texts = [b""] * self.vocab_size
        for piece, i in self._tokenizer.get_vocab().items():
            if piece in self.special:
                continue
            if "ByteLevel" in decoders:
                texts[i] = _byte_level(piece)
            elif "ByteFallback" in decoders and re.fullmatch("<0x[0-9A-F]{2}>", piece):
                texts[i] = _byte_piece(piece)
            else:
                texts[i] = piece.replace(SPACE, " ").encode()
        return texts

    def find(self, name: str) -> int | None:
        """Id of a token."""
        token_id: int | None = self._tokenizer.token_to_id(name)
        return token_id

    def role(self, role: str) -> str | None:
        """Name of the token that plays a role by convention."""
        return next((name for name in WELL_KNOWN[role] if self.find(name) is not None), None)

    def extended(self, names: list[str]) -> bytes:
        """The file with `names` as special tokens, appended where it lacks them."""
        tokenizer = tokenizers.Tokenizer.from_str(self.source.decode("utf-8"))
        tokenizer.add_special_tokens(names)
        return with_plain_merges(tokenizer.to_str()).encode()

    def tokenizer_json(self) -> bytes:
        """The file itself."""
        return self.source


def _with_end(rows: Sequence[NDArray[np.int32]], end: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    last = np.array([end], dtype=np.int32)
    ids = np.concatenate([part for row in rows for part in (row, last)])
    return ids, np.array(list(map(len, rows)), dtype=np.int64) + 1


def train_sentencepiece(
    documents: Iterable[str],
    vocab_size: int,
    model_type: str,
    character_coverage: float,
    n_threads: int | None,
    special_tokens: Sequence[str],
) -> bytes:
    """Bytes of a SentencePiece model with `SPECIAL_TOKENS` and others behind them; see `Tokenizer.train`."""
    failures: list[BaseException] = []
    sentences = _sentences(documents, failures)
    first = next(sentences, None)
    if first is None:
        raise UserError(NO_TEXT)
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], sentences),
            model_writer=writer,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # so that what comes out tells the largest size
            character_coverage=character_coverage,
            max_sentence_length=MAX_SENTENCE_BYTES,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            byte_fallback=True,
            unk_surface="",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            control_symbols=_all_special(special_tokens)[4:],
            num_threads=n_threads or cores(),
            minloglevel=2,
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from None
        needed = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if needed:
            raise UserError(
                f"vocab_size {vocab_size} is too small: this text needs at least {needed[1]}, or a lower "
                "character_coverage"
            ) from None
        raise
    proto = parse_model(writer.getvalue(), "the trained model")
    if len(proto.pieces) < vocab_size:
        raise UserError(f"vocab_size {vocab_size} is too large: this text gives at most {len(proto.pieces)}")
    proto.trainer_spec.ClearField("num_threads")  # or the hash would tell machines apart
    return bytes(proto.SerializeToString(deterministic=True))


def train_byte_level(documents: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> bytes:
    """Bytes of a `tokenizer.json` of a byte-level BPE with `SPECIAL_TOKENS` and others; see `Tokenizer.train`."""
    texts = (text for text in map(_checked, documents) if text)
    first = next(texts, None)
    if first is None:
        raise UserError(NO_TEXT)
    special = _all_special(special_tokens)
    smallest = len(special) + len(_BYTE_OF)
    if vocab_size < smallest:
        raise UserError(f"vocab_size {vocab_size} is too small: this text needs at least {smallest}")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
    to_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[tokenizers.AddedToken(name, special=True, normalized=False) for name in special],
        initial_alphabet=sorted(_BYTE_OF),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain([first], texts), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise UserError(f"vocab_size {vocab_size} is too large: this text gives at most {tokenizer.get_vocab_size()}")
    return with_plain_merges(tokenizer.to_str()).encode()


def _all_special(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*SPECIAL_TOKENS, *names]))


def _sentences(documents: Iterable[str], failures: list[BaseException]) -> Iterator[bytes]:
    """Documents in parts that SentencePiece does not skip; a newline is a byte token anyway.

    What goes wrong is kept in `failures` too, because SentencePiece would pass on its words alone.
    """
    try:
        for document in documents:
            for line in document.replace(TRAINING_MARK, "\n").split("\n"):
                for start in range(0, len(line), MAX_SENTENCE_CHARACTERS):
                    yield _utf8(line[start : start + MAX_SENTENCE_CHARACTERS])
    except BaseException as error:
        failures.append(error)
        raise


def _checked(text: str) -> str:
    _utf8(text)
    return text


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds a lone surrogate ({text[error.start]!a}), so it is not valid Unicode"
        ) from None


def _byte_piece(piece: str) -> bytes:
    return bytes([int(piece[3:5], 16)])


def _byte_level_alphabet() -> dict[str, int]:
    """Byte of each character of GPT-2's alphabet: printable bytes stand for themselves, the others follow U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()


def _byte_level(piece: str) -> bytes:
    if all(character in _BYTE_OF for character in piece):
        return bytes(_BYTE_OF[character] for character in piece)
    return piece.encode()  # a token that was added as it stands


def _types(decoder: dict[str, object] | None) -> Iterator[str]:
    """Names of a decoder and of those inside it."""
    if decoder is None:
        return
    yield str(decoder["type"])
    inner = decoder.get("decoders", [])
    for part in inner if isinstance(inner, list) else []:
        yield from _types(part)
