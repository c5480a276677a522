"""Filters that use a model: perplexity under a language model, and a classifier of quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from babyllm.config.values import Finite, PathText
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.files import sha256
from babyllm.text.clean import quality
from babyllm.text.clean.filters.contract import Judge, Resources, Scorer
from babyllm.text.readers import WHOLE_FILES, ReadConfig, find_partitions, key_of, read_partition
from babyllm.text.text_scorers import TextScorer, load_text_scorer


@dataclass(frozen=True)
class Perplexity:
    """Reject texts that a language model finds too surprising (noise) or not surprising at all (boilerplate).

    Bits per byte are the nats of all tokens divided by ln 2 and by the number of UTF-8 bytes, so that models with
    different tokenizers can be compared.

    Attributes:
        model: run, step or Hugging Face directory; needed when the filter is used.
        min: fewest bits per byte.
        max: most bits per byte; null for no limit.
    """

    model: PathText = ""
    min: Finite = 0.0
    max: Finite | None = None

    def prepare(self, resources: Resources) -> Judge:
        """The function that judges documents by the bits per byte of their texts.

        Raises:
            UserError: no model is named, or models cannot be loaded.
        """
        if resources.load_scorer is None or not self.model:
            raise UserError("--filters: perplexity needs a model; name its directory with --perplexity.model")
        scorer = _scorer(resources.load_scorer, self.model)
        return lambda documents: [self._reason(bits) for bits in scorer([document.text for document in documents])]

    def digests(self, read: ReadConfig) -> dict[str, str]:
        """Names, sizes and times of the files of weights, because hashing them would take longer than cleaning."""
        weights = sorted(Path(self.model).rglob("*.safetensors")) if self.model else []
        return {
            "perplexity.model": str([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weights])
        }

    def _reason(self, bits: float) -> str | None:
        if bits < self.min:
            return f"below {self.min:g} bits per byte"
        if self.max is not None and bits > self.max:
            return f"above {self.max:g} bits per byte"
        return None


@cache
def _scorer(load: Callable[[str], Scorer], model: str) -> Scorer:
    return load(model)


@dataclass(frozen=True)
class Quality:
    """Reject texts that a classifier finds poor.

    It is a linear model on character n-grams. With `good` and `bad` it is trained first and stored with the corpus; its
    accuracy on held-out examples is in `quality.json`. `model` names a corpus whose classifier was trained before. A
    `function` of your own takes its place.

    Attributes:
        model: directory of an earlier corpus whose classifier is used.
        good: files or folders with good texts to learn from.
        bad: files or folders with bad texts to learn from.
        function: module:function of your own that takes a list of texts and returns a number for each, which does not
            depend on the others.
        min: lowest probability of being good, 0 to 1, or lowest number of the function.
    """

    model: PathText = ""
    good: list[PathText] | None = None
    bad: list[PathText] | None = None
    function: PathText = ""  # like a path, it is identified by the content to which it leads: see `digests`
    min: Finite = 0.5

    def judge(self, texts: Sequence[str]) -> list[str | None]:
        """Why each text is rejected, or None.

        Raises:
            UserError: there is no classifier, scikit-learn is not installed, or the function fails.
        """
        if self.function:
            low = f"score of {self.function} below {self.min:g}"
            return [low if score < self.min else None for score in self._scorer()(texts).tolist()]
        poor = f"probability of being good below {self.min:g}"
        return [poor if p < self.min else None for p in _classifier(self.model).probabilities(texts).tolist()]

    def digests(self, read: ReadConfig) -> dict[str, str]:
        """Values that identify the contents of the examples, of the classifier and of the function's module."""
        if self.function:
            return {"quality.function": self._scorer().identity}
        found = {
            f"quality.{name}": key_of(find_partitions(list(map(Path, paths)), read, WHOLE_FILES))
            for name, paths in (("good", self.good), ("bad", self.bad))
            if paths
        }
        weights = Path(self.model) / quality.WEIGHTS
        return found | ({"quality.model": sha256(weights)} if weights.is_file() else {})

    def _scorer(self) -> TextScorer:
        if self.model or self.good or self.bad:
            raise UserError("--quality.function: takes the place of a classifier; leave out --quality.model, good, bad")
        return load_text_scorer("--quality.function", self.function)

    def examples(self) -> list[Path]:
        """The files and folders with good and bad texts."""
        return [Path(path) for path in (*(self.good or ()), *(self.bad or ()))]

    def train(self, read: ReadConfig, directory: Path) -> tuple[Quality, Sequence[str]]:
        """The filter with a classifier trained on the examples and stored in `directory`.

        Raises:
            UserError: the examples cannot be read, or are too few.
        """
        if not self.examples():
            return self, ()
        quality.train(_texts(self.good, read), _texts(self.bad, read)).save(directory)
        return replace(self, model=str(directory)), (quality.WEIGHTS, quality.ABOUT)


def _texts(paths: Sequence[str] | None, read: ReadConfig) -> list[str]:
    partitions = find_partitions(list(map(Path, paths)), read, WHOLE_FILES) if paths else []
    return [d.text for p in partitions for d in read_partition(p, read) if isinstance(d, Document)]


@cache
def _classifier(directory: str) -> quality.Classifier:
    if not directory:
        raise UserError("--quality.model is missing: name a directory, or give --quality.good and --quality.bad")
    return quality.load(Path(directory))
