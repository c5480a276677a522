"""A fastText classifier as a scorer of `babyllm clean` and `babyllm select`.

The model is trained beforehand, with lines such as `__label__good 文本 ...`:

    pip install fasttext-wheel
    python -c "import fasttext; fasttext.train_supervised('labelled.txt', wordNgrams=2).save_model('quality.bin')"
    cd examples/scorers
    FASTTEXT_MODEL=quality.bin babyllm clean raw/ data/clean --filters=[length,whitespace,quality] \
        --quality.function=fasttext_quality:good --quality.min=0.5
    FASTTEXT_MODEL=quality.bin babyllm select data/unique data/best --kind=documents \
        --scores=[fasttext_quality:good] --keep=0.1
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fasttext

_MODEL = Path(os.environ.get("FASTTEXT_MODEL", "quality.bin"))
_LABEL = "__label__good"
_model = fasttext.load_model(str(_MODEL))

# With another model, the command makes a new result.
VERSION = hashlib.sha256(_MODEL.read_bytes()).hexdigest()


def good(texts: list[str]) -> list[float]:
    """The probability of `good`, one of two labels, for each text; fastText reads a text as one line.

    Only the first label is asked for: with k=-1 and a list of texts, fastText 0.9.2 repeats its probability.
    """
    labels, probabilities = _model.predict([" ".join(text.split()) for text in texts])
    return [
        float(p[0]) if label[0] == _LABEL else 1 - float(p[0]) for label, p in zip(labels, probabilities, strict=True)
    ]
