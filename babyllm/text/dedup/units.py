"""Units of a text that may repeat in other documents: its lines or paragraphs, except code and tables.

text -> units (spans of lines) -> exact forms -> keys, with document and index
text, indices of units -> without -> the text that is left
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa

from babyllm.config.values import MAX_COUNT, AnyCount, Count, Limits
from babyllm.ragged import U64, hash_rows
from babyllm.text.clean.syntax.code import lines_of_code
from babyllm.text.dedup.exact import Fold, exact_forms

UnitSpan = tuple[int, int]
"""The index of a unit's first line, and that of the line after its last."""


@dataclass(frozen=True)
class LinesConfig:
    """Lines or paragraphs that are removed because many documents share them.

    Two units are the same if their exact forms are equal, apart from the differences of `fold`. Code, tables and blank
    lines stay.

    Attributes:
        min_documents: fewest documents, those of --against included, that share a unit for it to be removed; null
            removes none. A document counts once, however often it contains the unit.
        unit: unit that is compared: line, or paragraph (the lines between two blank ones).
        min_characters: fewest characters of a unit that is removed, without the whitespace around it.
        keep: document that keeps a removed unit: first, the first one that contains it, in --against or else in the
            order of the inputs; or none, so that all inputs lose it.
        min_left: fewest characters that a document keeps; one that lost a unit and has fewer left is removed.
    """

    min_documents: Annotated[int, Limits(2, MAX_COUNT)] | None = None
    unit: Literal["line", "paragraph"] = "line"
    min_characters: AnyCount = 10
    keep: Literal["first", "none"] = "first"
    min_left: Count = 1


def units(text: str, config: LinesConfig) -> list[UnitSpan]:
    """The units of a text that are compared, in order."""
    lines, spans = text.split("\n"), list[UnitSpan]()
    for i, (line, is_code) in enumerate(zip(lines, lines_of_code(text), strict=True)):
        if is_code or not line.strip():
            continue
        if config.unit == "paragraph" and spans and spans[-1][1] == i:
            spans[-1] = (spans[-1][0], i + 1)
        else:
            spans.append((i, i + 1))
    return [span for span, unit in zip(spans, _joined(lines, spans), strict=True) if len(unit) >= config.min_characters]


def unit_texts(text: str, config: LinesConfig) -> list[str]:
    """The texts of `units`, without the whitespace around them."""
    return _joined(text.split("\n"), units(text, config))


def unit_keys(texts: pa.Array, numbers: U64, config: LinesConfig, fold: Sequence[Fold]) -> U64:
    """The keys of the units of some documents, by which units are compared.

    Args:
        texts: (documents,) strings without nulls.
        numbers: (documents,) uint64 numbers of the documents, below 2**32.
        config: settings of the units.
        fold: differences that do not count.

    Returns:
        (3, units) uint64: two hashes, then the document's number in the upper 32 bits and the unit's index in the
        lower.
    """
    found = [unit_texts(text, config) for text in texts.to_pylist()]
    hashes = hash_rows(exact_forms(pa.array([unit for of_text in found for unit in of_text], pa.large_string()), fold))
    of_document = np.repeat(numbers << np.uint64(32), [len(of_text) for of_text in found])
    index = np.concatenate([np.empty(0, np.uint64), *(np.arange(len(of_text), dtype=np.uint64) for of_text in found)])
    return np.stack([*hashes, of_document | index])


def without(text: str, indices: Collection[int], config: LinesConfig) -> str:
    """The text without the units of these indices; the gaps before and after a removed unit become one."""
    spans = units(text, config)
    removed = {line for index in indices for line in range(*spans[index])}
    kept: list[str] = []
    after_removed = False
    for i, line in enumerate(text.split("\n")):
        if i in removed:
            after_removed = True
        elif line.strip():
            after_removed = False
            kept.append(line)
        elif not after_removed or (kept and kept[-1].strip()):
            kept.append(line)
    while after_removed and kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept)


def _joined(lines: Sequence[str], spans: Sequence[UnitSpan]) -> list[str]:
    return ["\n".join(lines[first:stop]).strip() for first, stop in spans]
