"""WordPiece: vocabularies trained here, and the `vocab.txt` of BERT or of single characters, as a `tokenizer.json`.

    documents -> words -> characters and their counts -> `tokenizers` -> tokenizer.json
    vocab.txt, tokenizer_config.json -------------------------------> tokenizer.json

WordPiece has losses. Whitespace divides words and is not stored, so that `decode` puts one space between two words. A
Chinese character is a word, and no space is put between two of them. Lower case, where a `vocab.txt` asks for it, loses
capitals and accents. A word with a character that has no token is unknown as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from babyllm.config.json_fields import Fields
from babyllm.errors import UserError
from babyllm.tokenizer.special_tokens import Wanted
from babyllm.tokenizer.training import finished_json, plain_texts, special_added

INSIDE = "##"  # prefix of a piece that continues a word
LONGEST_WORD = 100  # characters of a word; longer ones are unknown
# BERT's names of its special tokens, by the key of tokenizer_config.json.
BERT_NAMES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


def train_wordpiece(documents: Iterable[str], wanted: Wanted) -> bytes:
    """Bytes of a WordPiece `tokenizer.json` that keeps case and accents; see `Tokenizer.train`.

    Raises:
        UserError: `vocab_size` does not suit the text, a symbol or special token is not valid, or there is no text.
    """
    special = wanted.special
    special.check(wanted.symbols, needs_unknown=True)
    tokenizer = _wordpiece({}, str(special.unk), is_lower=False, strips=False, splits_chinese=True)
    # The words are kept with their counts: the trainer numbers pieces in an order of its own unless it has them all.
    words = Counter(w for text in plain_texts(documents, wanted) for w in _words(tokenizer, text))
    alphabet, inside = _alphabet(words, wanted.character_coverage)
    smallest = len(special.names()) + len(alphabet) + len(inside) + len(wanted.symbols)
    if wanted.vocab_size < smallest:
        raise UserError(
            f"vocab_size {wanted.vocab_size} is too small: this text needs at least {smallest}, or a lower "
            "character_coverage"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=wanted.size_without_last() - len(wanted.symbols),
        special_tokens=[*special.first, *alphabet, *(INSIDE + character for character in inside)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=INSIDE,
        show_progress=False,
    )
    kept = set(alphabet)
    tokenizer.train_from_iterator(
        (w for word in sorted(words) if kept >= set(word) for w in [word] * words[word]), trainer
    )
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    trained = _wordpiece(vocabulary, str(special.unk), is_lower=False, strips=False, splits_chinese=True)
    trained.add_special_tokens(special_added(special.first))
    return finished_json(trained, wanted)


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def _alphabet(words: Counter[str], coverage: float) -> tuple[list[str], list[str]]:
    """The most frequent characters that make up a share of the text, and those of them found inside words; sorted."""
    counts: Counter[str] = Counter()
    for word, n in words.items():
        for character in word:
            counts[character] += n
    left, kept = coverage * counts.total(), set[str]()
    for character, n in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if left <= 0:
            break
        kept.add(character)
        left -= n
    inside = {character for word in words for character in word[1:]}
    return sorted(kept), sorted(inside & kept)


def _wordpiece(
    vocabulary: dict[str, int], unknown: str, *, is_lower: bool, strips: bool, splits_chinese: bool
) -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordPiece(
            vocabulary, unk_token=unknown, continuing_subword_prefix=INSIDE, max_input_chars_per_word=LONGEST_WORD
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=splits_chinese, strip_accents=strips, lowercase=is_lower
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix=INSIDE, cleanup=True),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<=\p{Han}) (?=\p{Han})"), ""),
        ]
    )
    return tokenizer


# ---- vocab.txt


def from_vocab_txt(source: bytes, settings: Fields, where: str) -> bytes:
    """Bytes of the `tokenizer.json` of a `vocab.txt`: a token per line, whose id is the number of lines before it.

    A vocabulary of single characters, besides names in brackets, becomes a tokenizer of characters, in which an empty
    line stands for the line break. Any other is a WordPiece vocabulary.

    Args:
        source: bytes of the file.
        settings: values of the `tokenizer_config.json` beside it: `do_lower_case`, `tokenize_chinese_chars` (both true
            where absent, as in BERT), `strip_accents` (the same as `do_lower_case`) and the names of special tokens.
        where: name of the file in messages.

    Raises:
        UserError: the file is not UTF-8, is empty, or has no token of unknown words.
    """
    try:
        lines = source.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{where} is not a vocab.txt: it is not UTF-8 text") from None
    vocabulary = {line: i for i, line in enumerate(lines)}
    names = {role: _name(settings, role, default) for role, default in BERT_NAMES.items()}
    is_bracketed = {line for line in vocabulary if line[:1] + line[-1:] in ("<>", "[]") and len(line) > 2}
    special = [line for line in vocabulary if line in names.values()]
    if any(len(line) > 1 and line not in is_bracketed and line not in special for line in vocabulary):
        return _of_words(vocabulary, names["unk"], special, settings, where)
    unknown = next((line for line in (names["unk"], "<unk>") if line in vocabulary), None)
    return _of_characters(vocabulary, unknown, sorted({*is_bracketed, *special}, key=lambda line: vocabulary[line]))


def _name(settings: Fields, role: str, default: str) -> str:
    key = f"{role}_token"
    found = settings.object(key).text("content") if settings.is_object(key) else settings.text(key, default)
    return str(found)


def _of_words(vocabulary: dict[str, int], unknown: str, special: list[str], settings: Fields, where: str) -> bytes:
    if unknown not in vocabulary:
        raise UserError(f"{where} is not a WordPiece vocabulary: it lacks {unknown!r}, the token of unknown words")
    is_lower = settings.boolean("do_lower_case", True)
    tokenizer = _wordpiece(
        vocabulary,
        unknown,
        is_lower=is_lower,
        strips=settings.boolean("strip_accents", is_lower),
        splits_chinese=settings.boolean("tokenize_chinese_chars", True),
    )
    tokenizer.add_special_tokens(special_added(special))
    return tokenizer.to_str().encode()


def _of_characters(vocabulary: dict[str, int], unknown: str | None, special: list[str]) -> bytes:
    """A BPE without merges, in which every character is a token of its own."""
    pieces = {line or "\n": i for line, i in vocabulary.items()}
    tokenizer = Tokenizer(models.BPE(pieces, [], unk_token=unknown))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special_added(special))
    return tokenizer.to_str().encode()
