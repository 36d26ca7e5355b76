"""Changes of geometry that keep a sample's image and all its targets true to each other.

Zooming an image by s is read as the same camera seeing the scene nearer: depth is divided by s. That leaves a point's
X = x·Z/f as it was and divides its Z, so the normals of the new depth are (n_x, n_y, s·n_z) over their length. Where
there is no depth to agree with, normals stay as they are, as in the paper's PASCAL recipe. A crop off the centre moves
the principal point with it. Resizing a whole picture changes no value: the same camera with other pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gate2static.data.contract import IGNORE, Sample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FILL: dict[str, float] = {
    "semantic": IGNORE,
    "edges": IGNORE,
    "saliency": IGNORE,
    "mask": IGNORE,
    "depth": 0,
    "normals": 0,
    "keypoints": -1,
}
"""What each kind of map holds outside the picture; other kinds have no place in it."""

Draw = Callable[[torch.Generator], float]
Kinds = Mapping[str, str]
"""The kind of each target by its name."""


def _one_of(values: tuple[float, ...], generator: torch.Generator) -> float:
    return values[int(torch.randint(len(values), (), generator=generator))]


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def one_of(*values: float) -> Draw:
    """Draws one of these values."""
    return partial(_one_of, values)


def between(low: float, high: float) -> Draw:
    """Draws a value between two, all alike."""
    return partial(_between, low, high)


_ONE, _ZERO = one_of(1.0), one_of(0.0)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A random change of a sample with an ImageNet-normalised image; the paper's, after Vandenhende et al. (2020).

    It can be pickled, so that workers can be started in any way.
    """

    kinds: Kinds
    """Of all targets that the data set has, whether or not a sample holds them: with depth among them, a zoom is a way
    of coming nearer, and normals follow."""
    flip: bool = True
    """Mirror half of the samples."""
    zoom: Draw = _ONE
    """About the centre, or about a random place with `off_centre`; below 1 leaves a margin."""
    off_centre: bool = False
    degrees: Draw = _ZERO
    """Turn the image, positive is clockwise."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Draws and applies one change; the input is left alone."""
        zoom, degrees = self.zoom(generator), self.degrees(generator)
        height, width = sample[0].shape[-2:]
        # What a zoomed picture has more, or less, than the frame is what it can be moved by.
        slack = abs(zoom - 1) / 2 if self.off_centre else 0.0
        move = (_between(-slack, slack, generator) * width, _between(-slack, slack, generator) * height)
        if zoom != 1 or degrees:
            sample = warp(sample, self.kinds, zoom=zoom, degrees=degrees, move=move)
        if self.flip and _between(0, 1, generator) < 0.5:
            sample = mirror(sample, self.kinds)
        return sample


def normalise(image: Tensor) -> Tensor:
    """ImageNet's normalisation of an RGB image (3, H, W) in [0, 1]."""
    from torchvision.transforms.v2 import functional as tv  # takes a second to import, and pruning needs none of it

    normalised: Tensor = tv.normalize(image, list(IMAGENET_MEAN), list(IMAGENET_STD))
    return normalised


def mirror(sample: Sample, kinds: Kinds) -> Sample:
    """Left becomes right; normals point the other way along x."""
    image, targets = sample
    flipped = {name: value.flip(-1) if kinds[name] in FILL else value for name, value in targets.items()}
    for name in _named(kinds, "normals", targets):
        flipped[name] = flipped[name] * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    return image.flip(-1), flipped


def warp(
    sample: Sample, kinds: Kinds, *, zoom: float = 1, degrees: float = 0, move: tuple[float, float] = (0, 0)
) -> Sample:
    """Zooms and turns about the centre, then moves by pixels (right, down); the frame keeps its size.

    The image is interpolated, targets take their nearest pixel.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    def affine(value: Tensor, mode: InterpolationMode, fill: list[float]) -> Tensor:
        moved: Tensor = tv.affine(value, degrees, list(move), zoom, [0.0, 0.0], interpolation=mode, fill=fill)
        return moved

    image, targets = sample
    warped = affine(image, InterpolationMode.BILINEAR, [0.0] * len(image))
    turned = _on_maps(targets, kinds, lambda maps, fill: affine(maps, InterpolationMode.NEAREST, fill))
    for name in _named(kinds, "depth", turned):
        turned[name] = turned[name] / zoom
    for name in _named(kinds, "normals", turned):
        turned[name] = _turned_normals(turned[name], zoom if "depth" in kinds.values() else 1, degrees)
    return warped, turned


def resize(sample: Sample, kinds: Kinds, size: tuple[int, int]) -> Sample:
    """The whole picture at another size (H, W): the image smoothly, targets by their nearest pixel."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    image, targets = sample
    nearest = InterpolationMode.NEAREST_EXACT
    resized = _on_maps(targets, kinds, lambda maps, _: tv.resize(maps, list(size), interpolation=nearest))
    return tv.resize(image, list(size), antialias=True), resized


def _named(kinds: Kinds, kind: str, targets: Mapping[str, Tensor]) -> list[str]:
    return [name for name in targets if kinds[name] == kind]


def _on_maps(
    targets: dict[str, Tensor], kinds: Kinds, change: Callable[[Tensor, list[float]], Tensor]
) -> dict[str, Tensor]:
    """Applies one change to all maps at once, as channels of one float tensor, with what to fill each channel with."""
    names = [name for name in targets if kinds[name] in FILL]
    if not names:
        return dict(targets)
    maps = [targets[name].float().reshape(-1, *targets[name].shape[-2:]) for name in names]
    fill = [FILL[kinds[name]] for name, map_ in zip(names, maps, strict=True) for _ in map_]
    changed = change(torch.cat(maps), fill).split([len(map_) for map_ in maps])
    found = {
        name: (value[0] if targets[name].dim() == 2 else value).to(targets[name].dtype)
        for name, value in zip(names, changed, strict=True)
    }
    return {**targets, **found}


def _turned_normals(normals: Tensor, zoom: float, degrees: float) -> Tensor:
    """Normals (3, H, W) of what `warp` makes of the depth; invalid ones stay zero."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    x = angle.cos() * normals[0] - angle.sin() * normals[1]
    y = angle.sin() * normals[0] + angle.cos() * normals[1]
    return torch.nn.functional.normalize(torch.stack([x, y, normals[2] * zoom]), dim=0)
