"""Conversations from files, for evaluation: they are read and rendered, and unusable records are counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate
from babyllm.chat.reading import read_conversations
from babyllm.evaluate.conversations.samples import Sample, samples_of
from babyllm.text.readers import Rejected

N_REASONS = 5
"""Largest number of reasons that are shown."""


class FileSamples(NamedTuple):
    """The contents of files of conversations.

    Attributes:
        samples: usable conversations.
        unused: number of unusable records, by reason.
    """

    samples: list[Sample]
    unused: Counter[str]

    def frequent_reasons(self) -> list[tuple[str, int]]:
        """The most frequent reasons with their numbers of records, the most frequent first."""
        return self.unused.most_common(N_REASONS)


def read_samples(paths: Sequence[Path], template: ChatTemplate, config: FormatConfig, max_seq_len: int) -> FileSamples:
    """The conversations of files as ids, in the files' order.

    Args:
        paths: files and folders.
        template: chat template that renders the conversations.
        config: settings for reading records as conversations.
        max_seq_len: largest number of tokens of a sample; longer conversations lose their oldest turns.

    Raises:
        UserError: a path cannot be read.
    """
    records = [record for path in paths for record in read_conversations(path, config, "format")]
    unused = Counter(record.reason for record in records if isinstance(record, Rejected))
    conversations = (record for record in records if not isinstance(record, Rejected))
    return FileSamples(samples_of(template.allowing(config.allow_special), conversations, max_seq_len, unused), unused)
