"""The pretraining data of a run: checked shards, their tokenizer, and the loader over their windows.

section `data` -> open_tokens -> Windows -> Share -> Loader
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from babyllm.data.loader import Loader, Share
from babyllm.data.prepare import load_tokenizer
from babyllm.data.shards import TokenData, open_tokens
from babyllm.data.windows import Windows
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime, device_memory
from babyllm.tokenizer import Tokenizer

SAMPLE = "data/sample"
CPU_MICRO_TOKENS = 4096


@dataclass(frozen=True)
class DataConfig:
    """The section `data` of a pretraining configuration.

    Attributes:
        path: a directory of token shards, or bare .bin files of another project; the default is the sample corpus.
        seq_len: tokens per sequence.
        global_batch: sequences per optimizer step, over all ranks.
        micro_batch: sequences per rank and forward pass; null chooses one that fits the device.
        seed: of the order of the data.
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
    mask_documents: bool = False
    eval_tokens: int = 1_000_000
    verify: bool = False
    dtype: Literal["uint16", "uint32"] = "uint16"
    eos_id: int = 2


@dataclass(frozen=True)
class PretrainingData:
    """Checked shards and the tokenizer that made them (None for bare files)."""

    tokens: TokenData
    tokenizer: Tokenizer | None
    windows: Windows


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
    windows = Windows(tokens.stream("train"), config.seq_len, tokens.manifest.eos_id, config.mask_documents)
    return PretrainingData(tokens, tokenizer, windows)


def make_loader(config: DataConfig, data: PretrainingData, model: ModelConfig, runtime: Runtime) -> Loader:
    """The loader of this rank.

    Raises:
        UserError: `global_batch` or `micro_batch` does not divide.
    """
    per_rank = config.global_batch // runtime.world_size
    micro = config.micro_batch
    if micro is None:
        limit = max(1, micro_tokens(model, runtime) // config.seq_len)
        micro = max((d for d in range(1, per_rank + 1) if per_rank % d == 0 and d <= limit), default=1)
    share = Share(config.global_batch, micro, runtime.rank, runtime.world_size)
    fingerprint = data.tokens.manifest.fingerprint()
    return Loader(data.windows, share, config.seed, fingerprint, pin_memory=runtime.device.type == "cuda")


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
