"""Text to token ids and back, over SentencePiece (`tokenizer.model`) and `tokenizers` (`tokenizer.json`).

    documents -> Tokenizer.train -+
    tokenizer.model ------------- +-> Tokenizer -> encode -> ids -> decode / token_bytes
    tokenizer.json -------------- +       |
                                          +-> save -> tokenizer.json, tokenizer.model, tokenizer_config.json

`encode` reads its input as plain text: what looks like a special token is encoded with ordinary pieces. Code that
renders a conversation inserts the ids of special tokens by name (`tokenizer.special["<|im_start|>"]`).
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError
from babyllm.files import write_bytes
from babyllm.integrity import check_tokenizer
from babyllm.tokenizer.backends import JsonBackend, SentencePieceBackend, n_visible
from babyllm.tokenizer.borders import PreSplit
from babyllm.tokenizer.plain_json import is_plain, with_bos
from babyllm.tokenizer.special_tokens import SpecialTokens, Wanted

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
ROLES = ("bos", "eos", "pad", "unk")
ModelType = Literal["bpe", "unigram", "byte_bpe", "wordpiece", "char"]


class Tokenizer:
    """Encoder and decoder of one vocabulary. Instances can be pickled and sent to worker processes.

    Attributes:
        special: ids of the tokens that stand for no text, by name.
        sha256: hexadecimal hash of the defining file, `tokenizer.model` or else `tokenizer.json`, as `save` writes it.
        vocab_size: largest id + 1.
        bos_id: id that begins a document, or None; `encode` never adds it.
        eos_id: id that ends a document; `encode` never adds it.
        pad_id: id of padding, or None.
        unk_id: id of unknown characters, or None.
        begin_id: id before the first token of a text: bos for vocabularies that add it to texts, as Llama's do, else
            eos, which is before every document in training.
    """

    def __init__(
        self,
        source: bytes,
        kind: Literal["model", "json"],
        roles: Mapping[str, str | None] | None = None,
        where: str = "the tokenizer",
        *,
        adds_bos: bool = False,
    ) -> None:
        """Build a tokenizer from the bytes of its file.

        Args:
            source: bytes of a `tokenizer.model` or `tokenizer.json`.
            kind: "model" or "json", the type of the file.
            roles: names of the tokens for "bos", "eos", "pad" and "unk", as far as they are known.
            where: name of the file in messages.
            adds_bos: whether other programs add the bos token to texts.

        Raises:
            UserError: the bytes cannot be read, a named token is missing, or no eos token is known.
        """
        self._kind, self._where = kind, where
        self._backend = SentencePieceBackend(source, where) if kind == "model" else JsonBackend(source, where)
        self._roles = dict(roles or {})
        for role in ROLES:
            if role not in self._roles or (role == "eos" and self._roles[role] is None):
                self._roles[role] = self._backend.role(role)
        ids = {role: None if name is None else self._backend.find(name) for role, name in self._roles.items()}
        for role, name in self._roles.items():
            if name is not None and ids[role] is None:
                raise UserError(
                    f"{where} lacks {reprlib.repr(name)}, the {role}_token of the tokenizer_config.json beside it"
                )
        if ids["eos"] is None:
            raise UserError(f"{where} does not name its eos_token; name it in a tokenizer_config.json beside it")
        self.bos_id, self.eos_id, self.pad_id, self.unk_id = ids["bos"], ids["eos"], ids["pad"], ids["unk"]
        self._set_beginning(adds_bos)
        self.special = self._backend.special
        self.vocab_size = self._backend.vocab_size
        self.sha256 = hashlib.sha256(self._backend.source).hexdigest()

    @property
    def file(self) -> tuple[Literal["model", "json"], bytes]:
        """The type and the bytes of the defining file: a SentencePiece model or a `tokenizer.json`."""
        return self._kind, self._backend.source

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self._backend.source, self._kind, self._roles, self._where, self._adds_bos)

    def adding_bos(self, adds_bos: bool) -> Tokenizer:
        """This tokenizer, with or without a bos token that other programs add to texts."""
        other = object.__new__(Tokenizer)  # with the same backend, which takes a while to build
        other.__dict__.update(self.__dict__)
        other._set_beginning(adds_bos)
        return other

    def _set_beginning(self, adds_bos: bool) -> None:
        self._adds_bos = adds_bos and self.bos_id is not None
        self.begin_id = self.bos_id if self._adds_bos and self.bos_id is not None else self.eos_id

    @property
    def adds_bos(self) -> bool:
        """Whether other programs add the bos token to texts; `encode` does not."""
        return self._adds_bos

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Tokenizer of a `.model`, `tokenizer.json` or `vocab.txt` file, or of a directory with one, in this order.

        The names of bos, eos, pad and unk are read from the `tokenizer_config.json` or `special_tokens_map.json`
        beside it. They become special tokens if the file has them as ordinary ones. A `vocab.txt` is read as
        `babyllm.tokenizer.wordpiece` says, and saved as a `tokenizer.json`.

        Raises:
            UserError: there is no such file, it cannot be read, it differs from the checksum stored beside it, or the
                eos token is not known.
        """
        path = os.path.expanduser(path)
        file = Path(path)
        if file.is_dir():
            names = ("tokenizer.model", "tokenizer.json", "vocab.txt")
            file = next((file / name for name in names if (file / name).is_file()), file)
        if not file.is_file():
            raise UserError(
                f"no tokenizer at {path}: give a .model file, a tokenizer.json, a vocab.txt or a directory with one"
            )
        check_tokenizer(file)
        source = file.read_bytes()
        if file.suffix == ".txt":
            from babyllm.tokenizer.wordpiece import from_vocab_txt

            source = from_vocab_txt(source, _config_beside(file), str(file))
        kind: Literal["model", "json"] = "json" if file.suffix in (".json", ".txt") else "model"
        tokenizer = cls(source, kind, _read_roles(file.parent), str(file))
        tokenizer._set_beginning(_adds_bos(file.parent, tokenizer._roles["bos"]))
        return tokenizer.extended(name for name in tokenizer._roles.values() if name is not None)

    @classmethod
    def train(
        cls,
        documents: Iterable[str],
        vocab_size: int,
        *,
        model_type: ModelType = "bpe",
        character_coverage: float = 0.9995,
        special_tokens: Sequence[str] = (),
        special: SpecialTokens | None = None,
        symbols: Sequence[str] = (),
        hard_vocab_limit: bool = True,
        pre_split: PreSplit | None = None,
        n_threads: int | None = None,
    ) -> Tokenizer:
        """Tokenizer without loss: bytes for rare characters, single digits, no normalisation, no prefix space.

        Only "wordpiece" has losses, which `babyllm.tokenizer.wordpiece` lists. The result depends only on the documents
        and their order; with BPE, not on the number of threads either.

        Args:
            documents: training texts, read once and kept in memory.
            vocab_size: number of tokens; the special ones, 256 bytes and the text's characters are among them.
            model_type: "bpe", "unigram" or "char" by SentencePiece; "byte_bpe" (on bytes, as in Llama 3) or
                "wordpiece" by `tokenizers`.
            character_coverage: share of the text's characters that become tokens, from 0.98 to 1; the rest is encoded
                as bytes, or unknown in "wordpiece". Unused by "byte_bpe".
            special_tokens: names of special tokens in addition to those of `special.first`.
            special: names, order and roles of the special tokens; None takes the usual ones.
            symbols: texts that are always one token, such as "<think>"; unlike special tokens they are also found in
                plain text.
            hard_vocab_limit: whether a text that yields fewer tokens than `vocab_size` is refused; otherwise the
                vocabulary is as large as the text allows.
            pre_split: "jieba" lets no piece cross the Chinese words of jieba in the training texts. Encoding needs no
                jieba.
            n_threads: number of threads; None takes all cores, as "byte_bpe" and "wordpiece" always do.

        Raises:
            UserError: `vocab_size` or another setting does not suit the text, there is no text, or jieba is needed and
                not installed.
        """
        from babyllm.tokenizer.training import train_byte_level, train_sentencepiece
        from babyllm.tokenizer.wordpiece import train_wordpiece

        special = (special or SpecialTokens()).with_names(special_tokens)
        wanted = Wanted(
            vocab_size, special, symbols, character_coverage, hard_vocab_limit, pre_split=pre_split, n_threads=n_threads
        )
        kind: Literal["model", "json"] = "json"
        if model_type == "byte_bpe":
            source = train_byte_level(documents, wanted)
        elif model_type == "wordpiece":
            source = train_wordpiece(documents, wanted)
        else:
            kind, source = "model", train_sentencepiece(documents, model_type, wanted)
        tokenizer = cls(source, kind, special.roles())
        special.check_ids(tokenizer.special, tokenizer.vocab_size)
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, read as plain text; no bos or eos is added.

        Raises:
            UserError: `text` holds a lone surrogate, so it is not valid Unicode.
        """
        return self._backend.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, equal to those of `encode`, computed on all cores.

        Raises:
            UserError: a text holds a lone surrogate.
        """
        return self._backend.encode_batch(texts)

    def encode_documents(
        self, texts: Sequence[bytes], n_threads: int | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of many documents in one array: those of `encode` for each document, followed by eos.

        Args:
            texts: documents in valid UTF-8, at least one.
            n_threads: number of threads, 1 in a process that is one of many; None takes all cores.

        Returns:
            (N,) int32 ids of all documents, one after the other, and (len(texts),) int64 numbers of ids of each
            document, its eos included.
        """
        return self._backend.encode_documents(texts, self.eos_id, n_threads)

    def count_unknown(self, texts: Sequence[bytes]) -> tuple[int, int]:
        """Number of characters that become an unknown token or are dropped, and number of all, both without whitespace.

        Both are 0, without a look at the texts, if every character can be encoded as bytes.

        Args:
            texts: documents in valid UTF-8.
        """
        if self._backend.spells_all:
            return 0, 0
        counts = [(self._backend.n_unknown(text), n_visible(text)) for text in map(bytes.decode, texts)]
        return sum(unknown for unknown, _ in counts), sum(visible for _, visible in counts)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens and ids beyond the vocabulary are left out, incomplete UTF-8 becomes U+FFFD."""
        # A model may have more rows than the tokenizer has tokens, and draw one of them.
        return self._backend.decode([int(i) for i in ids if i < self.vocab_size])

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of a token, empty for special tokens; a character may be spread over several tokens."""
        # A model may have more rows than the tokenizer has tokens.
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def byte_lengths(self) -> NDArray[np.int64]:
        """(vocab_size,) int64 number of UTF-8 bytes of each token, 0 for special ones."""
        return np.array([len(raw) for raw in self._bytes], dtype=np.int64)

    @cached_property
    def _bytes(self) -> list[bytes]:
        return self._backend.bytes_of_tokens()

    def extended(self, names: Iterable[str]) -> Tokenizer:
        """This tokenizer with each of `names` as a special token; those it lacks are appended to the vocabulary."""
        missing = [name for name in dict.fromkeys(names) if name not in self.special]
        if not missing:
            return self
        source = self._backend.extended(missing)
        return Tokenizer(source, self._kind, self._roles, self._where, adds_bos=self._adds_bos)

    def save(self, directory: str | os.PathLike[str], *, chat_template: str | None = None) -> None:
        """Write the tokenizer's files, which `load` and transformers' `AutoTokenizer` read and encode with alike.

        Args:
            directory: directory for `tokenizer.json`, `tokenizer_config.json` and, if the tokenizer is a SentencePiece
                model, `tokenizer.model`. It is created if absent. Each file appears whole or not at all.
            chat_template: Jinja template for `tokenizer_config.json`; None for none.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        config |= {f"{role}_token": self._roles[role] for role in ROLES}
        # Converters such as llama.cpp's read the first two and would always add a bos without them.
        config |= {"add_bos_token": self._adds_bos, "add_eos_token": False, "clean_up_tokenization_spaces": False}
        if chat_template is not None:
            config["chat_template"] = chat_template
        if self._kind == "model":
            write_bytes(directory / "tokenizer.model", self._backend.source)
        else:
            # One from another tokenizer would be preferred by `load`.
            (directory / "tokenizer.model").unlink(missing_ok=True)
        content, bos = self._json, self._roles["bos"]
        if self._adds_bos and bos and (self._kind == "model" or is_plain(content)):
            content = with_bos(content, bos, self.begin_id)
        write_bytes(directory / "tokenizer.json", content)
        write_bytes(
            directory / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2).encode() + b"\n"
        )

    @cached_property
    def _json(self) -> bytes:
        return self._backend.tokenizer_json()


