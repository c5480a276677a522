"""Vocabularies in GGUF files: the keys `tokenizer.ggml.*` and the chat template, read and written.

"llama": tokens, scores and types <-> SentencePiece model
"gpt2": tokens, merges, types and the name of a split <-> byte-level `tokenizer.json`

Nothing is added to a text when it is encoded, neither here nor by a program that reads a file written here. Texts are
not normalised: llama.cpp never does that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from babyllm.config.json_fields import Fields
from babyllm.errors import UserError
from babyllm.interop.gguf.container import Header
from babyllm.interop.gguf.pre_tokenizers import SPLITS, Split, name_of, split_called
from babyllm.tokenizer import Tokenizer
from babyllm.tokenizer.sentencepiece_json import (
    BPE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    parse_model,
    with_plain_merges,
)
from babyllm.tokenizer.sentencepiece_pieces import Piece, guessed_type, role_names, sentencepiece_tokenizer

KEYS = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
_ROLE_KEYS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}
_END_KEYS = ("eot_token_id", "eom_token_id")
# Tokens that end an answer by their name alone in llama.cpp.
_ENDS = frozenset(
    ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "</s>")
)
# What a vocabulary may hold as an ordinary added token, and other programs take for a special one.
_SPECIAL = re.compile(r"<[|｜].+[|｜]>")
# Other programs need not know the tags that mark answers for training.
_MARKS = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


class Vocabulary(NamedTuple):
    """What a file holds for turning text into ids and back.

    Attributes:
        tokenizer: tokenizer.
        chat_template: Jinja template, or None.
        end_ids: ids of the tokens that end an answer.
    """

    tokenizer: Tokenizer
    chat_template: str | None
    end_ids: tuple[int, ...]


def read_vocabulary(header: Header) -> Vocabulary:
    """The vocabulary of a file; unused tokens at its end, which fill the rows of a model, are left out.

    Raises:
        UserError: the file lacks a vocabulary, or has one that is damaged or not supported.
    """
    where = str(header.path)
    fields = Fields(header.metadata, where)
    kind = fields.text(f"{KEYS}model")
    if kind not in ("llama", "gpt2"):
        raise UserError(f"{where}: the tokenizer {kind[:40]!r} is not supported, only 'llama' and 'gpt2'")
    tokens = _tokens(header)
    roles = _roles(fields, kind, len(tokens))
    types = _types(header, tokens, roles)
    while len(tokens) > 1 and types[len(tokens) - 1] == UNUSED and len(tokens) - 1 not in roles.values():
        tokens.pop()
    tokenizer = (_pieces if kind == "llama" else _byte_level)(header, tokens, types, roles)
    usual = kind == "llama" or fields.text(f"{KEYS}pre", "default") == "llama-bpe"
    tokenizer = tokenizer.adding_bos(fields.boolean(f"{KEYS}add_bos_token", usual))
    ends = [fields.integer(KEYS + key, None, low=0, high=len(tokens) - 1) for key in _END_KEYS]
    ends += [tokenizer.special[name] for name in sorted(_ENDS & tokenizer.special.keys())]
    ids = dict.fromkeys(i for i in (tokenizer.eos_id, *ends) if i is not None)
    return Vocabulary(tokenizer, fields.text(TEMPLATE, None), tuple(ids))


def _roles(fields: Fields, kind: str, n_tokens: int) -> dict[str, int | None]:
    """The ids of tokens with a role, with llama.cpp's defaults."""
    defaults = {"bos": 1, "eos": 2, "pad": None, "unk": 0} if kind == "llama" else dict.fromkeys(_ROLE_KEYS)
    roles = {
        role: fields.integer(KEYS + key, defaults[role], low=0, high=n_tokens - 1 if role != "pad" else 2**32 - 1)
        for role, key in _ROLE_KEYS.items()
    }
    if roles["eos"] is None:
        raise UserError(f"{fields.where}: has no {KEYS}eos_token_id, so texts would never end; use another file")
    # Many files name the first id after the vocabulary as padding.
    return roles | {"pad": None if (roles["pad"] or 0) >= n_tokens else roles["pad"]}


def _tokens(header: Header) -> list[str]:
    tokens = header.metadata.get(f"{KEYS}tokens")
    if not isinstance(tokens, list) or not tokens:
        raise UserError(f"{header.path}: has no list of texts {KEYS}tokens")
    return [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]


