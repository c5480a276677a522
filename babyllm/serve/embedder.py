"""Embeddings of many requests by one model, a batch at a time; an exception ends only the request that raised it.

begin -> rows, sorted by length -> advance: one batch of the oldest request -> vectors of a request that is done
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from babyllm.evaluate.scoring import batches
from babyllm.generation.decoder import PREFILL_TOKENS
from babyllm.generation.pooling import MarkedRow, pooled_hidden
from babyllm.model.transformer import Transformer
from babyllm.serve.api.embeddings.embedding_request import EmbeddingRequest
from babyllm.serve.api.problem import Problem
from babyllm.serve.writer import BROKEN

logger = logging.getLogger(__name__)

Key = Hashable
Done = tuple[Key, "NDArray[np.float32] | Problem"]


@dataclass
class _Job:
    """A request, its vectors so far, and the batches that are left."""

    key: Key
    request: EmbeddingRequest
    rows: list[MarkedRow]
    vectors: NDArray[np.float32]
    batches: Iterator[list[int]]


class Embedder:
    """Embeds the texts of all requests, in the order of the requests.

    A batch has at most as many tokens as an engine reads of prompts at once, or is a single text, so that answers that
    are being written wait for little.
    """

    def __init__(self, model: Transformer) -> None:
        """Take a model in evaluation mode; the context of each call decides the dtype of products."""
        self._model = model
        self._jobs: deque[_Job] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._jobs

    def begin(self, key: Key, request: EmbeddingRequest) -> None:
        """Start embedding the texts of a request."""
        rows = [
            MarkedRow(np.asarray(prompt.ids), np.arange(len(prompt.ids)) >= prompt.n_unseen)
            for prompt in request.prompts
        ]
        vectors = np.empty((len(rows), self._model.config.d_model), dtype=np.float32)
        parts = batches([len(row.ids) for row in rows], PREFILL_TOKENS)
        self._jobs.append(_Job(key, request, rows, vectors, parts))

    def drop(self, key: Key) -> None:
        """Stop embedding the texts of a request."""
        self._jobs = deque(job for job in self._jobs if job.key != key)

    def advance(self) -> list[Done]:
        """Read one batch; returns the request that is done now, if any, with its vectors (n, D) or its error."""
        if not self._jobs:
            return []
        job = self._jobs[0]
        try:
            batch = next(job.batches, None)
            if batch is not None:
                found = pooled_hidden(self._model, [job.rows[i] for i in batch], job.request.pooling)
                job.vectors[batch] = found
                return []
            self._jobs.popleft()
            return [(job.key, _finished(job))]
        except Exception as error:
            logger.exception("a request for embeddings failed")
            self.drop(job.key)
            return [(job.key, error if isinstance(error, Problem) else Problem(500, BROKEN))]


def _finished(job: _Job) -> NDArray[np.float32]:
    """The vectors of a request, of length 1 if it asks for that.

    Raises:
        Problem: a vector has values that are not numbers.
    """
    if not np.isfinite(job.vectors).all():
        raise Problem(500, "the model computed embeddings that are not numbers")
    if not job.request.is_normalized:
        return job.vectors
    lengths = np.linalg.norm(job.vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = job.vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
