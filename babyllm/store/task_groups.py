"""Two levels of tasks: "reasoning/common sense" is a task of the group "reasoning".

Results are summed up over the tasks of a group under the group's name, as they are over all tasks under "all". A task
that itself has the name of a group, "reasoning", belongs to that group; its own results are "reasoning/(rest)".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

REST = "/(rest)"
"""What follows the name of a group in the name of the results of a task that is called like the group."""


def group_of(task: str) -> str:
    """The group of a task: what is before the first slash; empty for a task of one level."""
    group, _, rest = task.partition("/")
    return group if group.strip() and rest.strip() else ""


def groups_of(tasks: Iterable[str]) -> dict[str, list[str]]:
    """The tasks of each group, both sorted by name."""
    known = sorted(set(tasks))
    names = sorted({group for task in known if (group := group_of(task))})
    return {name: [task for task in known if name in (task, group_of(task))] for name in names}


def result_name(task: str, groups: Collection[str]) -> str:
    """The name under which the own results of a task are reported, beside those of these groups."""
    return task + REST if task in groups else task


def task_of_result(name: str) -> str:
    """The task whose own results have a name."""
    return name.removesuffix(REST)


def parts_of_results(tasks: Iterable[str]) -> dict[str, list[str]]:
    """The tasks that each result is of, by its name: first each task alone, then the groups."""
    known = sorted(set(tasks))
    groups = groups_of(known)
    return {result_name(task, groups): [task] for task in known} | groups
