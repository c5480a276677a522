"""Print what a directory of token shards holds."""

from __future__ import annotations

from dataclasses import dataclass

ARGUMENTS = "DATA_DIR"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm inspect`.

    Attributes:
        verify: also compare the sha256 of every shard, which reads all of it.
        examples: documents to show per domain and split.
    """

    verify: bool = False
    examples: int = 1


def run(flags: Flags, directory: str) -> None:
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
