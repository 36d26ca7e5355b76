"""Evaluation of a network on a data set: every metric of every task."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from gate2static.tasks import Blocks, Task, TaskMetrics


def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, dict[str, Tensor]]],
    tasks: Sequence[Task],
    *,
    blocks: Blocks | None = None,
) -> dict[str, dict[str, float]]:
    """Computes every task's metrics over all batches, in evaluation mode and without gradients.

    In a distributed run every process passes its own share of the images and receives the metrics of all of them.
    A share may be empty or shorter than another's, but no image may be in two shares: samplers that repeat images to
    make shares equally long (torch's `DistributedSampler`) count those images twice. `data[rank::world_size]` is a
    valid share.

    Args:
        model: Maps images (N, C, H, W) to a dict of outputs by task. Its training mode is restored. In a distributed
            run it must not be the wrapped model: a wrapper that synchronises in `forward` waits for batches that
            other processes do not have.
        loader: Yields `(images, {task: targets})`; any batch may be short.
        tasks: The tasks to measure; the model's other outputs are ignored.
        blocks: Is given every batch too, for paired tests; None for metrics alone.

    Returns:
        Metrics by task and name, the main metric first (`tasks.main_scores` selects the main metrics). Accuracies, IoU
        and shares lie in [0, 1]; angles are in degrees.

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
                if blocks is not None:
                    blocks.update(outputs, {task.name: targets[task.name].to(device) for task in tasks})
    finally:
        model.train(was_training)
    return {name: metric.compute() for name, metric in metrics.items()}
