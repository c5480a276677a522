"""The pretraining data of a run: checked shards, their tokenizer, and the loader over their windows.

section `data` -> open_tokens -> Windows, or a Mixture of the windows of each domain, or a curriculum -> Share -> Loader
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import check
from babyllm.data.loader import Loader
from babyllm.data.order.ahead import fetched_ahead
from babyllm.data.order.shuffle import Order, Shuffled
from babyllm.data.order.tagged_targets import TaggedTargets
from babyllm.data.row_config import share_of
from babyllm.data.rows.windows import Windows
from babyllm.data.token_config import DataConfig
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.remote_tokens import open_tokens_at
from babyllm.store.shards import TokenData
from babyllm.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class PretrainingData:
    """Checked shards, and the tokenizer that made them (None where none lies beside them).

    For a model with an auxiliary head `classes` (V,) int64 has the class of each id, negative for none.
    """

    tokens: TokenData
    tokenizer: Tokenizer | None
    mask_documents: bool
    classes: NDArray[np.int64] | None = None

    def windows(self, seq_len: int, domain: str | None = None) -> Windows:
        """The training rows of `seq_len` inputs, of one domain or of all.

        Raises:
            UserError: there are fewer tokens than one row needs.
        """
        name = "the training data" if domain is None else f"the domain {domain}"
        stream, eos_id = self.tokens.stream("train", domain), self.tokens.manifest.eos_id
        return Windows(stream, seq_len, eos_id, self.mask_documents, name)

    def domains_of(self, seq_len: int) -> NDArray[np.int64]:
        """(n,) int64, the index in `tokens.domains("train")` of the domain of each row's first input."""
        shards = [shard for shard in self.tokens.manifest.shards if shard.split == "train"]
        names, ends = self.tokens.domains("train"), np.cumsum([shard.tokens for shard in shards])
        firsts = np.arange(len(self.windows(seq_len))) * seq_len
        return np.array([names.index(shard.domain) for shard in shards])[np.searchsorted(ends, firsts, side="right")]


def open_pretraining_data(
    config: DataConfig, vocab_size: int | None = None, runtime: Runtime | None = None
) -> PretrainingData:
    """The data that `config` names, checked; every rank must call it.

    Args:
        config: the section `data`.
        vocab_size: vocabulary size of bare .bin files.
        runtime: runtime of the run, whose rank 0 alone verifies the shards; None for one process.

    Raises:
        UserError: a setting is not valid, a file is missing or damaged, there are fewer tokens than one row needs, or
            the tokenizer beside the shards does not fit them.
    """
    check(config, "data.")
    with runtime.main_first() if runtime else nullcontext():
        tokens = open_tokens_at(
            config.path,
            config.cache,
            vocab_size=vocab_size,
            dtype=config.dtype,
            eos_id=config.eos_id,
            check=runtime is None or runtime.is_main,
            verify=config.verify,
        )
    tokenizer = load_tokenizer(tokens.directory, tokens.manifest.tokenizer_sha256)
    if tokenizer and (tokenizer.vocab_size > tokens.manifest.vocab_size or tokenizer.eos_id != tokens.manifest.eos_id):
        raise UserError(
            f"{config.path}: the tokenizer beside the shards has {tokenizer.vocab_size} ids and <eos> "
            f"{tokenizer.eos_id}, the shards have {tokens.manifest.vocab_size} and {tokens.manifest.eos_id}; "
            "for bare .bin files set --model.vocab_size and --data.eos_id to the tokenizer's"
        )
    data = PretrainingData(tokens, tokenizer, config.mask_documents)
    data.windows(config.longest_seq_len)
    return data


def make_loader(
    config: DataConfig,
    data: PretrainingData,
    model: ModelConfig,
    runtime: Runtime,
    plan: Plan,
    run_dir: Path | None = None,
) -> tuple[Loader, Plan]:
    """The loader of this rank, and the plan with its number of steps; every rank must call it.

    Args:
        config: the section `data`.
        data: the checked shards.
        model: shape of the model, for a micro-batch that fits.
        runtime: runtime of the run.
        plan: plan of the run.
        run_dir: directory in which the difficulty of rows is stored; None stores nothing.

    Raises:
        UserError: `global_batch` or `micro_batch` does not divide evenly, or the mixture, the curriculum or the plan is
            not valid.
    """
    share = share_of(config, model, runtime)
    order: Order
    fingerprint = data.tokens.manifest.fingerprint()
    scored = None
    if config.curriculum.by is not None:
        from babyllm.data.order.competence_order import Measured, by_competence

        rows = data.windows(config.seq_len)
        plan = plan.with_steps(len(rows), config.global_batch)
        measured = Measured(
            rows,
            data.tokens.domains("train"),
            lambda places: places[data.domains_of(config.seq_len)],
            data.tokens.manifest.vocab_size,
            data.tokenizer,
            [fingerprint, config.seq_len],
        )
        order = curriculum = by_competence(
            config, config.curriculum, measured, lambda _: Shuffled(rows, config.seed), runtime, plan, run_dir
        )
        scored = curriculum if config.curriculum.by == "loss" else None
    elif config.is_mixed:
        from babyllm.data.order.mixing import mixture

        tokens = {domain: len(data.tokens.stream("train", domain)) for domain in data.tokens.domains("train")}
        order, plan = mixture(config, tokens, data.windows, plan)
    else:
        order = Shuffled(data.windows(config.seq_len), config.seed)
        plan = plan.with_steps(len(order), config.global_batch)
    if config.vocabulary.by is not None:
        from babyllm.data.order.known_tokens import with_known_tokens

        stream, vocab_size = data.tokens.stream("train"), data.tokens.manifest.vocab_size
        order = with_known_tokens(config, config.vocabulary, order, stream, data.tokenizer, vocab_size, runtime, plan)
    if data.classes is not None:
        order = TaggedTargets(order, data.classes)
    order = fetched_ahead(order, data.tokens, config.global_batch)
    pin = runtime.device.type == "cuda"
    return Loader(order, share, config.seed, fingerprint, pin_memory=pin, scored=scored), plan
