"""How many different parts of speech a row has: |set(pos)| of CBC, by jieba's tagger on the decoded text.

The tagger does not guess words that its dictionary lacks, which would take ten times as long: their characters are
words of their own.
"""

from __future__ import annotations

import importlib
import warnings
from functools import lru_cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from babyllm.data.difficulty.row_ids import chunks
from babyllm.data.order.shuffle import Rows
from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer
from babyllm.tokenizer.borders import load_jieba


@lru_cache(maxsize=1)
def load_tagger(flag: str) -> ModuleType:
    """The package jieba.posseg.

    Args:
        flag: flag that asks for it, for the message.

    Raises:
        UserError: jieba is not installed.
    """
    load_jieba(flag)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("jieba.posseg")


def n_parts_of_speech(data: Rows, tokenizer: Tokenizer | None) -> NDArray[np.float64]:
    """(len(data),) float64, the number of different tags of jieba among the words of each row's text.

    Raises:
        UserError: jieba is not installed, or there is no tokenizer to decode the rows.
    """
    tagger = load_tagger("data.curriculum.by=pos")
    if tokenizer is None:
        raise UserError("data.curriculum.by=pos: needs the tokenizer of the data, which does not lie beside it")
    out = np.zeros(len(data))
    for chunk in chunks(data, "rows tagged", chunk_rows=64):
        for row, (begin, end) in enumerate(zip(chunk.ids.offsets[:-1], chunk.ids.offsets[1:], strict=True)):
            text = tokenizer.decode(chunk.ids.values[begin:end].tolist())
            out[chunk.first + row] = len({word.flag for word in tagger.lcut(text, HMM=False)})
    return out
