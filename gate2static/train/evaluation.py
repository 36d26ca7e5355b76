"""How good a network is at every task."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from gate2static.tasks import Task


def evaluate(
    model: nn.Module, loader: Iterable[tuple[Tensor, dict[str, Tensor]]], tasks: Sequence[Task]
) -> dict[str, float]:
    """Computes every task's metric over all batches, in evaluation mode and without gradients.

    Args:
        model: Maps images (N, C, H, W) to a dict task -> output; left in the mode it came in.
        loader: Yields `(images, {task: targets})`; any batch may be short.
        tasks: The tasks to measure; the model's other outputs are ignored.

    Returns:
        The metric by task, such as an accuracy between 0 and 1.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    metrics = {task.name: task.new_metric().to(device) for task in tasks}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for images, targets in loader:
                outputs = model(images.to(device))
                for task in tasks:
                    metrics[task.name].update(task.kind.predict(outputs[task.name]), targets[task.name].to(device))
    finally:
        model.train(was_training)
    return {name: float(metric.compute()) for name, metric in metrics.items()}
