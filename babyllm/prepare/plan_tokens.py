"""How long tokenizing will take, with how much memory and disk, from samples of its input."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from babyllm.pipeline.estimate import Sample, Work, estimate, estimates_report
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.prepare.inputs import Source
from babyllm.prepare.rendered.chat_documents import ChatDocuments
from babyllm.prepare.tokens import sources_of, tokenize_sources
from babyllm.text.readers import ReadConfig
from babyllm.text.takedowns import NO_TAKEDOWNS
from babyllm.tokenizer import Tokenizer


def plan_tokenize(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    *,
    held_out: float,
    shard_tokens: int,
    read: ReadConfig | None = None,
    work: WorkConfig | None = None,
    chats: ChatDocuments | None = None,
) -> Report:
    """How long `tokenize` will take with these arguments, with how much memory and disk.

    Takedowns are left out.

    Raises:
        UserError: an input or a setting is wrong.
    """
    read, work = read or ReadConfig(), work or WorkConfig()
    begin = time.perf_counter()
    sizes = [source.size_bytes for source in sources_of(paths, read, work.partition_bytes, chats)]
    seconds = time.perf_counter() - begin
    settings = {"held_out": held_out, "shard_tokens": shard_tokens}

    def stage(items: Sequence[Source], out: Path, how: WorkConfig) -> None:
        tokenize_sources(items, tokenizer, out, settings, read, how, chats, NO_TAKEDOWNS)

    def draw(n: int, size: int) -> Sample[Source]:
        pieces = sources_of(paths, read, size, chats)
        mean = sum(piece.size_bytes for piece in pieces) / len(pieces)
        count = min(len(pieces), max(n, round(n * size / mean)))
        items = [pieces[(2 * i + 1) * len(pieces) // (2 * count)] for i in range(count)]
        return Sample(items, sum(item.size_bytes for item in items))

    what = Work(stage, draw, sizes, seconds)
    found = estimate(what, work)
    return estimates_report(f"Plan of tokenizing {', '.join(map(str, paths))}", what, found, work)
