"""Inputs that calibrate int8: an array of preprocessed inputs, a folder of pictures, or a recipe's training split."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from gate2static.data import DataSpec, describe_data, load_data
from gate2static.data.decoding import read_image
from gate2static.errors import ExportError
from gate2static.export.int8_from_onnx import calibration_batches, open_calibration
from gate2static.recipe import Recipe, load_recipe
from gate2static.static import StaticModel
from gate2static.static.meaning import Picture

MOST_IMAGES = 256
"""The number of images of a folder or a recipe that are taken, evenly spread; ranges hardly change with more."""
_BATCH_SIZE = 8
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")
_RECIPES = (".yaml", ".yml")


def check_calibration(path: str | Path, static: StaticModel) -> None:
    """Refuses calibration data that do not fit a network, before anything is exported; reads no image.

    Raises:
        ExportError: A file that is no float32 array, a folder without pictures, a network that nobody described, or a
            recipe whose images are not the network's.
        RecipeError: The recipe is not one.
    """
    path = Path(path)
    if path.is_dir():
        _pictures(path)
        _picture_input(path, static)
    elif path.suffix in _RECIPES:
        _fitting(path, static)
    else:
        open_calibration(path)


def calibration_data(path: str | Path, static: StaticModel) -> Iterator[NDArray[np.float32]]:
    """Yields batches (N, C, H, W) that calibrate int8.

    Args:
        path: A float32 `.npy` file of preprocessed inputs; or a folder of pictures, which are resized to the network's
            size and normalised as its manifest says; or a recipe (`.yaml`), of whose training split images are taken.
        static: The network.

    Raises:
        ExportError: As of `check_calibration`.
        RecipeError: The recipe is not one.
        DataError: A picture or the recipe's data cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        yield from _of_pictures(path, static)
    elif path.suffix in _RECIPES:
        yield from _of_recipe(path, static)
    else:
        yield from calibration_batches(path)


def _of_pictures(folder: Path, static: StaticModel) -> Iterator[NDArray[np.float32]]:
    picture, (channels, height, width) = _picture_input(folder, static)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (picture.mean, picture.std))
    images = []
    for path in _spread(_pictures(folder)):
        picture_of_any_size = read_image(path)[None]
        image = F.interpolate(picture_of_any_size, size=(height, width), mode="bilinear", antialias=True)[0]
        if channels == 1:
            image = image.mean(0, keepdim=True)
        images.append(((image.clamp(0, 1) - mean) / std).numpy())
    yield from _batches(images)


def _of_recipe(path: Path, static: StaticModel) -> Iterator[NDArray[np.float32]]:
    recipe, _ = _fitting(path, static)
    # The training split and not the test split, whose metrics are to say what the network does on unseen images.
    data: Any = load_data(recipe.data, targets=[task.name for task in recipe.tasks]).train
    yield from _batches([data[index][0].numpy() for index in _spread(range(len(data)))])


def _batches(images: list[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(images), _BATCH_SIZE):
        yield np.stack(images[start : start + _BATCH_SIZE]).astype(np.float32)


def _spread(items: Any) -> list[Any]:
    """Returns at most `MOST_IMAGES` of some items, evenly spread, since files that follow each other are alike."""
    count = min(len(items), MOST_IMAGES)
    return [items[number * len(items) // count] for number in range(count)]


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES and path.is_file())
    if not found:
        raise ExportError(f"{folder} holds no pictures to calibrate with; allowed: {', '.join(_PICTURES)}")
    return found


def _picture_input(folder: Path, static: StaticModel) -> tuple[Picture, tuple[int, ...]]:
    """Returns the meaning and the shape of a network's only input.

    Raises:
        ExportError: It has several inputs, or nobody said how pictures become its numbers.
    """
    first = static.manifest.inputs[0]
    meaning = static.manifest.meaning
    picture = None if meaning is None else meaning.inputs.get(first.name)
    if picture is None or len(static.manifest.inputs) > 1 or first.shape[0] not in (1, 3):
        raise ExportError(
            f"{folder} holds pictures, and the network does not say how a picture becomes its input: prune it from a "
            "recipe's checkpoint, call StaticModel.describe, or calibrate with preprocessed inputs (.npy)"
        )
    return picture, first.shape


def _fitting(path: Path, static: StaticModel) -> tuple[Recipe, DataSpec]:
    recipe = load_recipe(path)
    spec = describe_data(recipe.data)
    shapes = [spec.shape for spec in static.manifest.inputs]
    if shapes != [spec.image_shape]:
        raise ExportError(
            f"{path} has images {spec.image_shape}, and the network takes {', '.join(map(str, shapes))}; give the "
            "recipe that it was trained with"
        )
    return recipe, spec
