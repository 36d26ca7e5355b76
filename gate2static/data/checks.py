"""Checks of every decoded sample; their errors name the broken file."""

import torch
from torch import Tensor

from gate2static.data.contract import IGNORE, TargetSpec
from gate2static.data.decoding import Source
from gate2static.errors import DataError


def check_image(image: Tensor, path: Source, channels: int = 3) -> None:
    """Checks that an image is (channels, H, W) with finite values in [0, 1].

    Raises:
        DataError: The image has another shape or other values.
    """
    if image.dim() != 3 or len(image) != channels or not image.numel():
        raise DataError(f"{path}: found an image of shape {tuple(image.shape)}; allowed: ({channels}, H, W)")
    low, high = (float(value) for value in image.aminmax())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise DataError(f"{path}: found image values from {low:g} to {high:g}; allowed: 0 to 1")


def check_size(image: Tensor, path: Source, size: tuple[int, int]) -> None:
    """Checks the height and width of an image (C, H, W).

    Raises:
        DataError: The image has another size.
    """
    if image.shape[-2:] != size:
        height, width = image.shape[-2:]
        raise DataError(f"{path}: found an image of {height}×{width} (height × width); allowed: {size[0]}×{size[1]}")


def check_target(name: str, target: Tensor, spec: TargetSpec, path: Source, size: tuple[int, int]) -> None:
    """Checks a target against the shape and the values that `data.contract` gives for its kind.

    Args:
        name: The target's name.
        target: One sample's target.
        spec: The target's kind and classes.
        path: The target's file.
        size: The image's height and width.

    Raises:
        DataError: The target has another size than the image, or values that its kind does not allow.
    """
    shapes = {"classification": (), "attributes": (spec.channels,), "semantic": size}
    shapes |= {"normals": (3, *size), "instance_offsets": (2, *size)}
    shape = shapes.get(spec.kind, (1, *size))  # all other kinds are maps of one channel
    if tuple(target.shape) != shape:
        raise DataError(f"{path}: {name} has shape {tuple(target.shape)}; its image asks for {shape}")
    if spec.kind in ("semantic", "classification"):
        _check_classes(name, target, spec, path)
    elif spec.kind in ("attributes", "edges", "saliency", "mask"):
        _check_binary(name, target, path, ignorable=spec.kind != "attributes")
    elif not bool(target.isfinite().all()):
        raise DataError(f"{path}: {name} holds values that are not finite; unpack the data set again")


def _check_classes(name: str, target: Tensor, spec: TargetSpec, path: Source) -> None:
    ignorable = spec.kind == "semantic"
    wrong = (target < 0) | (target >= spec.channels)
    if ignorable:
        wrong &= target != IGNORE
    if bool(wrong.any()):
        labels = ", ".join(str(value) for value in target[wrong].unique()[:5].tolist())
        ignore = f", and {IGNORE} to ignore" if ignorable else ""
        raise DataError(f"{path}: {name} holds label {labels}; allowed: 0 to {spec.channels - 1}{ignore}")


def _check_binary(name: str, target: Tensor, path: Source, *, ignorable: bool) -> None:
    right = (target == 0) | (target == 1)
    if ignorable:
        right |= target == IGNORE
    if not bool(right.all()):
        values = ", ".join(f"{value:g}" for value in torch.unique(target[~right])[:5].tolist())
        ignore = f", and {IGNORE} to ignore" if ignorable else ""
        raise DataError(f"{path}: {name} holds {values}; allowed: 0 and 1{ignore}")
