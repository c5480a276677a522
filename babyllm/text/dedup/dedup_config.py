"""The settings of deduplication."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import AnyMembers, PathText, Share
from babyllm.pipeline.partitions import WorkConfig
from babyllm.text.dedup.exact import Fold
from babyllm.text.dedup.near.minhash import MinHashConfig
from babyllm.text.dedup.near.shingles import ShingleConfig
from babyllm.text.dedup.near.simhash import SimHashConfig
from babyllm.text.dedup.units import LinesConfig


@dataclass(frozen=True)
class DedupConfig:
    """What counts as a repetition, and which document stays.

    Attributes:
        near: Methods that look for near-duplicates; [] for exact repetitions only.
        threshold: Least Jaccard similarity of two near-duplicates' shingles.
        shingles: Units that documents are compared by.
        minhash: Settings of MinHash.
        simhash: Settings of SimHash.
        fold: Differences that exact repetitions may have: case, width, punctuation; [] for none.
        clusters: Documents that a survivor stands for: with chains, all documents that links connect; with direct, only
            documents similar to the survivor itself.
        keep: Document of a cluster that stays: the longest (of equal ones, that with the smallest id), or one of the
            first IN (of several, the longest).
        against: Corpora to compare with; their own documents are neither removed nor written.
        lines: Lines or paragraphs that many documents share; they are removed before documents are compared.
        decontaminate: Evaluation files or folders, in any format that `clean` reads; documents that share an n-gram of
            words with them are removed.
        decontaminate_words: Words of such an n-gram; a Chinese character counts as one.
        work: Use of the machine.
    """

    near: list[Literal["minhash", "simhash"]] = field(default_factory=lambda: ["minhash"])
    threshold: Share = 0.85
    shingles: ShingleConfig = field(default_factory=ShingleConfig)
    minhash: MinHashConfig = field(default_factory=MinHashConfig)
    simhash: SimHashConfig = field(default_factory=SimHashConfig)
    fold: list[Fold] = field(default_factory=list)
    clusters: Literal["chains", "direct"] = "chains"
    keep: Literal["longest", "first"] = "longest"
    against: list[PathText] = field(default_factory=list)
    lines: LinesConfig = field(default_factory=LinesConfig)
    decontaminate: list[PathText] = field(default_factory=list)
    decontaminate_words: AnyMembers = 13
    work: WorkConfig = field(default_factory=WorkConfig)
