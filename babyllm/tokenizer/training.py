"""Training of a vocabulary: from texts to the bytes of a `tokenizer.model` or a `tokenizer.json`.

documents -> sentences short enough for SentencePiece -> SentencePiece -> tokenizer.model
documents -> `tokenizers`, on bytes -> tokenizer.json
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece
import tokenizers

from babyllm.errors import UserError
from babyllm.runtime.machine import cores
from babyllm.tokenizer.backends import BYTE_OF, utf8
from babyllm.tokenizer.sentencepiece_json import SPACE, parse_model, with_plain_merges

SPECIAL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|reserved_{i}|>" for i in range(10)),
)
"""The special tokens of a tokenizer trained here; the id of a name is its index."""

# SentencePiece silently skips longer sentences; a character has up to 4 bytes.
MAX_SENTENCE_BYTES = 4096
MAX_SENTENCE_CHARACTERS = MAX_SENTENCE_BYTES // 4
# Characters that separate sentences: line breaks, which are byte tokens anyway; U+2585, SentencePiece's stand-in for
# rare characters, because it silently skips sentences that hold it; and U+2581, its stand-in for a space.
BORDERS = re.compile(f"[\n\u2585{SPACE}]")
NO_TEXT = "there is no text to train a tokenizer on: the documents are empty"
# The words within which a byte-level BPE joins bytes: English endings such as 's; letters, after one other character;
# single digits; other characters, after an optional space and with the line breaks that follow; blanks. It is the split
# of Qwen2 (Bai et al. 2023), which programs that read GGUF know by the name qwen2.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_sentencepiece(
    documents: Iterable[str],
    vocab_size: int,
    model_type: str,
    *,
    character_coverage: float,
    n_threads: int | None,
    special_tokens: Sequence[str],
    symbols: Sequence[str],
    hard_vocab_limit: bool,
) -> bytes:
    """Bytes of a SentencePiece model with `SPECIAL_TOKENS`, followed by `special_tokens`; see `Tokenizer.train`.

    Raises:
        UserError: `vocab_size` does not suit the text, a symbol is not valid, or there is no text.
    """
    special = _all_special(special_tokens, symbols)
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
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # so that the size of the result is the largest possible one
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
            control_symbols=special[4:],
            user_defined_symbols=list(symbols),
            num_threads=n_threads or cores(),
            minloglevel=2,
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from None
        raise _explained(error, vocab_size) from None
    proto = parse_model(writer.getvalue(), "the trained model")
    if hard_vocab_limit:
        _require_filled(vocab_size, len(proto.pieces))
    proto.trainer_spec.ClearField("num_threads")  # or the hash would depend on the machine
    return bytes(proto.SerializeToString(deterministic=True))


def train_byte_level(
    documents: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str],
    symbols: Sequence[str],
    hard_vocab_limit: bool,
) -> bytes:
    """Bytes of a byte-level BPE's `tokenizer.json` with `SPECIAL_TOKENS` and `special_tokens`; see `Tokenizer.train`.

    Raises:
        UserError: `vocab_size` does not suit the text, a symbol is not valid, or there is no text.
    """
    special = _all_special(special_tokens, symbols)
    texts = (text for text in map(_checked, documents) if text)
    first = next(texts, None)
    if first is None:
        raise UserError(NO_TEXT)
    smallest = len(special) + len(BYTE_OF) + len(symbols)
    if vocab_size < smallest:
        raise UserError(f"vocab_size {vocab_size} is too small: this text needs at least {smallest}")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
    to_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - len(symbols),
        special_tokens=[tokenizers.AddedToken(name, special=True, normalized=False) for name in special],
        initial_alphabet=sorted(BYTE_OF),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain([first], texts), trainer)
    tokenizer.add_tokens([tokenizers.AddedToken(name, special=False, normalized=False) for name in symbols])
    if hard_vocab_limit:
        _require_filled(vocab_size, tokenizer.get_vocab_size())
    return with_plain_merges(tokenizer.to_str()).encode()


def _all_special(names: Sequence[str], symbols: Sequence[str]) -> list[str]:
    """The special tokens, after checking that no symbol is one of them, empty, with whitespace or repeated."""
    special = list(dict.fromkeys([*SPECIAL_TOKENS, *names]))
    for symbol in symbols:
        if not symbol or SPACE in symbol or any(map(str.isspace, symbol)) or symbols.count(symbol) > 1:
            raise UserError(f"symbols: {symbol!r} is empty, holds whitespace or is given twice; leave it out")
        if symbol in special or re.fullmatch("<0x[0-9A-F]{2}>", symbol):
            raise UserError(f"symbols: {symbol!r} is the name of a special token; leave it out")
    return special


def _require_filled(wanted: int, found: int) -> None:
    if found < wanted:
        raise UserError(
            f"vocab_size {wanted} is too large: this text yields at most {found}; take that, give more text, or set "
            "hard_vocab_limit to false, which takes as many as there are"
        )


def _explained(error: RuntimeError, vocab_size: int) -> UserError:
    """An error of SentencePiece, reworded to say what to do."""
    text = str(error)
    if needed := re.search(r"smaller than required_chars\. \d+ vs (\d+)", text):
        return UserError(
            f"vocab_size {vocab_size} is too small: this text needs at least {needed[1]}, or a lower character_coverage"
        )
    if needed := re.search(r"Vocabulary size too high .*value <= (\d+)", text):
        return UserError(f"vocab_size {vocab_size} is too large: this text yields at most {needed[1]}")
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
