"""Show a text as the pieces of tokenizers, or compare tokenizers on texts of your own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from babyllm.config.values import Count, PathText
from babyllm.model.options import ModelOptions
from babyllm.text.readers import ReadConfig

if TYPE_CHECKING:
    from babyllm.tokenizer import Tokenizer

ARGUMENTS = "TOKENIZER..."


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm tokens`, which takes either text or files.

    Attributes:
        text: text to show as pieces; "-" reads it from the standard input.
        special: whether the name of a special token in the text becomes that token.
        files: corpus, file or directory to compare the tokenizers on, or a list of them.
        sample_bytes: bytes of text of the files that are read; they come from all parts of the files.
        model: shape of the model that the cost of the vocabularies is a share of.
        read: settings for reading files other than corpora.
    """

    text: str | None = None
    special: bool = False
    files: PathText | list[PathText] | None = None
    sample_bytes: Count = 16 << 20
    model: ModelOptions = field(default_factory=ModelOptions)
    read: ReadConfig = field(default_factory=ReadConfig)


def run(flags: Flags, *names: str) -> None:
    """Print the pieces of a text, or a table by domain.

    Raises:
        UserError: neither text nor files are given or both, or one of them or a tokenizer cannot be read.
    """
    from pathlib import Path

    from babyllm.errors import UserError
    from babyllm.pipeline.report import print_report
    from babyllm.prepare.compression import compare_tokenizers, comparison_report, load_by_name

    files = [flags.files] if isinstance(flags.files, str) else flags.files or []
    if (flags.text is None) == (not files):
        raise UserError("tokens takes --text=TEXT, which it shows as pieces, or --files=PATH, for a comparison")
    if len(set(names)) < len(names):
        raise UserError("a tokenizer is given twice; leave it out once")
    tokenizers = load_by_name(names)
    if flags.text is not None:
        text = _from_stdin() if flags.text == "-" else flags.text
        for name, tokenizer in tokenizers.items():
            _show(name if len(names) > 1 else "", tokenizer, text, flags.special)
        return
    found = compare_tokenizers(
        tokenizers, [Path(file) for file in files], sample_bytes=flags.sample_bytes, read=flags.read
    )
    print_report(comparison_report(tokenizers, found, flags.model))


def _show(name: str, tokenizer: Tokenizer, text: str, reads_special: bool) -> None:
    import sys

    from babyllm.inspection.pieces import piece_lines
    from babyllm.runtime.machine import shows_colours

    if name:
        print(f"{name}:")
    for line in piece_lines(tokenizer, text, reads_special=reads_special, has_colours=shows_colours(sys.stdout)):
        print(line)


def _from_stdin() -> str:
    import sys

    from babyllm.errors import UserError

    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise UserError("--text=-: the standard input is not UTF-8 text") from None
