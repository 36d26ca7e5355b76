"""Strips of predictions: for a few test images, the labels of a dense task beside what each network predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from gate2static.errors import CheckpointError
from gate2static.files import read_bytes
from gate2static.messages import brief
from gate2static.report.figures import style
from gate2static.runtimes.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "predictions.safetensors"
_LONGEST_SIDE = 512
_MOST_IMAGES = 8
_MOST_CLASSES = 4096
_WIDTH_INCH = 1.25
_ABSENT = np.array([0.8, 0.8, 0.8])
"""The grey of pixels without a label."""

Values = NDArray[np.floating | np.integer]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What one network predicts for a few test images.

    Attributes:
        name: The network's name.
        images: The images, (N, C, H, W).
        labels: Task -> its labels: class numbers (N, H, W) with -1 for none, or maps (N, C, H, W) with NaN for none.
        outputs: Task -> the network's predictions, in the form of the labels.
    """

    name: str
    images: Values
    labels: Mapping[str, Values]
    outputs: Mapping[str, Values]


def read_predictions(path: Path, name: str) -> Predictions:
    """Reads a network's `predictions.safetensors`.

    Args:
        path: The file.
        name: The network's name.

    Raises:
        CheckpointError: The file is not one of ours.
    """
    data = read_bytes(path, what="file of predictions", error=CheckpointError)
    try:
        arrays = load(data)
        images = arrays.pop("image")
        labels = {key.removeprefix("label/"): arrays[key] for key in arrays if key.startswith("label/")}
        outputs = {key.removeprefix("output/"): arrays[key] for key in arrays if key.startswith("output/")}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: no file of predictions ({brief(error)}); remove it, or train again") from error
    maps = (*labels.values(), *outputs.values())
    if set(labels) != set(outputs) or not all(_is_drawable(one, images) for one in maps):
        raise CheckpointError(f"{path}: its labels and predictions do not fit its images; remove it, or train again")
    return Predictions(name=name, images=images, labels=labels, outputs=outputs)


def _is_drawable(values: Values, images: Values) -> bool:
    """Returns whether values are class numbers or maps, of as many images, and small enough to be drawn."""
    if images.ndim != 4 or not 0 < len(images) <= _MOST_IMAGES or len(values) != len(images):
        return False
    if max(images.shape[1:]) > _LONGEST_SIDE or max(values.shape[1:]) > _LONGEST_SIDE or min(values.shape) == 0:
        return False
    if values.dtype.kind == "i":
        return values.ndim == 3 and int(values.min()) >= -1 and int(values.max()) < _MOST_CLASSES
    return values.dtype.kind == "f" and values.ndim == 4 and values.shape[1] <= 3


def predictions_figure(networks: Sequence[Predictions], task: str) -> "Figure":
    """Draws one row per image: the image, the label of a task, and the prediction of every network.

    Args:
        networks: The networks, whose images and labels are the same.
        task: The task to draw.
    """
    first = networks[0]
    images, labels = first.images, first.labels[task]
    titles = ("image", "label", *(one.name for one in networks))
    height_inch = _WIDTH_INCH * images.shape[2] / images.shape[3]
    figure = style.new_figure(_WIDTH_INCH * len(titles), height_inch * len(images) + 0.55)
    with style.context():
        panels = figure.subplots(len(images), len(titles), squeeze=False)
        for row, of_image in zip(panels, range(len(images)), strict=True):
            label = labels[of_image]
            pictures = [_photograph(images[of_image]), _picture(label, label)]
            pictures += [_picture(one.outputs[task][of_image], label) for one in networks]
            for axes, picture in zip(row, pictures, strict=True):
                _show(axes, picture)
        for axes, title in zip(panels[0], titles, strict=True):
            axes.set_title(title, fontsize=8)
        figure.suptitle(task, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _show(axes: "Axes", picture: NDArray[np.float64]) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()


def _photograph(image: Values) -> NDArray[np.float64]:
    """Returns an image (C, H, W) of any range as RGB (H, W, 3) in [0, 1]."""
    channels = image.astype(np.float64)
    if len(channels) != 3:
        channels = channels.mean(axis=0, keepdims=True).repeat(3, axis=0)
    low, high = channels.min(), channels.max()
    scaled: NDArray[np.float64] = np.nan_to_num((channels - low) / (high - low if high > low else 1.0))
    return scaled.transpose(1, 2, 0)


def _picture(values: Values, label: Values) -> NDArray[np.float64]:
    """Returns class numbers or a map as RGB (H, W, 3), in the colours and the range of the label."""
    if values.dtype.kind == "i":
        colours = require("matplotlib").colormaps["tab20"](np.arange(_MOST_CLASSES) % 20)[:, :3]
        return np.where((values < 0)[..., None], _ABSENT, colours[np.maximum(values, 0)])
    maps = values.astype(np.float64)
    absent = np.expand_dims(~np.isfinite(maps).all(axis=0), -1)
    if len(maps) == 1:
        picture = require("matplotlib").colormaps["viridis"](_within_the_range_of(maps[0], label))[..., :3]
    else:
        # Vectors: x, y and z become red, green and blue; 0 is the middle.
        largest = np.nanmax(np.abs(label), initial=0.0) or 1.0
        vectors = np.zeros((3, *maps.shape[1:]))
        vectors[: len(maps)] = maps / largest
        picture = np.clip((vectors + 1) / 2, 0, 1).transpose(1, 2, 0)
    return np.where(absent, _ABSENT, picture)


def _within_the_range_of(values: NDArray[np.float64], label: Values) -> NDArray[np.float64]:
    """Returns values in [0, 1], where 0 and 1 are the label's smallest and largest; NaN stays."""
    known = label[np.isfinite(label)].astype(np.float64)
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    return np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
