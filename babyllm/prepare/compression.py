"""Compression: characters and bytes per token of several tokenizers, by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from babyllm.documents import Document
from babyllm.pipeline.report import Cell, Table
from babyllm.tokenizer import Tokenizer


def load_by_name(paths: Sequence[str]) -> dict[str, Tokenizer]:
    """The tokenizers in directories or files, by the name of each file or folder, or by its path where names are equal.

    Raises:
        UserError: a tokenizer is missing or cannot be read.
    """
    short = [Path(path).stem if Path(path).suffix == ".model" else Path(path).resolve().name for path in paths]
    names = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
    return {name: Tokenizer.load(path) for name, path in zip(names, paths, strict=True)}


def compression_tables(documents: Mapping[str, Sequence[Document]], tokenizers: Mapping[str, Tokenizer]) -> list[Table]:
    """Tables of characters per token and of bytes per token: a row for each domain, a column for each tokenizer."""
    tokens: dict[tuple[str, str], int] = {}
    for name, tokenizer in tokenizers.items():
        for domain, mine in documents.items():
            tokens[domain, name] = len(tokenizer.encode_documents([d.text.encode() for d in mine])[0]) - len(mine)
    columns = [f"{name} ({tokenizer.vocab_size:,})" for name, tokenizer in tokenizers.items()]
    tables = []
    for unit in ("characters", "bytes"):
        sizes = {
            domain: sum(len(d.text) if unit == "characters" else len(d.text.encode()) for d in mine)
            for domain, mine in sorted(documents.items())
        }
        rows: list[list[Cell]] = [
            [domain, size, *(round(size / tokens[domain, name], 3) for name in tokenizers)]
            for domain, size in sizes.items()
        ]
        total = {name: sum(tokens[domain, name] for domain in documents) for name in tokenizers}
        rows.append(["all", sum(sizes.values()), *(round(sum(sizes.values()) / total[name], 3) for name in tokenizers)])
        tables.append(Table(f"{unit} per token, held-out documents", ["domain", unit, *columns], rows))
    return tables
