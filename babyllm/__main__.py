"""The command `babyllm COMMAND ...`, also `python -m babyllm`.

Each command is a dataclass of flags and a function; arguments without a name come first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from babyllm.config import parse
from babyllm.errors import UserError
from babyllm.model.config import ModelOptions, flops_per_token, parameter_counts
from babyllm.runtime import RuntimeConfig, start, user_errors


@dataclass(frozen=True)
class PlanFlags:
    """Flags of `babyllm plan`.

    Attributes:
        model: the model to plan.
        seq_len: tokens per sequence; null takes the model's max_seq_len.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    seq_len: int | None = None


def plan(flags: PlanFlags) -> None:
    """Print a model's parameters by part and its training FLOPs per token."""
    config = flags.model.build(seq_len=flags.seq_len or 0)
    seq_len = flags.seq_len or config.max_seq_len
    counts = parameter_counts(config)
    for part, count in counts.items():
        note = "  (tied to the embedding)" if part == "output" and config.tie_embeddings else ""
        print(f"{part:<12}{count:>16,}{note}")
    print(f"{'total':<12}{sum(counts.values()):>16,}")
    print(f"training FLOPs per token at seq_len {seq_len}: {flops_per_token(config, seq_len):.4g}")


@dataclass(frozen=True)
class GenerateFlags:
    """Flags of `babyllm generate`.

    Attributes:
        max_new_tokens: at most this many.
        temperature: 0 takes the most probable token each time.
        top_k: keep this many of the most probable tokens; null keeps all.
        top_p: keep the fewest most probable tokens that hold this probability.
        seed: of the draws; null draws differently each time.
        runtime: device and dtype.
    """

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    seed: int | None = None
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def generate(flags: GenerateFlags, directory: str, prompt: str = "") -> None:
    """Print the prompt and, as it is drawn, the text a model goes on with."""
    from babyllm.generation import stream
    from babyllm.loading import load

    with start(flags.runtime) as runtime:
        model, tokenizer = load(directory)
        model.to(runtime.device)
        pieces = stream(
            model,
            tokenizer,
            prompt,
            max_new_tokens=flags.max_new_tokens,
            temperature=flags.temperature,
            top_k=flags.top_k,
            top_p=flags.top_p,
            seed=flags.seed,
        )
        print(prompt, end="", flush=True)
        with runtime.autocast():
            for piece in pieces:
                print(piece, end="", flush=True)
                if runtime.stop_requested:
                    break
        print()


@dataclass(frozen=True)
class InspectFlags:
    """Flags of `babyllm inspect`.

    Attributes:
        verify: also compare the sha256 of every shard, which reads all of it.
        examples: documents to show per domain and split.
    """

    verify: bool = False
    examples: int = 1


def inspect(flags: InspectFlags, directory: str) -> None:
    """Print what a directory of token shards holds."""
    from pathlib import Path

    from babyllm.data.prepare import load_tokenizer
    from babyllm.data.shards import open_tokens

    data = open_tokens(directory, verify=flags.verify)
    tokenizer = load_tokenizer(Path(directory), data.manifest.tokenizer_sha256)
    print(f"{'split':<6} {'domain':<16}{'documents':>12}{'tokens':>16}{'bytes':>16}{'bytes/token':>13}")
    for split in ("train", "val"):
        for domain in data.domains(split):
            shards = [s for s in data.manifest.shards if (s.split, s.domain) == (split, domain)]
            documents, tokens, n_bytes = (sum(getattr(s, n) for s in shards) for n in ("documents", "tokens", "bytes"))
            print(f"{split:<6} {domain:<16}{documents:>12,}{tokens:>16,}{n_bytes:>16,}{n_bytes / tokens:>13.2f}")
            ids = data.stream(split, domain).read(0, 4096).tolist()
            for _ in range(flags.examples if tokenizer else 0):
                end = ids.index(data.manifest.eos_id) if data.manifest.eos_id in ids else len(ids)
                print(f"    {tokenizer.decode(ids[:end])[:100]!r}" if tokenizer else "")
                ids = ids[end + 1 :]
    manifest = data.manifest
    print(f"vocabulary {manifest.vocab_size:,}, {manifest.dtype}, fingerprint {manifest.fingerprint()[:16]}")
    if flags.verify:
        print(f"verified: all {len(data.manifest.shards)} shards have the sha256 of the manifest")


@dataclass(frozen=True)
class _Command:
    run: Callable[..., None]
    flags: type[Any]
    arguments: tuple[str, ...] = ()
    required: int = 0

    def usage(self, name: str) -> str:
        words = [f"{a}" if i < self.required else f"[{a}]" for i, a in enumerate(self.arguments)]
        return " ".join(["babyllm", name, *words, "[--flag=value ...]"])


COMMANDS = {
    "generate": _Command(generate, GenerateFlags, ("RUN_DIR", "PROMPT"), 1),
    "inspect": _Command(inspect, InspectFlags, ("DATA_DIR",), 1),
    "plan": _Command(plan, PlanFlags),
}


def run(argv: Sequence[str]) -> None:
    """Carry out one command.

    Raises:
        UserError: the command or its arguments are wrong.
    """
    if not argv or argv[0] in ("--help", "-h", "help"):
        print("usage: babyllm COMMAND ...\n")
        for name, command in COMMANDS.items():
            print(f"  {command.usage(name):<60} {(command.run.__doc__ or '').splitlines()[0]}")
        return
    if argv[0] not in COMMANDS:
        raise UserError(f"{argv[0]}: no such command; choose one of {', '.join(COMMANDS)}")
    command, arguments = COMMANDS[argv[0]], list(argv[1:])
    n = next((i for i, a in enumerate(arguments) if a.startswith("--")), len(arguments))
    flags = parse(command.flags, arguments[n:], prog=command.usage(argv[0]).removesuffix(" [--flag=value ...]"))
    if not command.required <= n <= len(command.arguments):
        raise UserError(f"usage: {command.usage(argv[0])}")
    command.run(flags, *arguments[:n])


def main() -> None:
    """The entry point: a user's mistake becomes one line and exit status 1."""
    with user_errors():
        run(sys.argv[1:])


if __name__ == "__main__":
    main()
