"""The metrics of one task, over all batches and all processes."""

import warnings

import torch
from torch import Tensor

from gate2static.errors import DataError, TrainingError
from gate2static.runtimes.optional import require
from gate2static.tasks.task import Task


class TaskMetrics:
    """A task's metrics, the main metric first.

    States are sums, so every valid value has the same weight, also in a short last batch. In a distributed run every
    process adds its own share of the images, each image once. All processes call `compute`, which adds up the states.

    Args:
        task: The task to measure.
        device: The device of outputs and targets.
    """

    def __init__(self, task: Task, device: torch.device | str = "cpu") -> None:
        self.task = task
        # In float64, because float32 stops counting at 2^24: the pixels of a few dozen images.
        self._count = require("torchmetrics").SumMetric().to(device).set_dtype(torch.float64)
        metrics = task.kind.metrics(task.channels)
        self._metrics = {name: metric.to(device).set_dtype(torch.float64) for name, metric in metrics.items()}

    def update(self, output: Tensor, target: Tensor) -> None:
        """Adds one batch.

        Args:
            output: The head's raw output, on the metrics' device.
            target: The data set's target, on the metrics' device.

        Raises:
            DataError: The target's shape or a class number does not fit the task.
            TrainingError: The output is not finite.
        """
        self.task.check_shapes(output, target)
        if not output.isfinite().all():
            raise TrainingError(
                f"{self.task.name}: the network's output is not finite on the images it is measured on; train with a "
                "lower learning rate or continue from an earlier checkpoint"
            )
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        prepared = self.task.kind.prepare(output, target)
        if not len(prepared[0]):
            return
        if self.task.kind.labelled:
            self.task.check_classes(prepared[1])
        self._count.update(len(prepared[0]))
        for metric in self._metrics.values():
            metric.update(*prepared)

    def compute(self) -> dict[str, float]:
        """Returns every metric by name.

        Raises:
            DataError: No target of any batch has a valid value.
        """
        with warnings.catch_warnings():
            # A process whose share is empty has added nothing, which is not a mistake.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
            if not self._count.compute():
                raise DataError(
                    f"{self.task.name}: the evaluated split holds no valid value of this task, so it cannot be "
                    "measured; check its labels, or drop the task from the recipe"
                )
            return {name: float(metric.compute()) for name, metric in self._metrics.items()}
