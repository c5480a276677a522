"""Show what is in a corpus, in text files, in token data or in a run directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from babyllm.text.readers import ReadConfig

if TYPE_CHECKING:
    from pathlib import Path

ARGUMENTS = "DIR_OR_FILE"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm inspect`.

    Attributes:
        verify: of token data, also compare the sha256 of every shard, which reads all of it.
        longest: of the longest documents, how many to show.
        examples: documents to show at random; of token data, per domain and split.
        seed: of what is shown at random.
        characters: of a document to show.
        tokenizer: of bare .bin files, directory or file of the tokenizer that decodes them.
        vocab_size: of bare .bin files.
        dtype: of bare .bin files.
        eos_id: of bare .bin files.
        read: how text files are read.
    """

    verify: bool = False
    longest: int = 3
    examples: int = 2
    seed: int = 0
    characters: int = 200
    tokenizer: str | None = None
    vocab_size: int | None = None
    dtype: Literal["uint16", "uint32"] = "uint16"
    eos_id: int = 2
    read: ReadConfig = field(default_factory=ReadConfig)


def run(flags: Flags, path: str) -> None:
    """Print the report of what lies at `path`, and documents of it."""
    from pathlib import Path

    from babyllm.errors import UserError
    from babyllm.text.report import print_report

    place = Path(path)
    if not place.exists():
        raise UserError(f"{path}: no such file or directory")
    report = _report(flags, place)
    print_report(report)
    for group in report.get("examples", []):
        for number, item in enumerate(group["items"]):
            if not number:
                print(f"\n{group['title']}")
            print(f"  {item['label']}")
            for text in item["texts"]:
                print(f"    {_cut(text, flags.characters)!r}")


def _report(flags: Flags, place: Path) -> dict[str, Any]:
    if (place / "config.yaml").is_file():
        from babyllm.training.overview import run_report

        return run_report(place)
    from babyllm.data.inspection import Look, inspect

    return inspect(
        place,
        Look(flags.longest, flags.examples, flags.seed),
        verify=flags.verify,
        vocab_size=flags.vocab_size,
        dtype=flags.dtype,
        eos_id=flags.eos_id,
        tokenizer=flags.tokenizer,
        read=flags.read,
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
