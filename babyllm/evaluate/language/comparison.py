"""Models side by side on the same raw texts: perplexity, bits per byte and per character by domain, and differences.

files -> chosen documents -> each model: nats by document -> ratios of sums with their errors, paired differences

Perplexity is per token, so it compares only models with one tokenizer; bits per byte and per character compare any.
Errors are over documents, since the tokens of a document are not independent.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.config.json_fields import read_json
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.evaluate.language.chosen_texts import TextFiles, chosen_texts
from babyllm.evaluate.language.texts import text_nats
from babyllm.evaluate.statistics import Estimate, ratio_estimate
from babyllm.interop.hf_config import config_from_json
from babyllm.loading import base_directory, load, model_directory
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.store.shard_writer import TOTAL
from babyllm.text.readers import ReadConfig
from babyllm.tokenizer import Tokenizer

_LARGEST_EXPONENT = 700.0  # e ** 710 is infinite in float64


@dataclass(frozen=True)
class TextSettings:
    """Which documents are read, and how.

    Attributes:
        n: largest number of documents; None for no limit.
        max_bytes: UTF-8 bytes of text after which no further document is chosen; None for no limit.
        seed: seed of the choice.
        seq_len: largest number of tokens of a row; None takes each model's context.
        stride: tokens from the beginning of a row of a long document to that of the next; None takes half a row.
        read: settings of the readers.
        int8: whether matrices are stored in 8 bits.
    """

    n: int | None = None
    max_bytes: int | None = None
    seed: int = 0
    seq_len: int | None = None
    stride: int | None = None
    read: ReadConfig = field(default_factory=ReadConfig)
    int8: bool = False


@dataclass(frozen=True)
class TextScores:
    """What a model scores on N documents.

    Attributes:
        seq_len: largest number of tokens of a row.
        domains: names of the domains.
        domain: (N,) int64 index of each document's domain.
        nats: (N,) float64 nats of its tokens and its <eos>.
        tokens: (N,) int64 number of these tokens.
        n_bytes: (N,) int64 UTF-8 bytes of its text.
        characters: (N,) int64 characters (code points) of its text.
        unknown: number of characters, in all documents, that the tokenizer cannot encode.
    """

    seq_len: int
    domains: Sequence[str]
    domain: NDArray[np.int64]
    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    characters: NDArray[np.int64]
    unknown: int

    def parts(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """The domains in order of their names, then "all", each with the (N,) bool mask of its documents."""
        for name in sorted(self.domains):
            yield name, self.domain == self.domains.index(name)
        yield TOTAL, np.ones(len(self.domain), bool)

    def estimates(self, part: NDArray[np.bool_]) -> dict[str, Estimate]:
        """Loss (nats per token), perplexity, bits per byte and bits per character of some documents.

        Args:
            part: (N,) bool mask of these documents.
        """
        nats, bits = self.nats[part], self.nats[part] / math.log(2)
        loss = ratio_estimate(nats, self.tokens[part])
        return {
            "loss": loss,
            "perplexity": _exponential(loss),
            "bits_per_byte": ratio_estimate(bits, self.n_bytes[part]),
            "bits_per_character": ratio_estimate(bits, self.characters[part]),
        }

    def difference(self, other: TextScores, part: NDArray[np.bool_]) -> Estimate:
        """The bits per byte of this model minus those of another on the same documents, with the error of the pairs.

        Args:
            other: scores of the other model.
            part: (N,) bool mask of the documents.
        """
        return ratio_estimate((self.nats - other.nats)[part] / math.log(2), self.n_bytes[part])


def _exponential(loss: Estimate) -> Estimate:
    """The perplexity of a loss, with its error to first order (the delta method)."""
    value = math.exp(loss.value) if loss.value < _LARGEST_EXPONENT else math.inf
    return loss._replace(value=value, error=value * loss.error)


def score_models(
    models: Mapping[str, str], paths: Sequence[str], settings: TextSettings, runtime: Runtime
) -> tuple[dict[str, TextScores], Mapping[str, int]]:
    """The scores of each model on the same documents, and the number of rejected records by reason.

    Every rank must call it, and ranks share the work. One model at a time is in memory.

    Args:
        models: run, step or Hugging Face directory of each model, by its name.
        paths: files and folders of texts, or corpora.
        settings: settings of the choice and the reading of documents.
        runtime: device, dtype and ranks.

    Raises:
        UserError: a file or flag is at fault; the message names it.
        KeyboardInterrupt: a stop signal arrived.
    """
    lengths = {name: _row_length(directory, settings) for name, directory in models.items()}
    files = TextFiles([Path(path) for path in paths], settings.read)
    documents = chosen_texts(files, settings.n, settings.max_bytes, settings.seed)
    scores: dict[str, TextScores] = {}
    for name, directory in models.items():
        model, tokenizer = load(directory, int8=settings.int8)
        model.to(runtime.device)
        found = score_texts(model, tokenizer, documents, runtime, seq_len=lengths[name], stride=settings.stride)
        del model  # before the next one is read
        if not len(found.nats):
            reasons = "; ".join(f"{n:,} x {reason}" for reason, n in files.rejected.most_common(3))
            raise UserError(f"--texts: {', '.join(paths)} holds no text ({reasons or 'only empty files'})")
        scores[name] = found
        if not np.array_equal(found.n_bytes, next(iter(scores.values())).n_bytes):
            raise UserError(f"--texts: {', '.join(paths)} changed while it was read; run the command again")
    return scores, files.rejected


def _row_length(directory: str, settings: TextSettings) -> int:
    """The largest number of tokens of a row of a model, checked before any model is loaded."""
    config = base_directory(model_directory(directory)) / "config.json"
    context = config_from_json(read_json(config), str(config)).max_seq_len
    seq_len = min(settings.seq_len or context, context)
    if (settings.stride or 1) > seq_len:
        raise UserError(f"--stride={settings.stride}: {directory} reads rows of {seq_len} tokens; take at most as many")
    return seq_len


def score_texts(
    model: Transformer,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    runtime: Runtime,
    *,
    seq_len: int,
    stride: int | None = None,
) -> TextScores:
    """The scores of a model on documents; every rank must call it, and ranks share the work.

    Args:
        model: model to evaluate, on the device.
        tokenizer: tokenizer of the model.
        documents: documents, read once, of which a few are in memory at a time.
        runtime: device, dtype and ranks.
        seq_len: largest number of tokens of a row.
        stride: tokens from the beginning of a row of a long document to that of the next; None takes half a row.

    Raises:
        KeyboardInterrupt: a stop signal arrived.
    """
    domains: dict[str, int] = {}
    read = array("q")  # four numbers of each document: domain, bytes, characters, unknown characters

    def texts() -> Iterator[str]:
        for document in documents:
            text = document.text.encode()
            domain = domains.setdefault(document.domain, len(domains))
            read.extend((domain, len(text), len(document.text), tokenizer.count_unknown([text])[0]))
            yield document.text

    found = text_nats(model, tokenizer, texts(), runtime, seq_len=seq_len, stride=stride)
    domain, n_bytes, characters, unknown = np.array(read, np.int64).reshape(-1, 4).T
    sizes = found.tokens, n_bytes, characters, int(unknown.sum())
    return TextScores(seq_len, list(domains), domain, found.nats, *sizes)
