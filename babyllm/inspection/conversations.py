"""Conversations as the model reads them, with supervised tokens in colour; counts and lengths by task."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Unusable
from babyllm.chat.reading import find_conversation_partitions, read_conversation_partition
from babyllm.chat.supervise import Supervise
from babyllm.chat.template import ChatTemplate, Rendered
from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.progress import ProgressLine
from babyllm.text.readers import Rejected
from babyllm.tokenizer import Tokenizer

PARTITION_BYTES = 1 << 20  # the progress line is updated after each partition
GREEN, PLAIN = ("\x1b[32m", "\x1b[0m"), ("[[", "]]")
# Control characters are shown as escapes, so that no text can colour or erase anything in the terminal.
CONTROL = {i: f"\\x{i:02x}" for i in (*range(0x20), *range(0x7F, 0xA0)) if chr(i) not in "\n\t"}


def coloured(ids: Iterable[int], turns: Iterable[int], tokenizer: Tokenizer, is_terminal: bool = True) -> str:
    """The text of token ids, special tokens by name; supervised tokens are green, or in [[ ]] without colours.

    Args:
        ids: (L,) token ids of a conversation, or of a part of one.
        turns: (L,) integers: the number of the supervised turn of each id; 0 if the id is not supervised.
        tokenizer: tokenizer of the ids.
        is_terminal: whether the text is for a terminal, which can show colours.
    """
    names = {i: name.encode() for name, i in tokenizer.special.items()}
    before, after = GREEN if is_terminal else PLAIN
    parts = []
    for turn, run in groupby(zip(ids, turns, strict=True), key=lambda pair: int(pair[1])):
        raw = b"".join(names.get(int(i)) or tokenizer.token_bytes(int(i)) for i, _ in run)
        text = raw.decode("utf-8", errors="replace").translate(CONTROL)
        parts.append(f"{before}{text}{after}" if turn else text)
    return "".join(parts)


def conversations_report(
    path: Path, template: ChatTemplate, supervise: Supervise, config: FormatConfig, n_examples: int, seed: int
) -> tuple[Report, list[tuple[str, Rendered]]]:
    """A report on a file or folder of conversations: counts and lengths by task, and rejected records by reason.

    Args:
        path: file or folder.
        template: chat template that renders the conversations.
        supervise: settings that say which turns are trained on.
        config: settings for reading records as conversations.
        n_examples: number of conversations to return, drawn at random.
        seed: seed of the draw.

    Returns:
        The report, and the drawn conversations with their labels.

    Raises:
        UserError: there are no files of conversations at the path.
    """
    partitions = find_conversation_partitions([path], PARTITION_BYTES)
    progress = ProgressLine("look", sum(partition.size_bytes for partition in partitions), output=sys.stderr)
    rejected, left_out = Counter[str](), Counter[str]()
    lengths: dict[str, list[tuple[int, int]]] = {}
    examples: list[tuple[int, str, Rendered]] = []
    rng = random.Random(seed)
    done = number = 0
    for partition in partitions:
        for found in read_conversation_partition(partition, config, "format"):
            try:
                if isinstance(found, Rejected):
                    raise Unusable(found.reason)
                rendered = template.render(found.messages, supervise)
            except Unusable as error:
                rejected[str(error)] += 1
                continue
            left_out.update(found.left_out)
            n_supervised = int((rendered.turns > 0).sum())
            lengths.setdefault(found.task, []).append((len(rendered.ids), n_supervised))
            # Reservoir sampling: each conversation so far is an example with equal probability.
            place = number if number < n_examples else rng.randrange(number + 1)
            if place < n_examples:
                label = f"{found.task} | {len(rendered.ids):,} tokens, {n_supervised:,} trained on | {found.id}"
                examples[place : place + 1] = [(number, label.translate(CONTROL), rendered)]
            number += 1
        done += partition.size_bytes
        progress.show(done)
    progress.end()
    facts: list[Fact] = [("rejected records", sum(rejected.values()))]
    facts += [(f"rejected: {reason}", count) for reason, count in sorted(rejected.items())]
    facts += [(f"field left out: {name}", count) for name, count in left_out.most_common()]
    report = Report(f"conversations: {path}", facts, [_length_table(lengths)] if lengths else [])
    return report, [(label, rendered) for _, label, rendered in sorted(examples, key=lambda example: example[0])]


def _length_table(lengths: dict[str, list[tuple[int, int]]]) -> Table:
    rows: list[list[Cell]] = []
    everything = [pair for group in lengths.values() for pair in group]
    for task, pairs in [*sorted(lengths.items()), ("all", everything)]:
        tokens, supervised = np.array(pairs).T
        half, most = np.percentile(tokens, [50, 99], method="higher").tolist()
        n_tokens, n_supervised = int(tokens.sum()), int(supervised.sum())
        rows.append([task, len(pairs), n_tokens, n_supervised, n_supervised / n_tokens, half, most, int(tokens.max())])
    columns = ["task", "conversations", "tokens", "trained on", "share", "median length", "99 % up to", "longest"]
    return Table("conversations by task", columns, rows)
