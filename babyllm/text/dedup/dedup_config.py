"""The settings of deduplication."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import AnyMembers, PathText, Seed, Share, ShareBelow1
from babyllm.pipeline.partitions import WorkConfig
from babyllm.text.dedup.exact import Fold
from babyllm.text.dedup.near.minhash import MinHashConfig
from babyllm.text.dedup.near.shingles import ShingleConfig
from babyllm.text.dedup.near.simhash import SimHashConfig
from babyllm.text.dedup.substrings.substrings_config import SubstringsConfig
from babyllm.text.dedup.units import LinesConfig


@dataclass(frozen=True)
class SoftConfig:
    """How many documents of a cluster stay, if not one alone.

    A large cluster weighs less than its documents together and more than one (soft deduplication: He et al. 2024,
    arXiv:2407.06654, who weigh by how common the n-grams of a document are).

    Attributes:
        power: exponent of the size of a cluster: of n documents, n to this power stay on average, the survivor among
            them. 0 keeps it alone, 0.5 ten of a hundred.
        seed: seed of the draw of the others; whether one stays depends on its id and the size of its cluster.
    """

    power: ShareBelow1 = 0.0
    seed: Seed = 1


@dataclass(frozen=True)
class DedupConfig:
    """What counts as a repetition, and which document stays.

    Attributes:
        near: methods that look for near-duplicates; [] for exact repetitions only.
        threshold: least Jaccard similarity of two near-duplicates' shingles.
        shingles: units that documents are compared by.
        minhash: settings of MinHash.
        simhash: settings of SimHash.
        fold: differences that exact repetitions may have: case, width, punctuation; [] for none.
        clusters: documents that a survivor stands for: with chains, all documents that links connect; with direct, only
            documents similar to the survivor itself.
        keep: document of a cluster that stays: the longest (of equal ones, that with the smallest id), or one of the
            first IN (of several, the longest).
        soft: documents of a cluster that stay beside the survivor, drawn by chance.
        against: corpora to compare with; their own documents are neither removed nor written.
        index: directory of the keys and shingles of documents kept earlier, which are compared with as those of
            --against without being read again; what stays of IN is added to it. null compares with none.
        takedowns: files of documents to leave out, or directories with a takedowns.jsonl; those of the inputs and of
            the index always count.
        lines: lines or paragraphs that many documents share; they are removed before documents are compared.
        substrings: spans of characters that repeat; they are removed from the documents that stay.
        decontaminate: evaluation files or folders, in any format that `clean` reads; documents that share an n-gram of
            words with them are removed.
        decontaminate_words: words of such an n-gram; a Chinese character counts as one.
        work: use of the machine.
    """

    near: list[Literal["minhash", "simhash"]] = field(default_factory=lambda: ["minhash"])
    threshold: Share = 0.85
    shingles: ShingleConfig = field(default_factory=ShingleConfig)
    minhash: MinHashConfig = field(default_factory=MinHashConfig)
    simhash: SimHashConfig = field(default_factory=SimHashConfig)
    fold: list[Fold] = field(default_factory=list)
    clusters: Literal["chains", "direct"] = "chains"
    keep: Literal["longest", "first"] = "longest"
    soft: SoftConfig = field(default_factory=SoftConfig)
    against: list[PathText] = field(default_factory=list)
    index: PathText | None = None
    takedowns: list[PathText] = field(default_factory=list)
    lines: LinesConfig = field(default_factory=LinesConfig)
    substrings: SubstringsConfig = field(default_factory=SubstringsConfig)
    decontaminate: list[PathText] = field(default_factory=list)
    decontaminate_words: AnyMembers = 13
    work: WorkConfig = field(default_factory=WorkConfig)
