"""The settings of chats that the sections `data` of fine-tuning and alignment share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from babyllm.chat.formats import FormatConfig
from babyllm.chat.registry.data_set import DataSet
from babyllm.chat.registry.registry_file import named_data
from babyllm.config.values import AnyCount, PathText, Share, expand_paths
from babyllm.data.row_config import RowConfig
from babyllm.pipeline.partitions import WorkConfig

C = TypeVar("C", bound="ChatConfig")


@dataclass(frozen=True)
class ChatConfig(RowConfig):
    """Files of chats, and the template that renders them.

    Attributes:
        path: files or folders (.jsonl, .json, .csv, .parquet), names of data.registry, or a list of them; null takes
            the sample set.
        registry: YAML file that describes data sets by name; null takes data/datasets.yaml, if there is one.
        held_out_path: files, or names of data.registry, whose records are all held out, in addition to data.held_out of
            the others.
        held_out: share or number of the records that are held out, such as 0.02 or 200; a hash of each decides, so
            equal records are in the same split.
        format: rules by which records are read.
        template: chatml, llama3, llama2, alpaca, plain, or a .jinja file; null takes the one stored with the model,
            else chatml.
        efficient_eos: whether the token that ends a turn is also the separator before the next turn.
        default_system: system message that a built-in template adds to conversations without one; stored with the
            template. null keeps that of a stored template; an empty text adds none.
        work: use of the machine when the records are prepared.
    """

    path: PathText | list[PathText] | None = None
    registry: PathText | None = None
    held_out_path: list[PathText] = field(default_factory=list)
    held_out: AnyCount | Share = 0.02
    format: FormatConfig = field(default_factory=FormatConfig)
    template: PathText | None = None
    efficient_eos: bool = False
    default_system: str | None = None
    work: WorkConfig = field(default_factory=WorkConfig)

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    @property
    def paths(self) -> list[str]:
        """The files and folders of `path`, as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])

    def data_sets(self) -> tuple[list[DataSet], list[DataSet]]:
        """The data sets and paths that are read, and those whose records are all held out.

        Raises:
            UserError: a name is neither a path nor in the registry, or a file of a data set does not exist.
        """
        named = named_data([*self.paths, *self.held_out_path], self.registry)
        return named[: len(self.paths)], named[len(self.paths) :]

    def or_sample(self: C, directory: str, train: str = "train.jsonl", held_out: str = "heldout.jsonl") -> C:
        """The same settings, with the files of a sample set if they name none.

        Args:
            directory: directory of the set.
            train: name of its file to train on.
            held_out: name of its file that is held out.
        """
        if self.path is not None:
            return self
        return replace(self, path=f"{directory}/{train}", held_out_path=[f"{directory}/{held_out}"], held_out=0.0)
