"""The section `data` of a pretraining configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import Count, Members, PathText, TokenId, expand_paths
from babyllm.data.row_config import CompetenceConfig, RowConfig, VocabularyConfig
from babyllm.runtime.config import CacheConfig

SAMPLE = "data/sample"


@dataclass(frozen=True)
class DataConfig(RowConfig):
    """The section `data` of a pretraining configuration; weights of domains are in tokens.

    Attributes:
        path: directory of token shards, or bare .bin files of another project; or raw texts, which are prepared into
            run_dir/data before training begins; or token shards in an object store (s3://, gs://, hdfs://). The default
            is the sample corpus.
        cache: local copies of shards in an object store.
        clean: whether raw texts go through the filters of babyllm clean first.
        tokenizer: directory or file of the tokenizer for raw texts; null takes that of init_from, or trains one with
            model.vocab_size tokens.
        curriculum: order of easy and hard rows.
        vocabulary: tokens that become known one after another.
        mask_documents: whether a token attends only to its own document, with positions that restart there.
        eval_tokens: held-out tokens read per domain at each evaluation.
        verify: whether the checksum of every shard is verified again, even if an earlier start has verified it.
        dtype: type of the ids in bare .bin files; auto detects it.
        eos_id: id of the <eos> token in bare .bin files.
    """

    global_batch: Members = 32
    path: PathText = SAMPLE
    cache: CacheConfig = field(default_factory=CacheConfig)
    clean: bool = False
    tokenizer: PathText | None = None
    curriculum: CompetenceConfig = field(default_factory=CompetenceConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    mask_documents: bool = False
    eval_tokens: Count = 1_000_000
    verify: bool = False
    dtype: Literal["auto", "uint16", "uint32"] = "auto"
    eos_id: TokenId = 2

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)
