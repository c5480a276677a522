"""Files of conversations, to be evaluated: read, rendered, and what could not be used counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate
from babyllm.chat.reading import read_conversations
from babyllm.evaluate.samples import Sample, samples_of
from babyllm.text.readers import Rejected

N_REASONS = 5
"""Number of reasons that are shown."""


class FileSamples(NamedTuple):
    """What files of conversations hold.

    Attributes:
        samples: the conversations that can be used.
        unused: number of records that cannot be used, by reason.
    """

    samples: list[Sample]
    unused: Counter[str]

    def frequent_reasons(self) -> list[tuple[str, int]]:
        """The most frequent reasons and their numbers, the most frequent first."""
        return self.unused.most_common(N_REASONS)


def read_samples(paths: Sequence[Path], template: ChatTemplate, config: FormatConfig, max_seq_len: int) -> FileSamples:
    """The conversations of files as ids, in the files' order.

    Args:
        paths: files and folders.
        template: renders the conversations.
        config: how records become conversations.
        max_seq_len: tokens of a sample at most; longer conversations lose their oldest turns.

    Raises:
        UserError: a path cannot be read.
    """
    records = [record for path in paths for record in read_conversations(path, config, "format")]
    unused = Counter(record.reason for record in records if isinstance(record, Rejected))
    conversations = (record for record in records if not isinstance(record, Rejected))
    return FileSamples(samples_of(template.allowing(config.allow_special), conversations, max_seq_len, unused), unused)