def _unpickled(
    source: bytes, kind: Literal["model", "json"], roles: Mapping[str, str | None], where: str, adds_bos: bool
) -> Tokenizer:
    return Tokenizer(source, kind, roles, where, adds_bos=adds_bos)


def _config_beside(file: Path) -> Fields:
    path = file.with_name("tokenizer_config.json")
    return Fields(read_json(path) if path.is_file() else {}, str(path))


def _read_roles(directory: Path) -> dict[str, str | None]:
    """Names of the tokens by role, as far as the files of a Hugging Face directory state them."""
    roles: dict[str, str | None] = {}
    for file in (directory / "special_tokens_map.json", directory / "tokenizer_config.json"):
        if not file.is_file():
            continue
        config = read_json(file)
        fields = Fields(config, str(file))
        for role in ROLES:
            key = f"{role}_token"
            if fields.is_object(key):
                roles[role] = fields.object(key).text("content")
            elif key in config:
                roles[role] = fields.text(key, None)
    return roles


def _adds_bos(directory: Path, bos: str | None) -> bool:
    """Whether the files of a Hugging Face directory say that the bos token is added to texts."""
    config, file = _config_beside(directory / "tokenizer.json"), directory / "tokenizer.json"
    if config.has("add_bos_token"):
        return bool(config.boolean("add_bos_token"))
    if file.is_file():
        added = json.dumps(read_json(file).get("post_processor"))
        return f'"SpecialToken": {{"id": {json.dumps(bos)}' in added
    name: str = config.text("tokenizer_class", "")
    return name.startswith("Llama")


def load_tokenizer(directory: Path, sha256: str) -> Tokenizer | None:
    """The tokenizer beside token data, or None if there is none (bare `.bin` files).

    Args:
        directory: directory of the token data.
        sha256: hexadecimal hash of the tokenizer that the ids were made with; empty if it is not known.

    Raises:
        UserError: the tokenizer is not the one the ids were made with, or cannot be read.
    """
    if not any((directory / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        return None
    tokenizer = Tokenizer.load(directory)
    if sha256 and tokenizer.sha256 != sha256:
        raise UserError(f"{directory}: its tokenizer is not the one its shards were made with; rebuild the directory")
    return tokenizer
