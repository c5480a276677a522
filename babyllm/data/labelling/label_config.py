"""The section `data` of a classifier."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import AnyCount, Members, PathText, Share, expand_paths
from babyllm.data.row_config import RowConfig


@dataclass(frozen=True)
class LabelConfig(RowConfig):
    """Files of texts with labels; a sequence is a text, or a pair of texts.

    Attributes:
        seq_len: tokens per text; what is longer is cut at its end.
        global_batch: texts per optimizer step, over all ranks.
        micro_batch: texts per rank and forward pass; null chooses a number that fits the device.
        path: files or folders (.jsonl, .json, .csv, .parquet), or a list of them.
        held_out_path: files whose records are all held out, in addition to data.held_out of the others.
        held_out: share or number of the records that are held out; a hash of each text decides, so equal texts are in
            the same split.
        text: field of the text; null takes text, text1 or sentence1, the first that is there.
        second: field of the second text of a pair; null takes text2 or sentence2, if one is there.
        label: field of the label.
    """

    seq_len: Members = 256
    path: PathText | list[PathText] | None = None
    held_out_path: list[PathText] = field(default_factory=list)
    held_out: AnyCount | Share = 0.1
    text: str | None = None
    second: str | None = None
    label: str = "label"

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    @property
    def paths(self) -> list[str]:
        """The files and folders of `path`, as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])
