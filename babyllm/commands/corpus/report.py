"""Write the report of a training run as one HTML page, beside other runs if they are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from babyllm.config.values import PathText, expand_paths

ARGUMENTS = "RUN [OTHER...]"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm report`.

    Attributes:
        language: language of the page, zh or en; null takes that of the machine's locale.
        out: file to write; null writes report.html in the directory of the run.
    """

    language: Literal["zh", "en"] | None = None
    out: PathText | None = None

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)


def run(flags: Flags, run_dir: str, *others: str) -> None:
    """Write the report and print where it is.

    Raises:
        UserError: a path is not a run, or the file cannot be written.
    """
    from pathlib import Path

    from babyllm.run_report.run_page import write_run_report

    out = None if flags.out is None else Path(flags.out)
    print(write_run_report(Path(run_dir), list(map(Path, others)), language=flags.language, out=out))
