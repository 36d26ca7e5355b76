"""Geometric changes of a sample that keep its image and all its targets consistent.

A zoom of an image by s stands for the same camera nearer to the scene: depth is divided by s. A point's X = x·Z/f stays
the same and its Z is divided by s, so the normals of the new depth are (n_x, n_y, s·n_z) over their length. Where there
is no depth to agree with, normals stay as they are, as in the paper's PASCAL recipe. A crop off the centre moves the
principal point with it. Resizing a whole picture changes no value: it is the same camera with other pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gate2static.data.contract import IGNORE, IMAGENET, PixelSpec, Sample
from gate2static.runtimes.optional import require

IMAGENET_MEAN = IMAGENET.mean
IMAGENET_STD = IMAGENET.std

FILL: dict[str, float] = {
    "semantic": IGNORE,
    "edges": IGNORE,
    "saliency": IGNORE,
    "mask": IGNORE,
    "depth": 0,
    "normals": 0,
    "keypoints": -1,
    "instance_offsets": IGNORE,
}
"""By kind, the value of a map outside the picture; other kinds are not maps."""

Draw = Callable[[torch.Generator], float]
Kinds = Mapping[str, str]
"""The kind of each target, by name."""


def _one_of(values: tuple[float, ...], generator: torch.Generator) -> float:
    return values[int(torch.randint(len(values), (), generator=generator))]


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def one_of(*values: float) -> Draw:
    """Returns a function that draws one of these values."""
    return partial(_one_of, values)


def between(low: float, high: float) -> Draw:
    """Returns a function that draws a value uniformly between two values."""
    return partial(_between, low, high)


_ONE = one_of(1.0)
_ZERO = one_of(0.0)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A random change of a sample with an ImageNet-normalised image, as in the paper and Vandenhende et al. (2020).

    Augmentations can be pickled, so that worker processes can be started in any way.
    """

    kinds: Kinds
    """The kinds of all targets of the data set, also of those that samples do not hold: if depth is among them, a zoom
    brings the camera nearer, and normals change with it."""
    flip: bool = True
    """Whether to mirror half of the samples."""
    zoom: Draw = _ONE
    """Draws the zoom; a zoom below 1 leaves a margin."""
    off_centre: bool = False
    """Whether to zoom about a random place instead of the centre."""
    degrees: Draw = _ZERO
    """Draws the angle to turn the image by; positive is clockwise."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Draws one change and applies it; the input is not changed."""
        zoom = self.zoom(generator)
        degrees = self.degrees(generator)
        height, width = sample[0].shape[-2:]
        # A zoomed picture can be moved by the difference between its size and the frame's.
        slack = abs(zoom - 1) / 2 if self.off_centre else 0.0
        move_right = _between(-slack, slack, generator) * width
        move_down = _between(-slack, slack, generator) * height
        move = (move_right, move_down)
        if zoom != 1 or degrees:
            sample = warp(sample, self.kinds, zoom=zoom, degrees=degrees, move=move)
        if self.flip and _between(0, 1, generator) < 0.5:
            sample = mirror(sample, self.kinds)
        return sample


def normalise(image: Tensor, pixels: PixelSpec = IMAGENET) -> Tensor:
    """Applies a data set's normalisation, by default ImageNet's, to an image (C, H, W) in [0, 1]."""
    mean = torch.tensor(pixels.mean)[:, None, None]
    return (image - mean) / torch.tensor(pixels.std)[:, None, None]


def mirror(sample: Sample, kinds: Kinds) -> Sample:
    """Mirrors a sample left to right, which negates the x of normals and offsets."""
    image, targets = sample
    flipped = {name: value.flip(-1) if kinds[name] in FILL else value for name, value in targets.items()}
    for name in _named(kinds, "normals", targets):
        flipped[name] = flipped[name] * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    for name in _named(kinds, "instance_offsets", targets):
        offsets = flipped[name]
        flipped[name] = torch.where(offsets == IGNORE, offsets, offsets * torch.tensor([-1.0, 1.0])[:, None, None])
    return image.flip(-1), flipped


