"""The flags of `babyllm eval`."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.chat.formats import FormatConfig
from babyllm.config.values import AnyCount, Count, Members, PathText
from babyllm.evaluate.needle_config import NeedleConfig
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.runtime import RuntimeConfig
from babyllm.text.readers import ReadConfig


@dataclass(frozen=True)
class Flags(TaskOptions):
    """Flags of `babyllm eval`.

    Attributes:
        data: data to evaluate on: files or folders of conversations, or a directory of token data; null takes the run's
            held-out data.
        texts: files and folders of raw texts, or corpora, to measure perplexity, bits per byte and bits per character
            on, of one model or of several on the same documents.
        fit: whether to compare greedy answers and losses on training and held-out conversations, and show some of both.
        n: number of conversations of each split that are drawn for fit.
        max_bytes: number of bytes of texts, of documents chosen by a hash and the seed; null for no limit.
        examples: number of drawn conversations that are shown.
        characters: largest number of characters that are shown of a text.
        max_new_tokens: largest number of tokens of a greedy answer; if the expected answer is longer, its length.
        seq_len: number of tokens of a row of token data or texts; null takes the run's for its token data, else the
            model's.
        stride: number of tokens from a row of a long text to its next row; null takes half a row.
        max_tokens: number of tokens that are read of each domain of token data; null reads all.
        batch_tokens: number of tokens of a forward pass, including padding; of no effect on texts.
        all_steps: whether to evaluate all steps of the runs on the tasks or texts, rather than the newest.
        groups: whether to show the results of each group of a task.
        cases: largest number of items that are shown of each task, those that a model got wrong or, with several
            models, those that turned.
        corpus: texts the model was trained on, files and folders in any format that `clean` reads; reports which items
            are in them, and shows the nearest ones beside the cases.
        cache: folder for the responses of models, which are not computed twice; empty takes the user's cache folder,
            null stores nothing.
        json: file to write the numbers to.
        markdown: file to write the tables to, in Markdown.
        html: file to write the tables and examples to, as one page without other files.
        needle: settings of a needle test: a fact at some depth of a long prompt.
        format: settings for reading records as conversations.
        read: settings for reading texts.
        int8: whether to store all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    data: PathText | list[PathText] | None = None
    texts: PathText | list[PathText] | None = None
    fit: bool = False
    n: Count = 40
    max_bytes: Count | None = None
    examples: AnyCount = 3
    characters: AnyCount = 200
    max_new_tokens: AnyCount = 128
    seq_len: Members | None = None
    stride: Members | None = None
    max_tokens: Count | None = None
    batch_tokens: Count = 8192
    all_steps: bool = False
    groups: bool = False
    cases: AnyCount = 0
    corpus: PathText | list[PathText] = field(default_factory=list)
    cache: PathText | None = ""
    json: PathText | None = None
    markdown: PathText | None = None
    html: PathText | None = None
    needle: NeedleConfig = field(default_factory=NeedleConfig)
    format: FormatConfig = field(default_factory=FormatConfig)
    read: ReadConfig = field(default_factory=ReadConfig)
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
