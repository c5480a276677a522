"""Borders in training texts that no piece crosses: around special names, and between the words of jieba.

The borders are needed in training alone. A tokenizer trained with them encodes without jieba.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Literal

from babyllm.errors import UserError

BORDER = "\x1f"
"""The character that stands for a border."""
PreSplit = Literal["jieba"]
CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]")


def load_jieba(flag: str) -> ModuleType:
    """The package jieba, silent.

    Args:
        flag: flag that asks for it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its patterns have invalid escapes, which compilers warn of
            jieba = importlib.import_module("jieba")
    except ImportError as error:
        raise UserError(f'{flag} needs jieba: pip install "babyllm[corpus]"') from error
    jieba.setLogLevel(40)
    return jieba


def spellable(names: Sequence[str]) -> list[str]:
    """The names that a piece could spell: letters, after another character or not, or punctuation alone."""
    return [n for n in names if n.isalpha() or n[1:].isalpha() or not any(map(str.isalnum, n))]


def with_borders(documents: Iterable[str], names: Sequence[str], pre_split: PreSplit | None) -> Iterable[str]:
    """The documents with `BORDER` inside special names, and around the words of jieba.

    Args:
        documents: training texts.
        names: names of special tokens. Those that a piece could spell are cut in the text, so that the vocabulary
            never has them as ordinary tokens.
        pre_split: "jieba" for borders around its words of Chinese characters; None for none.

    Returns:
        The documents themselves if there is nothing to cut.

    Raises:
        UserError: jieba is needed and not installed.
    """
    if cut := spellable(names):
        inside = (f"(?<={re.escape(n[0])})(?={re.escape(n[1:])})" if n[1:] else re.escape(n) for n in cut)
        pattern = re.compile("|".join(inside))
        documents = (pattern.sub(BORDER, document) for document in documents)
    if pre_split:
        documents = _around_words(documents, load_jieba("--pre_split=jieba"))
    return documents


def _around_words(documents: Iterable[str], jieba: ModuleType) -> Iterator[str]:
    for document in documents:
        words: list[str] = jieba.lcut(document)
        parts = words[:1]
        for before, word in pairwise(words):
            # Only Chinese needs them: elsewhere the tokenizer's own rules divide words, with the space before them.
            is_chinese = CHINESE.match(before[-1]) or CHINESE.match(word[0])
            parts += [BORDER, word] if is_chinese else [word]
        yield "".join(parts)