def warp(
    sample: Sample, kinds: Kinds, *, zoom: float = 1, degrees: float = 0, move: tuple[float, float] = (0, 0)
) -> Sample:
    """Zooms and turns a sample about its centre, then moves it; the frame keeps its size.

    The image is interpolated, targets take their nearest pixel.

    Args:
        sample: The sample; it is not changed.
        kinds: The kinds of all targets of the data set.
        zoom: The factor of the picture's size.
        degrees: The angle; positive is clockwise.
        move: Pixels to the right and down.
    """
    tv = require("torchvision.transforms.v2.functional")

    def affine(value: Tensor, mode: Any, fill: list[float]) -> Tensor:
        moved: Tensor = tv.affine(value, degrees, list(move), zoom, [0.0, 0.0], interpolation=mode, fill=fill)
        return moved

    image, targets = sample
    # In a normalised image 0 is ImageNet's mean colour.
    warped = affine(image, tv.InterpolationMode.BILINEAR, [0.0] * len(image))
    turned = _on_maps(targets, kinds, lambda maps, fill: affine(maps, tv.InterpolationMode.NEAREST, fill))
    for name in _named(kinds, "depth", turned):
        turned[name] = turned[name] / zoom
    for name in _named(kinds, "normals", turned):
        turned[name] = _turned_normals(turned[name], zoom if "depth" in kinds.values() else 1, degrees)
    for name in _named(kinds, "instance_offsets", turned):
        turned[name] = _turned_offsets(turned[name], zoom, degrees)
    return warped, turned


def resize(sample: Sample, kinds: Kinds, size: tuple[int, int]) -> Sample:
    """Resizes a whole sample to (H, W): the image is interpolated, targets take their nearest pixel."""
    if tuple(sample[0].shape[-2:]) == tuple(size):
        return sample
    tv = require("torchvision.transforms.v2.functional")
    image, targets = sample
    nearest = tv.InterpolationMode.NEAREST_EXACT
    resized = _on_maps(targets, kinds, lambda maps, _: tv.resize(maps, list(size), interpolation=nearest))
    return tv.resize(image, list(size), antialias=True), resized


def _named(kinds: Kinds, kind: str, targets: Mapping[str, Tensor]) -> list[str]:
    return [name for name in targets if kinds[name] == kind]


def _on_maps(
    targets: dict[str, Tensor], kinds: Kinds, change: Callable[[Tensor, list[float]], Tensor]
) -> dict[str, Tensor]:
    """Applies one change to all maps at once, as channels of one float tensor.

    Args:
        targets: The targets by name; they are not changed.
        kinds: The kind of each target.
        change: Maps the channels (C, H, W) and the value outside the picture of each channel to changed channels.
    """
    names = [name for name in targets if kinds[name] in FILL]
    if not names:
        return dict(targets)
    maps = [targets[name].float().reshape(-1, *targets[name].shape[-2:]) for name in names]  # (C, H, W) each
    channels = [len(target_map) for target_map in maps]
    fill: list[float] = []
    for name, count in zip(names, channels, strict=True):
        fill += [FILL[kinds[name]]] * count
    changed = dict(targets)
    for name, value in zip(names, change(torch.cat(maps), fill).split(channels), strict=True):
        target = targets[name]
        changed[name] = (value[0] if target.dim() == 2 else value).to(target.dtype)
    return changed


def _turned_offsets(offsets: Tensor, zoom: float, degrees: float) -> Tensor:
    """Returns the offsets (2, H, W) from centres that `warp` moved; pixels of no instance stay ignored."""
    height, width = offsets.shape[-2:]
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    # Angles are those of pixels, and a share of the width is another length than a share of the height.
    x = offsets[0] * width
    y = offsets[1] * height
    turned = torch.stack([(angle.cos() * x - angle.sin() * y) / width, (angle.sin() * x + angle.cos() * y) / height])
    return torch.where(offsets == IGNORE, offsets, turned * zoom)


def _turned_normals(normals: Tensor, zoom: float, degrees: float) -> Tensor:
    """Returns the normals (3, H, W) of the depth that `warp` returns; unknown ones stay zero."""
    # The axes are x to the right and y down, so a positive angle turns clockwise.
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    x = angle.cos() * normals[0] - angle.sin() * normals[1]
    y = angle.sin() * normals[0] + angle.cos() * normals[1]
    return torch.nn.functional.normalize(torch.stack([x, y, normals[2] * zoom]), dim=0)
