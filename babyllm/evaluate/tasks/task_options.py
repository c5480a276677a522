"""The settings of an evaluation on tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import AnyCount, Count, PathText, Seed


@dataclass(frozen=True)
class TaskOptions:
    """Settings of an evaluation on tasks.

    Attributes:
        tasks: name of a built-in task or path of a YAML file with a task of your own, or [several].
        task_dir: folder with the data of built-in tasks, each in a folder with the task's name.
        shots: number of examples in a prompt; null takes the task's.
        chat: whether to ask in the form of a chat, through the model's chat template.
        delimiter: text between a prompt and its answer, such as " "; null takes the task's.
        limit: number of items of a task, drawn evenly over its groups, or of documents of texts; null takes all.
        seed: seed of the draw.
        permute: whether to list the options with their letters in every cyclic order, and take the mean.
        batch_size: number of questions after which results are stored; the results do not depend on it.
    """

    tasks: str | list[str] = field(default_factory=list)
    task_dir: PathText = "data/eval"
    shots: AnyCount | None = None
    chat: bool = False
    delimiter: str | None = None
    limit: Count | None = None
    seed: Seed = 0
    permute: bool = False
    batch_size: Count = 16

    @property
    def names(self) -> list[str]:
        """The names and paths of the tasks."""
        return [self.tasks] if isinstance(self.tasks, str) else self.tasks
