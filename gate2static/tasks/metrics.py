"""The metrics of one task, counted over all batches and all processes."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gate2static.errors import DataError

if TYPE_CHECKING:
    from gate2static.tasks.task import Task


class TaskMetrics:
    """A task's metrics, main metric first.

    States are sums, so a short last batch weighs what it holds. In a distributed run every process counts its own
    share of the images, each image once, and all of them call `compute`, which adds the states up.
    """

    def __init__(self, task: "Task", device: torch.device | str = "cpu") -> None:
        from torchmetrics import SumMetric

        self.task = task
        self._metrics = {name: m.to(device) for name, m in task.kind.metrics(task.channels).items()}
        self._count = SumMetric().to(device)

    def update(self, output: Tensor, target: Tensor) -> None:
        """Counts one batch: a head's raw output and the data set's target, on the metrics' device."""
        prediction, wanted = self.task.kind.predict(output, target)
        self._count.update(len(wanted))
        if len(wanted):
            for metric in self._metrics.values():
                metric.update(prediction, wanted)

    def compute(self) -> dict[str, float]:
        """Every metric by name.

        Raises:
            DataError: No target of any batch has a valid value.
        """
        if not self._count.compute():
            raise DataError(
                f"{self.task.name}: the evaluated split holds no valid value of this task, so it cannot be measured; "
                "check its labels, or drop the task from the recipe"
            )
        return {name: float(metric.compute()) for name, metric in self._metrics.items()}
