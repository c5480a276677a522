"""`babyllm eval` on token data: loss and bits per byte of the held-out documents."""

from __future__ import annotations

from pathlib import Path

from babyllm.commands.use.evaluations.flags import Flags
from babyllm.config import load as load_config
from babyllm.errors import UserError
from babyllm.evaluate.language.perplexity import perplexity
from babyllm.evaluate.report import Evaluation, text_evaluation
from babyllm.loading import load
from babyllm.run_directory import CONFIG
from babyllm.runtime import Runtime
from babyllm.store.shards import MANIFEST, open_tokens
from babyllm.training.stages.pretraining_config import PREPARED, TOKENS, PretrainConfig


def on_run_tokens(flags: Flags, directory: str, home: Path, runtime: Runtime) -> Evaluation:
    """Loss and bits per byte of the documents that a pretraining run held out, by domain."""
    if not (home / CONFIG).is_file():
        raise UserError(f"{directory}: is not a run directory, so it names no data; give some with --data")
    data, prepared = load_config(PretrainConfig, home / CONFIG).data, home / PREPARED / TOKENS
    path = prepared if (prepared / MANIFEST).is_file() else Path(data.path)  # the run has the tokens of raw texts
    return on_tokens(flags, directory, path, flags.seq_len or data.seq_len, runtime, data.dtype, data.eos_id)


def on_tokens(
    flags: Flags, directory: str, path: Path, seq_len: int | None, runtime: Runtime, dtype: str = "auto", eos: int = 2
) -> Evaluation:
    """Loss and bits per byte of the held-out documents, by domain."""
    if flags.fit:
        raise UserError("--fit: is for conversations; a pretraining run shows both losses in metrics.jsonl")
    model, tokenizer = load(directory, int8=flags.int8)
    vocab_size, context = model.config.vocab_size, model.config.max_seq_len
    with runtime.main_first():
        data = open_tokens(path, vocab_size=vocab_size, dtype=dtype, eos_id=eos, to_train=False, check=runtime.is_main)
    if data.manifest.tokenizer_sha256 not in ("", tokenizer.sha256):
        raise UserError(f"{path}: was made with another tokenizer than {directory}'s; tokenise it with that one")
    values = perplexity(
        model.to(runtime.device),
        data,
        runtime,
        seq_len=min(seq_len or context, context),
        max_tokens=flags.max_tokens,
        batch_tokens=flags.batch_tokens,
        token_bytes=tokenizer.byte_lengths(),
    )
    if not values and not runtime.stop_requested:
        raise UserError(f"{path}: holds no held-out documents; tokenise with --held_out above 0")
    return text_evaluation(values, [("model", directory), ("data", str(path))])
