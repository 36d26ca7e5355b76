"""The metrics of one task, counted over all batches and all processes."""

import warnings

import torch
from torch import Tensor

from gate2static.errors import DataError, TrainingError
from gate2static.tasks.task import Task


class TaskMetrics:
    """A task's metrics, main metric first.

    States are sums, so a short last batch weighs what it holds. In a distributed run every process counts its own
    share of the images, each image once, and all of them call `compute`, which adds the states up.
    """

    def __init__(self, task: Task, device: torch.device | str = "cpu") -> None:
        from torchmetrics import SumMetric

        self.task = task
        # float32 stops counting at 2^24, a few dozen images' pixels.
        self._metrics = {
            name: metric.to(device).set_dtype(torch.float64)
            for name, metric in {**task.kind.metrics(task.channels), "": SumMetric()}.items()
        }
        self._count = self._metrics.pop("")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Counts one batch: a head's raw output and the data set's target, on the metrics' device.

        Raises:
            DataError: The target's shape or a class number is not what the task allows.
            TrainingError: The output is not finite.
        """
        self.task.check_shapes(output, target)
        if not output.isfinite().all():
            raise TrainingError(
                f"{self.task.name}: the network's output is not finite on the images it is measured on; train with a "
                "lower learning rate or go on from an earlier checkpoint"
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
        """Every metric by name.

        Raises:
            DataError: No target of any batch has a valid value.
        """
        with warnings.catch_warnings():
            # A process whose share is empty has counted nothing, which is no mistake.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
            if not self._count.compute():
                raise DataError(
                    f"{self.task.name}: the evaluated split holds no valid value of this task, so it cannot be "
                    "measured; check its labels, or drop the task from the recipe"
                )
            return {name: float(metric.compute()) for name, metric in self._metrics.items()}
