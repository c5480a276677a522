"""Raw texts that a training run names, prepared once: cleaned if asked, a tokenizer, shards of tokens.

data.path: texts or a corpus -> [RUN_DIR/data/corpus] -> RUN_DIR/data/tokenizer -> RUN_DIR/data/tokens

Each step is the stage that `babyllm clean`, `train-tokenizer` and `tokenize` carry out, with its defaults: what is
complete is not done again, and what was interrupted goes on.
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
    """Token data of the texts at a path.

    Args:
        path: a file, a folder or a corpus.
        out: directory of what is prepared; made if absent.
        is_cleaned: whether the default filters of `babyllm clean` come first.
        tokenizer: directory or file of the tokenizer; None trains one on the texts.
        vocab_size: tokens of a tokenizer that is trained; fewer where the texts give fewer. None takes 8,192.

    Returns:
        The directory of shards.

    Raises:
        UserError: the texts cannot be read, or `out` holds what was prepared from others.
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
