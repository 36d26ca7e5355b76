"""Branching: tasks share a backbone up to some place, and part into groups behind it."""

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

from torch import nn

from gate2static.architectures.architecture import Architecture, Values, require_places
from gate2static.architectures.stages import Stages
from gate2static.errors import ArchitectureError
from gate2static.messages import brief

Partition = tuple[tuple[str, ...], ...]
"""The tasks in groups: every task is in one."""
_FORM = "a list of groups per place, such as [[[a, b], [c]], [[a], [b], [c]]], or such a list itself for one place"


class Branching(Architecture):
    """Tasks share the first stage, and behind every place the tasks of one group share what follows.

    Attributes:
        partitions: The groups that share a stage, by stage.

    Args:
        stages: The backbone in stages.
        heads: Task -> head.
        groups: The groups behind every place, or behind the one place. Each partition has every task once, and tasks
            that have parted stay apart. None parts all tasks behind the middle place.
    """

    def __init__(self, stages: Stages, heads: Mapping[str, nn.Module], *, groups: Sequence[Any] | None = None) -> None:
        require_places(stages, "branching", "branches")
        super().__init__(stages, heads, streams=())
        places = len(stages.shapes)
        behind = parted_in_the_middle(self.tasks, places) if groups is None else _checked(groups, self.tasks, places)
        self.partitions = ((self.tasks,), *behind)
        for group in dict.fromkeys(chain.from_iterable(self.partitions)):
            copied = stages.copy()
            used = [stage for stage, level in zip(copied, self.partitions, strict=True) if group in level]
            self.streams[stream_of(group)] = nn.ModuleList(used)

    def encode(self, tensors: Values) -> dict[str, Values]:
        """Runs every group's stages once."""
        values: dict[str, Values] = dict.fromkeys(self.tasks, tensors)
        following = {name: iter(stream.children()) for name, stream in self.streams.items()}
        for partition in self.partitions:
            for group in partition:
                stage = next(following[stream_of(group)])
                values |= dict.fromkeys(group, stage(*values[group[0]]))
        return values


def stream_of(group: Sequence[str]) -> str:
    """Returns the name of the stream that a group of tasks runs, such as `semseg+normals`."""
    return "+".join(group)


def parted_in_the_middle(tasks: tuple[str, ...], places: int) -> tuple[Partition, ...]:
    """Returns the partitions of a tree in which all tasks part behind the middle one of some places."""
    apart = tuple((task,) for task in tasks)
    middle = (places - 1) // 2
    return tuple(apart if place >= middle else (tasks,) for place in range(places))


def _checked(groups: Any, tasks: tuple[str, ...], places: int) -> tuple[Partition, ...]:
    """Returns groups as partitions in the order of the tasks, one per place.

    Raises:
        ArchitectureError: There is not one partition per place, one does not have every task once, or tasks that have
            parted come together again.
    """
    partitions = [groups] if _is_partition(groups) else groups
    if not isinstance(partitions, list | tuple) or not all(map(_is_partition, partitions)):
        raise ArchitectureError(f"groups of branching are {brief(repr(groups), 100)}; allowed is {_FORM}.")
    if len(partitions) != places:
        raise ArchitectureError(
            f"branching has {len(partitions)} lists of groups, and the backbone is cut at {places} places; give one "
            "per place, or name the places, such as places=['layer2']."
        )
    behind = tuple(_partition(partition, tasks) for partition in partitions)
    for coarse, fine in pairwise(behind):
        for group in fine:
            if not any(set(group) <= set(parent) for parent in coarse):
                raise ArchitectureError(
                    f"branching joins {' and '.join(group)} behind a place in front of which they have parted; tasks "
                    "that have parted stay apart."
                )
    return behind


def _partition(groups: Sequence[Sequence[str]], tasks: tuple[str, ...]) -> Partition:
    named = list(chain.from_iterable(groups))
    for task in dict.fromkeys([*tasks, *named]):
        if task not in tasks or named.count(task) != 1:
            times = "no task" if task not in tasks else "in no group" if task not in named else "in two groups"
            raise ArchitectureError(
                f"groups of branching: {task!r} is {times}; every one of {', '.join(tasks)} is in one group."
            )
    in_order = (tuple(sorted(group, key=tasks.index)) for group in groups if group)
    return tuple(sorted(in_order, key=lambda group: tasks.index(group[0])))


def _is_partition(value: Any) -> bool:
    """Returns whether a value is a list of lists of text."""
    return isinstance(value, list | tuple) and all(
        isinstance(group, list | tuple) and all(isinstance(task, str) for task in group) for group in value
    )
