"""Metrics of blocks of images, from which metrics of a split without one of its blocks follow.

States of metrics are sums over images (`TaskMetrics`), so what a split without a block has is a difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gate2static.runtimes.optional import require
from gate2static.tasks.task import Task

if TYPE_CHECKING:
    from torchmetrics import Metric

MOST_BLOCKS = 200
"""The most blocks of a split: more would show little more, and a median's state has 18,000 numbers."""
State = dict[str, dict[str, Tensor]]
"""Metric -> name -> one of its sums, float64, on the CPU."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one task.

    Attributes:
        blocks: Block -> the states of the task's metrics there; blocks without a valid value have none.
        images: The number of images with a valid value.
    """

    blocks: Mapping[int, State]
    images: int

    @property
    def states(self) -> list[State]:
        """The states of the blocks, in order."""
        return [self.blocks[block] for block in sorted(self.blocks)]

    def with_part(self, other: "Measured") -> "Measured":
        """Returns this together with what was measured on other images of the same split."""
        blocks = dict(self.blocks)
        for block, state in other.blocks.items():
            blocks[block] = combined(blocks[block], state, sign=1) if block in blocks else state
        return Measured(blocks, self.images + other.images)


class Blocks:
    """The states of all tasks' metrics, block by block of neighbouring images.

    A block holds the same images however many processes measure the split.

    Args:
        tasks: The tasks to measure.
        images: The number of images of the split; up to `MOST_BLOCKS`, each is a block of its own.
        rank: The process that adds its images; it has every `world_size`-th image, from this one on.
        world_size: The number of processes.
    """

    def __init__(self, tasks: Sequence[Task], images: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._metrics = {task.name: new_metrics(task) for task in tasks}
        self._tasks = tuple(tasks)
        self._images = images
        self._next = rank
        self._stride = world_size
        self._states: dict[str, dict[int, State]] = {task.name: {} for task in tasks}
        self._counts = {task.name: 0 for task in tasks}

    def update(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Adds a batch, which `TaskMetrics` has checked.

        Args:
            outputs: The heads' raw outputs by task, (N, ...).
            targets: The data set's targets by task, (N, ...).
        """
        size = len(next(iter(outputs.values())))
        count = min(self._images, MOST_BLOCKS)
        of_image = [(self._next + number * self._stride) * count // self._images for number in range(size)]
        self._next += size * self._stride
        for task in self._tasks:
            valid = task.kind.valid(targets[task.name])
            self._counts[task.name] += int(valid.reshape(size, -1).any(dim=1).sum())
        for block in dict.fromkeys(of_image):
            first = of_image.index(block)
            part = slice(first, first + of_image.count(block))
            for task in self._tasks:
                self._add(task, block, outputs[task.name][part], targets[task.name][part])

    def measured(self) -> dict[str, Measured]:
        """Returns task -> what was measured of it."""
        return {name: Measured(states, self._counts[name]) for name, states in self._states.items()}

    def _add(self, task: Task, block: int, output: Tensor, target: Tensor) -> None:
        prepared = task.kind.prepare(output.to(torch.promote_types(output.dtype, torch.float32)), target)
        if not len(prepared[0]):
            return
        state: State = {}
        for name, metric in self._metrics[task.name].items():
            metric.reset()
            metric.update(*(values.cpu() for values in prepared))
            state[name] = {key: as_tensor(value).clone() for key, value in metric.metric_state.items()}
        earlier = self._states[task.name].get(block)
        self._states[task.name][block] = state if earlier is None else combined(earlier, state, sign=1)


def new_metrics(task: Task) -> "dict[str, Metric]":
    """Returns a task's metrics with states in float64, which this process alone computes from."""
    require("torchmetrics")
    metrics = {name: metric.set_dtype(torch.float64) for name, metric in task.kind.metrics(task.channels).items()}
    for metric in metrics.values():
        metric.distributed_available_fn = _alone
    return metrics


def combined(state: State, other: State, *, sign: int) -> State:
    """Returns the state of two blocks together (sign 1), or of the first without the second, its part (sign -1)."""
    return {
        metric: {name: value + sign * other[metric][name] for name, value in sums.items()}
        for metric, sums in state.items()
    }


def computed(metrics: "Mapping[str, Metric]", state: State) -> dict[str, float]:
    """Returns the metrics that a state stands for."""
    values = {}
    for name, metric in metrics.items():
        metric.reset()
        # A metric that was never updated warns.
        metric._update_count = 1
        for key, value in state[name].items():
            setattr(metric, key, value)
        values[name] = float(metric.compute())
    return values


def as_tensor(value: Any) -> Tensor:
    """Returns a metric's state, which for all metrics of tasks is a sum and no list."""
    assert isinstance(value, Tensor)
    return value


def _alone() -> bool:
    """Says that no other process has a part of a state."""
    return False
