"""A classifier that separates good text from bad: a linear model on hashed character n-grams.

files of good and bad texts -> train -> Classifier -> save -> quality.npz (weights), quality.json (the rest)
texts -> counts of hashed 1- to 3-grams, scaled to length 1 -> weights -> probability of being good
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.documents import is_held_out
from babyllm.errors import UserError
from babyllm.files import write_bytes, write_json

WEIGHTS, ABOUT = "quality.npz", "quality.json"
FORMAT_VERSION = 1
N_FEATURES = 1 << 18
LONGEST_GRAM = 3
HELD_OUT = 0.1
_LOOKED_AT = 4000  # characters read of a text, which show its quality as well as all of it


@dataclass(frozen=True)
class Classifier:
    """A trained model.

    Attributes:
        weights: (N_FEATURES,) float32 weights.
        bias: number added to the weighted sum.
        accuracy: share of the held-out tenth of the examples that is classified correctly; None if none was held out.
    """

    weights: NDArray[np.float32]
    bias: float
    accuracy: float | None = None

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(len(texts),) float64 probability that each text is good.

        Raises:
            UserError: scikit-learn is not installed.
        """
        logits = np.asarray(_features(texts) @ self.weights.astype(np.float64)) + self.bias
        return np.asarray(1 / (1 + np.exp(-logits)), np.float64)

    def save(self, directory: Path) -> None:
        """Write `quality.npz` and `quality.json` into an existing directory."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, weights=self.weights)
        write_bytes(directory / WEIGHTS, buffer.getvalue())
        about = {"version": FORMAT_VERSION, "longest_gram": LONGEST_GRAM, "bias": self.bias, "accuracy": self.accuracy}
        write_json(directory / ABOUT, about)


def train(good: Sequence[str], bad: Sequence[str]) -> Classifier:
    """Train a classifier on examples; a tenth of them, chosen by the hash of the text, is held out for the accuracy.

    Raises:
        UserError: fewer than two different texts of a kind are left to learn from, or scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError('training a quality classifier needs scikit-learn: pip install "babyllm[corpus]"') from error
    examples = sorted({(text, True) for text in good} | {(text, False) for text in bad})
    held_out = [example for example in examples if is_held_out(example[0], HELD_OUT)]
    seen = [example for example in examples if not is_held_out(example[0], HELD_OUT)]
    for is_good, name in ((True, "good"), (False, "bad")):
        if sum(label is is_good for _, label in seen) < 2:
            raise UserError(f"--quality.{name}: holds too few texts to learn from; give some hundred at least")
    texts, labels = zip(*seen, strict=True)
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=300).fit(_features(texts), labels)
    classifier = Classifier(model.coef_[0].astype(np.float32), float(model.intercept_[0]))
    if not held_out:
        return classifier
    found = classifier.probabilities([text for text, _ in held_out]) > 0.5
    accuracy = float(np.mean(found == np.array([label for _, label in held_out])))
    return Classifier(classifier.weights, classifier.bias, accuracy)


def load(directory: Path) -> Classifier:
    """The classifier that `save` wrote.

    Raises:
        UserError: there is no classifier, or it is damaged or of another version.
    """
    try:
        about = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
        if about["version"] != FORMAT_VERSION:
            raise UserError(f"{directory / ABOUT}: version {about['version']}, this babyllm reads {FORMAT_VERSION}")
        with np.load(directory / WEIGHTS) as arrays:
            return Classifier(arrays["weights"], about["bias"], about["accuracy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory}: holds no quality classifier that can be read ({error}); train one") from error


def _features(texts: Sequence[str]) -> Any:
    """(len(texts), N_FEATURES) sparse float64 counts of hashed n-grams, scaled to length 1."""
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise UserError('a quality classifier needs scikit-learn: pip install "babyllm[corpus]"') from error
    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(1, LONGEST_GRAM), n_features=N_FEATURES, alternate_sign=False, lowercase=False
    )
    return vectorizer.transform([text[:_LOOKED_AT] for text in texts])