def _types(header: Header, tokens: Sequence[str], roles: dict[str, int | None]) -> list[int]:
    if f"{KEYS}token_type" not in header.metadata:
        return [guessed_type(i, token, roles) for i, token in enumerate(tokens)]
    types = [int(kind) for kind in _numbers(header, "token_type", len(tokens))]
    return [kind if UNKNOWN <= kind <= 6 else NORMAL for kind in types]


def _numbers(header: Header, key: str, at_least: int) -> list[float]:
    values = header.metadata.get(KEYS + key)
    if not isinstance(values, np.ndarray) or len(values) < at_least or not np.isfinite(values).all():
        raise UserError(f"{header.path}: {KEYS}{key} does not have a number for each token; download it again")
    return [float(value) for value in values]


def _pieces(header: Header, tokens: list[str], types: list[int], roles: dict[str, int | None]) -> Tokenizer:
    scores = _numbers(header, "scores", len(tokens))
    pieces = [
        # llama.cpp looks for user-defined tokens before it marks spaces.
        Piece(token.replace(" ", SPACE) if kind == USER_DEFINED else token, score, kind)
        for token, score, kind in zip(tokens, scores, types, strict=False)
    ]
    adds_space = Fields(header.metadata, str(header.path)).boolean(f"{KEYS}add_space_prefix", True)
    return sentencepiece_tokenizer(pieces, roles, adds_space=adds_space, where=str(header.path))


def _byte_level(header: Header, tokens: list[str], types: list[int], roles: dict[str, int | None]) -> Tokenizer:
    where = str(header.path)
    name = Fields(header.metadata, where).text(f"{KEYS}pre", "default")
    split = split_called(name)
    if split is None:
        raise UserError(f"{where}: the pre-tokenizer {name[:40]!r} is not known, only {', '.join(SPLITS)} and the like")
    named = role_names(tokens, roles, where)
    merges = header.metadata.get(f"{KEYS}merges")
    if not isinstance(merges, list):
        raise UserError(f"{where}: has no list of texts {KEYS}merges")
    content = _tokenizer_json(tokens, types, merges, split, where)
    tokenizer = Tokenizer(content.encode(), "json", named, where)
    return tokenizer.extended(name for name in named.values() if name is not None)


def _tokenizer_json(tokens: list[str], types: list[int], merges: list[str], split: Split, where: str) -> str:
    """Text of a tokenizer.json that encodes as llama.cpp does."""
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        model = tokenizers.models.BPE(
            vocab={token: i for i, token in enumerate(tokens)}, merges=pairs, ignore_merges=split.ignores_merges
        )
        tokenizer = tokenizers.Tokenizer(model)
        steps = [tokenizers.pre_tokenizers.Split(tokenizers.Regex(one), "isolated") for one in split.patterns]
        to_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*steps, to_bytes])
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        for kind, add in ((CONTROL, tokenizer.add_special_tokens), (USER_DEFINED, tokenizer.add_tokens)):
            names = [token for token, its_kind in zip(tokens, types, strict=False) if its_kind == kind]
            add([tokenizers.AddedToken(name, special=kind == CONTROL, normalized=False) for name in names])
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{where}: its merges and tokens do not fit each other ({str(error)[:120]})") from None
    return with_plain_merges(tokenizer.to_str())


