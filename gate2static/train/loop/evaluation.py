"""How good a network is at every task."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from gate2static.tasks import Task, TaskMetrics


def evaluate(
    model: nn.Module, loader: Iterable[tuple[Tensor, dict[str, Tensor]]], tasks: Sequence[Task]
) -> dict[str, dict[str, float]]:
    """Computes every task's metrics over all batches, in evaluation mode and without gradients.

    In a distributed run every process calls it with its own share of the images and gets the metrics of all of them.
    A share may be empty or shorter than another's, but no image may lie in two: a sampler that fills up shares with
    repeated images (torch's `DistributedSampler`) counts those twice. `data[rank::world_size]` is such a share.

    Args:
        model: Maps images (N, C, H, W) to a dict task -> output; left in the mode it came in. In a distributed run
            not the wrapped one: a wrapper that synchronises in `forward` waits for batches that others do not have.
        loader: Yields `(images, {task: targets})`; any batch may be short.
        tasks: The tasks to measure; the model's other outputs are ignored.

    Returns:
        Metrics by task and name, main metric first (`tasks.main_scores` takes those out). Accuracies, IoU and shares
        lie between 0 and 1, angles are degrees.

    Raises:
        DataError: The loader holds no valid value of a task.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    metrics = {task.name: TaskMetrics(task, device) for task in tasks}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for images, targets in loader:
                outputs = model(images.to(device))
                for task in tasks:
                    metrics[task.name].update(outputs[task.name], targets[task.name].to(device))
    finally:
        model.train(was_training)
    return {name: metric.compute() for name, metric in metrics.items()}
