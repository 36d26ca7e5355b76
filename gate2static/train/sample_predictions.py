"""The file `predictions.safetensors`: what a network predicts for a few test images, for the report's pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import Dataset

from gate2static.data.contract import Sample
from gate2static.tasks import Task
from gate2static.train.atomic import write_atomically
from gate2static.train.loop.batches import length

FILE = "predictions.safetensors"
_IMAGES = 3
_LONGEST_SIDE = 160
"""Pixels of the longer side; pictures in a report are small, and full-size maps of many classes are not."""


def write_predictions(folder: Path, model: nn.Module, test: Dataset[Sample], tasks: Sequence[Task]) -> None:
    """Writes images, labels and predictions of the dense tasks, thinned to at most 160 pixels a side.

    Predictions are in the form of the labels: class numbers, or maps in the labels' units. Labels that do not count are
    -1 or NaN. Images are spread evenly over the test split. Without a dense task nothing is written.

    Args:
        folder: The network's folder in the run.
        model: The network, with images (N, C, H, W) as its input and a dict of outputs by task.
        test: The test split.
        tasks: The tasks of the network.

    Raises:
        TrainingError: The file cannot be written.
    """
    dense = [task for task in tasks if task.kind.dense]
    if not dense:
        return
    count = length(test)
    indices = torch.linspace(0, count - 1, min(_IMAGES, count)).long().unique().tolist()
    samples = [test[index] for index in indices]
    images = torch.stack([image for image, _ in samples])
    device = next((parameter.device for parameter in model.parameters()), images.device)
    was_training = model.training
    try:
        with torch.no_grad():
            outputs = model.eval()(images.to(device))
    finally:
        model.train(was_training)
    tensors = {"image": _thinned(images)}
    for task in dense:
        labels = torch.stack([targets[task.name] for _, targets in samples])
        absent = -1 if task.kind.labelled else torch.nan
        tensors[f"label/{task.name}"] = _thinned(labels.where(task.kind.valid(labels), absent))
        tensors[f"output/{task.name}"] = _thinned(_in_the_form_of_labels(outputs[task.name].cpu(), task))
    write_atomically(folder / FILE, save(tensors))


def _in_the_form_of_labels(output: Tensor, task: Task) -> Tensor:
    return output.argmax(dim=1) if task.kind.labelled else task.kind.soften(output)


def _thinned(values: Tensor) -> Tensor:
    """Returns every n-th row and column, as int16 or float16; nothing is averaged, because classes cannot be."""
    step = -(-max(values.shape[-2:]) // _LONGEST_SIDE)
    kept = values[..., ::step, ::step]
    return kept.to(torch.float16 if kept.is_floating_point() else torch.int16).contiguous()