def vocabulary_metadata(
    tokenizer: Tokenizer, n_rows: int, *, chat_template: str | None = None, end_ids: Iterable[int] = ()
) -> dict[str, Any]:
    """The keys with which other programs encode and decode as a tokenizer does.

    Args:
        tokenizer: tokenizer of the model.
        n_rows: rows of the model's embedding; those without a token have an unused one in the file.
        chat_template: Jinja template, or None.
        end_ids: ids of tokens that end an answer.

    Raises:
        UserError: the tokenizer cannot be expressed, or has more tokens than the model has rows.
    """
    kind, source = tokenizer.file
    if tokenizer.vocab_size > n_rows:
        raise UserError(f"the tokenizer has {tokenizer.vocab_size} tokens, but the model has {n_rows} rows")
    known = _sentencepiece_keys(source) if kind == "model" else _byte_level_keys(source, tokenizer)
    metadata = {KEYS + key: value for key, value in known.items()}
    _fill_up(metadata, n_rows)
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id, "unk": tokenizer.unk_id}
    if ids["bos"] is None:
        ids["bos"] = tokenizer.eos_id  # or llama.cpp would take a fixed id
    metadata |= {KEYS + _ROLE_KEYS[role]: token_id for role, token_id in ids.items() if token_id is not None}
    ends = dict.fromkeys(i for i in end_ids if i != tokenizer.eos_id)
    metadata |= {KEYS + key: token_id for key, token_id in zip(_END_KEYS, ends, strict=False)}
    metadata |= {f"{KEYS}add_bos_token": tokenizer.adds_bos, f"{KEYS}add_eos_token": False}
    if chat_template is not None:
        metadata[TEMPLATE] = _MARKS.sub(lambda m: f"{m[1]}{'endif' if m[2] else 'if true'}{m[3]}", chat_template)
    return metadata


def _sentencepiece_keys(source: bytes) -> dict[str, Any]:
    proto = parse_model(source, "the tokenizer")
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    has_symbols = any(piece.type == USER_DEFINED for piece in proto.pieces)
    for is_so, what in (
        (trainer.model_type != BPE, "is a unigram model"),
        (normalizer.precompiled_charsmap, "normalises texts"),
        (normalizer.remove_extra_whitespaces, "removes repeated spaces"),
        (normalizer.add_dummy_prefix and has_symbols, "adds a space before texts but not after user-defined pieces"),
        (not trainer.byte_fallback, "has no byte tokens for rare characters"),
    ):
        if is_so:
            raise UserError(
                f"the tokenizer {what}, which programs that read GGUF do not; train a vocabulary of type bpe"
            )
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [p.piece.replace(SPACE, " ") if p.type == USER_DEFINED else p.piece for p in proto.pieces],
        "scores": np.array([piece.score for piece in proto.pieces], np.float32),
        "token_type": np.array([piece.type for piece in proto.pieces], np.int32),
        "add_space_prefix": bool(normalizer.add_dummy_prefix),
    }


def _byte_level_keys(source: bytes, tokenizer: Tokenizer) -> dict[str, Any]:
    content = json.loads(source)
    model, decoder = content["model"], content.get("decoder") or {}
    if model.get("type", "BPE") != "BPE" or decoder.get("type") != "ByteLevel":
        raise UserError(
            "the tokenizer.json is not a byte-level BPE, so it cannot be written as GGUF; for a SentencePiece "
            "vocabulary put its tokenizer.model beside it"
        )
    name = name_of(content)
    if name is None:
        raise UserError(
            "the tokenizer splits texts in a way that has no name in GGUF, so other programs would encode differently; "
            f"train the vocabulary again (byte_bpe), or use one that splits as {', '.join(SPLITS)}"
        )
    tokens = [f"[PAD{i}]" for i in range(tokenizer.vocab_size)]
    types = [UNUSED] * len(tokens)
    for token, i in model["vocab"].items():
        tokens[i], types[i] = token, NORMAL
    for added in content.get("added_tokens", []):
        is_special = added["special"] or _SPECIAL.fullmatch(added["content"])
        tokens[added["id"]], types[added["id"]] = added["content"], CONTROL if is_special else USER_DEFINED
    return {
        "model": "gpt2",
        "pre": name,
        "tokens": tokens,
        "token_type": np.array(types, np.int32),
        "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        "add_space_prefix": False,
    }


def _fill_up(metadata: dict[str, Any], n_rows: int) -> None:
    """Append unused tokens until there is one for each row of the model."""
    tokens, types = metadata[f"{KEYS}tokens"], metadata[f"{KEYS}token_type"]
    taken, n_missing = set(tokens), n_rows - len(tokens)
    for i in range(len(tokens), n_rows):
        name = f"[PAD{i}]"
        while name in taken:
            name = f"_{name}"
        tokens.append(name)
    metadata[f"{KEYS}token_type"] = np.append(types, np.full(n_missing, UNUSED, np.int32))
    if f"{KEYS}scores" in metadata:
        metadata[f"{KEYS}scores"] = np.append(metadata[f"{KEYS}scores"], np.full(n_missing, -1000, np.float32))
