"""Training of a vocabulary: from texts to the bytes of a `tokenizer.model` or a `tokenizer.json`.

documents -> sentences short enough for SentencePiece -> SentencePiece -> tokenizer.model
documents -> `tokenizers`, on bytes -> tokenizer.json
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sentencepiece
import tokenizers

from babyllm.errors import UserError
from babyllm.runtime.machine import cores
from babyllm.tokenizer.backends import BYTE_OF, utf8
from babyllm.tokenizer.borders import BORDER, spellable, with_borders
from babyllm.tokenizer.sentencepiece_json import CONTROL, SPACE, parse_model, with_plain_merges
from babyllm.tokenizer.special_tokens import SpecialTokens, Wanted

# SentencePiece silently skips longer sentences; a character has up to 4 bytes.
MAX_SENTENCE_BYTES = 4096
MAX_SENTENCE_CHARACTERS = MAX_SENTENCE_BYTES // 4
# Characters that separate sentences: line breaks, which are byte tokens anyway; U+2585, SentencePiece's stand-in for
# rare characters, because it silently skips sentences that hold it; and U+2581, its stand-in for a space.
BORDERS = re.compile(f"[\n\u2585{SPACE}]")
LOSSLESS: dict[str, Any] = {
    "max_sentence_length": MAX_SENTENCE_BYTES,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
    "byte_fallback": True,
    "unk_surface": "",
    # Text with few spaces or none, as Chinese often is, would leave the space out. It would then be spelt in the bytes
    # of its stand-in, U+2581, and come back as that.
    "required_chars": SPACE,
}
LEAST_COVERAGE = 0.98  # smallest share of characters that SentencePiece accepts
NO_TEXT = "there is no text to train a tokenizer on: the documents are empty"
# The words within which a byte-level BPE joins bytes: English endings such as 's; letters, after one other character;
# single digits; other characters, after an optional space and with the line breaks that follow; blanks. It is the split
# of Qwen2 (Bai et al. 2023), which programs that read GGUF know by the name qwen2.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_sentencepiece(documents: Iterable[str], model_type: str, wanted: Wanted) -> bytes:
    """Bytes of a SentencePiece model; see `Tokenizer.train`.

    Raises:
        UserError: `vocab_size` or `character_coverage` does not suit the text, a symbol or special token is not valid,
            or there is no text.
    """
    special = wanted.special
    special.check(wanted.symbols, needs_unknown=True)
    _check_coverage(wanted.character_coverage, model_type)
    if borders := _border_settings(model_type, wanted):
        documents = with_borders(documents, special.names(), wanted.pre_split)
    failures: list[BaseException] = []
    sentences = (sentence for sentence in _sentences(documents, failures) if sentence)
    first = next(sentences, None)
    if first is None:
        raise UserError(NO_TEXT)
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], sentences),
            model_writer=writer,
            model_type=model_type,
            vocab_size=wanted.size_without_last(),
            hard_vocab_limit=False,  # so that the size of the result is the largest possible one
            character_coverage=wanted.character_coverage,
            user_defined_symbols=list(wanted.symbols),
            num_threads=wanted.n_threads or cores(),
            minloglevel=2,
            **LOSSLESS,
            **_special_settings(special),
            **borders,
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from None
        raise _explained(error, wanted) from None
    proto = parse_model(writer.getvalue(), "the trained model")
    wanted.require_filled(len(proto.pieces) + len(special.last))
    _append_last(proto, special)
    for field in ("num_threads", "required_chars"):  # the first depends on the machine, the second is always the same
        proto.trainer_spec.ClearField(field)
    return bytes(proto.SerializeToString(deterministic=True))


def _check_coverage(character_coverage: float, model_type: str) -> None:
    if not LEAST_COVERAGE <= character_coverage <= 1:
        raise UserError(
            f"character_coverage {character_coverage:g}: {model_type} takes {LEAST_COVERAGE} to 1; if there are "
            "more characters than the vocabulary, take a larger vocab_size, or byte_bpe, which spells them in bytes"
        )


def _border_settings(model_type: str, wanted: Wanted) -> dict[str, Any]:
    """The setting of SentencePiece for borders; empty if there are none, as between single characters."""
    has_borders = model_type != "char" and (wanted.pre_split or spellable(wanted.special.names()))
    return {"pretokenization_delimiter": BORDER} if has_borders else {}


def _special_settings(special: SpecialTokens) -> dict[str, Any]:
    """The settings of SentencePiece for the tokens of `first`; it has no place for those after the others."""
    settings: dict[str, Any] = {}
    placed: set[str] = set()
    for role, name in (("unk", special.unk), *special.roles().items()):
        if f"{role}_id" in settings:
            continue
        is_first = name in special.first and name not in placed  # a name can have several roles, a piece only one
        settings[f"{role}_id"] = special.first.index(str(name)) if is_first else -1
        if is_first and name is not None:
            placed.add(name)
            if name != getattr(SpecialTokens, role):
                settings[f"{role}_piece"] = name
    return settings | {"control_symbols": [name for name in special.first if name not in placed]}


def _append_last(proto: Any, special: SpecialTokens) -> None:
    """Append the tokens of `last`, and enter the roles that SentencePiece could not give while it trained."""
    pieces = {piece.piece for piece in proto.pieces}
    for name in special.last:
        if name in pieces:
            raise UserError(f"special: {name!r} also became an ordinary token of this text; choose another name")
        proto.pieces.add(piece=name, score=0.0, type=CONTROL)
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    for role, chosen in special.roles().items():
        if chosen is not None and getattr(proto.trainer_spec, f"{role}_id") != ids[chosen]:
            setattr(proto.trainer_spec, f"{role}_id", ids[chosen])
            setattr(proto.trainer_spec, f"{role}_piece", chosen)


def train_byte_level(documents: Iterable[str], wanted: Wanted) -> bytes:
    """Bytes of a byte-level BPE's `tokenizer.json`; see `Tokenizer.train`.

    Raises:
        UserError: `vocab_size` does not suit the text, a symbol or special token is not valid, or there is no text.
    """
    special = wanted.special
    special.check(wanted.symbols, needs_unknown=False)
    texts = plain_texts(documents, wanted)
    smallest = len(special.names()) + len(BYTE_OF) + len(wanted.symbols)
    if wanted.vocab_size < smallest:
        raise UserError(f"vocab_size {wanted.vocab_size} is too small: this text needs at least {smallest}")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
    to_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=wanted.size_without_last() - len(wanted.symbols),
        special_tokens=special_added(special.first),
        initial_alphabet=sorted(BYTE_OF),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return finished_json(tokenizer, wanted)


def plain_texts(documents: Iterable[str], wanted: Wanted) -> Iterator[str]:
    """The valid, non-empty texts of documents, cut at their borders.

    Raises:
        UserError: there is no text.
    """
    names = wanted.special.names()
    with_cuts = with_borders(map(_checked, documents), names, wanted.pre_split)
    is_cut = wanted.pre_split or spellable(names)
    parts = (part for text in with_cuts for part in (text.split(BORDER) if is_cut else [text]) if part)
    first = next(parts, None)
    if first is None:
        raise UserError(NO_TEXT)
    return itertools.chain([first], parts)


def special_added(names: Sequence[str]) -> list[tokenizers.AddedToken]:
    """The special tokens as `tokenizers` takes them."""
    return [tokenizers.AddedToken(name, special=True, normalized=False) for name in names]


def finished_json(tokenizer: tokenizers.Tokenizer, wanted: Wanted) -> bytes:
    """Bytes of the `tokenizer.json` of a trained tokenizer, after symbols and the last special tokens are appended."""
    tokenizer.add_tokens([tokenizers.AddedToken(name, special=False, normalized=False) for name in wanted.symbols])
    tokenizer.add_special_tokens(special_added(wanted.special.last))
    wanted.require_filled(tokenizer.get_vocab_size())
    return with_plain_merges(tokenizer.to_str()).encode()


def _explained(error: RuntimeError, wanted: Wanted) -> UserError:
    """An error of SentencePiece, reworded to say what to do; its sizes lack the special tokens after the others."""
    vocab_size, n_last = wanted.vocab_size, len(wanted.special.last)
    text = str(error)
    if needed := re.search(r"smaller than required_chars\. \d+ vs (\d+)", text):
        return UserError(
            f"vocab_size {vocab_size} is too small: this text needs at least {int(needed[1]) + n_last}, or a lower "
            f"character_coverage ({LEAST_COVERAGE} to 1)"
        )
    if needed := re.search(r"Vocabulary size too high .*value <= (\d+)", text):
        return UserError(f"vocab_size {vocab_size} is too large: this text yields at most {int(needed[1]) + n_last}")
    reason = " ".join(text.rpartition("] ")[2].split()) or "no reason stated"
    return UserError(
        f"SentencePiece cannot make a vocabulary of {vocab_size} tokens from this text ({reason[:200]}); give more "
        "text or another vocab_size"
    )


def _sentences(documents: Iterable[str], failures: list[BaseException]) -> Iterator[bytes]:
    """The documents cut into UTF-8 sentences that SentencePiece does not skip.

    An exception is also appended to `failures`, because SentencePiece would pass on only its message.
    """
    try:
        for document in documents:
            for line in BORDERS.split(document):
                for start in range(0, len(line), MAX_SENTENCE_CHARACTERS):
                    yield utf8(line[start : start + MAX_SENTENCE_CHARACTERS])
    except BaseException as error:
        failures.append(error)
        raise


def _checked(text: str) -> str:
    utf8(text)
    return text
