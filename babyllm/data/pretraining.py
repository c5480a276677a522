"""The pretraining data of a run: checked shards, their tokenizer, and the loader over their windows.

section `data` -> open_tokens -> Windows, or a Mixture of each domain's -> Share -> Loader
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from babyllm.data.loader import Loader, Share
from babyllm.data.mixing import (
    Mixture,
    concatenated,
    place_phases,
    read_phases,
    require_domains,
    rows_until_exhausted,
)
from babyllm.data.prepare import load_tokenizer
from babyllm.data.shards import TokenData, open_tokens
from babyllm.data.windows import Windows
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime, device_memory
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer

SAMPLE = "data/sample"
CPU_MICRO_TOKENS = 4096


@dataclass(frozen=True)
class DataConfig:
    """The section `data` of a pretraining configuration.

    Without mix, interleave, concat and stages, every epoch is all of the data in one shuffled order.

    Attributes:
        path: a directory of token shards, or bare .bin files of another project; the default is the sample corpus.
        seq_len: tokens per sequence.
        global_batch: sequences per optimizer step, over all ranks; also where stages have other seq_lens, so that
            twice the length is twice the tokens per step.
        micro_batch: sequences per rank and forward pass; null chooses one that fits the device.
        seed: of the order of the data.
        mix: weights of domains in tokens, such as {zh: 0.7, en: 0.3}; others are not read. An epoch of plan.epochs is
            as many tokens as these domains hold.
        interleave: the run ends before the first domain repeats (first) or when the last one has been gone through
            (last), mixed by data.mix or all alike; plan.epochs does not count then, plan.steps still does.
        concat: domains one behind the other, such as [en, zh], each shuffled; the run ends when all have been gone
            through, unless plan.steps is given.
        stages: parts of the run, such as [{until: 0.9}, {until: 1.0, mix: {books: 0.8, web: 0.2}, seq_len: 512}], each
            with the share of all steps (or, without a decimal point, the step) it ends at. Without a mix it has
            data.mix or, without that too, the data's own proportions; without a seq_len it has data.seq_len. A domain
            goes on where the stage before left it, and begins anew, in another order, at a new seq_len.
        mask_documents: whether a token sees only its own document, with positions that restart there.
        eval_tokens: held-out tokens read per domain at each evaluation.
        verify: compare the sha256 of every shard before training.
        dtype: of bare .bin files.
        eos_id: of bare .bin files.
    """

    path: str = SAMPLE
    seq_len: int = 128
    global_batch: int = 8
    micro_batch: int | None = None
    seed: int = 1
    mix: dict[str, float] | None = None
    interleave: Literal["first", "last"] | None = None
    concat: list[str] | None = None
    stages: list[dict[str, int | float | dict[str, float]]] | None = None
    mask_documents: bool = False
    eval_tokens: int = 1_000_000
    verify: bool = False
    dtype: Literal["uint16", "uint32"] = "uint16"
    eos_id: int = 2

    @property
    def is_mixed(self) -> bool:
        """Whether domains are read one by one and not as one stream."""
        return (self.mix, self.interleave, self.concat, self.stages) != (None, None, None, None)

    @property
    def longest_seq_len(self) -> int:
        """Tokens per sequence in the stage that has most."""
        lengths = [stage.get("seq_len", self.seq_len) for stage in self.stages or [{}]]
        return max((length for length in lengths if isinstance(length, int) and length > 0), default=self.seq_len)


@dataclass(frozen=True)
class PretrainingData:
    """Checked shards and the tokenizer that made them (None for bare files)."""

    tokens: TokenData
    tokenizer: Tokenizer | None
    mask_documents: bool

    def windows(self, seq_len: int, domain: str | None = None) -> Windows:
        """The training rows of `seq_len` tokens, of one domain if named.

        Raises:
            UserError: there are fewer tokens than one row takes.
        """
        name = "the training data" if domain is None else f"the domain {domain}"
        stream, eos_id = self.tokens.stream("train", domain), self.tokens.manifest.eos_id
        return Windows(stream, seq_len, eos_id, self.mask_documents, name)


def open_pretraining_data(config: DataConfig, vocab_size: int | None = None) -> PretrainingData:
    """The data that `config` names, checked.

    Args:
        config: the section `data`.
        vocab_size: of bare .bin files.

    Raises:
        UserError: names the file or flag at fault.
    """
    if config.seq_len < 1:
        raise UserError(f"data.seq_len={config.seq_len}: must be at least 1")
    tokens = open_tokens(
        config.path, vocab_size=vocab_size, dtype=config.dtype, eos_id=config.eos_id, verify=config.verify
    )
    tokenizer = load_tokenizer(Path(config.path), tokens.manifest.tokenizer_sha256)
    if tokenizer and (tokenizer.vocab_size > tokens.manifest.vocab_size or tokenizer.eos_id != tokens.manifest.eos_id):
        raise UserError(
            f"{config.path}: the tokenizer beside the shards has {tokenizer.vocab_size} ids and <eos> "
            f"{tokenizer.eos_id}, the shards {tokens.manifest.vocab_size} and {tokens.manifest.eos_id}; "
            "for bare .bin files set --model.vocab_size and --data.eos_id to the tokenizer's"
        )
    data = PretrainingData(tokens, tokenizer, config.mask_documents)
    data.windows(config.longest_seq_len)
    return data


def make_loader(
    config: DataConfig, data: PretrainingData, model: ModelConfig, runtime: Runtime, plan: Plan
) -> tuple[Loader, Plan]:
    """The loader of this rank, and the plan with its number of steps.

    Raises:
        UserError: `global_batch` or `micro_batch` does not divide, or the data cannot be mixed or the plan followed.
    """
    per_rank = config.global_batch // runtime.world_size
    micro = config.micro_batch
    if micro is None:
        limit = max(1, micro_tokens(model, runtime) // config.longest_seq_len)
        micro = max((d for d in range(1, per_rank + 1) if per_rank % d == 0 and d <= limit), default=1)
    share = Share(config.global_batch, micro, runtime.rank, runtime.world_size)
    rows: Windows | Mixture
    if config.is_mixed:
        rows, plan = _mixture(config, data, plan)
    else:
        rows = data.windows(config.seq_len)
        plan = plan.with_steps(len(rows), config.global_batch)
    fingerprint = data.tokens.manifest.fingerprint()
    return Loader(rows, share, config.seed, fingerprint, pin_memory=runtime.device.type == "cuda"), plan


def _mixture(config: DataConfig, data: PretrainingData, plan: Plan) -> tuple[Mixture, Plan]:
    asked = [name for name in ("mix", "interleave", "stages", "concat") if getattr(config, name) is not None]
    if len(asked) > 1 and asked not in (["mix", "interleave"], ["mix", "stages"]):
        raise UserError(f"data.{asked[-1]}: cannot be combined with data.{asked[-2]}; leave one of them out")
    seq_len, global_batch = config.seq_len, config.global_batch
    tokens = {domain: len(data.tokens.stream("train", domain)) for domain in data.tokens.domains("train")}
    if config.concat is not None:
        if not config.concat:
            raise UserError("data.concat: is empty; name the domains in their order, or leave it out")
        require_domains(config.concat, tokens, "data.concat")
        sizes = {domain: len(data.windows(seq_len, domain)) for domain in config.concat}
        n_rows = sum(sizes[domain] for domain in config.concat)
        plan = _lasting(plan, math.ceil(n_rows / global_batch)).with_steps(n_rows, global_batch)
        stages = concatenated(config.concat, sizes, seq_len, plan.n_steps * global_batch)
        return Mixture(stages, data.windows, config.seed, global_batch), plan
    mix: Mapping[str, float] = dict.fromkeys(tokens, 1.0) if config.interleave else tokens
    if config.mix is not None:
        mix = config.mix
    phases = read_phases([{"until": 1.0}] if config.stages is None else config.stages, mix, seq_len, tokens)
    if plan.steps is None and len({phase.seq_len for phase in phases}) > 1:
        raise UserError("plan.steps: data.stages of different seq_len need the number of steps; give it")
    sizes = {domain: len(data.windows(phase.seq_len, domain)) for phase in phases for domain in phase.weights}
    if config.interleave:
        n_rows = rows_until_exhausted(phases[0].weights, sizes, config.interleave)
        plan = _lasting(plan, n_rows // global_batch if config.interleave == "first" else -(-n_rows // global_batch))
    plan = plan.with_steps(sum(sizes.values()), global_batch)
    stages = place_phases(phases, plan.n_steps, global_batch)
    return Mixture(stages, data.windows, config.seed, global_batch), plan


def _lasting(plan: Plan, n_steps: int) -> Plan:
    return plan if plan.steps is not None else replace(plan, steps=max(1, n_steps))


def micro_tokens(model: ModelConfig, runtime: Runtime) -> int:
    """Tokens of a forward pass that fit the device, beside weights, gradients and optimizer.

    On a GPU by the count of Korthikanti et al. 2022 (section 4.1, without the part attention does not store): 34 bytes
    per token, layer and unit of width at 16 bits, taken twice to be on the safe side; with checkpointing 2 bytes. On a
    CPU a number beyond which larger passes gain nothing.
    """
    memory = device_memory(runtime.device)
    if memory is None:
        return CPU_MICRO_TOKENS
    from babyllm.model.config import parameter_counts

    free = 0.8 * memory - 16.0 * sum(parameter_counts(model).values()) - (1 << 30)
    bytes_per_unit = 2 if model.activation_checkpointing else 34
    per_token = model.n_layers * model.d_model * bytes_per_unit * 2
    return max(1, int(free / per_token))
