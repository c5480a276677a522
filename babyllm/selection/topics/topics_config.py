"""The settings of `babyllm topics`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from babyllm.config.values import Count, Limits, PathText, Seed, expand_paths
from babyllm.pipeline.partitions import WorkConfig
from babyllm.runtime.config import RuntimeConfig
from babyllm.selection.numeric.importance import ImportanceConfig


@dataclass(frozen=True)
class TopicsConfig:
    """How topics are found, and how documents are named by them.

    Attributes:
        n: number of topics.
        domains: domain of each document in OUT: its topic (topic), such as topic-07; its domain and topic (both), such
            as news/topic-07; or the one it had (same).
        like: directory of an earlier OUT, whose topics are given to the documents; null finds new ones.
        model: run or directory of a language model, whose mean hidden states represent a document; null takes its
            words.
        tokens: words of a text: characters (each Chinese character, and each word of another script) or jieba (its
            words); pairs of them count too.
        buckets: number of buckets into which words and pairs are hashed.
        dimensions: numbers that represent a document, for words.
        least: number of documents of the sample in which a bucket must occur to count.
        sample: number of documents, about, in which topics are found.
        characters: number of characters at the beginning of a document that are read.
        takedowns: files of documents to leave out, or directories with a takedowns.jsonl; those of the inputs always
            count.
        seed: seed of the sample and of the clusters.
        work: use of the machine; a model uses one process.
        runtime: device of the model.
    """

    n: Annotated[int, Limits(1, 10_000)] = 50
    domains: Literal["topic", "both", "same"] = "topic"
    like: PathText | None = None
    model: PathText | None = None
    tokens: Literal["characters", "jieba"] = "characters"
    buckets: Annotated[int, Limits(2, 1 << 24)] = 1 << 16
    dimensions: Annotated[int, Limits(1, 4096)] = 128
    least: Count = 3
    sample: Count = 20_000
    characters: Count = 1000
    takedowns: list[PathText] = field(default_factory=list)
    seed: Seed = 1
    work: WorkConfig = field(default_factory=WorkConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    @property
    def hashing(self) -> ImportanceConfig:
        """How words and pairs of words are hashed."""
        return ImportanceConfig(self.buckets, 2, self.tokens)
