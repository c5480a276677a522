"""The raw texts of a training run, prepared once: cleaned on request, a tokenizer trained, tokens written to shards.

data.path: texts or a corpus -> [RUN_DIR/data/corpus] -> RUN_DIR/data/tokenizer -> RUN_DIR/data/tokens

The steps are those of `babyllm clean`, `train-tokenizer` and `tokenize`, with their defaults: a complete step is not
repeated, and an interrupted one continues.
"""

from __future__ import annotations

from pathlib import Path

from babyllm.pipeline.report import print_report
from babyllm.prepare.tokens import tokenize
from babyllm.prepare.vocabulary import learn_vocabulary
from babyllm.prepare.vocabulary_config import VocabularyConfig
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.stage import clean
from babyllm.tokenizer import Tokenizer


def prepare_texts(
    path: Path, out: Path, *, is_cleaned: bool = False, tokenizer: Path | None = None, vocab_size: int | None = None
) -> Path:
    """Prepare the texts at a path as token data.

    Args:
        path: file, folder or corpus.
        out: directory of the results; created if absent.
        is_cleaned: whether texts go through the default filters of `babyllm clean` first.
        tokenizer: directory or file of the tokenizer; None trains one on the texts.
        vocab_size: number of tokens of a trained tokenizer, fewer where the texts allow only fewer; None takes 8,192.

    Returns:
        The directory of shards.

    Raises:
        UserError: the texts cannot be read, or `out` holds the results of other texts or settings.
    """
    texts = path
    if is_cleaned:
        texts = out / "corpus"
        if report := clean([path], texts, CleanConfig()):
            print_report(report)
    if tokenizer is None:
        tokenizer = out / "tokenizer"
        size = VocabularyConfig().vocab_size if vocab_size is None else vocab_size
        if report := learn_vocabulary([texts], tokenizer, VocabularyConfig(size, hard_vocab_limit=False)):
            print_report(report)
    tokens = out / "tokens"
    if report := tokenize([texts], Tokenizer.load(tokenizer), tokens):
        print_report(report)
        print(f"{path}: prepared; --data.path={tokens} reads the same tokens in other runs")
    return tokens
